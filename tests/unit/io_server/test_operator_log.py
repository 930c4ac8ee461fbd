"""arcp_io.server.operator_log: lines for the operator, which no level leaves out."""

from __future__ import annotations

import logging

import pytest

from arcp_io.server.operator_log import passed_to, tell


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_without_a_handler_a_line_is_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    tell("serving", what="serving", url="ws://here")
    tell("cannot import", logging.ERROR, trace="Traceback\n")
    assert capsys.readouterr() == ("", "serving\nTraceback\ncannot import\n")


def test_a_handler_gets_the_record_instead(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept()
    with passed_to(kept):
        tell("100 %s", what="serving", url="ws://here")
        tell("stopped", logging.ERROR, trace="Traceback\n")
    first, second = kept.records
    assert (first.getMessage(), first.levelno, first.name) == ("100 %s", logging.INFO, "arcp_io.operator")
    assert (vars(first)["what"], vars(first)["facts"]) == ("serving", {"url": "ws://here"})
    assert (second.levelno, second.exc_text) == (logging.ERROR, "Traceback")
    assert not hasattr(second, "what")
    assert capsys.readouterr() == ("", "")
    tell("plain again")
    assert capsys.readouterr() == ("", "plain again\n")
