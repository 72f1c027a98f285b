"""Open → closed: the index is written, all is synced, read back from disk and checked; then the trailer, and it is noted.

Only a pack that was proven whole is ever sent. From one that fails the proof, or whose file is poisoned, the chunks that
are good move to a new pack; the rest is damage.
"""

import logging
from contextlib import suppress

from blake3 import blake3

from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import IndexEntry
from tgdav.content.format.pack import CheckedData, PackSeal, PackSizes, check_data, plan, seal_index, seal_trailer
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentCore
from tgdav.content.staging.pack_file import PackFile
from tgdav.content.staging.repack import ChunkMover
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NoSpace
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)


class PackCloser:
    """Closes packs that it owns. Used by one thread at a time."""

    def __init__(self, core: ContentCore, mover: ChunkMover, entropy: Entropy) -> None:
        self._core = core
        self._mover = mover
        self._entropy = entropy

    def close(self, pack: PackFile) -> int:
        """Close ``pack`` and return its size; 0 if nothing in it was worth sending.

        Raises NoSpace and LocalFailure: then the pack is back in the pool, as it was.
        """
        with self._core.database.reading() as connection:
            row = pack_table.pack_named(connection, pack.name)
            entries = [] if row is None else chunk_table.entries(connection, row.no)
        if row is None or not entries:
            self._drop(pack, row)
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
        sizes = plan(row.end, len(entries))
        self._append_index(pack, row, entries, sizes)
        checked = self._read_back(pack, row, sizes)
        if checked.entries != entries:
            raise self._seal(row).damage("has another index than was written")
        self._append_trailer(pack, row, sizes, checked.hasher)
        self._note(pack, row, checked.hasher.digest())
        pack.close()
        return pack.length

    def _append_index(self, pack: PackFile, row: PackRow, entries: list[IndexEntry], sizes: PackSizes) -> None:
        pack.end = row.end
        pack.cut(row.end)
        pack.append(seal_index(self._seal(row), entries, sizes, self._entropy))
        failpoint("content.after-index")
        pack.sync()

    def _read_back(self, pack: PackFile, row: PackRow, sizes: PackSizes) -> CheckedData:
        failpoint("content.before-read-back")
        pack.forget_pages()
        with self._core.rooms.one() as room:
            return check_data(pack.read_into, sizes, self._seal(row), self._core.sealer, room)

    def _append_trailer(self, pack: PackFile, row: PackRow, sizes: PackSizes, hasher: blake3) -> None:
        seal = self._seal(row)
        trailer = seal_trailer(seal, sizes, hasher.digest(), self._entropy)
        offset = pack.append(trailer)
        pack.sync()
        pack.forget_pages(offset)
        if pack.read(offset, len(trailer) + 1) != trailer:
            raise seal.damage("has another trailer than was written")
        hasher.update(trailer)

    def _note(self, pack: PackFile, row: PackRow, digest: bytes) -> None:
        identity = self._core.identity
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
        self._core.database.writer.run(
            lambda transaction: pack_table.close_pack(transaction, row.no, pack.length, digest, label),
            durable=True,
            sync=[pack],
        )
        failpoint("content.after-closed")

    def _salvage(self, pack: PackFile, row: PackRow, entries: list[IndexEntry]) -> None:
        """Move what is good to a new pack; forget the old one, or keep it as damage where something is bad."""
        bad = self._mover.move_from(pack, row, entries)
        if not bad:
            self._drop(pack, row)
            return
        reason = f"{bad} of {len(entries)} chunks do not open"
        now = self._core.clock.now_ns()

        def note(transaction: Transaction) -> None:
            pack_table.mark_bad(transaction, row.no)
            pack_table.note_damage(transaction, row.name.hex(), "staging", reason, now)

        self._core.database.writer.run(note)
        pack.close()

    def _drop(self, pack: PackFile, row: PackRow | None) -> None:
        """Forget a pack in which nothing is named; it was never sent."""
        if row is not None and row.state == PackState.OPEN:
            self._core.database.writer.run(lambda transaction: pack_table.drop_pack(transaction, row.no), durable=True)
            failpoint("content.after-drop")
        pack.close()
        self._core.staging.remove(pack.file)

    def _undo(self, pack: PackFile, row: PackRow) -> None:
        pack.end = row.end
        if not pack.is_poisoned:
            with suppress(LocalFailure):
                pack.cut(row.end)
        self._core.pool.give_back(pack)

    def _seal(self, row: PackRow) -> PackSeal:
        identity = self._core.identity
        return PackSeal(identity.keys, identity.vault_keys.vault, row.name, row.epoch)
