"""``check --repair``: append again what this machine still has intact."""

import logging
from collections.abc import Iterator

from blake3 import blake3

from tgdav.blobs.interface import BlobInfo, BytesSource
from tgdav.check.context import CheckContext
from tgdav.check.findings import Findings
from tgdav.content.format.chunk import SealedChunk
from tgdav.content.format.pack import TRAILER_BYTES, PackSeal, open_index, read_trailer
from tgdav.crypto.label import BlobKind, Label, decode_label, encode_label
from tgdav.db.transaction import Transaction
from tgdav.errors import BlobMissing, DamageError, StoreRejected, WriterReplaced
from tgdav.ids import BlobId, BlobName, ChunkId
from tgdav.replication import sql

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 3600.0
_TOGETHER = 8 * 1024 * 1024
"""Bytes of sealed chunks that are rescued in one batch."""
_PACK = "SELECT no, size, hash, label, blob FROM packs WHERE name = ? AND state = 3"
_NUMBER = "SELECT no FROM packs WHERE name = ? AND state >= 3"
_FORGET_PLACE = "UPDATE packs SET blob = NULL, damaged = 1 WHERE no = ?"


_CHUNKS = "SELECT id FROM chunks WHERE pack = ? ORDER BY offset"
_OTHERS = "SELECT name, epoch, size, blob FROM packs WHERE state = 3 AND blob IS NOT NULL AND no != ? ORDER BY no DESC"
_IS_EMPTY = "SELECT 1 FROM packs WHERE no = ? AND NOT EXISTS (SELECT 1 FROM chunks WHERE pack = packs.no)"
_RETIRE = "UPDATE packs SET state = 4, blob = NULL WHERE no = ?"
_NAME_GONE = "UPDATE blobs SET gone = 1 WHERE name = ?"


class Repairer:
    """Repairs headers, segments that are in the outbox, and packs: complete from the cache, else chunk by chunk.

    Chunks that are in this machine's caches, still readable in the damaged pack, or in another pack too, are stored again in
    new packs; a pack without chunks is abandoned.

    ``BlobStore.append`` returns an existing blob of the name instead of storing a new one, so a damaged blob is deleted
    first, and recorded as gone before that. A crash in between loses nothing that is here: the next repair continues.
    """

    def __init__(self, context: CheckContext) -> None:
        self._database, self._store, self._headers = context.database, context.store, context.headers
        self._content, self._replicator = context.content, context.replicator
        self._log, self._entropy = context.replicator.log, context.platform.entropy

    def run(self, findings: Findings) -> list[str]:
        """Repair what can be repaired; return the names of the repaired blobs. Raises StoreUnavailable, LocalFailure."""
        headers = findings.names("header")
        if headers:
            self._headers.replace_copies(headers)
        pusher = self._replicator.pusher
        segments = pusher.resend(findings.names("segment"))
        resealed = pusher.reseal(findings.names("outbox"))
        packs = [name for name in findings.names("pack") if self._restore_pack(bytes.fromhex(name))]
        rescued = self._rescue([name for name in findings.names("pack") if name not in packs])
        return [*headers, *segments, *resealed, *packs, *rescued]

    def _restore_pack(self, name: bytes) -> bool:
        with self._database.reading() as connection:
            row = connection.one(_PACK, (name,))
        if row is None:
            return False
        number, size, digest, label, blob = row
        return self._relocate(number, BlobName(name), size, digest) or self._append(
            number, BlobName(name), size, digest, label, blob
        )

    def _relocate(self, number: int, name: BlobName, size: int, digest: bytes) -> bool:
        """Find an intact copy of a pack elsewhere in the store, and record its id."""
        info = self._store.find(name)
        if info is None or info.size != size or not self._is_right(info, digest):
            return False
        label = decode_label(info.label, self._log.vault_keys, info.name)
        if label is None or (label.kind, label.body_hash) != (BlobKind.PACK, digest):
            return False  # its caption was edited
        self._record_place(number, info, digest)
        return True

    def _is_right(self, info: BlobInfo, digest: bytes) -> bool:
        try:
            return bytes(blake3(self._store.read(info.id, 0, info.size)).digest()) == digest
        except DamageError:
            return False

    def _append(self, number: int, name: BlobName, size: int, digest: bytes, label: str, blob: int | None) -> bool:
        data = self._content.reader.cache.get(name, 0, size, counted=False)
        if data is None or blake3(data).digest() != digest:
            return False
        there = self._store.find(name)
        doomed = [BlobId(each) for each in {blob, there.id if there else None} if each is not None]
        self._forget(number, doomed)  # before deleting: see the class
        self._store.delete(doomed)
        info = self._store.append(name, BytesSource(data), label or self._label(name, size, digest))
        self._record_place(number, info, digest)
        return True

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

    def _rescue(self, names: list[str]) -> list[str]:
        """Store what can be read of packs (names in hex) again; return the packs from which nothing is missing any more.

        The log or a checkpoint publishes the new places, so the old packs are deleted after that. A machine that may not
        write cannot publish, and rescues nothing.
        """
        numbers = {name: number for name in names if (number := self._number(name)) is not None}
        if not numbers or self._replicator.read_only_reason is not None:
            return []
        for number in numbers.values():
            self._rescue_chunks(number)
        empty = {name: number for name, number in numbers.items() if self._is_empty(number)}
        # Packs are retired once the rescued chunks are stored elsewhere.
        if not self._content.flush(FLUSH_SECONDS):
            return []
        self._database.writer.run(
            lambda t: t.executemany(_RETIRE, [(number,) for number in empty.values()]), durable=True
        )
        if not self._publish():
            return []
        for name in empty:
            self._delete_pack(BlobName(bytes.fromhex(name)))
        return [*empty]

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

    def _rescue_chunks(self, number: int) -> None:
        content = self._content
        with self._database.reading() as connection:
            wanted = [ChunkId(row[0]) for row in connection.all(_CHUNKS, (number,))]
        missing: set[ChunkId] = set()
        saved: list[SealedChunk] = []
        for chunk in wanted:
            try:
                plaintext = content.reader.chunk(chunk)
            except (DamageError, StoreRejected):
                missing.add(chunk)
            else:
                saved.append(content.sealer.seal(chunk, plaintext))
            if sum(len(each.data) for each in saved) >= _TOGETHER:
                content.uploader.rescue(saved, number)
                saved = []
        saved += self._from_other_packs(missing, number)
        content.uploader.rescue(saved, number)

    def _from_other_packs(self, missing: set[ChunkId], number: int) -> list[SealedChunk]:
        """Search the indexes of the other packs: the database knows only one place of a chunk that was stored twice."""
        found: list[SealedChunk] = []
        with self._database.reading() as connection:
            others = connection.all(_OTHERS, (number,)) if missing else []
        for name, epoch, size, blob in others:
            if not missing:
                break
            try:
                found += self._from_pack(missing, BlobName(name), epoch, size, BlobId(blob))
            except (DamageError, BlobMissing):
                continue  # that pack has findings of its own
        return found

    def _from_pack(
        self, missing: set[ChunkId], name: BlobName, epoch: int, size: int, blob: BlobId
    ) -> Iterator[SealedChunk]:
        identity = self._content.identity
        seal = PackSeal(identity.keys, identity.vault_keys.vault, name, epoch)
        trailer = read_trailer(seal, self._store.read(blob, size - TRAILER_BYTES, TRAILER_BYTES), size)
        sizes = trailer.sizes
        for entry in open_index(seal, self._store.read(blob, sizes.data_end, sizes.index_length), sizes):
            if entry.id in missing:
                sealed = self._store.read(blob, entry.offset, entry.stored)
                chunk = SealedChunk(entry.id, entry.length, entry.codec, entry.epoch, sealed)
                self._content.sealer.open(entry.binding, sealed, name.hex())
                missing.discard(entry.id)
                yield chunk

    def _delete_pack(self, name: BlobName) -> None:
        """Delete a pack from which the published log names nothing any more; it is not expected from now on."""
        there = self._store.find(name)
        self._database.writer.run(lambda transaction: transaction.execute(_NAME_GONE, (name,)), durable=True)
        if there is not None:
            self._store.delete([there.id])
