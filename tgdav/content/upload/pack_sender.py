"""Closed → sent → stored: a closed pack goes to the store, by name, as often as it takes."""

import logging
from collections.abc import Callable
from pathlib import Path

from tgdav.blobs.interface import BlobInfo, BlobStore, FileSource
from tgdav.content import pack_table
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentCore
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError, LocalFailure, StoreRejected
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)

OnStored = Callable[[PackRow, Path], None]
"""Takes over the staging file of a pack that is stored; the caller forgets it."""


class PackSender:
    """Sends packs. Thread-safe; each pack is sent by one thread at a time."""

    def __init__(self, core: ContentCore, store: BlobStore) -> None:
        self._core = core
        self._store = store
        self.on_stored: OnStored | None = None

    def send(self, row: PackRow) -> None:
        """Return when the pack is stored and that is durable. Raises StoreError, LocalFailure.

        A pack whose file is gone or that the store has in another size is noted as damage, and not sent again. Where a later
        life of this very state has sent another pack under the name, this one waits (StoreRejected).
        """
        writer = self._core.database.writer
        failpoint("content.before-sent")
        if row.state == PackState.CLOSED:
            writer.run(lambda transaction: pack_table.mark_sent(transaction, row.no), durable=True)
        failpoint("content.before-send")
        try:
            info = self._append(row)
        except DamageError as error:
            self._note_damage(row, error.message)
            return
        failpoint("content.after-send")
        writer.run(lambda transaction: pack_table.mark_stored(transaction, row, info.id), durable=True)
        failpoint("content.after-stored")
        self._leave_file(row)

    def _append(self, row: PackRow) -> BlobInfo:
        assert row.file is not None
        assert row.label is not None
        path = self._core.staging.folder / row.file
        info = self._store.append(row.name, FileSource(path), row.label) if _is_whole(path, row) else None
        info = info or self._store.find(row.name)
        if info is None:
            raise DamageError("the staged file of a pack is gone or cut, and the store does not have it")
        if info.label != row.label and self._is_another(info, row):
            raise StoreRejected(
                f"the store has another pack under the name {row.name.hex()}",
                hint="was this machine's state restored from a backup? Start tgdav again",
            )
        if info.size != row.size:
            raise DamageError(f"the store has {info.size} bytes of a pack of {row.size}")
        return info

    def _is_another(self, info: BlobInfo, row: PackRow) -> bool:
        """Whether a genuine label says that other bytes lie there; what a damaged one says is for checks."""
        label = decode_label(info.label, self._core.identity.vault_keys, info.name)
        return label is not None and label.kind == BlobKind.PACK and label.body_hash != row.digest

    def _leave_file(self, row: PackRow) -> None:
        assert row.file is not None
        if self.on_stored is None:
            self._core.staging.remove(row.file)
        else:
            self._core.space.charge(-row.size)
            self.on_stored(row, self._core.staging.folder / row.file)
        failpoint("content.after-leave")

    def _note_damage(self, row: PackRow, reason: str) -> None:
        _log.error("pack %s cannot be stored: %s", row.name.hex(), reason)
        now = self._core.clock.now_ns()

        def note(transaction: Transaction) -> None:
            pack_table.mark_bad(transaction, row.no)
            pack_table.note_damage(transaction, row.name.hex(), "pack", reason, now)

        self._core.database.writer.run(note)


def _is_whole(path: Path, row: PackRow) -> bool:
    try:
        return path.stat().st_size == row.size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LocalFailure(f"a staging file could not be read: {error.strerror}") from error
