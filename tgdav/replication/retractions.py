"""Removes from the unsent log what need not be sent: what was made and deleted for good meanwhile, temporary files above all.

The log stays right at each step: groups are changed in order, and a group that names a node whose creation is retracted
already does nothing. Nothing is sealed into a segment meanwhile.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.crdt.ops import Make, Op, Write, decode_ops, encode_ops
from tgdav.crdt.retraction import retract
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import TgdavError
from tgdav.failpoints import failpoint
from tgdav.ids import ChunkId, NodeId, Position
from tgdav.metadata import purging
from tgdav.metadata.fresh_nodes import FreshNodes
from tgdav.metadata.types import DIRECTORY
from tgdav.replication import sql

GROUPS = 50_000
"""Most groups looked at; of older ones nothing is retracted."""
GROUPS_AT_ONCE = 1000
"""Groups changed in one transaction: writers wait for it a few ms."""


class Retractions:
    """``lock`` is held while groups are changed, and must be held while groups are sealed into a segment."""

    def __init__(self, database: Database, fresh: FreshNodes) -> None:
        self._database, self._fresh = database, fresh
        self.lock = threading.Lock()
        self.on_sealed: Callable[[set[ChunkId]], None] = lambda _: None
        """Called with the chunks that a new segment names."""

    def run(self) -> None:
        """Retract what can be retracted; the caller holds the lock. Raises LocalFailure, NoSpace."""
        first = self._database.writer.run(lambda _: self._take())
        if first is None:
            return
        try:
            self._run(first)
        except TgdavError:
            self._database.writer.run(lambda _: self._fresh.retract_from(first))
            raise

    def _take(self) -> Position | None:
        first, self._fresh.removed_since = self._fresh.removed_since, None
        return first

    def _run(self, first: Position) -> None:
        with self._database.reading() as connection:
            rows = connection.all(sql.NEWEST_UNSENT, (first, GROUPS))[::-1]
        groups = [decode_ops(ops) for _, ops in rows]
        changed = [
            _Changed(encode_ops(rest), position, _directories(before) - _directories(rest))
            for (position, _), before, rest in zip(rows, groups, retract(groups), strict=True)
            if rest != before
        ]
        for start in range(0, len(changed), GROUPS_AT_ONCE):
            part = changed[start : start + GROUPS_AT_ONCE]
            self._database.writer.run(lambda transaction, part=part: _replace(transaction, part))  # type: ignore[misc]
            failpoint("retractions.replaced")
        if changed:
            self._database.writer.run(lambda transaction: transaction.execute(sql.FORGET_RETRACTED))

    def named(self, connection: Connection, chunks: set[ChunkId], after: int = 0) -> tuple[set[ChunkId], int]:
        """Return which of ``chunks`` unsent groups after a position name, and the last position.

        All of them if there are too many groups to look at.
        """
        rows = connection.all(sql.NEWEST_UNSENT, (after + 1, GROUPS + 1))
        if len(rows) > GROUPS:
            return chunks, rows[0][0]
        named = {
            chunk
            for _, ops in rows
            for op in decode_ops(ops)
            if isinstance(op, Write)
            for chunk in decode_manifest(op.manifest).chunk_ids()
            if chunk in chunks
        }
        return named, rows[0][0] if rows else after

    def sealed(self, position: int, chunks: set[ChunkId]) -> None:
        """Groups up to a position, which name these chunks, go into a segment; call this inside the change that says so."""
        self.on_sealed(chunks)
        self._fresh.sealed = Position(max(self._fresh.sealed, position))


class _Changed(NamedTuple):
    """What is left of a group, and the directories whose creation is retracted."""

    ops: bytes
    position: int
    directories: set[NodeId]


def _directories(ops: tuple[Op, ...]) -> set[NodeId]:
    return {op.node for op in ops if isinstance(op, Make) and op.kind == DIRECTORY}


def _replace(transaction: Transaction, changed: Sequence[_Changed]) -> None:
    for each in changed:
        transaction.execute(sql.REPLACE_OPS, (each.ops, each.position))
        for directory in each.directories:
            purging.unbury(transaction, directory)
