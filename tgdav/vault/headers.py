"""Keep two intact copies of the vault header in the store, and replace them when a secret changes."""

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from tgdav.blobs.interface import BlobInfo, BlobStore, BytesSource
from tgdav.crypto.header import (
    HEADER_BYTES,
    Header,
    decode,
    encode,
    is_genuine,
    later_header_label,
    make_header_label,
    recognise,
    superseded,
)
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.errors import BlobMissing, DamageError, NewerFormat
from tgdav.failpoints import failpoint
from tgdav.ids import BlobId, BlobName
from tgdav.metadata import settings
from tgdav.platform import Platform
from tgdav.replication import sql
from tgdav.replication.blob_listing import header_blobs
from tgdav.replication.writer_check import SEEN
from tgdav.vault.state_dir import save_header

_log = logging.getLogger(__name__)

COPIES = 2


class StoredHeaders(msgspec.Struct, frozen=True):
    """The newest header, its copies in the store, and the blobs of headers that it supersedes."""

    header: Header
    copies: list[BlobInfo]
    outdated: list[BlobId]


def place_headers(store: BlobStore, header: Header, master: bytes, entropy: Entropy) -> StoredHeaders:
    """Append to the store until it has two intact copies of the newest header: ``header``, or a later one found there.

    Nothing is deleted: the caller first saves the header locally, then deletes what is outdated, so that the next call
    completes an interrupted one. Raises StoreUnavailable; NewerFormat if a copy is missing and the store has a header of a
    later program, which may have replaced it.
    """
    listed = list(store.list())
    found = _headers(store, listed)
    header = _newest(found, header, master)
    wanted = encode(header)
    copies = [info for info, each in found if encode(each) == wanted]
    outdated = [info.id for info, each in found if encode(each) != wanted and superseded(each, header)]
    if len(copies) < COPIES:
        # Copies of a header that a later program superseded would open the vault with an old secret.
        _refuse_later(store, listed)
    while len(copies) < COPIES:
        failpoint("headers.before-append")
        copies.append(store.append(BlobName(entropy.bytes(16)), BytesSource(wanted), make_header_label(entropy)))
        failpoint("headers.after-append")
    return StoredHeaders(header, copies, outdated)


def newest_header(store: BlobStore, listed: Iterable[BlobInfo], header: Header, master: bytes) -> Header:
    """Return ``header``, or the genuine one in the store that supersedes it."""
    return _newest(_headers(store, listed), header, master)


def _headers(store: BlobStore, listed: Iterable[BlobInfo]) -> list[tuple[BlobInfo, Header]]:
    return [(info, each) for info in header_blobs(listed) if (each := _read(store, info)) is not None]


def _newest(found: list[tuple[BlobInfo, Header]], header: Header, master: bytes) -> Header:
    for _, each in found:
        if superseded(header, each) and is_genuine(each, master):
            header = each
    return header


def _read(store: BlobStore, info: BlobInfo) -> Header | None:
    """Return the header in a blob, None if it is damaged: it counts as missing, and ``check`` reports it."""
    try:
        return decode(store.read(info.id, 0, HEADER_BYTES))
    except (DamageError, BlobMissing, NewerFormat):
        return None


def _refuse_later(store: BlobStore, listed: Iterable[BlobInfo]) -> None:
    for info in listed:
        if (version := later_header_label(info.label)) is not None:
            raise NewerFormat("the vault header in the store", version)
        if recognise(info.label):
            with suppress(DamageError, BlobMissing):
                decode(store.read(info.id, 0, HEADER_BYTES))


class HeaderKeeper:
    """This machine's copy of the header, and the store's. Thread-safe: one change at a time."""

    def __init__(
        self,
        state: Path,
        database: Database,
        store: BlobStore,
        header: Header,
        saved: Header,
        master: bytes,
        platform: Platform,
    ) -> None:
        """``header`` opened the vault; ``saved`` is that of the local state."""
        self._state, self._database, self._store = state, database, store
        self._saved, self._master, self._platform = saved, master, platform
        self._lock = threading.Lock()
        self.header = header

    def ensure(self) -> None:
        """Store two copies of the newest header, save it locally, then delete the headers that it supersedes.

        Raises StoreUnavailable, NoSpace, LocalFailure; the next call completes an interrupted one.
        """
        with self._lock:
            if self._is_complete():
                return
            before = self._saved
            self._put(self.header)
            if self._saved != before:
                _log.warning(
                    "the passphrase or the recovery key was changed on another machine; from now on the new one is valid here too"
                )

    def _is_complete(self) -> bool:
        """Whether nothing needs to be done, by the known headers and by what is new in the store.

        Listing all of a large store takes minutes, so it is listed only if something is missing, new or left over.
        """
        with self._database.reading() as connection:
            known = connection.all("SELECT id, name, size, gone FROM blobs WHERE kind = ?", (sql.HEADER,))
            seen = BlobId(settings.get(connection, SEEN, 0))
        ids = {row[0] for row in known}
        if self.header != self._saved or any(info.id not in ids for info in header_blobs(self._store.list(seen))):
            return False
        wanted = encode(self._saved)
        found = [(gone, _read(self._store, BlobInfo(id_, name, size, ""))) for id_, name, size, gone in known]
        present = [None if each is None else encode(each) for gone, each in found if not gone]
        left_over = any(each is not None for gone, each in found if gone)
        return not left_over and len(present) >= COPIES and all(each == wanted for each in present)

    def replace(self, header: Header) -> None:
        """Replace the header by ``header``, which supersedes it.

        Raises as ``ensure``. If a copy was stored by then, the next ``ensure`` of any machine completes the change.
        """
        with self._lock:
            self._put(header)

    def replace_copies(self, names: Iterable[str]) -> None:
        """Store new copies instead of blobs (names in hex) that are lost or damaged, and no longer expect those."""
        wanted = {bytes.fromhex(name) for name in names}
        with self._lock:
            with self._database.reading() as connection:
                known = connection.all("SELECT id, name FROM blobs WHERE kind = ?", (sql.HEADER,))
            lost = [BlobId(blob) for blob, name in known if name in wanted]
            self._put(self.header)
            self._record([], lost)
            self._store.delete(lost)

    def is_superseded(self, listed: Iterable[BlobInfo]) -> bool:
        """Whether another machine changed a secret, so that the headers known here may have been deleted."""
        return newest_header(self._store, listed, self._saved, self._master) != self._saved

    def _put(self, header: Header) -> None:
        # The order matters for a crash: stored, recorded, saved locally, and only then the old ones are deleted.
        placed = place_headers(self._store, header, self._master, self._platform.entropy)
        older = self._others(placed.copies) if placed.header != self._saved else placed.outdated
        self._record(placed.copies, [])
        if placed.header != self._saved:
            save_header(self._state, placed.header, self._platform.disk)
            self._saved = placed.header
        self.header = placed.header
        # Recorded as gone before they are deleted: a crash in between leaves blobs that the next call deletes.
        self._record([], older)
        if placed.outdated:
            self._store.delete(placed.outdated)

    def _others(self, copies: list[BlobInfo]) -> list[BlobId]:
        """Return the known headers that are not copies of the new one: they are deleted, or will be."""
        kept = {info.id for info in copies}
        with self._database.reading() as connection:
            known = connection.all("SELECT id FROM blobs WHERE kind = ? AND gone = 0", (sql.HEADER,))
        return [BlobId(row[0]) for row in known if row[0] not in kept]

    def _record(self, copies: list[BlobInfo], deleted: list[BlobId]) -> None:
        """Record which copies the store has, and which were deleted on purpose."""
        with self._database.reading() as connection:
            query = "SELECT id FROM blobs WHERE kind = ? AND gone = 0"
            known = {row[0] for row in connection.all(query, (sql.HEADER,))}
        new = [sql.blob_row(each.id, each.name, sql.HEADER, each.size, None) for each in copies if each.id not in known]
        if not new and not deleted:
            return

        def write_rows(transaction: Transaction) -> None:
            transaction.executemany(sql.INSERT_BLOB, new)
            transaction.executemany(sql.BLOB_GONE, [(each,) for each in deleted])

        self._database.writer.run(write_rows, durable=True)
