"""The grammar of lease patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.leases.patterns import Part, check_pattern, parse_pattern
from arcp_proto.limits import MAX_PATTERN_BYTES

NAMESPACES = ["fs.read", "fs.write", "net.fetch", "tool.call", "agent.delegate", "model.use", "x-vendor.acme"]
FS = ["fs.read", "fs.write"]


def refusal(namespace: str, pattern: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check_pattern(namespace, pattern)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert not caught.value.fatal
    return caught.value


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_two_stars_are_a_pattern_in_every_namespace(namespace: str) -> None:
    check_pattern(namespace, "**")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_an_empty_pattern_is_refused(namespace: str) -> None:
    assert refusal(namespace, "").message == "a pattern is empty"


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize(
    "character", ["\x00", "\t", "\n", "\r", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", "\udfff"]
)
def test_no_pattern_holds_a_control_character(namespace: str, character: str) -> None:
    start = "https://example.com/" if namespace == "net.fetch" else "/a"
    check_pattern(namespace, f"{start}b")
    assert "holds a control character" in refusal(namespace, f"{start}{character}b").message


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_bytes_of_a_pattern_are_limited(namespace: str) -> None:
    start = "https://example.com/" if namespace == "net.fetch" else "/"
    room = MAX_PATTERN_BYTES - len(start)
    check_pattern(namespace, start + "a" * room)
    check_pattern(namespace, start + "é" * (room // 2))
    for pattern in (start + "a" * (room + 1), start + "é" * (room // 2 + 1), start + "a" * 5_000_000):
        refused = refusal(namespace, pattern)
        assert refused.details == {"limit": "lease_pattern_bytes", "max": MAX_PATTERN_BYTES}
        assert len(refused.message) < 100


@pytest.mark.parametrize("namespace", FS)
@pytest.mark.parametrize(
    "pattern",
    [
        "/",
        "/**",
        "/*",
        "/workspace/**",
        "/workspace/*.py",
        "/a/**/b",
        "/a b/c",
        "/ünïcødé/文/👩‍🚀",
        "/what?/[x]{y}",
        "/%2e%2e/%00",
        "/a//b/./c",
        "/a/../b",
        "/../..",
        "/*/x/../y",
        "/a/..*",
        "/...",
    ],
)
def test_a_path_is_absolute(namespace: str, pattern: str) -> None:
    check_pattern(namespace, pattern)


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("a", "is not an absolute path"),
        ("*", "is not an absolute path"),
        ("**/x", "is not an absolute path"),
        ("***", "is not an absolute path"),
        ("./a", "is not an absolute path"),
        ("~/a", "is not an absolute path"),
        ("C:/a", "is not an absolute path"),
        (" /a", "is not an absolute path"),
        ("file:///a", "is not an absolute path"),
        ("\\a", "is not an absolute path"),
        ("/a\\b", "holds a backslash"),
        ("/a/**/..", "has .. after a wildcard"),
        ("/a*/../b", "has .. after a wildcard"),
        ("/*/./..", "has .. after a wildcard"),
        ("/*//..", "has .. after a wildcard"),
        ("/*/x/../..", "has .. after a wildcard"),
    ],
)
def test_a_pattern_that_is_not_a_path_is_refused(pattern: str, fault: str) -> None:
    for namespace in FS:
        assert refusal(namespace, pattern).message == f"the pattern {pattern!r} {fault}"


@pytest.mark.parametrize(
    "pattern",
    [
        "https://example.com",
        "https://example.com/",
        "HTTP://EXAMPLE.COM/**",
        "http://localhost:8080/*",
        "http://localhost:*/**",
        "http://127.0.0.1:65535/",
        "http://[::1]/",
        "http://[2001:db8::1]:443/**",
        "http://[::ffff:127.0.0.1]/",
        "https://*.example.com/**",
        "https://**.example.com/**",
        "https://127.0.0.*/",
        "https://*.1/",
        "https://**",
        "https://example.com*",
        "https://under_score.example/x",
        "https://example.com?q=*",
        "https://example.com/a/?q=a@b:c/../*/..#fragment",
        "https://example.com/a@b:c",
        "https://example.com/%41/./x",
        "https://example.com/a/../b.%2Ec",
        "https://example.com/*/x/../y",
        "https://example.com/文",
        "https://bücher.example/**",
        "https://xn--bcher-kva.example/**",
        "https://*.bücher.example/",
        "https://a23456789b23456789c23456789d23456789e23456789f23456789g23456789.example/",
        "s3://bucket",
        "S3://Bucket/**",
        "s3://**",
        "ftp://example.com:21/a*",
        "file:///etc/**",
        "git+ssh://host/x.git",
        "s3://bucket/..a/.b/a..?x=../y",
        "gs://bücket/é",
    ],
)
def test_a_url_names_a_scheme_and_a_host(pattern: str) -> None:
    check_pattern("net.fetch", pattern)


NO_URL = "is not a URL of the form scheme://..."
DOT = "has a host that ends in a dot, which some clients leave out"
NO_PORT = "has a port that is not between 1 and 65535"
SLASHES = "has a path that begins with //, of which some clients send one /"
NO_HOST = "has no host, or no port after its colon"
NO_LABEL = "has a host with an empty or too long label, or without an ASCII form"
NO_CHARACTER = "has a character in its host that no host has"
NO_ADDRESS = "has a host that ends in a number and is not an IPv4 address"
TWO_FORMS = "has a host with two ASCII forms; write the one that is meant, xn--..."
ESCAPED_DOTS = "holds an escaped dot segment, such as %2e%2e"
DOTS = "has a segment . or .., which only http and https resolve"
NO_PATH = "holds an escaped %2F in its path, where servers disagree; it may stand in a query"
NO_HTTP = "holds a space, a backslash, a bare % or an escaped %5C, %00"
NO_TEXT = "holds a space, a backslash, a bare % or an escaped %2F, %5C, %00"


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("*", NO_URL),
        ("**/x", NO_URL),
        ("example.com", NO_URL),
        ("//example.com", NO_URL),
        ("*://example.com", NO_URL),
        ("http*://example.com", NO_URL),
        ("http:/example.com", NO_URL),
        ("httpſ://example.com", NO_URL),
        ("s3:/example.com", NO_URL),
        ("s3://", NO_URL),
        ("s*://example", NO_URL),
        ("ſ3://example", NO_URL),
        ("3s://example", NO_URL),
        ("s3://user@bucket/x", "names a user"),
        ("s3://user:secret@bucket", "names a user"),
        ("s3://bucket\\x", NO_TEXT),
        ("s3://bucket/a b", NO_TEXT),
        ("s3://bucket/100%", NO_TEXT),
        ("s3://bucket/a%2Fb", NO_TEXT),
        ("s3://bucket/a%5cb", NO_TEXT),
        ("s3://bucket/a%00b", NO_TEXT),
        ("s3://bucket/../x", DOTS),
        ("s3://bucket/./x", DOTS),
        ("s3://bucket/%2e%2E/x", DOTS),
        ("s3://bucket/.%2e", DOTS),
        ("s3://../x", DOTS),
        ("s3://bucket/*/..", DOTS),
        ("javascript:http://x", NO_URL),
        (" https://example.com", NO_URL),
        ("https://", NO_HOST),
        ("https:///x", NO_HOST),
        ("https://?x", NO_HOST),
        ("https://#x", NO_HOST),
        ("https://:80/", NO_HOST),
        ("https://example.com:/", NO_HOST),
        ("https://example.com:a/", NO_HOST),
        ("https://example.com:8*/", NO_HOST),
        ("https://example.com:٨/", NO_HOST),
        ("https://example.com:123456/", NO_HOST),
        ("https://a:1:2/", NO_HOST),
        ("https://::1/", NO_HOST),
        ("https://[::1/", NO_HOST),
        ("https://[::1]x/", NO_HOST),
        ("https://[*]/", NO_HOST),
        ("https://[fe80::1%25eth0]/", NO_HOST),
        ("https://api*.example.com./**", DOT),
        ("https://example.com:65536/", NO_PORT),
        ("https://example.com:0/", NO_PORT),
        ("https://example.com:000/", NO_PORT),
        ("https://[::1]:65536/", NO_PORT),
        ("https://[::1]:0/", NO_PORT),
        ("https://example.com//a", SLASHES),
        ("https://example.com/a/..//*", SLASHES),
        ("https://example.com//**", SLASHES),
        ("https://[1.2.3.4]/", "has no IPv6 address in its brackets"),
        ("https://[::1::]/", "has no IPv6 address in its brackets"),
        ("https://user@example.com/", "names a user"),
        ("https://user:secret@example.com/", "names a user"),
        ("https://example.com:80@evil.example/", "names a user"),
        ("https://@example.com/", "names a user"),
        ("https://exa mple.com/", NO_HTTP),
        ("https://example.com/a b", NO_HTTP),
        ("https://example.com\\@evil.example/", NO_HTTP),
        ("https://example.com/a\\b", NO_HTTP),
        ("https://example.com/%", NO_HTTP),
        ("https://example.com/%2", NO_HTTP),
        ("https://example.com/%2*", NO_HTTP),
        ("https://example.com/%zz", NO_HTTP),
        ("https://example.com/a%2fb", NO_PATH),
        ("https://example.com/a%2Fb", NO_PATH),
        ("https://example.com/a%5cb", NO_HTTP),
        ("https://example.com/a%5Cb", NO_HTTP),
        ("https://example.com/a%00b", NO_HTTP),
        ("https://example.com/#%00", NO_HTTP),
        ("https://a..b/", NO_LABEL),
        ("https://.example.com/", NO_LABEL),
        ("https://./", NO_LABEL),
        ("https://a23456789b23456789c23456789d23456789e23456789f23456789g23456789h/", NO_LABEL),
        ("https://xn--ü.example/", NO_LABEL),
        ("https://exa%6dple.com/", NO_CHARACTER),
        ("https://a|b/", NO_CHARACTER),
        ("https://<b>/", NO_CHARACTER),
        ("https://a\u3000b/", NO_CHARACTER),
        ("https://example.℀.evil/", NO_CHARACTER),
        ("https://＊.example.com/", NO_CHARACTER),
        ("https://straße.example/", TWO_FORMS),
        ("https://a\u200dé.example/", TWO_FORMS),
        ("https://127.1/", NO_ADDRESS),
        ("https://0x7f.0.0.1/", NO_ADDRESS),
        ("https://2130706433/", NO_ADDRESS),
        ("https://127.0.0.1./", DOT),
        ("https://example.com.01/", NO_ADDRESS),
        ("https://a\u00adb.example/", TWO_FORMS),
        ("https://*bücher.example/", "has a * in an internationalized label"),
        ("https://XN--*.example/", "has a * in an internationalized label"),
        ("https://example.com/*/..", "has .. after a wildcard"),
        ("https://example.com/**/../x", "has .. after a wildcard"),
        ("https://example.com/a*/..", "has .. after a wildcard"),
        ("https://example.com/a/%2e%2E/x", ESCAPED_DOTS),
        ("https://example.com/a*/.%2e", ESCAPED_DOTS),
        ("https://example.com/a/%2E", ESCAPED_DOTS),
        ("https://example.com/a#b#c", "holds a second #, at which some clients cut it"),
    ],
)
def test_a_pattern_that_is_not_a_url_is_refused(pattern: str, fault: str) -> None:
    assert refusal("net.fetch", pattern).message == f"the pattern {pattern!r} {fault}"


@pytest.mark.parametrize("namespace", ["tool.call", "agent.delegate", "model.use", "x-vendor.acme.db"])
@pytest.mark.parametrize(
    "pattern", ["*", "index.*", "anthropic/claude-3-*", "a b", "é", "C:\\x", "../..", "http:%"]
)
def test_other_namespaces_take_any_text(namespace: str, pattern: str) -> None:
    check_pattern(namespace, pattern)


@given(
    st.sampled_from(NAMESPACES),
    st.text() | st.text("/*.%2eEfF5cC:@[]a?#", max_size=40).map("http://".__add__),
)
def test_a_pattern_is_accepted_or_refused(namespace: str, pattern: str) -> None:
    try:
        check_pattern(namespace, pattern)
    except Refusal as refused:
        assert refused.code is ErrorCode.INVALID_REQUEST
    else:
        assert 0 < len(pattern.encode()) <= MAX_PATTERN_BYTES


@given(st.lists(st.sampled_from(["a", "*", "**", "x*y", ".", "..", "", "b"]), max_size=8))
def test_dots_are_refused_where_they_would_take_a_wildcard_away(segments: list[str]) -> None:
    kept: list[str] = []
    taken: list[str] = []
    for segment in segments:
        if segment == "..":
            taken += kept[-1:]
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    url = "https://example.com/" + "/".join(segment for segment in segments if segment)
    for namespace, pattern in (("fs.read", "/" + "/".join(segments)), ("net.fetch", url)):
        if any("*" in segment for segment in taken):
            assert "has .. after a wildcard" in refusal(namespace, pattern).message
        else:
            check_pattern(namespace, pattern)


def told(namespace: str, pattern: str) -> list[str]:
    check_pattern(namespace, pattern)
    return ["".join(part.text for part in parts) for parts in parse_pattern(namespace, pattern)]


@pytest.mark.parametrize("namespace", FS)
@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        ("**", "/**"),
        ("/", "/"),
        ("/a/", "/a"),
        ("/a//./b/../*/", "/a/*"),
        ("/%2e%2e/A", "/%2e%2e/A"),
    ],
)
def test_a_path_is_resolved_as_its_targets_are(namespace: str, pattern: str, form: str) -> None:
    assert told(namespace, pattern) == [form]


def test_the_root_is_always_part_of_a_pattern() -> None:
    for pattern in ("/**", "**", "/**/**", "/***"):
        assert parse_pattern("fs.read", pattern) == [(Part("/"), Part("**", "/", ""))]
    assert parse_pattern("fs.read", "/**/a") == [(Part("/**/a", "/", ""),)]


@pytest.mark.parametrize(
    ("pattern", "forms"),
    [
        ("HTTPS://A", ["https a 443 / **"]),
        ("http://a:0081/b/../c?", ["http a 81 /c "]),
        ("http://a:*/./b?c/../d#e", ["http a * /b c/../d"]),
        ("https://a/%41%c3%a9é/*?é=%7e*", ["https a 443 /A%C3%A9%C3%A9/* %C3%A9=~*"]),
        ("https://*.bücher.example/**", ["https *.xn--bcher-kva.example 443 /** **"]),
        ("https://[0::1]/", ["https [::1] 443 / **"]),
        ("https://**/", ["https ** 443 / **", "https [** 443 / **"]),
        ("https://**.a/", ["https **.a 443 / **"]),
        ("S3://Bucket/**/A?x#y", ["s3://Bucket/**/A?x#y"]),
        (
            "**",
            ["http ** * /** **", "http [** * /** **", "https ** * /** **", "https [** * /** **"],
        ),
    ],
)
def test_a_url_is_taken_apart_as_its_targets_are(pattern: str, forms: list[str]) -> None:
    assert told("net.fetch", pattern) == forms


@pytest.mark.parametrize("namespace", ["tool.call", "agent.delegate", "model.use", "x-vendor.acme.db"])
def test_a_pattern_of_a_name_is_one_part(namespace: str) -> None:
    assert parse_pattern(namespace, "/a/../**//") == [(Part("/a/../**//", "/", ""),)]


@given(st.sampled_from(NAMESPACES), st.text("/*.%2ea:?#", max_size=20))
def test_every_accepted_pattern_can_be_parsed(namespace: str, text: str) -> None:
    for pattern in (text, f"/{text}", f"https://{text}", f"https://a/{text}"):
        try:
            check_pattern(namespace, pattern)
        except Refusal:
            continue
        assert parse_pattern(namespace, pattern)
