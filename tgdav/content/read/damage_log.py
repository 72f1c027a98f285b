"""Damage that reads find: a row of ``damage`` for each blob, until all that failed in it has been read well again."""

import logging
import threading
from collections.abc import Callable

from sqlalchemy import bindparam, delete, select, update

from tgdav.clock import Clock
from tgdav.content import pack_table
from tgdav.db.database import Database
from tgdav.db.schema import damage, packs
from tgdav.db.statements import compiled
from tgdav.db.transaction import Transaction
from tgdav.errors import TgdavError
from tgdav.ids import ChunkId

_log = logging.getLogger(__name__)

_HAS_ROW = compiled(select(damage.c.blob).where(damage.c.blob == bindparam("blob")))
_CLEAR = compiled(delete(damage).where(damage.c.blob == bindparam("blob")))
_SET_DAMAGED = compiled(update(packs).where(packs.c.name == bindparam("pack")).values(damaged=bindparam("bad")))

_PACK = "pack"
_NAME_DIGITS = 32


class DamageLog:
    """Thread-safe. Its methods do not raise: a row that cannot be written is logged, and the read fails anyway.

    ``blob``: a pack's name in hex, or what else is damaged (``database``). ``kind``: pack, staging, database …
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[str, set[ChunkId | None]] = {}
        self._recorded: set[str] = set()
        self._older: set[str] = set()
        """Blobs that had a row already when they first failed here: an earlier run or a check made it."""

    def failed(self, blob: str, kind: str, reason: str, chunk: ChunkId | None) -> None:
        """A chunk of ``blob`` failed a check, or (None) the whole blob is missing."""
        with self._lock:
            self._failed.setdefault(blob, set()).add(chunk)
        self.record(blob, kind, reason)

    def read_well(self, blob: str, chunk: ChunkId) -> None:
        """A chunk of ``blob`` was read and passed every check."""
        if not self._failed:
            return  # the usual case, on the path of every chunk: no lock
        with self._lock:
            failed = self._failed.get(blob)
            if failed is None:
                return
            failed -= {chunk, None}
            if failed:
                return
            del self._failed[blob]
        self.clear(blob)

    def record(self, blob: str, kind: str, reason: str) -> None:
        """Write a row of ``damage``.

        New content no longer relies on the chunks of a damaged stored pack and stores them anew. A staged pack is left to
        its finalizer, which moves the good chunks to another pack.
        """
        _log.error("damage: %s: %s", blob, reason)
        now = self._clock.now_ns()

        def record(transaction: Transaction) -> None:
            self._remember(blob, has_row=transaction.one(_HAS_ROW, {"blob": blob}) is not None)
            pack_table.record_damage(transaction, blob, kind, reason, now)
            if kind == _PACK:
                transaction.execute(_SET_DAMAGED, {"pack": bytes.fromhex(blob), "bad": 1})

        self._write(record)

    def clear(self, blob: str) -> None:
        """Delete a row of this run. An older row stays: only a check knows whether the whole blob is good."""
        with self._lock:
            self._recorded.discard(blob)
            if blob in self._older:
                return

        def clear(transaction: Transaction) -> None:
            transaction.execute(_CLEAR, {"blob": blob})
            if len(blob) == _NAME_DIGITS:  # a pack's name
                transaction.execute(_SET_DAMAGED, {"pack": bytes.fromhex(blob), "bad": 0})

        self._write(clear)

    def _remember(self, blob: str, *, has_row: bool) -> None:
        with self._lock:
            if has_row and blob not in self._recorded:
                self._older.add(blob)
            self._recorded.add(blob)

    def _write(self, job: Callable[[Transaction], None]) -> None:
        try:
            self._database.writer.run(job)
        except TgdavError as error:
            _log.error("damage could not be recorded: %s", error.message)
