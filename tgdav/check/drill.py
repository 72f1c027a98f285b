"""``check --drill``: rebuild the metadata from the store alone, in a scratch place, and compare it with the live state.

A drill begins with each of the two newest checkpoints; where there are fewer, also with an empty state and the whole log. What
this machine has not sent yet is applied on top of what the store has, from the live log, so nothing needs to be sent before and
nobody needs to stop writing: the comparison reads one consistent live state.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from tgdav.check.comparison import Difference, differences, ids_left_out
from tgdav.check.context import CheckContext
from tgdav.check.findings import Findings
from tgdav.check.naming import Names
from tgdav.check.problem import State
from tgdav.content.chunk_set import ChunkSet
from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.crdt.ops import Group, Write, decode_ops
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.errors import DamageError
from tgdav.ids import ChunkId, Inode, NodeId
from tgdav.metadata import purging, queries
from tgdav.metadata.journal import Journal
from tgdav.metadata.tree_cache import TreeChanges
from tgdav.replication import sql
from tgdav.replication.blob_listing import BlobListing
from tgdav.replication.checkpoint import Parts
from tgdav.replication.log_identity import open_journal
from tgdav.replication.rebuild import Progress, Rebuilder, Rebuilt
from tgdav.vault.state_dir import make_directory
from tgdav.wording import counted, shown_path

DRILL_DIRECTORY = "drill"
"""The scratch directory's name in the state directory."""
MOST_SHOWN = 100
"""Differences that a report names; the rest is counted."""
_CHECKPOINTS = 2
_GROUPS = 1000
_APPLIED = "SELECT coalesce(max(number), 0) FROM chains WHERE incarnation = ?"
_UNSENT = """SELECT sequence, stamp, time, ops FROM log WHERE incarnation = ? AND (segment IS NULL OR segment > ?)
AND ops != x'90' ORDER BY position"""
_IN_STORE = """SELECT c.id FROM chunks c JOIN packs p ON p.no = c.pack
WHERE p.state = 3 AND p.blob IS NOT NULL AND p.damaged = 0 ORDER BY c.id"""
_CONTENTS = """SELECT n.id, coalesce(m.data, n.content) FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest
WHERE n.kind = 1 AND n.size > 0"""


def remove_leftovers(scratch: Path) -> None:
    """Remove what a drill left whose process was killed. Nobody may be drilling."""
    shutil.rmtree(scratch, ignore_errors=True)


class DrillResult(msgspec.Struct):
    """One rebuild. ``checkpoint`` is the number of the checkpoint that it began with, None if it began empty.

    ``blob`` is the name of its root part. ``unsent``: groups of the live log that are not in the store yet, which were applied
    on top. ``differing`` counts the differences, ``paths`` and ``differences`` show the first of them.
    """

    checkpoint: int | None
    blob: str
    unsent: int = 0
    problems: list[str] = []
    differing: int = 0
    differences: list[str] = []
    paths: set[bytes] = set()

    @property
    def is_equal(self) -> bool:
        """Whether the store alone gives the live state."""
        return not self.differing and not self.problems

    @property
    def start(self) -> str:
        """What it began with, for people."""
        return "the beginning of the log" if self.checkpoint is None else f"checkpoint {self.checkpoint}"

    @property
    def reason(self) -> str:
        """What is wrong, in one sentence."""
        parts = list(self.problems[:1])
        if len(self.problems) > 1:
            parts.append(f"{len(self.problems) - 1} more")
        if self.differing:
            parts.append(f"{counted(self.differing, 'difference')} from the state of this machine")
        return f"a rebuild from {self.start} gave " + ", ".join(parts) if parts else ""


class Drill:
    """Rebuilds and compares; ``run`` is called once.

    A machine that was replaced shows another state than the store has: making a drill there raises WriterReplaced.
    """

    def __init__(self, context: CheckContext, progress: Progress) -> None:
        self._context, self._progress = context, progress
        self._log = context.replicator.log
        with suppress(DamageError):  # the check itself reports it
            context.replicator.poll()
        if context.replicator.read_only_reason is None:
            context.sweep()

    def run(self, findings: Findings) -> list[dict[str, Any]]:
        """Rebuild from each start; add what differs to ``findings``; return an object for each rebuild.

        Raises StoreUnavailable, NoSpace, LocalFailure.
        """
        listing = self._list()
        results = [self._drill(listing, start) for start in self._starts(listing)]
        for each in results:
            if not each.is_equal:
                findings.add(each.blob, "drill", each.reason, sorted(each.paths))
        return [_shown(each) for each in results]

    def _list(self) -> BlobListing:
        return BlobListing(self._context.store.list(), self._log.vault_keys)

    def _starts(self, listing: BlobListing) -> list[Parts | None]:
        newest: list[Parts | None] = [*reversed(listing.checkpoints(self._log.namespace)[-_CHECKPOINTS:])]
        return newest if len(newest) == _CHECKPOINTS else [*newest, None]

    # ---- one rebuild -----------------------------------------------------------------------------------------------

    def _drill(self, listing: BlobListing, start: Parts | None) -> DrillResult:
        result = DrillResult(None, "log") if start is None else _result_of(start)
        with self._scratch() as rebuilt:
            found, journal = self._rebuilder(rebuilt, listing, [] if start is None else [start]).run()
            result.problems = _problems(found, start)
            is_lost = False
            while True:
                with self._context.database.reading() as live:
                    if is_lost or not self._is_behind(live, rebuilt):
                        self._compare(live, rebuilt, journal, result)
                        return result
                # Segments were stored during the rebuild. If the store has none, the last one is lost, and differences show.
                is_lost = self._follow(rebuilt, journal) == 0

    @contextmanager
    def _scratch(self) -> Iterator[Database]:
        """An empty database under a key that is only in memory; removed afterwards."""
        platform = self._context.platform
        directory = self._context.scratch / platform.entropy.bytes(8).hex()
        make_directory(directory, platform.disk)
        try:
            database = Database.open(directory / "state.db", platform.entropy.bytes(32), disk=platform.disk)
            try:
                yield database
            finally:
                database.close()
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _rebuilder(self, rebuilt: Database, listing: BlobListing, starts: list[Parts]) -> Rebuilder:
        def begin() -> Journal:
            context = self._context
            return open_journal(rebuilt, self._log.machine, self._log.keys, context.platform)[0]

        store, log = self._context.store, self._log
        return Rebuilder(store, listing, log.vault_keys, log.keys, rebuilt, begin, self._progress, starts)

    def _is_behind(self, live: Connection, rebuilt: Database) -> bool:
        """Whether the live log has dropped groups whose segment the rebuilt state does not have."""
        own = sql.incarnation_key(self._log.incarnation)
        with rebuilt.reading() as connection:
            return _number(live, _APPLIED, own) > _number(connection, _APPLIED, own)

    def _follow(self, rebuilt: Database, journal: Journal) -> int:
        """Apply what the store got during the rebuild; return how many segments."""
        return self._rebuilder(rebuilt, self._list(), []).follow(journal)

    # ---- comparing -------------------------------------------------------------------------------------------------

    def _compare(self, live: Connection, rebuilt: Database, journal: Journal, result: DrillResult) -> None:
        unsent = self._apply_unsent(live, rebuilt, journal, result)
        _sweep(rebuilt)
        self._progress("comparing", 0, 0)
        with rebuilt.reading() as connection:
            for each in differences(live, connection):
                result.differing += 1
                if result.differing <= MOST_SHOWN:
                    self._describe(each, live, connection, result)
            self._find_lost_contents(live, connection, unsent, result)

    def _apply_unsent(self, live: Connection, rebuilt: Database, journal: Journal, result: DrillResult) -> set[ChunkId]:
        """Apply the groups that the store does not have yet; return the chunks that they name."""
        log, chunks = self._log, set[ChunkId]()
        own = sql.incarnation_key(log.incarnation)
        with rebuilt.reading() as connection:
            applied = _number(connection, _APPLIED, own)
        rows = live.each(_UNSENT, (own, applied))
        while batch := [
            Group(first, stamp, time, decode_ops(ops)) for first, stamp, time, ops in islice(rows, _GROUPS)
        ]:
            journal.apply_groups(log.machine_id, log.incarnation, batch)
            result.unsent += len(batch)
            writes = [op for group in batch for op in group.ops if isinstance(op, Write)]
            chunks.update(chunk for op in writes for chunk in decode_manifest(op.manifest).chunk_ids())
        return chunks

    def _find_lost_contents(
        self, live: Connection, rebuilt: Connection, unsent: set[ChunkId], result: DrillResult
    ) -> None:
        """Find files whose content the store does not have."""
        there = ChunkSet(row[0] for row in rebuilt.each(_IN_STORE))
        left_out = ids_left_out(live)
        for node, manifest in rebuilt.each(_CONTENTS):
            if node in left_out:
                continue
            chunks = decode_manifest(manifest or b"").chunk_ids()
            if any(chunk not in there and chunk not in unsent for chunk in chunks):
                result.differing += 1
                if result.differing <= MOST_SHOWN:
                    self._note(_paths(node, live, rebuilt), "its content is not in the store", result)

    def _describe(self, each: Difference, live: Connection, rebuilt: Connection, result: DrillResult) -> None:
        paths = [] if each.node is None else _paths(each.node, live, rebuilt)
        if not each.rebuilt:
            text = f"{each.what} missing in the rebuilt state"
        elif not each.live:
            text = f"{each.what} only in the rebuilt state"
        else:
            text = f"{each.what} differs: {', '.join(each.columns)}"
        self._note(paths, text, result)

    def _note(self, paths: list[bytes], text: str, result: DrillResult) -> None:
        result.paths.update(paths)
        result.differences.append(f"{shown_path(paths[0])}: {text}" if paths else text)


def _sweep(rebuilt: Database) -> None:
    """Remove the rows of purged entries, as the live state does in the background."""
    rows, after = 1, None
    while rows or after is not None:
        start = purging.FIRST if after is None else after
        step = rebuilt.writer.run(lambda t, start=start: purging.sweep(t, TreeChanges(), _nobody, after=start))  # type: ignore[misc]
        rows = step.rows if after is None else rows + step.rows
        after = step.after


def _nobody(_ino: Inode) -> bool:
    return False


def _number(connection: Connection, statement: str, incarnation: bytes) -> int:
    row = connection.one(statement, (incarnation,))
    return int(row[0]) if row else 0


def _result_of(start: Parts) -> DrillResult:
    root = start[-1]
    return DrillResult(root.label.number, root.info.name.hex())


def _problems(found: Rebuilt, start: Parts | None) -> list[str]:
    problems = [each.reason for each in found.damage]
    if start is not None and found.start is None and not problems:
        problems.append("a checkpoint that cannot be used: it contains what does not count")
    return problems


def _paths(node: NodeId, live: Connection, rebuilt: Connection) -> list[bytes]:
    """Return where a node is, in the live state if it is anywhere there."""
    for connection in (live, rebuilt):
        inode = queries.inode_of(connection, node)
        paths = [] if inode is None else Names(connection).paths([State(inode)])
        if paths:
            return paths
    return []


def _shown(each: DrillResult) -> dict[str, Any]:
    return {
        "checkpoint": each.checkpoint,
        "ok": each.is_equal,
        "unsent": each.unsent,
        "problems": each.problems,
        "differing": each.differing,
        "differences": each.differences,
    }
