"""The canonical form of a path, a URL and a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.leases.canonical import Unfit, Url, canonical, matchable, read_path, read_url

NAMES = ["tool.call", "agent.delegate", "model.use", "x-vendor.acme.db"]


@pytest.mark.parametrize("capability", NAMES)
@pytest.mark.parametrize(
    "name", ["a", "A", "a/../b", "//", "é", "e\u0301", "%2e", "a\nb", " ", "*", "HTTP://A/"]
)
def test_a_name_is_its_own_canonical_form(capability: str, name: str) -> None:
    assert canonical(capability, name) == matchable(capability, name) == name


@pytest.mark.parametrize("capability", [*NAMES, "fs.read", "net.fetch"])
@pytest.mark.parametrize("text", ["", "\ud800", "/a\udfff"])
def test_a_text_that_cannot_be_shown_is_not_a_target(capability: str, text: str) -> None:
    assert canonical(capability, text) is None
    assert matchable(capability, text) is None


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("s3://bucket/key", "s3://bucket/key"),
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        ("gs://b//a/", "gs://b//a/"),
        ("FILE:///etc/x", "file:///etc/x"),
        ("git+ssh://h:22/x?a=..#./b", "git+ssh://h:22/x?a=..#./b"),
        ("s3://b/%41", "s3://b/%41"),
        ("s3://b/../a", None),
        ("s3://b/%2E", None),
        ("s3://..", None),
        ("s3://u@b/a", None),
        ("s3://b/a@c", "s3://b/a@c"),
        ("s3://b/\x85", None),
        ("s3://", None),
        ("s3:/b", None),
        ("mailto:a", None),
    ],
)
def test_a_url_of_another_scheme_is_its_own_canonical_form(url: str, form: str | None) -> None:
    assert canonical("net.fetch", url) == matchable("net.fetch", url) == form


def test_a_budget_has_no_targets() -> None:
    assert canonical("cost.budget", "USD:5") is None


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/.", "/"),
        ("/..", "/"),
        ("/../..", "/"),
        ("/a", "/a"),
        ("/a/", "/a"),
        ("/a//", "/a"),
        ("//a", "/a"),
        ("/a//b", "/a/b"),
        ("/a/./b/.", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a"),
        ("/a/b/../../../../etc/passwd", "/etc/passwd"),
        ("/a//../b", "/b"),
        ("/a/.../b", "/a/.../b"),
        ("/a/..b", "/a/..b"),
        ("/a/.b", "/a/.b"),
        ("/a./b..", "/a./b.."),
        ("/a/%2e%2e/b", "/a/%2e%2e/b"),
        ("/a/%2f", "/a/%2f"),
        ("/a/%00", "/a/%00"),
        ("/A/É", "/A/É"),
        ("/e\u0301", "/e\u0301"),
        ("/a b?c#d*", "/a b?c#d*"),
        ("/a\nb", "/a\nb"),
    ],
)
def test_a_path_is_resolved_and_never_decoded(path: str, form: str) -> None:
    for capability in ("fs.read", "fs.write"):
        assert canonical(capability, path) == matchable(capability, path) == form
    assert read_path(form) == form


@pytest.mark.parametrize(
    "path", ["a", "./a", "~/a", "C:/a", "file:///a", "\\a", "/a\\..\\b", "/a\x00b", "/\x00"]
)
def test_a_text_that_is_not_an_absolute_path_has_no_form(path: str) -> None:
    assert canonical("fs.read", path) is None


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com/A", "https://example.com/A"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com:0443/", "https://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("https://example.com:1/", "https://example.com:1/"),
        ("https://example.com:65535/", "https://example.com:65535/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("http://example.com:00008/", "http://example.com:8/"),
        ("http://a_b.example/", "http://a_b.example/"),
        # The form leaves a fragment out, and keeps a query.
        ("https://a/#b", "https://a/"),
        ("https://a#b", "https://a/"),
        ("https://a/b?c#d?e", "https://a/b?c"),
        ("https://a/b?", "https://a/b"),
        ("https://a?b", "https://a/?b"),
        ("https://a/?b?c/../d%2e", "https://a/?b?c/../d."),
        ("https://a/?x=https://b@c:1/", "https://a/?x=https://b@c:1/"),
        # Dot segments are resolved; empty segments are segments.
        ("https://a/b/../c", "https://a/c"),
        ("https://a/b/..", "https://a/"),
        ("https://a/b/c/.", "https://a/b/c/"),
        ("https://a/b/c/..", "https://a/b/"),
        ("https://a/../../b", "https://a/b"),
        ("https://a/b//c", "https://a/b//c"),
        ("https://a//../b", "https://a/b"),
        ("https://a/b//../c", "https://a/b/c"),
        ("https://a/b.%2ec/...", "https://a/b..c/..."),
        ("https://a/%252e%252e/b", "https://a/%252e%252e/b"),
        ("https://a/%252f", "https://a/%252f"),
        ("https://a/b?c=d%2fe/f", "https://a/b?c=d%2Fe/f"),
        ("https://a?%2F%2f", "https://a/?%2F%2F"),
        ("https://a/#%2f", "https://a/"),
        # Characters are escaped only where they have to be, in capitals.
        ("https://a/%41%c3%a9/é?%7eé", "https://a/A%C3%A9/%C3%A9?~%C3%A9"),
        ('https://a/b[c]{d}|^`"<>e', "https://a/b%5Bc%5D%7Bd%7D%7C%5E%60%22%3C%3Ee"),
        ('https://a/?b[c]{d}|^`"<>e', "https://a/?b%5Bc%5D%7Bd%7D%7C%5E%60%22%3C%3Ee"),
        ("https://a/!$&'()*+,;=:@~?!$&'()*+,;=:@~/?", "https://a/!$&'()*+,;=:@~?!$&'()*+,;=:@~/?"),
        ("https://a/%21%3f%23%25%2c?%26%3d%2B", "https://a/%21%3F%23%25%2C?%26%3D%2B"),
        ("https://a/%2541", "https://a/%2541"),
        ("https://a/a%2eb/%2e%2e%2e/c%2E", "https://a/a.b/.../c."),
        ("https://a/b@c:d", "https://a/b@c:d"),
        ("https://a/*", "https://a/*"),
        # Hosts have their ASCII form.
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://BÜCHER.example/", "https://xn--bcher-kva.example/"),
        ("https://bu\u0308cher.example/", "https://xn--bcher-kva.example/"),
        ("https://XN--BCHER-KVA.example/", "https://xn--bcher-kva.example/"),
        ("https://ｅｘａｍｐｌｅ.com/", "https://example.com/"),
        ("https://例え。jp/", "https://xn--r8jz45g.jp/"),
        ("https://еxample.com/", "https://xn--xample-2of.com/"),
        ("https://🫠.example/", "https://xn--129h.example/"),
        # Addresses have one form.
        ("http://127.0.0.1/", "http://127.0.0.1/"),
        ("http://[::1]/", "http://[::1]/"),
        ("http://[0:0:0:0:0:0:0:1]:80/", "http://[::1]/"),
        ("http://[2001:DB8:0:0:1:0:0:1]/", "http://[2001:db8::1:0:0:1]/"),
        ("http://[1:0:0:2:0:0:0:3]/", "http://[1:0:0:2::3]/"),
        ("http://[1:2:3:4:5:6:7:8]/", "http://[1:2:3:4:5:6:7:8]/"),
        ("http://[::]/", "http://[::]/"),
        ("http://[1::]/", "http://[1::]/"),
        ("http://[10:0:100:1000:0:0:10:0]/", "http://[10:0:100:1000::10:0]/"),
        ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
    ],
)
def test_a_url_has_one_canonical_form(url: str, form: str) -> None:
    assert canonical("net.fetch", url) == form
    assert canonical("net.fetch", form) == form
    assert matchable("net.fetch", form) == matchable("net.fetch", url)


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "//example.com/",
        "/a",
        "javascript:alert(1)",
        "http:/a",
        "http:a",
        "httpſ://a/",
        " https://a/",
        "https:///a",
        "https://",
        "https://?a",
        "https://#a",
        # The host of these is not the same to every reader.
        "https://user@a/",
        "https://user:secret@a/",
        "https://a:443@evil.example/",
        "https://@a/",
        "https://a\\@evil.example/",
        "https://a\\.evil.example/",
        "https://a%40evil.example/",
        "https://a%2eb/",
        "https://a%00.evil.example/",
        "https://a b/",
        "https://*/",
        "https://*.example.com/",
        "https://a*/",
        "https://a..b/",
        "https://.a/",
        "https://" + "a" * 64 + "/",
        "https://" + "a." * 300 + "b/",
        "https://" + "é" * 10_000 + "/",
        "https://example.℀.evil/",
        "https://a／b/",
        "https://straße.example/",
        "https://a\u200db.example/",
        "https://a\u00adb.example/",
        "https://a\u115fb.example/",
        "https://a\u0558b.example/",
        "https://a\ufe0fb.example/",
        # Some clients send these with one slash.
        "https://a//b",
        "https://a///",
        "https://a/.//b",
        "https://a/b/..//c",
        # Some clients leave the dot out.
        "http://example.com./",
        "http://a.:8080/",
        "http://例え。jp。/",
        # The port or the address of these is not clear.
        "https://a:/",
        "https://a:b/",
        "https://a:*/",
        "https://a:80:443/",
        "https://a:-1/",
        "https://a:65536/",
        "https://a:0/",
        "http://[::1]:00000/",
        "https://a:000080/",
        "https://a:٨/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://127.0.0.256/",
        "http://1.2.3.4.5/",
        "http://a.0x7F/",
        "http://１２７.1/",
        "http://::1/",
        "http://[::1/",
        "http://[1.2.3.4]/",
        "http://[fe80::1%25eth0]/",
        "http://[::1]a/",
        # Clients resolve these in different ways.
        "https://a/b/%2e%2E/c",
        "https://a/b/.%2e/c",
        "https://a/b/%2E./c",
        "https://a/%2e",
        "https://a/b/%2e/c?d",
        "https://a/tenants/victim/%2e%2e/../files/secret",
        "https://a/v1#/../../admin#",
        "https://a/##",
        # A server may read these as other paths.
        "https://a/b%2fc",
        "https://a/b%2Fc",
        "https://a/b%5cc",
        "https://a/b%00",
        "https://a/b\\c",
        "https://a/b\x00",
        "https://a/b\r\nHost: evil.example",
        "https://a/b\tc",
        "https://a/b\x7f",
        "https://a/b\x85",
        "https://a/b c",
        "https://a/b%",
        "https://a/b%2",
        "https://a/b%zz",
        "https://a/?b=\\",
        "https://a/#%00",
    ],
)
def test_a_text_that_is_not_a_url_has_no_form(url: str) -> None:
    assert canonical("net.fetch", url) is None
    assert matchable("net.fetch", url) is None


def test_the_parts_of_a_url() -> None:
    assert read_url("HTTP://A/b?c") == Url("http", "a", "80", "/b", "c")
    assert read_url("http://a:81").query == ""
    assert read_url("http://*.a:*/**", pattern=True) == Url("http", "*.a", "*", "/**", None)
    assert read_url("http://a?", pattern=True).query == ""
    assert read_url("http://a:1/b?c").matched == "http a 1 /b c"
    with pytest.raises(Unfit, match=r"has a \* in its host"):
        read_url("http://*.a/")


def begins_with_two_slashes(segments: list[str]) -> bool:
    """Return whether a path of these segments begins with two slashes once its dot segments are resolved."""
    left: list[str] = []
    for segment in segments:
        if segment == "..":
            del left[-1:]
        elif segment != ".":
            left.append(segment)
    if segments[-1:] in (["."], [".."]):
        left.append("")
    return left[:1] == [""] and len(left) > 1


@given(st.lists(st.sampled_from(["a", ".", "..", "", "...", "%2e", "%2E.", "a.%2Eb"]), max_size=8))
def test_no_path_keeps_a_dot_segment(segments: list[str]) -> None:
    text = "/" + "/".join(segments)
    path = canonical("fs.read", text)
    assert path is not None
    assert not {"", ".", ".."} & {*path.split("/")[1:]} or path == "/"
    url = canonical("net.fetch", "https://a" + text)
    assert (url is None) == (bool({"%2e", "%2E."} & {*segments}) or begins_with_two_slashes(segments))
    assert url is None or not {".", ".."} & {*url.split("/")[3:]}


@given(
    st.sampled_from(["fs.read", "net.fetch", "tool.call"]),
    st.text()
    | st.text("/.a%2eE:@[]?# \\é", max_size=30).map("https://a".__add__)
    | st.text("/.a", max_size=9),
)
def test_a_canonical_form_is_its_own_form(capability: str, text: str) -> None:
    form = canonical(capability, text)
    if form is not None:
        assert canonical(capability, form) == form
        assert matchable(capability, form) == matchable(capability, text)
        form.encode()


@pytest.mark.parametrize(
    ("capability", "longest"),
    [
        ("fs.read", "/" + "a" * 8_191),
        ("net.fetch", "https://a/" + "a" * 8_182),
        ("net.fetch", "https://a/" + "%C3%A9" * 1_363 + "aaaa"),
        ("tool.call", "é" * 4_096),
    ],
)
def test_a_target_has_at_most_8_kib(capability: str, longest: str) -> None:
    assert canonical(capability, longest) == longest
    assert matchable(capability, longest) is not None
    assert canonical(capability, longest + "a") is None
    assert matchable(capability, longest + "a") is None


def test_a_url_too_long_in_its_canonical_form_is_not_a_target() -> None:
    url = "https://a/" + "é" * 2_000
    assert canonical("net.fetch", url) is None
    assert matchable("net.fetch", url) is None
