"""From a closed pack to a stored one: it is appended to the store by name, again and again until that succeeds."""

import logging
from collections.abc import Callable
from pathlib import Path

from tgdav.blobs.interface import BlobInfo, BlobStore, FileSource
from tgdav.content import pack_table
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentContext
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.errors import DamageError, LocalFailure, StoreRejected
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)

OnStored = Callable[[PackRow, Path], None]
"""Called with a stored pack and its staging file, which it must remove or keep elsewhere."""


class PackSender:
    """Sends packs. Thread-safe; only one thread at a time may send a given pack."""

    def __init__(self, context: ContentContext, store: BlobStore) -> None:
        self._context = context
        self._store = store
        self.on_stored: OnStored | None = None

    def send(self, row: PackRow) -> None:
        """Return when the pack is stored and that fact is durable. Raises StoreError, LocalFailure.

        If the file is missing, or the store has the pack with another size, that is recorded as damage, and the pack is not
        sent again. Raises StoreRejected if the store has another pack of this name: this state was restored from a backup,
        and the run after the backup used the name.
        """
        writer = self._context.database.writer
        failpoint("content.before-sent")
        # Recorded before the first attempt: after a crash it must be known that the store may have the pack.
        if row.state == PackState.CLOSED:
            writer.run(lambda transaction: pack_table.mark_sent(transaction, row.no), durable=True)
        failpoint("content.before-send")
        try:
            info = self._append(row)
        except DamageError as error:
            self._record_damage(row, error.message)
            return
        failpoint("content.after-send")
        writer.run(lambda transaction: pack_table.mark_stored(transaction, row, info.id), durable=True)
        failpoint("content.after-stored")
        self._remove_file(row)

    def _append(self, row: PackRow) -> BlobInfo:
        assert row.file is not None
        assert row.label is not None
        path = self._context.staging.directory / row.file
        info = self._store.append(row.name, FileSource(path), row.label) if _is_whole(path, row) else None
        # Without the file: an earlier run may have sent the pack and crashed before it recorded that.
        info = info or self._store.find(row.name)
        if info is None:
            raise DamageError("the staged file of a pack is missing or cut, and the store does not have the pack")
        # An equal label means the same pack. Another label is that of another pack, or damaged.
        if info.label != row.label and self._is_another(info, row):
            raise StoreRejected(
                f"the store has another pack under the name {row.name.hex()}",
                hint="was this machine's state restored from a backup? Start tgdav again",
            )
        if info.size != row.size:
            raise DamageError(f"the store has {info.size} bytes of a pack of {row.size}")
        return info

    def _is_another(self, info: BlobInfo, row: PackRow) -> bool:
        """Whether an authentic label describes other bytes; a damaged label is left to ``check``."""
        label = decode_label(info.label, self._context.identity.vault_keys, info.name)
        return label is not None and label.kind == BlobKind.PACK and label.body_hash != row.digest

    def _remove_file(self, row: PackRow) -> None:
        assert row.file is not None
        if self.on_stored is None:
            self._context.staging.remove(row.file)
        else:
            self._context.quota.charge(-row.size)
            self.on_stored(row, self._context.staging.directory / row.file)
        failpoint("content.after-leave")

    def _record_damage(self, row: PackRow, reason: str) -> None:
        _log.error("pack %s cannot be stored: %s", row.name.hex(), reason)
        now = self._context.clock.now_ns()
        self._context.database.writer.run(
            lambda transaction: pack_table.record_pack_damage(transaction, row, "pack", reason, now)
        )


def _is_whole(path: Path, row: PackRow) -> bool:
    try:
        return path.stat().st_size == row.size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LocalFailure(f"a staging file could not be read: {error.strerror}") from error
