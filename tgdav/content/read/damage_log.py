"""Lines of ``damage`` for what reads meet, and their end when it reads well again."""

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

_NOTED = compiled(select(damage.c.blob).where(damage.c.blob == bindparam("blob")))
_CLEAR = compiled(delete(damage).where(damage.c.blob == bindparam("blob")))
_BAD = compiled(update(packs).where(packs.c.name == bindparam("pack")).values(damaged=bindparam("bad")))

_PACK = "pack"
_NAME_DIGITS = 32


OnDamage = Callable[[str, str, str], None]
"""Called with (blob: hex name or role, kind, reason in plain words) each time a check fails. Must not raise."""
OnHealed = Callable[[str], None]
"""Called with a blob when all that failed in it has been read well since. Must not raise."""


class Health:
    """Damage met since the start, by blob. Thread-safe; calls its callbacks outside its lock."""

    def __init__(self, on_damage: OnDamage, on_healed: OnHealed) -> None:
        self._on_damage = on_damage
        self._on_healed = on_healed
        self._lock = threading.Lock()
        self._bad: dict[str, set[ChunkId | None]] = {}

    def failed(self, blob: str, kind: str, reason: str, chunk: ChunkId | None) -> None:
        """A chunk of ``blob`` failed, or (None) the whole blob is missing."""
        with self._lock:
            self._bad.setdefault(blob, set()).add(chunk)
        self._on_damage(blob, kind, reason)

    def read_well(self, blob: str, chunk: ChunkId) -> None:
        """A chunk was read from ``blob``'s place and passed every check."""
        if not self._bad:
            return
        with self._lock:
            bad = self._bad.get(blob)
            if bad is None:
                return
            bad -= {chunk, None}
            if bad:
                return
            del self._bad[blob]
        self._on_healed(blob)


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
            pack_table.note_damage(transaction, blob, kind, reason, now)
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
