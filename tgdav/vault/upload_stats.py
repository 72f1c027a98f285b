"""Upload statistics: messages and bytes by kind, today and since the process started.

On Telegram every blob is a message, and accounts are limited in messages and bytes. The sums of the day are saved in the local
database once a second and at the end, so a crash loses little.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from tgdav.blobs.interface import BlobInfo, BlobStore, Source
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.clock import Clock
from tgdav.crypto.header import recognise
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.db import Transaction
from tgdav.db.database import Database
from tgdav.ids import BlobName
from tgdav.metadata import settings

SENT = "store.sent"
KINDS = ("packs", "segments", "checkpoints", "headers")
_KINDS_OF = {BlobKind.PACK: "packs", BlobKind.SEGMENT: "segments", BlobKind.CHECKPOINT: "checkpoints"}
_DAY_NS = 86_400 * 10**9

Sums = dict[str, dict[str, int]]
"""``messages`` and ``bytes`` for each of ``KINDS``."""


class MeasuringStore(StoreWrapper):
    """Calls ``on_sent`` with the name, label and size in bytes of each blob that was appended."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.on_sent: Callable[[BlobName, str, int], None] = lambda _name, _label, _size: None

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""
        info = self.inner.append(name, source, label, progress=progress)
        self.on_sent(name, label, info.size)
        return info


class _Day(msgspec.Struct):
    """``number`` counts days since 1970, UTC."""

    number: int
    sums: Sums


class UploadStats:
    """Counts the uploads of one vault. Thread-safe."""

    def __init__(self, database: Database, vault_keys: VaultKeys, clock: Clock) -> None:
        self._database, self._vault_keys, self._clock = database, vault_keys, clock
        self._lock = threading.Lock()
        self._total = no_uploads()
        self._saved = True
        with database.reading() as connection:
            kept = settings.get(connection, SENT)
        self._day = msgspec.convert(kept, _Day) if kept else _Day(self._today(), no_uploads())

    def record(self, name: BlobName, label: str, size: int) -> None:
        """Count a blob that was sent."""
        kind = self._kind(name, label)
        with self._lock:
            for sums in (self._total, self._current().sums):
                sums[kind]["messages"] += 1
                sums[kind]["bytes"] += size
            self._saved = False

    def total(self) -> Sums:
        """Return what was sent since this process opened the vault."""
        with self._lock:
            return _copy(self._total)

    def today(self) -> tuple[str, Sums]:
        """Return the date (ISO 8601, UTC) and what was sent on it."""
        with self._lock:
            day = self._current()
            date = datetime.fromtimestamp(day.number * 86_400, UTC).date().isoformat()
            return date, _copy(day.sums)

    def save(self) -> None:
        """Save the sums of the day, if they changed. Raises LocalFailure, NoSpace."""
        with self._lock:
            if self._saved:
                return
            kept = msgspec.to_builtins(self._current())
            self._saved = True  # before the write: what is recorded meanwhile is saved by the next call

        def write(transaction: Transaction) -> None:
            settings.put(transaction, SENT, kept)

        self._database.writer.run(write)

    def _kind(self, name: BlobName, label: str) -> str:
        if recognise(label):
            return "headers"
        found = decode_label(label, self._vault_keys, name)
        return "packs" if found is None else _KINDS_OF[found.kind]

    def _today(self) -> int:
        return self._clock.now_ns() // _DAY_NS

    def _current(self) -> _Day:
        """Return the sums of today, new ones on a new day. The caller holds the lock."""
        if self._day.number != self._today():
            self._day = _Day(self._today(), no_uploads())
        return self._day


def no_uploads() -> Sums:
    """Return sums that are all 0."""
    return {kind: {"messages": 0, "bytes": 0} for kind in KINDS}


def difference(after: Sums, before: Sums) -> Sums:
    """Return the difference of two sums."""
    return {kind: {what: after[kind][what] - before[kind][what] for what in ("messages", "bytes")} for kind in KINDS}


def _copy(sums: Sums) -> Sums:
    return {kind: dict(counts) for kind, counts in sums.items()}
