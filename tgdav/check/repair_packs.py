"""Repairs packs: complete from another copy or the cache, else chunk by chunk from whatever has a chunk intact."""

import logging
from collections.abc import Iterable

from blake3 import blake3

from tgdav.blobs.interface import BlobInfo, BytesSource
from tgdav.check.chunk_search import ChunkSearch
from tgdav.check.context import CheckContext
from tgdav.check.findings import Repair
from tgdav.content.format.chunk import SealedChunk
from tgdav.crdt.ops import Retire
from tgdav.crypto.label import BlobKind, Label, decode_label, encode_label
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError, LocalFailure, StoreRejected, WriterReplaced
from tgdav.ids import BlobId, BlobName, ChunkId
from tgdav.replication import sql
from tgdav.wording import counted

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 3600.0
_TOGETHER = 8 * 1024 * 1024
"""Bytes of sealed chunks that are rescued in one batch."""
_PACK = "SELECT no, size, hash, label, blob FROM packs WHERE name = ? AND state = 3"
_NUMBER = "SELECT no FROM packs WHERE name = ? AND state >= 3"
_FORGET_PLACE = "UPDATE packs SET blob = NULL, damaged = 1 WHERE no = ?"
_CHUNKS = "SELECT id FROM chunks WHERE pack = ? ORDER BY offset"
_IS_EMPTY = "SELECT 1 FROM packs WHERE no = ? AND NOT EXISTS (SELECT 1 FROM chunks WHERE pack = packs.no)"
_IN_USE = "SELECT name FROM packs WHERE no = ? AND state = 3"
_NAME_GONE = "UPDATE blobs SET gone = 1 WHERE name = ?"


class PackRepairer:
    """Repairs packs of the store; with ``dry_run`` it only finds out what it would do.

    Chunks that are in this machine's caches, still readable in the damaged pack, or in another pack too, are stored again in
    new packs; a pack without chunks is then deleted. ``BlobStore.append`` returns an existing blob of the name instead of
    storing a new one, so a damaged blob is deleted first, and recorded as gone before that. A crash in between loses nothing
    that is here: the next repair continues.
    """

    def __init__(self, context: CheckContext, *, dry_run: bool) -> None:
        self._database, self._store, self._content = context.database, context.store, context.content
        self._replicator, self._log = context.replicator, context.replicator.log
        self._entropy, self._dry_run = context.platform.entropy, dry_run
        self._search = ChunkSearch(context)

    def run(self, names: list[str]) -> list[Repair]:
        """Repair packs (names in hex); return what was done. Raises StoreUnavailable, LocalFailure, NoSpace."""
        whole = {name: repair for name in names if (repair := self._restore(name)) is not None}
        return [*whole.values(), *self._rescue([name for name in names if name not in whole])]

    # ---- complete --------------------------------------------------------------------------------------------------

    def _restore(self, text: str) -> Repair | None:
        name = BlobName(bytes.fromhex(text))
        with self._database.reading() as connection:
            row = connection.one(_PACK, (name,))
        if row is None:
            return None
        number, size, digest, label, blob = row
        info = self._elsewhere(name, size, digest)
        if info is not None:
            if not self._dry_run:
                self._record_place(number, info, digest)
            return self._repair(text, "it is read from another place in the store, where it is intact")
        data = self._content.reader.cache.get(name, 0, size, counted=False)
        if data is None or blake3(data).digest() != digest:
            return None
        if not self._dry_run:
            self._append(number, name, data, digest, label or self._label(name, size, digest), blob)
        return self._repair(text, "it is stored again from this machine's cache, and the damaged copy is deleted")

    def _repair(self, name: str, action: str, *, done: bool = True) -> Repair:
        return Repair(name, "pack", action, done and not self._dry_run)

    def _elsewhere(self, name: BlobName, size: int, digest: bytes) -> BlobInfo | None:
        """Return an intact copy of a pack elsewhere in the store."""
        info = self._store.find(name)
        if info is None or info.size != size or not self._is_right(info, digest):
            return None
        label = decode_label(info.label, self._log.vault_keys, info.name)
        # Otherwise its caption was edited.
        return info if label is not None and (label.kind, label.body_hash) == (BlobKind.PACK, digest) else None

    def _is_right(self, info: BlobInfo, digest: bytes) -> bool:
        try:
            return bytes(blake3(self._store.read(info.id, 0, info.size)).digest()) == digest
        except DamageError:
            return False

    def _append(self, number: int, name: BlobName, data: bytes, digest: bytes, label: str, blob: int | None) -> None:
        there = self._store.find(name)
        doomed = [BlobId(each) for each in {blob, there.id if there else None} if each is not None]
        self._forget(number, doomed)  # before deleting: see the class
        self._store.delete(doomed)
        self._record_place(number, self._store.append(name, BytesSource(data), label), digest)

    def _forget(self, number: int, doomed: list[BlobId]) -> None:
        def forget(transaction: Transaction) -> None:
            transaction.execute(_FORGET_PLACE, (number,))
            transaction.executemany(sql.BLOB_GONE, [(each,) for each in doomed])

        self._database.writer.run(forget, durable=True)

    def _record_place(self, number: int, info: BlobInfo, digest: bytes) -> None:
        def write_rows(transaction: Transaction) -> None:
            transaction.execute("UPDATE blobs SET gone = 1 WHERE name = ? AND id != ?", (info.name, info.id))
            transaction.execute(sql.PLACE_PACK, (info.id, 0, number))
            transaction.execute(sql.INSERT_BLOB, sql.blob_row(info.id, info.name, BlobKind.PACK, info.size, digest))

        self._database.writer.run(write_rows, durable=True)

    def _label(self, name: BlobName, size: int, digest: bytes) -> str:
        label = Label(
            kind=BlobKind.PACK,
            namespace=self._log.namespace,
            machine=self._log.machine_id,
            incarnation=self._log.incarnation,
            body_hash=digest,
            size=size,
        )
        return encode_label(label, self._log.vault_keys, name, self._entropy)

    # ---- chunk by chunk ------------------------------------------------------------------------------------------

    def _rescue(self, names: list[str]) -> list[Repair]:
        """Store what can be read of packs (names in hex) again; done are packs from which nothing is missing any more.

        The log or a checkpoint publishes the new places, so the old packs are deleted after that. A machine that may not
        write cannot publish, and rescues nothing.
        """
        numbers = {name: number for name in names if (number := self._number(name)) is not None}
        if not numbers or self._replicator.read_only_reason is not None:
            return []
        found = {name: self._rescue_chunks(number, BlobName(bytes.fromhex(name))) for name, number in numbers.items()}
        deleted = set() if self._dry_run else self._replace(numbers)
        return [
            self._rescued(name, *counts, name in deleted)
            for name, counts in found.items()
            if counts[0] or not counts[1]
        ]

    def _rescued(self, name: str, saved: int, total: int, deleted: bool) -> Repair:
        action = f"{saved} of {counted(total, 'chunk')} are stored again in other packs"
        if deleted or (self._dry_run and saved == total):
            return self._repair(name, f"{action}, and this pack is deleted")
        if saved == total:
            return self._repair(name, f"{action}; this pack is deleted once the log can name the new ones", done=False)
        return self._repair(name, f"{action}; the others are nowhere, so this pack stays as it is", done=False)

    def _replace(self, numbers: dict[str, int]) -> set[str]:
        """Publish the new places of chunks, and delete the packs that have none any more; return those."""
        empty = {name: number for name, number in numbers.items() if self._is_empty(number)}
        # Packs are retired once the rescued chunks are stored elsewhere.
        if not self._content.flush(FLUSH_SECONDS):
            return set()
        self._retire(empty.values())
        if not self._publish():
            return set()
        for name in empty:
            self._delete_pack(BlobName(bytes.fromhex(name)))
        return {*empty}

    def _retire(self, numbers: Iterable[int]) -> None:
        """Log that packs are retired, unless an interrupted repair did that; the segment that says so has the new indexes."""
        with self._database.reading() as connection:
            rows = [row for number in numbers for row in connection.all(_IN_USE, (number,))]
        if rows:
            retire = Retire(tuple(BlobName(name) for (name,) in rows))
            self._replicator.journal.change(lambda change: change.emit(retire), durable=True)

    def _publish(self) -> bool:
        """Publish the new places of chunks; return whether that was possible. If not, the next repair does it."""
        try:
            self._replicator.push()
            return self._replicator.checkpoint()
        except (DamageError, WriterReplaced) as error:
            _log.warning("rescued chunks cannot be published yet: %s", error.message)
            return False

    def _number(self, name: str) -> int | None:
        with self._database.reading() as connection:
            row = connection.one(_NUMBER, (bytes.fromhex(name),))
        return None if row is None else int(row[0])

    def _is_empty(self, number: int) -> bool:
        with self._database.reading() as connection:
            return connection.one(_IS_EMPTY, (number,)) is not None

    def _rescue_chunks(self, number: int, name: BlobName) -> tuple[int, int]:
        """Stage what can be found of a pack's chunks again; return how many those are, and how many chunks it has."""
        with self._database.reading() as connection:
            wanted = [ChunkId(row[0]) for row in connection.all(_CHUNKS, (number,))]
        missing = set[ChunkId]()
        saved = list[SealedChunk]()
        for chunk in wanted:
            sealed = self._nearest(chunk)
            if sealed is None:
                missing.add(chunk)
            else:
                saved.append(sealed)
            if sum(len(each.data) for each in saved) >= _TOGETHER:
                self._stage(saved, number)
                saved = []
        saved += self.from_other_packs(missing, name)
        self._stage(saved, number)
        return len(wanted) - len(missing), len(wanted)

    def _stage(self, saved: list[SealedChunk], number: int) -> None:
        if saved and not self._dry_run:
            self._content.uploader.rescue(saved, number)

    def _nearest(self, chunk: ChunkId) -> SealedChunk | None:
        """Return a chunk, sealed anew, from memory, the cache, staging or the pack that the database names."""
        try:
            plaintext = self._content.reader.chunk(chunk)
        except (DamageError, StoreRejected, LocalFailure):
            return None
        return self._content.sealer.seal(chunk, plaintext)

    def from_other_packs(self, missing: set[ChunkId], name: BlobName | None) -> list[SealedChunk]:
        """Return those of ``missing`` that another pack than ``name`` has, too, and remove them from it."""
        found = list[SealedChunk]()
        for pack in self._search.packs(missing, without=name):
            for entry in pack.entries:
                sealed = self._search.sealed(pack, entry) if entry.id in missing else None
                if sealed is not None:
                    missing.discard(entry.id)
                    found.append(sealed)
        return found

    def _delete_pack(self, name: BlobName) -> None:
        """Delete a pack from which the published log names nothing any more; it is not expected from now on."""
        there = self._store.find(name)
        self._database.writer.run(lambda transaction: transaction.execute(_NAME_GONE, (name,)), durable=True)
        if there is not None:
            self._store.delete([there.id])

    # ---- staging -------------------------------------------------------------------------------------------------

    def run_staged(self, bad: dict[str, set[ChunkId]]) -> list[Repair]:
        """Replace bad chunks of staging, by pack (name in hex, or ``database`` for rows); return what was done.

        A chunk may still be in memory, or the store has it in another pack. Raises StoreUnavailable, LocalFailure, NoSpace.
        """
        repairs = []
        for blob, chunks in bad.items():
            missing = set(chunks)
            saved = [sealed for chunk in chunks if (sealed := self._nearest(chunk)) is not None]
            missing -= {each.id for each in saved}
            saved += self.from_other_packs(missing, None)
            if saved:
                self._replace_staged(blob, saved)
                action = f"{len(saved)} of {counted(len(chunks), 'bad chunk')} are staged again from other copies"
                repairs.append(Repair(blob, "staging", action, not missing and not self._dry_run))
        return repairs

    def _replace_staged(self, blob: str, saved: list[SealedChunk]) -> None:
        if self._dry_run:
            return
        if blob != "database":
            with self._database.reading() as connection:
                row = connection.one("SELECT no FROM packs WHERE name = ?", (bytes.fromhex(blob),))
            if row is not None:
                self._content.uploader.rescue(saved, row[0])
            return
        rows = [(bytes(each.data), len(each.data), each.codec, each.epoch, each.id) for each in saved]
        self._database.writer.run(lambda transaction: transaction.executemany(_REPLACE_ROW, rows), durable=True)


_REPLACE_ROW = "UPDATE chunks SET data = ?, stored = ?, codec = ?, epoch = ? WHERE id = ? AND data IS NOT NULL"
