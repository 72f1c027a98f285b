"""From an open pack to a closed one: write the index, sync, read all back from disk and check it, then write the trailer.

Only a pack that passed this check is ever sent. If it fails, or if the file is poisoned, the good chunks move to a new pack,
and the others are recorded as damage.
"""

import logging
from contextlib import suppress

from blake3 import blake3

from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import IndexEntry
from tgdav.content.format.pack import CheckedData, PackSeal, PackSizes, check_data, plan, seal_index, seal_trailer
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentContext
from tgdav.content.staging.pack_file import PackFile
from tgdav.content.staging.repack import Repacker
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NoSpace
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)


class PackFinalizer:
    """Closes packs that the caller claimed. Used by one thread at a time."""

    def __init__(self, context: ContentContext, repacker: Repacker, entropy: Entropy) -> None:
        self._context = context
        self._repacker = repacker
        self._entropy = entropy

    def close(self, pack: PackFile) -> int:
        """Close ``pack`` and return its size; 0 if it was deleted instead, or kept as damage.

        Raises NoSpace and LocalFailure; the pack is then open again, as before.
        """
        with self._context.database.reading() as connection:
            row = pack_table.pack_named(connection, pack.name)
            entries = [] if row is None else chunk_table.entries(connection, row.no)
        if row is None or not entries:
            self._delete(pack, row)
            return 0
        try:
            return self._close_or_salvage(pack, row, entries)
        except (NoSpace, LocalFailure):
            self._undo(pack, row)
            raise

    def _close_or_salvage(self, pack: PackFile, row: PackRow, entries: list[IndexEntry]) -> int:
        if not pack.is_poisoned:
            try:
                return self._close(pack, row, entries)
            except DamageError as error:
                _log.error("a staged pack is damaged: %s", error.message)
        self._salvage(pack, row, entries)
        return 0

    def _close(self, pack: PackFile, row: PackRow, entries: list[IndexEntry]) -> int:
        failpoint("content.before-close")
        # The index comes after the referenced bytes only: what failed streams left after them is cut off.
        sizes = plan(row.end, len(entries))
        self._append_index(pack, row, entries, sizes)
        checked = self._read_back(pack, row, sizes)
        if checked.entries != entries:
            raise self._seal(row).damage("has another index on disk than was written")
        self._append_trailer(pack, row, sizes, checked.hasher)
        self._record(pack, row, checked.hasher.digest())
        pack.close()
        return pack.length

    def _append_index(self, pack: PackFile, row: PackRow, entries: list[IndexEntry], sizes: PackSizes) -> None:
        # ``end`` is larger if a transaction failed and its bytes were kept because it might have been committed; the row says.
        pack.end = row.end
        pack.cut(row.end)
        pack.append(seal_index(self._seal(row), entries, sizes, self._entropy))
        failpoint("content.after-index")
        pack.sync()

    def _read_back(self, pack: PackFile, row: PackRow, sizes: PackSizes) -> CheckedData:
        failpoint("content.before-read-back")
        # Bytes in the page cache prove nothing about the disk.
        pack.drop_page_cache()
        with self._context.buffers.borrow() as buffer:
            return check_data(pack.read_into, sizes, self._seal(row), self._context.sealer, buffer)

    def _append_trailer(self, pack: PackFile, row: PackRow, sizes: PackSizes, hasher: blake3) -> None:
        seal = self._seal(row)
        trailer = seal_trailer(seal, sizes, hasher.digest(), self._entropy)
        offset = pack.append(trailer)
        pack.sync()
        pack.drop_page_cache(offset)
        # One byte more is requested, so that a longer file is noticed.
        if pack.read(offset, len(trailer) + 1) != trailer:
            raise seal.damage("has another trailer on disk than was written")
        hasher.update(trailer)

    def _record(self, pack: PackFile, row: PackRow, digest: bytes) -> None:
        identity = self._context.identity
        label = encode_label(
            Label(
                kind=BlobKind.PACK,
                namespace=identity.keys.namespace,
                machine=identity.machine,
                incarnation=identity.incarnation,
                body_hash=digest,
                size=pack.length,
            ),
            identity.vault_keys,
            row.name,
            self._entropy,
        )
        failpoint("content.before-closed")
        self._context.database.writer.run(
            lambda transaction: pack_table.close_pack(transaction, row.no, pack.length, digest, label),
            durable=True,
            sync=[pack],
        )
        failpoint("content.after-closed")

    def _salvage(self, pack: PackFile, row: PackRow, entries: list[IndexEntry]) -> None:
        """Move the good chunks to another pack; delete this one, or keep it as damage if some chunks are bad."""
        bad = self._repacker.salvage(pack, row, entries)
        if not bad:
            self._delete(pack, row)
            return
        reason = f"{bad} of {len(entries)} chunks do not open"
        now = self._context.clock.now_ns()
        self._context.database.writer.run(
            lambda transaction: pack_table.record_pack_damage(transaction, row, "staging", reason, now)
        )
        pack.close()

    def _delete(self, pack: PackFile, row: PackRow | None) -> None:
        """Delete a pack of which nothing is referenced; it was never sent."""
        if row is not None and row.state == PackState.OPEN:
            self._context.database.writer.run(
                lambda transaction: pack_table.delete_pack(transaction, row.no), durable=True
            )
            failpoint("content.after-drop")
        pack.close()
        self._context.staging.remove(pack.file)

    def _undo(self, pack: PackFile, row: PackRow) -> None:
        pack.end = row.end
        if not pack.is_poisoned:
            with suppress(LocalFailure):
                pack.cut(row.end)
        self._context.open_packs.release(pack)

    def _seal(self, row: PackRow) -> PackSeal:
        identity = self._context.identity
        return PackSeal(identity.keys, identity.vault_keys.vault, row.name, row.epoch)
