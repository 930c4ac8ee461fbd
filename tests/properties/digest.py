"""A digest of the output of random runs, as one line: `python -m tests.properties.digest COUNT`."""

from __future__ import annotations

import hashlib
import random
import sys

from arcp_proto.server.journal.records import encode_record

from .machines import COMMON
from .play import ACTIONS, Action, Play, run


def drawn(seed: int, length: int = 80) -> tuple[tuple[int, int, int], list[Action]]:
    """Return the setup and the actions of a run, chosen by a seed."""
    source = random.Random(seed)
    setup = (source.randrange(256), source.randrange(256), source.randrange(256))
    names = [*ACTIONS, *COMMON, *COMMON]
    chosen: list[Action] = [
        (source.choice(names), source.randrange(256), source.randrange(256), source.randrange(256))
        for _ in range(length)
    ]
    return setup, [("join", 0, 0, 0), ("join", 1, 0, 0), ("submit", 0, 0, 0), *chosen]


def said(play: Play) -> bytes:
    """Return all that a run sent, requested of its host, made durable and wrote into its recording."""
    frames = b"\n".join(raw for client in play.clients for raw in client.peer.raw)
    lines = "\n".join(play.recording or []).encode()
    records = b"".join(map(encode_record, play.world.records))
    return b"\n".join([frames, lines, records, repr(play.world.requests).encode()])


def digest(count: int) -> str:
    """Return one digest of `count` runs."""
    whole = hashlib.sha256()
    for seed in range(count):
        whole.update(said(run(*drawn(seed))))
    return whole.hexdigest()


if __name__ == "__main__":
    print(digest(int(sys.argv[1])))
