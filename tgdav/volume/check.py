"""``check``: is the database whole, and does the store have every blob that it should, byte for byte?

Three looks: at the database itself, at the store's listing against what this machine knows, and, with ``read_data``, at
every byte of every blob. What was damaged and is whole again is forgotten: damage is never remembered as final.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from tgdav.blobs.contract import BlobInfo
from tgdav.content.manifest import decode as decode_manifest
from tgdav.crypto.header import HEADER_BYTES, decode, recognise
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.db.connection import Connection
from tgdav.db.writer import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, ChunkId
from tgdav.metadata import queries, settings
from tgdav.replication import rows
from tgdav.replication.watch import REPORTED
from tgdav.volume.check_staged import LOST, damaged_staging, given_up
from tgdav.volume.headers import newest_header

if TYPE_CHECKING:
    from tgdav.volume.volume import Volume

Progress = Callable[[str, int, int], None]
_STEP = 4 * 1024 * 1024
_ROLES = {rows.HEADER: "header", BlobKind.PACK: "pack", BlobKind.SEGMENT: "segment", BlobKind.CHECKPOINT: "checkpoint"}


class Finding(msgspec.Struct):
    """Damage: a blob's name in hex (or a local file's role), what it is, what is wrong, which paths it hits."""

    blob: str
    kind: str
    reason: str
    paths: list[str] = []


class KnownBlob(msgspec.Struct, frozen=True):
    """A row of ``blobs``."""

    id: int
    name: bytes
    kind: int
    size: int
    hash: bytes | None
    gone: bool

    @property
    def role(self) -> str:
        """What it is, for people."""
        return _ROLES.get(self.kind, "blob")


class Checker:
    """One check of an open volume."""

    def __init__(self, volume: "Volume", progress: Progress | None = None) -> None:
        self._volume = volume
        self._store = volume.stores.store
        self._progress: Progress = progress or (lambda _what, _done, _total: None)
        self._findings: dict[str, Finding] = {}
        self._repaired: list[str] = []
        self._bytes = 0

    def run(self, *, read_data: float | None, repair: bool) -> dict[str, Any]:
        """Check; return the ``check`` object. Raises StoreUnavailable: then nothing can be said of the store."""
        files = self._check_database()
        known = self._known()  # before the listing: uploads go on meanwhile
        listed = list(self._store.list())
        self._check_listing(listed, known)
        if repair and self._findings:
            self._repair()
            listed = list(self._store.list())
        if read_data is not None:
            self._read_blobs(listed, known, read_data)
            for name, reason in damaged_staging(self._volume.content):
                self._found(name, "staging", reason)
        self._name_paths()
        self._remember()
        return {
            "ok": not self._findings,
            "files": files,
            "blobs": len(listed),
            "bytes_read": self._bytes,
            "damage": [msgspec.structs.asdict(each) for each in self._findings.values()],
            "repaired": self._repaired,
        }

    def _found(self, blob: str, kind: str, reason: str) -> None:
        self._findings.setdefault(blob, Finding(blob, kind, reason))

    # ---- the database --------------------------------------------------------------------------------------------

    def _check_database(self) -> int:
        with self._volume.database.reading() as connection:
            for (text,) in connection.all("PRAGMA integrity_check(20)"):
                if text != "ok":
                    self._found("database", "database", str(text))
            for what, sql in _STRUCTURE.items():
                row = connection.one(sql)
                if row is not None and row[0]:
                    self._found("database", "database", f"{row[0]} {what}")
            for name in given_up(connection):
                self._found(name, "staging", LOST)
            self._check_chunks(connection)
            return queries.totals(connection)[0]

    def _check_chunks(self, connection: Connection) -> None:
        """Every chunk that a file names must be known, and in a pack that is neither retired nor missing."""
        sound = {row[0] for row in connection.all(_SOUND_CHUNKS)}
        for inode, manifest in _manifests(connection):
            missing = [chunk for chunk in decode_manifest(manifest).chunk_ids() if chunk not in sound]
            if missing:
                paths = [_shown(path) for path in queries.paths_of(connection, inode)]
                finding = self._findings.setdefault(
                    "chunks", Finding("chunks", "database", "files name chunks that are nowhere", [])
                )
                finding.paths.extend(paths)

    # ---- the listing ---------------------------------------------------------------------------------------------

    def _known(self) -> list[KnownBlob]:
        with self._volume.database.reading() as connection:
            found = connection.all("SELECT id, name, kind, size, hash, gone FROM blobs ORDER BY id")
        return [KnownBlob(row[0], row[1], row[2], row[3], row[4], bool(row[5])) for row in found]

    def _check_listing(self, listed: list[BlobInfo], known: list[KnownBlob]) -> None:
        replaced = self._has_newer_header(listed)
        by_id = {info.id: info for info in listed}
        by_name = {info.name: info for info in listed}
        for blob in known:
            if blob.gone or (blob.kind == rows.HEADER and replaced and BlobId(blob.id) not in by_id):
                continue
            info = by_id.get(BlobId(blob.id))
            if info is None or info.name != blob.name:
                elsewhere = blob.name in by_name
                reason = "it lies elsewhere in the store" if elsewhere else "the store does not have it any more"
                self._found(blob.name.hex(), blob.role, reason)
            elif info.size != blob.size:
                self._found(blob.name.hex(), blob.role, f"it has {info.size} bytes, not {blob.size}")
            elif not self._label_fits(info, blob):
                self._found(blob.name.hex(), blob.role, "its label is not the one it was stored with")

    def _has_newer_header(self, listed: list[BlobInfo]) -> bool:
        """Return whether another machine changed a secret: it deleted the headers that its own supersede."""
        volume = self._volume
        return newest_header(self._store, listed, volume.header, volume.master) != volume.header

    def _label_fits(self, info: BlobInfo, blob: KnownBlob) -> bool:
        if blob.kind == rows.HEADER:
            return recognise(info.label)
        label = decode_label(info.label, self._volume.vault_keys, info.name)
        if label is None or label.size != blob.size:
            return False
        return blob.hash is None or label.body_hash == blob.hash

    # ---- every byte ----------------------------------------------------------------------------------------------

    def _read_blobs(self, listed: list[BlobInfo], known: list[KnownBlob], percent: float) -> None:
        hashes = {blob.id: blob.hash for blob in known}
        every = max(round(100 / percent), 1) if percent > 0 else len(listed) + 1
        chosen = [info for number, info in enumerate(listed) if number % every == 0]
        for number, info in enumerate(chosen, 1):
            self._read_blob(info, hashes.get(info.id))
            self._progress("reading", number, len(chosen))

    def _read_blob(self, info: BlobInfo, noted: bytes | None) -> None:
        label = decode_label(info.label, self._volume.vault_keys, info.name)
        header = recognise(info.label)
        if label is None and not header:
            return  # not of this vault
        role = "header" if label is None else _ROLES[label.kind]
        try:
            if label is None:
                decode(self._store.read(info.id, 0, HEADER_BYTES))
                self._bytes += HEADER_BYTES
                return
            digest = self._digest(info)
        except (DamageError, BlobMissing) as error:
            self._found(info.name.hex(), role, str(error.message))
            return
        if digest != label.body_hash or (noted is not None and digest != noted):
            self._found(info.name.hex(), role, "its bytes are not those that were stored")

    def _digest(self, info: BlobInfo) -> bytes:
        hasher = blake3()
        for offset in range(0, info.size, _STEP):
            data = self._store.read(info.id, offset, min(_STEP, info.size - offset))
            hasher.update(data)
            self._bytes += len(data)
        return hasher.digest()

    # ---- afterwards ----------------------------------------------------------------------------------------------

    def _repair(self) -> None:
        """Append again what this machine still holds: headers, and log segments that are in the outbox."""
        headers = [each for each in self._findings.values() if each.kind == "header"]
        if headers:
            self._volume.replace_lost_headers([each.blob for each in headers])
            for each in headers:
                self._repaired.append(each.blob)
                del self._findings[each.blob]
        for blob in self._volume.pusher.send_again([each.blob for each in self._findings.values()]):
            self._repaired.append(blob)
            del self._findings[blob]

    def _name_paths(self) -> None:
        with self._volume.database.reading() as connection:
            for finding in self._findings.values():
                if finding.kind in ("pack", "staging") and finding.blob != "database":
                    named = connection.all(_PACK_CHUNKS, (bytes.fromhex(finding.blob),))
                    chunks = {ChunkId(row[0]) for row in named}
                    finding.paths = [_shown(path) for path in queries.paths_naming_chunks(connection, chunks)]

    def _remember(self) -> None:
        now = self._volume.seams.clock.now_ns()
        newest = max((blob.id for blob in self._known()), default=0)
        bad = [each.blob for each in self._findings.values() if each.kind == "pack"]
        found = [(each.blob, each.kind, each.reason, now) for each in self._findings.values()]

        def work(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM damage")
            settings.put(transaction, REPORTED, newest)
            transaction.executemany("INSERT INTO damage (blob, kind, reason, found) VALUES (?, ?, ?, ?)", found)
            transaction.execute("UPDATE packs SET damaged = 0 WHERE damaged = 1 AND state >= 3")
            transaction.executemany(
                "UPDATE packs SET damaged = 1 WHERE name = ?", [(bytes.fromhex(name),) for name in bad]
            )

        self._volume.database.writer.run(work)


_SOUND_CHUNKS = """SELECT c.id FROM chunks c LEFT JOIN packs p ON p.no = c.pack
WHERE c.data IS NOT NULL OR (p.no IS NOT NULL AND p.state != 4)"""
_PACK_CHUNKS = "SELECT c.id FROM chunks c JOIN packs p ON p.no = c.pack WHERE p.name = ?"
_STRUCTURE = {
    "entries name a file or folder that is not there": (
        "SELECT count(*) FROM entries e LEFT JOIN nodes n ON n.ino = e.ino WHERE n.ino IS NULL"
    ),
    "entries are in a folder that is not there": (
        "SELECT count(*) FROM entries e LEFT JOIN nodes n ON n.ino = e.parent WHERE n.ino IS NULL"
    ),
    "files name a manifest that is not there": (
        "SELECT count(*) FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest"
        " WHERE n.manifest IS NOT NULL AND m.no IS NULL"
    ),
}


def _manifests(connection: Connection) -> Iterator[tuple[Any, bytes]]:
    cursor = connection.execute(
        "SELECT n.ino, coalesce(m.data, n.content) FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest"
        " WHERE n.kind = 1 AND n.size > 0"
    )
    for inode, data in cursor:
        if data is not None:
            yield inode, data


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
