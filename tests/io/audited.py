"""The agents of these tests, for `arcp-io serve tests.io.audited:app`."""

from __future__ import annotations

from tests.io.apps import make_app

app = make_app()
