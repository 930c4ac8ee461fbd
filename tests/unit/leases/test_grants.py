"""The targets that a lease allows, and the leases that it covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.leases import subsumption
from arcp_proto.leases.canonical import canonical
from arcp_proto.leases.lease import Grants, parse_lease
from arcp_proto.namespaces import RESERVED

NAMES = ["tool.call", "agent.delegate", "model.use", "x-vendor.acme.db"]


def grants(capability: str, *patterns: str) -> Grants:
    return Grants.of(parse_lease({capability: list(patterns)}))


def allowed(capability: str, patterns: list[str], targets: list[str]) -> list[str]:
    made = grants(capability, *patterns)
    return [target for target in targets if made.allows(capability, target)]


def test_only_granted_targets_are_allowed() -> None:
    nothing = Grants.of({})
    for capability in RESERVED:
        assert not nothing.allows(capability, "/a")
        assert not nothing.names(capability)
    assert not grants("cost.budget", "USD:1").allows("cost.budget", "USD:1")
    one = Grants.of({"fs.read": ["/**"], "tool.call": []})
    assert one.allows("fs.read", "/a")
    assert not one.allows("fs.write", "/a")
    assert not one.allows("tool.call", "a")
    assert one.names("tool.call")
    assert not one.names("model.use")


@pytest.mark.parametrize("capability", NAMES)
def test_names_are_compared_verbatim(capability: str) -> None:
    targets = ["a", "A", "a/b", "a.b", "ab", "./a", "a/", "é", "e\u0301", "*", "**", "a*", "a?", ""]
    assert allowed(capability, ["a*"], targets) == ["a", "a.b", "ab", "a*", "a?"]
    assert allowed(capability, ["a?"], targets) == ["a?"]
    assert allowed(capability, ["a/**"], targets) == ["a", "a/b", "a/"]
    assert allowed(capability, ["é"], targets) == ["é"]
    assert allowed(capability, ["**"], targets) == targets[:-1]


def test_urls_of_other_schemes_are_compared_as_text_after_their_scheme() -> None:
    inside = ["s3://bucket/data", "S3://bucket/data/", "s3://bucket/data/a/b?x#y", "s3://bucket/data//a"]
    outside = [
        "s3://Bucket/data/a",
        "s3://bucket/Data/a",
        "s3://bucket/%64ata/a",
        "s3://bucket/database",
        "s3://bucket:443/data/a",
        "s3://bucket/data/../secret",
        "s3://bucket/data/%2e%2E/secret",
        "s3://bucket/data/.",
        "s3://bucket/data/a\\b",
        "s3://bucket/data/%2fa",
        "s3://me@bucket/data/a",
        "s3://bucket/data/a\nb",
        "s3n://bucket/data/a",
        "https://bucket/data/a",
        "s3:bucket/data/a",
        "s3://",
    ]
    assert allowed("net.fetch", ["s3://bucket/data/**"], inside + outside) == inside
    assert allowed("net.fetch", ["S3://bucket/data/**"], inside + outside) == inside
    assert allowed("net.fetch", ["**", "https://**"], inside + outside) == ["https://bucket/data/a"]
    every = allowed("net.fetch", ["s3://**"], inside + outside)
    assert every == inside + outside[:5]
    one = ["s3://bucket/a", "s3://bucket/a/b", "s3://bucket", "s3://a"]
    assert allowed("net.fetch", ["s3://*/*"], one) == ["s3://bucket/a"]
    assert allowed("net.fetch", ["s3://**/a"], one) == ["s3://bucket/a"]


def test_an_escaped_slash_in_a_query_is_a_slash() -> None:
    """Check that `*` does not cross an escaped slash in a query; in a path an escaped slash is refused."""
    targets = [
        "https://a/?f=x%2Fy",
        "https://a/?f=x%2fy",
        "https://a/?f=x/y",
        "https://a/?f=x",
        "https://a/x%2Fy",
    ]
    assert allowed("net.fetch", ["https://a/?f=x%2Fy"], targets) == targets[:3]
    assert allowed("net.fetch", ["https://a/?f=x/y"], targets) == targets[:3]
    assert allowed("net.fetch", ["https://a/?f=x/*"], targets) == targets[:3]
    assert allowed("net.fetch", ["https://a/?f=*"], targets) == targets[3:4]
    assert allowed("net.fetch", ["https://a/?f=x*"], targets) == targets[3:4]
    assert allowed("net.fetch", ["https://a/?f=**", "https://a/**"], targets) == targets[:4]
    assert grants("net.fetch", "https://a/?f=x/*").covers(grants("net.fetch", "https://a/?f=x%2Fy"))
    assert not grants("net.fetch", "https://a/?f=*").covers(grants("net.fetch", "https://a/?f=x%2Fy"))


@pytest.mark.parametrize("capability", ["fs.read", "fs.write"])
def test_paths_are_resolved_before_they_are_compared(capability: str) -> None:
    inside = [
        "/w",
        "/w/",
        "/w/a",
        "/w//a",
        "/w/./a",
        "/w/b/../a",
        "/../w/a",
        "/x/../w",
        "/w/..a",
        "/w/%2e%2e/x",
    ]
    outside = [
        "/",
        "/W/a",
        "/wa",
        "/w-secret/a",
        "/w/..",
        "/w/../x",
        "/w/a/../../x",
        "w/a",
        "",
        "/w\\..\\x",
        "/w/\0",
    ]
    assert allowed(capability, ["/w/**"], inside + outside) == inside
    assert allowed(capability, ["/x/..//w/./**/"], inside + outside) == inside
    assert allowed(capability, ["**"], inside + outside) == inside + outside[:7]


def test_a_star_of_a_path_stays_in_its_segment() -> None:
    targets = ["/w/a.py", "/w/.py", "/w/a/b.py", "/w/a/../b.py", "/w/a.pyc", "/w/"]
    assert allowed("fs.read", ["/w/*.py"], targets) == ["/w/a.py", "/w/.py", "/w/a/../b.py"]
    assert allowed("fs.read", ["/w/**/*.py"], targets) == targets[:4]


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        # Paths.
        (
            "https://example.com/a/**",
            [
                "https://example.com/a",
                "https://example.com/a/",
                "https://example.com/a/b/c?d",
                "https://example.com/a#b",
            ],
            [
                "https://example.com/",
                "https://example.com/ab",
                "https://example.com/A",
                "https://example.com/a/../b",
            ],
        ),
        (
            "https://example.com/a/*",
            ["https://example.com/a/b", "https://example.com/a/", "https://example.com/a/b?c/d"],
            ["https://example.com/a", "https://example.com/a/b/c", "https://example.com/a/b/"],
        ),
        (
            "https://example.com/a/",
            ["https://example.com/a/"],
            ["https://example.com/a", "https://example.com/a//"],
        ),
        ("https://example.com", ["https://example.com/", "https://example.com?a"], ["https://example.com/a"]),
        (
            "https://example.com/./a/../b.%2ec",
            ["https://example.com/b..c", "https://example.com/x/../b.%2Ec"],
            ["https://example.com/a/b..c"],
        ),
        # Scheme and host are compared in any case, and the port by its number.
        (
            "HTTPS://Example.COM/**",
            ["https://example.com/", "HTTPS://EXAMPLE.COM:443/a", "https://example.com:0443/"],
            [
                "http://example.com/",
                "http://example.com:443/",
                "https://example.com:80/",
                "https://example.com:4430/",
            ],
        ),
        ("http://a:80/", ["http://a/", "http://a:80/"], ["https://a:80/", "https://a/", "http://a:8080/"]),
        ("http://a:8080/", ["http://a:8080/"], ["http://a/", "http://a:80/", "http://a:808/"]),
        (
            "http://a:*/",
            ["http://a/", "http://a:1/", "http://a:65535/"],
            ["https://a/", "http://a:1/b", "http://a:0/"],
        ),
        # A star in a host never crosses a dot, and never reaches beyond the host.
        (
            "https://*.example.com/**",
            ["https://a.example.com/", "https://A.Example.com/b"],
            [
                "https://example.com/",
                "https://a.b.example.com/",
                "https://aexample.com/",
                "https://example.com.evil.example/",
                "https://evil.example/.example.com/",
                "https://evil.example/a.example.com/",
                "https://evil.example?.example.com/",
                "https://evil.example/?a.example.com/",
                "https://evil.example#.example.com/",
                "https://evil.example:443/.example.com/",
                "https://a.example.com@evil.example/",
                "https://evil.example\\.example.com/",
                "https://a.example.com./",
            ],
        ),
        (
            "https://**.example.com/**",
            ["https://a.example.com/", "https://a.b.example.com/"],
            [
                "https://example.com/",
                "https://evil.example/?.example.com/",
                "https://evil.example/.example.com/",
            ],
        ),
        ("https://api*/", ["https://api/", "https://api1/"], ["https://api.example/", "https://api1:80/"]),
        (
            "https://*/**",
            ["https://localhost/a/b?c"],
            ["https://a.example/", "https://[::1]/", "https://a:80/", "http://localhost/"],
        ),
        (
            "https://**/",
            ["https://a.example/", "https://[::1]/", "https://1.2.3.4/"],
            ["https://a/b", "http://a/"],
        ),
        ("https://**a**/", ["https://bab.example/", "https://a/"], ["https://[::a]/", "https://[a::a]/"]),
        (
            "https://127.0.0.*/",
            ["https://127.0.0.1/"],
            ["https://127.0.0.1.evil.example/", "https://127.0.0/"],
        ),
        # Internationalized hosts.
        (
            "https://bücher.example/",
            ["https://BÜCHER.example/", "https://xn--bcher-kva.example/", "https://XN--Bcher-KVA.example/"],
            ["https://bucher.example/", "https://xn--bcher-kvb.example/"],
        ),
        ("https://xn--bcher-kva.example/", ["https://bücher.example/"], []),
        ("https://example.com/", ["https://ｅxample.com/"], ["https://еxample.com/"]),
        ("https://strasse.example/", ["https://strasse.example/"], ["https://straße.example/"]),
        # Addresses.
        ("http://[0:0::1]:80/", ["http://[::1]/"], ["http://[::2]/", "http://127.0.0.1/"]),
        ("http://[::FFFF:127.0.0.1]/", ["http://[::ffff:7f00:1]/"], ["http://127.0.0.1/"]),
        (
            "http://127.0.0.1/",
            ["http://127.0.0.1/"],
            ["http://127.1/", "http://2130706433/", "http://127.0.0.1./"],
        ),
        # A query is free unless the pattern has one; a fragment never counts.
        (
            "https://a/b",
            ["https://a/b", "https://a/b?", "https://a/b?c=d/e?f", "https://a/b?c#d"],
            ["https://a/bc"],
        ),
        ("https://a/b?", ["https://a/b", "https://a/b?", "https://a/b#c"], ["https://a/b?c"]),
        (
            "https://a/b?c=*",
            ["https://a/b?c=", "https://a/b?c=d"],
            ["https://a/b", "https://a/b?c=d/e", "https://a/bc=d"],
        ),
        ("https://a/b?c=**", ["https://a/b?c=d/e?f"], ["https://a/b?x&c=d"]),
        (
            "https://a/**?c",
            ["https://a/?c", "https://a/b?c"],
            ["https://a/c", "https://a/b?d?c", "https://a/?cc"],
        ),
        ("https://a/b?c?d", ["https://a/b?c?d"], ["https://a/b?cd", "https://a/bc?d"]),
        ("https://a/b#c", ["https://a/b", "https://a/b#d"], ["https://a/b/c"]),
        ("https://a/*/b", ["https://a/c/b"], ["https://a//b", "https://a/b", "https://a/./b"]),
        ("https://a/b*", ["https://a/b", "https://a/bc?d"], ["https://a/b/c", "https://a/c?b"]),
        ("https://a/%2561*", ["https://a/%2561b"], ["https://a/ab", "https://a/%61b"]),
        # This pattern covers every URL, and no other text.
        (
            "**",
            ["http://a", "https://a.b:1/c?d#e", "https://[::1]/"],
            [
                "ftp://a/",
                "/a",
                "https://a@b/",
                "https://a/%2f",
                "https://a/%5c",
                "https://a/%00",
                "https://a/\n",
                "",
            ],
        ),
    ],
)
def test_urls_are_compared_by_their_parts(pattern: str, inside: list[str], outside: list[str]) -> None:
    assert allowed("net.fetch", [pattern], inside + outside) == inside


PATHS = ["/a/**", "/a/*", "/a", "/", "/**", "**", "/*/b", "/a/../b", "/%2e"]
URLS = [
    "https://a",
    "https://*.a/**",
    "https://**/**",
    "**",
    "http://a:*/b?c",
    "https://a/?**",
    "http://[::1]/",
]


@given(st.data())
def test_a_target_is_allowed_as_it_is_shown(data: st.DataObject) -> None:
    capability, patterns, start = data.draw(
        st.sampled_from([("fs.read", PATHS, "/"), ("net.fetch", URLS, "https://"), ("tool.call", PATHS, "")])
    )
    made = grants(capability, *data.draw(st.lists(st.sampled_from(patterns), max_size=3)))
    target = start + data.draw(st.text("ab./:%2e?#[]1@", max_size=16))
    form = canonical(capability, target)
    assert made.allows(capability, target) == (form is not None and made.allows(capability, form))


def test_covering_is_by_namespace() -> None:
    parent = Grants.of({"fs.read": ["/a/**", "/b/*"], "tool.call": ["x.*"], "cost.budget": ["USD:1"]})
    assert parent.covers(parent)
    assert parent.covers(Grants.of({}))
    assert parent.covers(Grants.of({"fs.read": ["/a/b", "/b/c*"]}))
    assert parent.covers(Grants.of({"fs.write": [], "model.use": []}))
    assert not parent.covers(Grants.of({"fs.write": ["/a/b"]}))
    assert not parent.covers(Grants.of({"fs.read": ["/a/b"], "tool.call": ["y"]}))
    assert not Grants.of({}).covers(parent)
    assert Grants.of({}).covers(Grants.of({"cost.budget": ["USD:5"]}))


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        (["/a/**"], ["/a/b/../c", "/x/../a", "/a/"], True),
        (["/a/**"], ["/a/../b"], False),
        (["/a/../b/**"], ["/b/c"], True),
        (["/**"], ["**"], True),
        (["**"], ["/**"], True),
        (["/", "/*/**"], ["**"], True),
    ],
)
def test_paths_cover_by_their_form(parent: list[str], child: list[str], expected: bool) -> None:
    assert grants("fs.read", *parent).covers(grants("fs.read", *child)) == expected


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        (["https://a/**"], ["HTTPS://A:443/b?c#d"], True),
        (["https://a/**"], ["http://a/b"], False),
        (["https://a/**"], ["https://a:444/b"], False),
        (["https://a:*/**"], ["https://a/b", "https://a:1/"], True),
        (["https://a/**"], ["https://a:*/b"], False),
        (["https://*.a/**"], ["https://b.a/c", "https://*b.a/"], True),
        (["https://*.a/**"], ["https://b.c.a/"], False),
        (["https://*.a/**"], ["https://**.a/**"], False),
        (["https://**.a/**"], ["https://*.*.a/**"], True),
        (["https://*/"], ["https://**/"], False),
        (["https://bücher.example/*"], ["https://xn--bcher-kva.example/x"], True),
        # The query.
        (["https://a/b"], ["https://a/b?c", "https://a/b?**"], True),
        (["https://a/b?*"], ["https://a/b"], False),
        (["https://a/b?**"], ["https://a/b"], True),
        (["https://a/**?x"], ["https://a/b?x"], True),
        (["https://a/**"], ["https://a/b/**?*"], True),
        (["https://**"], ["https://a/b"], False),
        # The pattern `**` stands for both schemes, all hosts and all ports.
        (["**"], ["https://**:*/**", "http://[::1]/"], True),
        (["https://**:*/**", "http://**:*/**"], ["**"], True),
        (["https://**:*/**", "http://**/**"], ["**"], False),
        (["https://*.**:*/**", "https://*:*/**", "http://**:*/**"], ["**"], False),
    ],
)
def test_urls_cover_by_their_parts(parent: list[str], child: list[str], expected: bool) -> None:
    assert grants("net.fetch", *parent).covers(grants("net.fetch", *child)) == expected


def test_a_search_beyond_its_budget_does_not_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, child = grants("tool.call", "a*b*", "c"), grants("tool.call", "aaaab")
    assert parent.covers(child)
    monkeypatch.setattr(subsumption.Budget.__init__, "__defaults__", (3,))
    assert not parent.covers(child)


def test_grants_are_a_copy_of_their_lease() -> None:
    patterns = ["/a"]
    lease = {"fs.read": patterns}
    made = Grants.of(lease)
    patterns.append("/b")
    lease["fs.write"] = ["/a"]
    assert not made.allows("fs.read", "/b")
    assert not made.names("fs.write")
    assert made == Grants.of({"fs.read": ["/a"]}) != Grants.of(lease)
    assert made != "grants"
    assert repr(made) == "Grants({'fs.read': ('/a',)})"


def test_two_stars_in_a_query_allow_every_character_that_a_url_may_have() -> None:
    target = "https://a/b?q=aZ09-._~!$&'()*+,;=:@/?%25"
    assert canonical("net.fetch", target) == target
    assert allowed("net.fetch", ["https://a/b?q=**"], [target]) == [target]
