"""The URL of a store."""

from __future__ import annotations

import pytest

from arcp_io.cluster.errors import StoreError
from arcp_io.cluster.url import StoreUrl, is_store, read_url


@pytest.mark.parametrize(
    ("url", "libpq", "shown"),
    [
        ("postgresql://db/arcp", "postgresql://db/arcp", "postgresql://db/arcp"),
        ("postgres://db/arcp", "postgresql://db/arcp", "postgresql://db/arcp"),
        ("postgresql:///arcp", "postgresql:///arcp", "postgresql:///arcp"),
        ("postgresql://a:b@db:5/arcp", "postgresql://a:b@db:5/arcp", "postgresql://db:5/arcp"),
        ("postgresql://a:b%40c@db/arcp", "postgresql://a:b%40c@db/arcp", "postgresql://db/arcp"),
        ("postgresql://one,two/arcp", "postgresql://one,two/arcp", "postgresql://one,two/arcp"),
        (
            "postgresql://db/arcp?unsafe=0&sslmode=require&prepare=on",
            "postgresql://db/arcp?sslmode=require",
            "postgresql://db/arcp",
        ),
    ],
)
def test_a_url_is_read(url: str, libpq: str, shown: str) -> None:
    assert read_url(url) == StoreUrl(libpq, shown, unsafe=False, prepare=True)


def test_options_of_arcp_io_are_taken_out() -> None:
    found = read_url("postgresql://db/arcp?unsafe=1&options=-c%20a%3Db&prepare=off")
    assert found == StoreUrl("postgresql://db/arcp?options=-c%20a%3Db", "postgresql://db/arcp", True, False)


@pytest.mark.parametrize("url", ["agents.journal", "postgresql:", "mysql://db/arcp", ""])
def test_paths_and_other_urls_are_refused(url: str) -> None:
    assert not is_store(url)
    with pytest.raises(StoreError, match="begins with postgresql://"):
        read_url(url)


@pytest.mark.parametrize("option", ["unsafe=yes", "unsafe=", "prepare=never"])
def test_wrong_values_are_refused(option: str) -> None:
    with pytest.raises(StoreError, match=r"the option (unsafe|prepare) of a store is .* or .*, not "):
        read_url(f"postgresql://db/arcp?{option}")
