"""The reserved namespaces are those of the draft, and mean the same wherever they are used."""

from __future__ import annotations

import msgspec

from arcp_proto.features import Feature
from arcp_proto.leases.lease import parse_lease
from arcp_proto.namespaces import RESERVED, Namespace


def test_the_draft_reserves_seven_namespaces() -> None:
    assert list(RESERVED) == [
        "fs.read",
        "fs.write",
        "net.fetch",
        "tool.call",
        "agent.delegate",
        "cost.budget",
        "model.use",
    ]


def test_a_namespace_is_sent_as_its_name() -> None:
    lease = {Namespace.TOOL_CALL: ["a.*"]}
    assert msgspec.json.encode(lease) == b'{"tool.call":["a.*"]}'
    assert parse_lease(msgspec.json.decode(msgspec.json.encode(lease), type=dict[str, list[str]])) == lease


def test_the_features_of_two_namespaces_have_their_names() -> None:
    assert {*RESERVED} & {*Feature} == {"cost.budget", "model.use"}
