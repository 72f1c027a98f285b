"""What was sent to the store: messages and bytes by kind, today and since the process began.

On Telegram every blob is a message of the account, so this is what the vault costs. The day's sums are kept in the local
database, once a second and at the end, so a crash forgets little.
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
_WORDS = {BlobKind.PACK: "packs", BlobKind.SEGMENT: "segments", BlobKind.CHECKPOINT: "checkpoints"}
_DAY_NS = 86_400 * 10**9

Sums = dict[str, dict[str, int]]
"""``messages`` and ``bytes`` for each of ``KINDS``."""


class MeasuringStore(StoreWrapper):
    """Tells ``on_sent`` of each blob that was appended: its name, label and bytes."""

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
    """The sums of one vault. Thread-safe."""

    def __init__(self, database: Database, vault_keys: VaultKeys, clock: Clock) -> None:
        self._database, self._vault_keys, self._clock = database, vault_keys, clock
        self._lock = threading.Lock()
        self._total = nothing()
        self._saved = True
        with database.reading() as connection:
            kept = settings.get(connection, SENT)
        self._day = msgspec.convert(kept, _Day) if kept else _Day(self._today(), nothing())

    def note(self, name: BlobName, label: str, size: int) -> None:
        """A blob was sent."""
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
        """Keep the day's sums, if they changed. Raises LocalFailure, NoSpace."""
        with self._lock:
            if self._saved:
                return
            kept = msgspec.to_builtins(self._current())
            self._saved = True

        def work(transaction: Transaction) -> None:
            settings.put(transaction, SENT, kept)

        self._database.writer.run(work)

    def _kind(self, name: BlobName, label: str) -> str:
        if recognise(label):
            return "headers"
        found = decode_label(label, self._vault_keys, name)
        return "packs" if found is None else _WORDS[found.kind]

    def _today(self) -> int:
        return self._clock.now_ns() // _DAY_NS

    def _current(self) -> _Day:
        """Return today's sums, fresh ones on a new day. The caller holds the lock."""
        if self._day.number != self._today():
            self._day = _Day(self._today(), nothing())
        return self._day


def nothing() -> Sums:
    """Return sums of nothing."""
    return {kind: {"messages": 0, "bytes": 0} for kind in KINDS}


def difference(after: Sums, before: Sums) -> Sums:
    """Return what came between two sums."""
    return {kind: {what: after[kind][what] - before[kind][what] for what in ("messages", "bytes")} for kind in KINDS}


def _copy(sums: Sums) -> Sums:
    return {kind: dict(counts) for kind, counts in sums.items()}
