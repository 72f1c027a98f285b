"""Lines of ``damage`` for what reads meet, and their end when it reads well again."""

import logging
import threading
from collections.abc import Callable

from sqlalchemy import bindparam, delete, select, update

from tgdav.clock import Clock
from tgdav.content import pack_rows
from tgdav.db.database import Database
from tgdav.db.schema import damage, packs
from tgdav.db.statements import compiled
from tgdav.db.transaction import Transaction
from tgdav.errors import TgdavError

_log = logging.getLogger(__name__)

_NOTED = compiled(select(damage.c.blob).where(damage.c.blob == bindparam("blob")))
_CLEAR = compiled(delete(damage).where(damage.c.blob == bindparam("blob")))
_BAD = compiled(update(packs).where(packs.c.name == bindparam("pack")).values(damaged=bindparam("bad")))

_PACK = "pack"
_NAME_DIGITS = 32


class DamageNotes:
    """The callbacks of a ``Reader``. Thread-safe; a note that cannot be written is logged, for the read fails anyway."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._met: set[str] = set()
        self._older: set[str] = set()

    def damaged(self, blob: str, kind: str, reason: str) -> None:
        """Note damage. A stored pack's chunks are no longer known, so that content is stored anew; a staged one is left
        to its closing, which moves what is good.
        """
        _log.error("damage: %s: %s", blob, reason)
        now = self._clock.now_ns()

        def note(transaction: Transaction) -> None:
            self._meet(blob, is_noted=transaction.one(_NOTED, {"blob": blob}) is not None)
            pack_rows.note_damage(transaction, blob, kind, reason, now)
            if kind == _PACK:
                transaction.execute(_BAD, {"pack": bytes.fromhex(blob), "bad": 1})

        self._write(note)

    def healed(self, blob: str) -> None:
        """End a note, unless an earlier run or another finder made it: then only a check knows that all of it is whole."""
        with self._lock:
            self._met.discard(blob)
            if blob in self._older:
                return

        def clear(transaction: Transaction) -> None:
            transaction.execute(_CLEAR, {"blob": blob})
            if len(blob) == _NAME_DIGITS:
                transaction.execute(_BAD, {"pack": bytes.fromhex(blob), "bad": 0})

        self._write(clear)

    def _meet(self, blob: str, *, is_noted: bool) -> None:
        with self._lock:
            if is_noted and blob not in self._met:
                self._older.add(blob)
            self._met.add(blob)

    def _write(self, work: Callable[[Transaction], None]) -> None:
        try:
            self._database.writer.run(work)
        except TgdavError as error:
            _log.error("damage could not be noted: %s", error.message)
