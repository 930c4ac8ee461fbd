"""Both roles know the same features."""

from __future__ import annotations

from arcp_proto.client.config import CLIENT_FEATURES, ClientConfig
from arcp_proto.features import FEATURES, Feature
from arcp_proto.server.config import SUPPORTED_FEATURES


def test_both_roles_have_the_same_features() -> None:
    assert CLIENT_FEATURES == SUPPORTED_FEATURES == ClientConfig().features == FEATURES
    assert Feature.POSITIONS in FEATURES
    assert len(dict.fromkeys(FEATURES)) == len(FEATURES)
