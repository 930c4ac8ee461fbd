"""Submits with a malformed lease, budget or time, or an unknown agent (§7.1, §9.2, §9.5, §9.6)."""

from __future__ import annotations

from typing import Any, Final

from tests.attacks.rows import DENIED, Row, Submit


def lease(**namespaces: Any) -> dict[str, Any]:
    return {"lease_request": {name.replace("_", "."): patterns for name, patterns in namespaces.items()}}


def until(expires_at: Any) -> dict[str, Any]:
    return {"lease_constraints": {"expires_at": expires_at}}


NO_TEXTS: Final[list[Any]] = [4_070_908_800, -1, 1e300, True, ["2099-01-01T00:00:00Z"], {}]
NO_SECONDS: Final[list[Any]] = [0, -1, 2**31 + 1, 1.5, 2**63, 10**30, "soon", True, []]

ROWS: Final[list[Row]] = [
    Submit(
        "namespaces that are none",
        [
            {"lease_request": {name: ["**"]}}
            for name in (
                *(
                    "fs.delete",
                    "fs.*",
                    "*",
                    "",
                    "FS.READ",
                    "fs.read ",
                    "x-vendor.",
                    "x-vendor.a b",
                    "__proto__",
                ),
                *("x-vendor.\u0430", "tool.call\x00", "x-vendor." + "a" * 256, "x-vendor.a\n"),
            )
        ],
        allowed=[{"lease_request": {"x-vendor.acme.gpu": ["a"]}}],
    ),
    Submit("too many patterns", [lease(fs_read=["/a"] * 65)], limit="lease_patterns"),
    Submit(
        "too many namespaces", [lease(**{f"x-vendor_n{n}": [] for n in range(33)})], limit="lease_namespaces"
    ),
    Submit(
        "a pattern that is too long",
        [lease(fs_read=["/" + "a" * 512]), lease(tool_call=["\u20ac" * 171])],
        limit="lease_pattern_bytes",
    ),
    Submit(
        "a lease that is too large",
        [lease(fs_read=[f"/{n:03}" + "a" * 300 for n in range(64)])],
        limit="lease_bytes",
    ),
    Submit(
        "a lease of other types",
        [
            {"lease_request": "fs.read"},
            {"lease_request": ["fs.read"]},
            lease(fs_read={"/data": True}),
            lease(fs_read=[1]),
            lease(fs_read=[None]),
            lease(fs_read=[["/data"]]),
            lease(fs_read=7),
            lease(fs_read=True),
        ],
        allowed=[{"lease_request": None}, {"lease_request": {}}],
    ),
    Submit(
        "patterns that are not paths",
        [
            lease(fs_read=[pattern])
            for pattern in (
                "data/**",
                "",
                "*",
                "/data\\**",
                "/data/\x00",
                "/data/*/../x",
                "/**/../etc",
                "~/**",
            )
        ],
        allowed=[lease(fs_read=["/data/../x"]), lease(fs_read=["**"])],
    ),
    Submit(
        "patterns that are not URLs",
        [
            lease(net_fetch=[pattern])
            for pattern in (
                *("*", "*://api.example.com/", "s3://b/../**", "https://", "https:///x", "api.example.com"),
                *("https://user@api.example.com/", "https://*@evil.example/", "https://api.example.com\\x"),
                *("https://api.example.com/%2f", "https://xn--*.example/", "https://b\u00fc*.example/"),
                *("https://api.example.com:99999/", "https://api.example.com:4*/", "https://a b/"),
                *("https://*%2eexample.com/", "https://api.example.com/*/../admin", "https://[::*]/"),
                *("https://api.example.com/*/%2e%2e/admin", "https://127.1/"),
                *("https://api.example.com/a/.%2E/admin", "https://api.example.com/a#b#c"),
            )
        ],
        allowed=[lease(net_fetch=["https://*:*/**"])],
    ),
    Submit(
        "budgets that are not amounts",
        [
            lease(cost_budget=[amount])
            for amount in (
                *("USD:NaN", "USD:Infinity", "USD:1e400", "USD:1e2", "USD:-1", "USD:+1", "USD:", "USD", ":1"),
                *("USD:1_000", "USD:1,000", "USD:0x10", "USD:\u0661", "USD: 1", "USD:1 ", "USD:1;EUR:2"),
                *("USD:1234567890123456789", "USD:0.1234567890", "USD:.5", "USD:5.", "1:USD", "USD:1\n"),
                *("*:1", "U*:1", "USD:**", "\u0425SD:1", "USD:1:2"),
            )
        ]
        + [lease(cost_budget=[])],
        allowed=[lease(cost_budget=["USD:0.000000001", "USD:999999999999999999"])],
    ),
    Submit(
        "leases that end in the past, at no time, or not in UTC",
        [
            until(time)
            for time in [
                *("2020-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "0000-00-00T00:00:00Z", "never", "", " "),
                *("2099-01-01T00:00:00", "2099-01-01T00:00:00+02:00", "2099-01-01T00:00:00-00:30"),
                *("2099-02-30T00:00:00Z", "2099-01-01T25:00:00Z", "2099-01-01", "2099-W01-1T00:00:00Z"),
                *("99999-01-01T00:00:00Z", "+12099-01-01T00:00:00Z", "2099-01-01T00:00:00ZZ", "tomorrow"),
                *(
                    "\u0662\u0660\u0669\u0669-01-01T00:00:00Z",
                    "2099-01-01T00:00:00Z\n",
                    "2099-01-01T00:00:00[UTC]",
                ),
                *NO_TEXTS,
            ]
        ],
        allowed=[until("9999-12-31T23:59:59Z"), until("2099-01-01T00:00:00+00:00"), until(None)],
    ),
    Submit(
        "runtimes that are none",
        [{"max_runtime_sec": value} for value in NO_SECONDS],
        allowed=[{"max_runtime_sec": 2**31}],
    ),
    Submit(
        "unknown agents",
        [{"agent": agent} for agent in ("unknown", "puppets", "bounde", "puppet2", "puppet-victim")],
        code="AGENT_NOT_AVAILABLE",
    ),
    Submit(
        "unknown versions",
        [{"agent": "puppet@1.0.0"}, {"agent": "puppet@0"}, {"agent": "bounded@9.9.9"}],
        code="AGENT_VERSION_NOT_AVAILABLE",
    ),
    Submit(
        "agents of other types and sizes, or written so that they are taken for others",
        [
            {"agent": agent}
            for agent in (
                *("", "a" * 257, 7, None, ["puppet"], {"name": "puppet"}, "Puppet", "puppet ", "../puppet"),
                *("p\u0443ppet", "*", "puppet\x00", "puppet\n", "puppet@", "@1", "puppet@*", "puppet@1@1"),
            )
        ],
    ),
    Submit(
        "more than the host's ceiling",
        [
            {"agent": "bounded", **request}
            for request in (
                {},
                lease(fs_read=["/**"], cost_budget=["USD:1"]),
                lease(fs_read=["/data/a"], cost_budget=["USD:1"]),
                {**lease(cost_budget=["USD:5.000000001"]), **until("2020-01-01T00:00:00Z")} | until(None),
                {**lease(cost_budget=["EUR:1"]), **until("9999-12-31T23:59:59Z")},
                {**lease(cost_budget=["USD:1"]), **until("9999-12-31T23:59:59Z")},
                {**lease(cost_budget=["USD:3", "USD:3"]), **until("9999-12-31T23:59:59Z")},
                {**lease(tool_call=["grep"], cost_budget=["USD:1"])},
            )
        ],
        code=DENIED,
    ),
    Submit(
        "keys that are none",
        [{"idempotency_key": key} for key in ("", "k" * 257, *NO_TEXTS)],
    ),
]
