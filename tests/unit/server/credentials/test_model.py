"""The representation of a credential, and the provisions whose credentials are not revoked."""

from __future__ import annotations

import json

import pytest

from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import JobId, Principal, UnixTime
from arcp_proto.secret import Secret
from arcp_proto.server.credentials.model import (
    MOST,
    Provision,
    Provisions,
    Rotated,
    fault_of,
    named,
    with_credentials,
)
from arcp_proto.wire.credential import Credential
from tests.unit.credentialed import ENDPOINT, made


def provision(alias: str, job_id: str = "job_1") -> Provision:
    return Provision(alias, Principal("alice"), JobId(job_id), UnixTime(0))


def test_no_repr_shows_the_value_of_a_credential() -> None:
    credential = Credential("c", "bearer", Secret("sk-hidden"), ENDPOINT)
    shown = [credential, made("sk-hidden"), Rotated(credential), credential.on_wire(), provision("c")]
    assert "sk-hidden" not in repr(shown) + "".join(map(str, shown))


def test_a_credential_round_trips_over_the_wire() -> None:
    credential = Credential("c", "bearer", Secret("sk"), ENDPOINT, "openai", {"model.use": ["*"]})
    back = Credential.of_wire(credential.on_wire())
    assert (back.id, back.value.reveal(), back.profile) == ("c", "sk", "openai")
    assert back.constraints == {"model.use": ["*"]}


def test_a_rotation_completes_its_event_until_it_is_forgotten() -> None:
    rotated = Rotated(Credential("c", "bearer", Secret('s"k'), ENDPOINT))
    payload = b'{"kind":"status","ts":"t","body":{"phase":"credential_rotated","id":"c"}'
    body = json.loads(rotated.complete(payload) + b"}")["body"]
    assert body == {
        "phase": "credential_rotated",
        "id": "c",
        "value": 's"k',
        "details": {"id": "c", "value": 's"k'},
    }
    rotated.forget()
    assert rotated.complete(payload) == payload


def test_credentials_get_the_known_ids_and_then_those_of_the_alias() -> None:
    issued = [made("a"), made("b"), made("c")]
    assert [one.id for one in named("cred_x", issued, [])] == ["cred_x", "cred_x.2", "cred_x.3"]
    assert [one.id for one in named("cred_x", issued, ["old"])] == ["old", "cred_x.2", "cred_x.3"]


def test_too_many_credentials_are_a_fault() -> None:
    assert fault_of([made()] * MOST) is None
    assert fault_of([made()] * (MOST + 1)) is not None


def test_an_alias_is_added_once_and_found_by_its_job() -> None:
    provisions = Provisions()
    for alias in ("a", "b"):
        provisions.add(provision(alias))
    with pytest.raises(InvariantViolated):
        provisions.add(provision("a"))
    assert [one.alias for one in provisions.of_job(JobId("job_1"))] == ["a", "b"]
    provisions.remove("a")
    provisions.remove("b")
    assert (len(provisions), provisions.of_job(JobId("job_1")), provisions.get("a")) == (0, [], None)


def test_an_answer_without_credentials_stays_as_it_is() -> None:
    assert with_credentials(b'{"a":1}', None) == b'{"a":1}'
    shown = with_credentials(b'{"a":1}', [Credential("c", "bearer", Secret("s"), ENDPOINT).on_wire()])
    assert json.loads(shown)["credentials"][0]["value"] == "s"
