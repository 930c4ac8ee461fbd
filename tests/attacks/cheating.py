"""Agents that want more than they have: money, time, children, events (§8.2, §9, §10)."""

from __future__ import annotations

from typing import Any, Final

from tests.attacks.rows import DENIED, Cheat, Row

EXHAUSTED: Final = "BUDGET_EXHAUSTED"
EXPIRED: Final = "LEASE_EXPIRED"
VIOLATION: Final = "LEASE_SUBSET_VIOLATION"
WRONG: Final = "LocalProtocolError"
CALL: Final = ("tool_call", "tool_result")
USD: Final = {"cost.budget": ["USD:1"]}
TOOLS: Final = {"tool.call": ["grep"]}
ME: Final = {"agent.delegate": ["puppet"]}


def child(lease: Any, *steps: Any, agent: str = "puppet", **options: Any) -> list[Any]:
    """Return a step: delegate, wait, and return what the child returns."""
    given = options if lease is None else {"lease_request": lease, **options}
    return ["delegate", agent, given, list(steps)]


MONEY: Final[list[Row]] = [
    Cheat(
        "costs that are negative, no number, or without end",
        USD,
        [
            *(["spend", value, "USD"] for value in ("f-1", "fnan", "finf", "f-inf", "f1e400", "f-1e-300")),
            *(["spend", value, "USD"] for value in ("dNaN", "dsNaN", "d-0.01", "dInfinity", "d1E+400")),
            *(["spend", value, "USD"] for value in ("d1E-400", 10**18, -1, True, "1", None, [1])),
            ["emit", "metric", {"name": "cost.x", "value": -5, "unit": "USD"}],
            ["emit", "metric", {"name": "cost.x", "value": "5", "unit": "USD"}],
            ["left", "USD"],
        ],
        [*[WRONG] * 14, *["TypeError"] * 4, WRONG, WRONG, "1"],
        left={"USD": 1},
    ),
    Cheat(
        "the runtime's own gauge, forged",
        USD,
        [
            ["metric", "cost.budget.remaining", 1000, "USD"],
            ["emit", "metric", {"name": "cost.budget.remaining", "value": 1000, "unit": "USD"}],
            ["spend", 1, "USD"],
            ["emit", "metric", {"name": "cost.budget.remaining", "value": 1000, "unit": "USD"}],
            ["authorize", "tool.call", "grep"],
        ],
        [WRONG, WRONG, "ok", WRONG, DENIED],
        ["metric", "metric", "status"],
        left={"USD": 0},
    ),
    Cheat(
        "a reserved cost settled for less than nothing, twice, or under the name of the gauge",
        USD,
        [
            [
                *("reserve", "USD", "0.5", ["settle", "f-1"], ["settle", "fnan"]),
                *(
                    ["settle", 0, "cost.budget.remaining"],
                    ["settle", 0, "price"],
                    ["settle", "d0.1"],
                    ["settle", 0],
                ),
            ]
        ],
        [[WRONG, WRONG, WRONG, WRONG, "ok", "ValueError"]],
        ["metric", "metric"],
        left={"USD": 0.9},
    ),
    Cheat(
        "every name that begins with cost. spends",
        USD,
        [
            ["metric", name, 0.1, "USD"]
            for name in ("cost.", "cost.budget", "cost.budget.remaining ", "cost.x\n")
        ],
        ["ok"] * 4,
        ["metric", "metric"] * 4,
        left={"USD": 0.6},
    ),
    Cheat(
        "a cost under another name does not count as a cost, and frees nothing",
        USD,
        [
            *(["metric", name, 5, "USD"] for name in ("price", "Cost.x", "COST.X", " cost.x", "c\u043est.x")),
            *(["metric", name, -5, "USD"] for name in ("price", "Cost.x", "COST.X")),
            ["left", "USD"],
        ],
        [*["ok"] * 8, "1"],
        ["metric"] * 8,
        left={"USD": 1},
    ),
    Cheat(
        "a cost in another currency does not touch this one",
        USD,
        [
            *(["spend", 5, unit] for unit in ("usd", "USD ", "US$", "EUR", "\uff35\uff33\uff24", None, "")),
            ["left", "USD"],
            ["left", "EUR"],
        ],
        [*["ok"] * 7, "1", None],
        ["metric"] * 7,
        left={"USD": 1},
    ),
    Cheat(
        "one currency is used up, and the others do not help",
        {**TOOLS, "cost.budget": ["USD:1", "EUR:100"]},
        [["spend", 1, "USD"], ["tool", "grep"], ["reserve", "EUR", "1"], ["left", "EUR"]],
        ["ok", EXHAUSTED, EXHAUSTED, "100"],
        ["metric", "metric", "status", "tool_call", "tool_result"],
        left={"USD": 0, "EUR": 100},
    ),
    Cheat(
        "after the last cent nothing is allowed, and a part of the result is still returned",
        {**USD, **ME, **TOOLS, "model.use": ["*"], "fs.read": ["/**"], "net.fetch": ["**"]},
        [
            ["spend", "d1.5", "USD"],
            ["tool", "grep"],
            ["model", "small"],
            ["open", "/etc/hostname", "r"],
            ["fetch", "https://api.example.com/"],
            ["reserve", "USD", "0"],
            child({}),
            ["authorize", "agent.delegate", "puppet"],
            ["spend", 0.25, "USD"],
            ["log"],
        ],
        ["ok", *[EXHAUSTED] * 7, "ok", "ok"],
        ["metric", "metric", "status", "tool_call", "tool_result", "metric", "metric", "log"],
        left={"USD": -0.75},
    ),
    Cheat(
        "a budget of nothing",
        {**TOOLS, "cost.budget": ["USD:0"]},
        [["tool", "grep"], ["reserve", "USD", "0"], ["authorize", "tool.call", "grep"]],
        [EXHAUSTED] * 3,
        ["tool_call", "tool_result"],
        left={"USD": 0},
    ),
    Cheat(
        "reservations beyond what is left",
        {**USD, **TOOLS},
        [
            ["reserve", "USD", "1.01"],
            ["reserve", "USD", "-1"],
            ["reserve", "USD", "NaN"],
            ["reserve", "USD", "1e400"],
            ["reserve", "US$", "1"],
            [
                "reserve",
                "USD",
                "0.6",
                ["reserve", "USD", "0.5"],
                ["settle", "d0.1"],
                ["release"],
                ["settle", "d0.1"],
            ],
            ["reserve", "USD", "0.9", ["tool", "grep"], ["reserve", "USD", "0.01"], ["release"], ["release"]],
            ["reserve", "USD", "0.9", ["settle", "d5"]],
            ["tool", "grep"],
        ],
        [
            *(EXHAUSTED, WRONG, WRONG, WRONG, WRONG, [EXHAUSTED, "ok", "ok", "ValueError"]),
            *([EXHAUSTED, EXHAUSTED, "ok", "ok"], ["ok"], EXHAUSTED),
        ],
        ["metric", "metric", *CALL, "metric", "metric", "status", *CALL],
        left={"USD": -4.1},
    ),
    Cheat(
        "costs so small that they are lost in a float are not lost",
        {"cost.budget": ["USD:100000000000000000"]},
        [*([["spend", "d0.0000000000000000000000000000000000000001", "USD"]] * 3), ["left", "USD"]],
        ["ok"] * 3 + ["99999999999999999.9999999999999999999999999999999999999997"],
        ["metric"] * 3,
    ),
]

TIME: Final[list[Row]] = [
    Cheat(
        "an agent that catches the refusal of an expired lease, and goes on",
        {**TOOLS, **ME, "fs.read": ["/**"], "cost.budget": ["USD:1"]},
        [
            ["tool", "grep"],
            ["sleep", "LATER"],
            ["tool", "grep"],
            ["open", "/etc/hostname", "r"],
            ["reserve", "USD", "0.1"],
            child({}),
            ["log"],
        ],
        None,
        ["tool_call", "tool_result", "tool_call", "tool_result"],
        ends=EXPIRED,
        last_words=["log"],
        left={"USD": 1},
        fields={"lease_constraints": {"expires_at": "SOON"}},
    ),
    Cheat(
        "an agent that never asks is stopped a second after its lease has ended",
        TOOLS,
        [["sleep", 60]],
        None,
        ends=EXPIRED,
        fields={"lease_constraints": {"expires_at": "SOON"}},
    ),
    Cheat(
        "children that would live longer than the lease of their parent, or by another clock",
        {**TOOLS, **ME},
        [
            child({}, expires_at="2099-01-01T00:00:01Z"),
            child({}, expires_at="9999-12-31T23:59:59Z"),
            child({}, expires_at="2098-01-01T00:00:00+02:00"),
            child({}, expires_at="2020-01-01T00:00:00Z"),
            child({}, expires_at="never"),
            child(TOOLS, expires_at="2098-01-01T00:00:00Z"),
        ],
        [VIOLATION, VIOLATION, *["INVALID_REQUEST"] * 3, []],
        ["delegate", "job.result"],
        fields={"lease_constraints": {"expires_at": "2099-01-01T00:00:00Z"}},
    ),
]

CHILDREN: Final[list[Row]] = [
    Cheat(
        "children that want more than their parent has, in every namespace",
        {
            **ME,
            "fs.read": ["/data/a*", "/data/b/**"],
            "fs.write": ["/out/*"],
            "net.fetch": ["https://*.example.com/v1/**"],
            "tool.call": ["*"],
            "model.use": ["fast/*"],
            "cost.budget": ["USD:1"],
            "x-vendor.acme.gpu": ["small"],
        },
        [
            child(lease)
            for lease in (
                {"fs.read": ["/data/*"]},
                {"fs.read": ["/data/a**"]},
                {"fs.read": ["/data/a/../c"]},
                {"fs.read": ["**"]},
                {"fs.read": ["/data/b/**", "/data/b*/x"]},
                {"fs.write": ["/out/**"]},
                {"fs.write": ["/out"]},
                {"fs.write": ["/data/b/x"]},
                {"net.fetch": ["https://**.example.com/v1/**"]},
                {"net.fetch": ["https://a.example.com/**"]},
                {"net.fetch": ["http://a.example.com/v1/x"]},
                {"net.fetch": ["https://a.example.com:*/v1/x"]},
                {"tool.call": ["**"]},
                {"tool.call": ["a/b"]},
                {"model.use": ["**"]},
                {"model.use": ["slow/*"]},
                {"cost.budget": ["USD:1.000000001"]},
                {"cost.budget": ["USD:0.6", "USD:0.6"]},
                {"agent.delegate": ["**"]},
                {"agent.delegate": ["puppet", "honest"]},
                {"x-vendor.acme.gpu": ["*"]},
                {"x-vendor.acme.tpu": ["small"]},
            )
        ],
        [VIOLATION] * 22,
        left={"USD": 1},
    ),
    Cheat(
        "children with a malformed lease",
        {**ME, **TOOLS},
        [
            child({"fs.delete": ["**"]}),
            child({"cost.budget": ["USD:-1"]}),
            child({"cost.budget": []}),
            child({"fs.read": ["data"]}),
            child({"tool.call": [""]}),
            child({"tool.call": "grep"}),
            child({"tool.call": ["grep"] * 65}),
            child({}, max_runtime=0),
            child({}, max_runtime=-1),
        ],
        [*["INVALID_REQUEST"] * 5, WRONG, *["INVALID_REQUEST"] * 3],
    ),
    Cheat(
        "a child with the same lease is refused",
        {**ME, **TOOLS, **USD},
        [child({**ME, **TOOLS, **USD}), child({**TOOLS, **ME, "cost.budget": ["USD:0.5", "USD:0.5"]})],
        [VIOLATION] * 2,
        left={"USD": 1},
    ),
    Cheat(
        "agents that may not be delegated to, whether they are there or not",
        {"agent.delegate": ["honest", "pup*s"], **TOOLS},
        [child({}), child({}, agent="unknown"), child({}, agent="puppet@1.0.0"), child({}, agent="victim")],
        [DENIED] * 4,
    ),
    Cheat(
        "without agent.delegate no agent delegates, and a child does not inherit it",
        {**ME, **TOOLS},
        [
            child(None, child({}), ["authorize", "agent.delegate", "puppet"]),
            child(TOOLS, child({}), ["tool", "grep"]),
        ],
        [[DENIED, DENIED], [DENIED, "ok"]],
        ["delegate", "job.result", "delegate", "tool_call", "tool_result", "job.result"],
    ),
    Cheat(
        "what the parent names and the child does not still binds the child",
        {**ME, **TOOLS, **USD, "model.use": ["fast/*"]},
        [
            child({}, ["model", "fast/x"], ["spend", "d0.4", "USD"], ["left", "USD"]),
            child(TOOLS, ["spend", "d0.7", "USD"], ["tool", "grep"], ["left", "USD"]),
            ["authorize", "tool.call", "grep"],
            child({}),
        ],
        [[DENIED, "ok", "0.6"], ["ok", EXHAUSTED, "-0.1"], EXHAUSTED, EXHAUSTED],
        left={"USD": -0.1},
        events=[
            *("delegate", "metric", "metric", "job.result"),
            *("delegate", "metric", "metric", "status", "tool_call", "tool_result", "job.result"),
        ],
    ),
    Cheat(
        "a budget that is split among more children than it has parts",
        {"agent.delegate": ["sleeper"], **USD},
        [
            ["delegate and leave", "sleeper", {"lease_request": {"cost.budget": ["USD:0.4"]}}],
            ["delegate and leave", "sleeper", {"lease_request": {"cost.budget": ["USD:0.4"]}}],
            ["delegate and leave", "sleeper", {"lease_request": {"cost.budget": ["USD:0.4"]}}],
            ["left", "USD"],
        ],
        ["ok", "ok", VIOLATION, "0.2"],
        left={"USD": 1},
        events=["delegate", "metric", "delegate", "metric", "job.error", "metric", "job.error", "metric"],
    ),
    Cheat(
        "what a child overspends is its parent's loss",
        {**ME, **TOOLS, **USD},
        [
            child({"cost.budget": ["USD:0.3"]}, ["spend", "d0.9", "USD"], ["left", "USD"]),
            ["left", "USD"],
            child({"cost.budget": ["USD:0.05"]}, ["spend", "d5", "USD"]),
            ["left", "USD"],
            ["tool", "grep"],
        ],
        [["ok", "-0.6"], "0.1", ["ok"], "-4.90", EXHAUSTED],
        left={"USD": -4.9},
        events=[
            *("delegate", "metric", "metric", "metric", "status", "job.result", "metric"),
            *("delegate", "metric", "metric", "metric", "status", "job.result", "metric"),
            *("tool_call", "tool_result"),
        ],
    ),
    Cheat(
        "a child does not get what its parent has reserved",
        {**ME, **USD},
        [
            [
                *("reserve", "USD", "0.8"),
                child({"cost.budget": ["USD:0.3"]}),
                child({"cost.budget": ["USD:0.2"]}, ["left", "USD"]),
                ["release"],
            ],
            ["left", "USD"],
        ],
        [[VIOLATION, ["0.2"], "ok"], "1.0"],
        left={"USD": 1},
        events=["delegate", "metric", "job.result", "metric"],
    ),
    Cheat(
        "a child of an agent with a ceiling, beyond it",
        {"agent.delegate": ["bounded"], "fs.read": ["/**"], "cost.budget": ["USD:10"]},
        [
            child({"fs.read": ["/etc/**"], "cost.budget": ["USD:1"]}, agent="bounded", expires_at="SOON"),
            child({"fs.read": ["/data/a"], "cost.budget": ["USD:6"]}, agent="bounded", expires_at="SOON"),
            child({"fs.read": ["/data/a"], "cost.budget": ["USD:1"]}, agent="bounded"),
            child(None, agent="bounded", expires_at="SOON"),
            child({"fs.read": ["/data/a"], "cost.budget": ["USD:1"]}, agent="bounded", expires_at="SOON"),
        ],
        [*[DENIED] * 4, None],
        ["delegate", "metric", "job.result", "metric"],
        left={"USD": 10},
    ),
    Cheat(
        "more children at a time than a job may have",
        {"agent.delegate": ["sleeper"]},
        [["delegate and leave", "sleeper", {"lease_request": {}}] for _ in range(6)],
        ["ok"] * 4 + ["INTERNAL_ERROR"] * 2,
        ["delegate"] * 4 + ["job.error"] * 4,
    ),
]


def nested(depth: int) -> list[Any]:
    """Return a job that delegates to one that delegates, each with a cent less."""
    lease = {**ME, "cost.budget": [f"USD:{depth / 100}"]}
    return child(lease, nested(depth - 1)) if depth else child({"cost.budget": ["USD:0.001"]})


def told_by(depth: int, code: str) -> Any:
    """Return what comes back from a child so deep below."""
    return [told_by(depth - 1, code)] if depth else code


CHILDREN.append(
    Cheat(
        "a child of a child of a child, too deep",
        {**ME, **USD},
        [nested(9)],
        [told_by(5, "INVALID_REQUEST")],
        ["delegate", "metric"] * 5 + ["job.result", "metric"] * 5,
        left={"USD": 1},
    )
)

EVENTS: Final[list[Row]] = [
    Cheat(
        "a tool call that is emitted as an event, under several names",
        TOOLS,
        [
            ["emit", "tool_call", {"tool": "rm", "args": {}, "call_id": "c1"}],
            ["emit", "tool_call", {"name": "rm", "arguments": {}, "tool_call_id": "c2"}],
            ["emit", "tool_call", {"tool": "rm", "name": "grep", "args": {}, "call_id": "c3"}],
            ["emit", "tool_call", {"tool": "grep", "name": "rm", "args": {}, "call_id": "c4"}],
            ["tool", "rm"],
        ],
        [DENIED, DENIED, DENIED, "ok", DENIED],
        [*["tool_call", "tool_result"] * 3, "tool_call", *["tool_call", "tool_result"]],
    ),
    Cheat(
        "a tool call without a name, or with more than a name",
        {"tool.call": ["**"]},
        [
            ["emit", "tool_call", {"args": {}, "call_id": "c"}],
            ["emit", "tool_call", {"tool": None, "args": {}, "call_id": "c"}],
            ["emit", "tool_call", {"tool": ["grep"], "args": {}, "call_id": "c"}],
            ["emit", "tool_call", {"tool": "", "args": {}, "call_id": "c"}],
            ["emit", "tool_call", {"tool": "grep", "args": {}, "call_id": "c" * 300}],
            ["emit", "tool_call", {"tool": "grep", "args": {}}],
        ],
        [WRONG, WRONG, WRONG, DENIED, WRONG, WRONG],
        ["tool_call", "tool_result"],
    ),
    Cheat(
        "an agent that lets the first refusal pass ends with it",
        TOOLS,
        [["tool", "grep"], ["tool", "rm"], ["log"]],
        None,
        ["tool_call", "tool_result"] * 2,
        ends=DENIED,
        agent="honest",
    ),
    Cheat(
        "events that only the runtime makes",
        {**TOOLS, **USD},
        [
            ["emit", "delegate", {"child_job_id": "job_0", "agent": "puppet"}],
            [
                "emit",
                "result_chunk",
                {"result_id": "r", "chunk_seq": 0, "data": "", "encoding": "utf8", "more": False},
            ],
            ["emit", "status", {"phase": "credential_rotated", "message": "x"}],
            ["emit", "job.result", {"final_status": "success"}],
            ["emit", "job.error", {"final_status": "error"}],
            ["emit", "tool_call ", {"tool": "rm"}],
            ["emit", "TOOL_CALL", {"tool": "rm"}],
            ["emit", "", {}],
            ["emit", "x-vendor", {}],
            ["emit", "x-vendor.", {}],
            ["emit", 'x-vendor.acme."}', {}],
        ],
        [DENIED, *[WRONG] * 10],
    ),
    Cheat(
        "a tool call behind a kind of a vendor is not gated, and not a tool call to any client",
        USD,
        [
            ["emit", "x-vendor.acme.tool_call", {"tool": "rm"}],
            ["emit", "x-vendor.acme.cost", {"name": "cost.x", "value": 5, "unit": "USD"}],
        ],
        ["ok", "ok"],
        ["x-vendor.acme.tool_call", "x-vendor.acme.cost"],
        left={"USD": 1},
    ),
    Cheat(
        "events that no frame can hold are cut, and wrong ones refused",
        {},
        [
            ["emit", "log", {"level": "info", "message": "x" * 70_000}],
            ["emit", "x-vendor.acme.large", {"x": ["y" * 1000] * 70}],
            ["emit", "log", {"level": "root", "message": "x"}],
            ["emit", "progress", {"current": -1}],
            ["emit", "log", {"level": "info"}],
        ],
        ["ok"] * 2 + [WRONG] * 3,
        ["log", "x-vendor.acme.large"],
    ),
    Cheat(
        "an agent in a process of its own that cheats there",
        {**TOOLS, **ME, "cost.budget": ["USD:1"], "fs.read": ["FILES/in/**"]},
        [
            ["tool", "rm"],
            ["emit", "tool_call", {"name": "rm", "args": {}, "call_id": "c"}],
            ["emit", "metric", {"name": "cost.budget.remaining", "value": 1000, "unit": "USD"}],
            ["spend", "f-1", "USD"],
            ["open", "FILES/in/link", "r"],
            ["open", "FILES/in/file", "r"],
            child({}),
            ["spend", "d1.5", "USD"],
            ["tool", "grep"],
        ],
        [DENIED, DENIED, WRONG, WRONG, DENIED, "in", [], "ok", EXHAUSTED],
        [*CALL, *CALL, "delegate", "job.result", "metric", "metric", "status", *CALL],
        agent="isolated",
        left={"USD": -0.5},
    ),
    Cheat(
        "files beside what may be opened: by a link, a hard link, a parent, a pipe of the kernel's",
        {"fs.read": ["FILES/in/**"], "fs.write": ["FILES/in/**"]},
        [
            ["open", "FILES/in/link", "r"],
            ["open", "FILES/in/link", "w"],
            ["open", "FILES/in/dir/file", "r"],
            ["open", "FILES/in/../out/file", "r"],
            ["open", "FILES/in/hard", "r"],
            ["open", "FILES/in/root/etc/hostname", "r"],
            ["open", "FILES/in/fd/0", "r"],
            ["open", "FILES/in/nothing/../../out/file", "r"],
            ["open", "FILES/out/new", "w"],
            ["open", "/dev/stdin", "r"],
            ["open", "FILES/in/file", "r"],
        ],
        [*[DENIED] * 10, "in"],
    ),
]
