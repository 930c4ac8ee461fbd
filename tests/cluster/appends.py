"""A check of appends by the database: a trigger notes the records, the process and the owner of each append.

Each node connects with an `application_name` of its own process. So the database knows which process has
stored a row without regard to the statement; that has to be the process that owns the shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from tests.cluster.servers import query

MADE: Final = """
CREATE TABLE arcp.append_seen (
    number bigserial PRIMARY KEY, shard int, first bigint, span int, process text, node uuid, epoch bigint
);
CREATE FUNCTION arcp.see_append() RETURNS trigger AS $$
BEGIN
    INSERT INTO arcp.append_seen (shard, first, span, process, node, epoch)
    SELECT NEW.shard, NEW.first, NEW.span, current_setting('application_name'), s.node, s.epoch
    FROM arcp.shard s WHERE s.shard = NEW.shard;
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER see_append AFTER INSERT ON arcp.record FOR EACH ROW EXECUTE FUNCTION arcp.see_append();
"""
SEEN: Final = """
SELECT shard, first, span, process, node::text, epoch FROM arcp.append_seen ORDER BY number
"""


def watch_appends(url: str) -> None:
    """Let the database of a store note every append from now on."""
    query(url, MADE)


def check_appends(url: str, processes: Mapping[str, str] | None) -> tuple[int, list[str]]:
    """Return the number of stored records, and all violations of I1 to I3.

    `processes` has the id of each node by the name of its process; with None that is not compared.
    """
    wrong: list[str] = []
    ends: dict[int, int] = defaultdict(int)
    epochs: dict[int, int] = defaultdict(int)
    total = 0
    for shard, first, span, process, node, epoch in query(url, SEEN):
        assert isinstance(shard, int) and isinstance(first, int) and isinstance(span, int)
        assert isinstance(process, str) and isinstance(epoch, int)
        what = f"shard {shard}: the records from {first} on, by {process} under epoch {epoch},"
        if processes is not None and processes.get(process) != node:
            wrong.append(f"{what} were stored while {node} owned it")
        if first != ends[shard]:
            wrong.append(f"{what} came behind record {ends[shard]}")
        if epoch < epochs[shard]:
            wrong.append(f"{what} came behind epoch {epochs[shard]}")
        ends[shard], epochs[shard] = first + span, max(epoch, epochs[shard])
        total += span
    return total, wrong
