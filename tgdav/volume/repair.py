"""``check --repair``: appending again what this machine still holds whole."""

from typing import TYPE_CHECKING

from blake3 import blake3

from tgdav.blobs.contract import BlobInfo, BytesSource
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.ids import BlobId, BlobName
from tgdav.replication import rows
from tgdav.volume.findings import Findings

if TYPE_CHECKING:
    from tgdav.volume.volume import Volume

_PACK = "SELECT no, size, hash, label, blob FROM packs WHERE name = ? AND state = 3"
_FORGET_PLACE = "UPDATE packs SET blob = NULL, damaged = 1 WHERE no = ?"


class Repairer:
    """Repairs headers, segments that are in the outbox, and packs that the cache holds whole.

    A store gives back what it has under a name instead of taking it anew, so what is damaged is deleted first, and noted
    as gone before that. A crash in between leaves less in the store, and all of it here: the next repair goes on.
    """

    def __init__(self, volume: "Volume") -> None:
        self._volume = volume
        self._store = volume.stores.store

    def run(self, findings: Findings) -> list[str]:
        """Repair what can be; return the names of the blobs that are whole now. Raises StoreUnavailable, LocalFailure."""
        headers = findings.names("header")
        if headers:
            self._volume.headers.put_back(headers)
        pusher = self._volume.pusher
        segments = pusher.send_again(findings.names("segment"))
        anew = pusher.seal_anew(findings.names("outbox"))
        packs = [name for name in findings.names("pack") if self._restore_pack(bytes.fromhex(name))]
        return [*headers, *segments, *anew, *packs]

    def _restore_pack(self, name: bytes) -> bool:
        with self._volume.database.reading() as connection:
            row = connection.one(_PACK, (name,))
        if row is None:
            return False
        number, size, digest, label, blob = row
        return self._relocate(number, BlobName(name), size, digest) or self._append(
            number, BlobName(name), size, digest, label, blob
        )

    def _relocate(self, number: int, name: BlobName, size: int, digest: bytes) -> bool:
        """Find a pack that lies, whole, elsewhere in the store."""
        info = self._store.find(name)
        if info is None or info.size != size or not self._is_right(info, digest):
            return False
        self._note(number, info, digest)
        return True

    def _is_right(self, info: BlobInfo, digest: bytes) -> bool:
        try:
            return bytes(blake3(self._store.read(info.id, 0, info.size)).digest()) == digest
        except DamageError:
            return False

    def _append(self, number: int, name: BlobName, size: int, digest: bytes, label: str, blob: int | None) -> bool:
        data = self._volume.content.reading.cache.get(name, 0, size, counted=False)
        if data is None or blake3(data).digest() != digest:
            return False
        there = self._store.find(name)
        doomed = [BlobId(each) for each in {blob, there.id if there else None} if each is not None]
        self._forget(number, doomed)
        self._store.delete(doomed)
        info = self._store.append(name, BytesSource(data), label or self._label(name, size, digest))
        self._note(number, info, digest)
        return True

    def _forget(self, number: int, doomed: list[BlobId]) -> None:
        def work(transaction: Transaction) -> None:
            transaction.execute(_FORGET_PLACE, (number,))
            transaction.executemany(rows.BLOB_GONE, [(each,) for each in doomed])

        self._volume.database.writer.run(work, durable=True)

    def _note(self, number: int, info: BlobInfo, digest: bytes) -> None:
        def work(transaction: Transaction) -> None:
            transaction.execute("UPDATE blobs SET gone = 1 WHERE name = ? AND id != ?", (info.name, info.id))
            transaction.execute(rows.PLACE_PACK, (info.id, 0, number))
            transaction.execute(rows.INSERT_BLOB, rows.blob_row(info.id, info.name, BlobKind.PACK, info.size, digest))

        self._volume.database.writer.run(work, durable=True)

    def _label(self, name: BlobName, size: int, digest: bytes) -> str:
        volume = self._volume
        label = Label(
            kind=BlobKind.PACK,
            namespace=volume.log.namespace,
            machine=volume.log.machine_id,
            incarnation=volume.log.incarnation,
            body_hash=digest,
            size=size,
        )
        return encode_label(label, volume.vault_keys, name, volume.seams.entropy)
