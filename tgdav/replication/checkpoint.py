"""Checkpoints: the state of a namespace at a log position, as sealed parts.

A part's content (wrapped by ``tgdav.replication.envelope``) is a msgpack array ``[version, rows …]``: a ``Part``. Each
part but the last carries batches of rows of tables; the last, sent last, is the root: it names position, counters, the
heads of the segment chains, and each part's blob name and hash. A checkpoint counts once its root is in the store.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tgdav.blobs.contract import BlobStore
from tgdav.crypto.label import BlobKind, Label
from tgdav.crypto.sealing import Kind
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.writer import Transaction
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError
from tgdav.failpoints import reach
from tgdav.ids import BlobName
from tgdav.replication import envelope, rows
from tgdav.replication.identity import LogIdentity
from tgdav.replication.outbox import SealedFile, seal_label, send

VERSION = 1
PART_BYTES = 16 * 1024 * 1024
"""A part takes no further rows once it has so many bytes of content."""
_BATCH = 1000
MIN_LOG_BYTES = 16 * 1024 * 1024
MAX_AGE_SECONDS = 24 * 3600

_ATTRIBUTES = (
    """since, kind, mode, uid, gid, rdev, size, mtime, ctime, btime, tag, content, manifest, writer, written"""
)
TABLES: dict[str, tuple[str, str]] = {
    "nodes": (f"ino, id, {_ATTRIBUTES}, nlink, atime, dirty, local", "local = 0"),
    "nodes_past": (f"ino, until, {_ATTRIBUTES}", "1"),
    "entries": ("parent, name, id, ino, since, stamp, nfc, origin, local", "local = 0"),
    "entries_past": ("parent, name, id, until, ino, since", "1"),
    "fields": ("ino, field, value, since", "ino IN (SELECT ino FROM nodes WHERE local = 0)"),
    "fields_past": ("ino, field, until, value, since", "1"),
    "manifests": ("no, data", "1"),
    "packs": ("no, name, state, epoch, end, size, hash, label, blob, announced, damaged, created", "state = 3"),
    "chunks": (
        "no, id, length, stored, codec, epoch, pack, offset, local",
        "pack IN (SELECT no FROM packs WHERE state = 3) AND data IS NULL",
    ),
    "machines": (
        "machine, name, public_key, incarnation, epoch, last_sequence, last_stamp, last_segment",
        "1",
    ),
    "segments": (
        "incarnation, number, machine, name, hash, size, first, last, last_stamp, position, label, blob",
        "blob IS NOT NULL",
    ),
}
"""Columns that a checkpoint carries of each table, and which rows."""


class Batch(msgspec.Struct, array_like=True, frozen=True):
    """Rows of one table, in the column order of ``TABLES``."""

    table: str
    rows: list[tuple[Any, ...]]


class PartName(msgspec.Struct, array_like=True, frozen=True):
    """Blob name and BLAKE3 hash of a part."""

    name: bytes
    hash: bytes


class Root(msgspec.Struct, array_like=True, frozen=True):
    """What holds the parts together. ``settings`` are the counters that travel with the state."""

    position: int
    segment: int
    parts: list[PartName]
    settings: dict[str, bytes]
    created: int


class Part(msgspec.Struct, array_like=True, frozen=True):
    """The content of one part; ``root`` is set in the last alone."""

    version: int
    batches: list[Batch]
    root: Root | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Part)


def decode(content: bytes, name: BlobName) -> Part:
    """Return a part. Raises DamageError."""
    try:
        part = _decoder.decode(content)
    except msgspec.MsgspecError as error:
        raise DamageError(f"checkpoint part {name.hex()} cannot be read", blob=name.hex()) from error
    if part.version != VERSION or any(batch.table not in TABLES for batch in part.batches):
        raise DamageError(f"checkpoint part {name.hex()} is of another version", blob=name.hex())
    return part


def is_due(*, log_bytes: int, last_bytes: int, age_seconds: float, changed: bool) -> bool:
    """Return whether a checkpoint should be written now. Pure.

    It should when something changed and the log since the last one is larger than that one (and at least 16 MiB), or
    the last one is a day old.
    """
    if not changed:
        return False
    return log_bytes >= max(MIN_LOG_BYTES, last_bytes) or age_seconds >= MAX_AGE_SECONDS


def _batches(connection: Connection) -> Iterator[Batch]:
    for table, (columns, where) in TABLES.items():
        # Table and column names are constants of this module.
        cursor = connection.execute(f"SELECT {columns} FROM {table} WHERE {where}")  # noqa: S608
        while found := cursor.fetchmany(_BATCH):
            yield Batch(table, found)


class CheckpointWriter:
    """Writes checkpoints of one namespace; the caller sees to it that two never run at once."""

    def __init__(
        self, database: Database, store: BlobStore, log: LogIdentity, folder: Path, *, entropy: Entropy, disk: Disk
    ) -> None:
        self._database, self._store, self._log, self._folder = database, store, log, folder
        self._entropy, self._disk = entropy, disk

    def write(self, settings: dict[str, bytes], now_ns: int) -> bool:
        """Seal and send a checkpoint; return False when some operation is in no stored segment yet."""
        number = self._seal(settings, now_ns)
        if number is None:
            return False
        self.send_sealed()
        return True

    def _seal(self, settings: dict[str, bytes], now_ns: int) -> int | None:
        files: list[tuple[BlobName, SealedFile]] = []
        with self._database.reading() as connection:
            pending = connection.one(rows.PENDING_OPERATIONS)
            heads = connection.one(
                "SELECT coalesce(max(position), 0), coalesce(max(number), 0) FROM segments WHERE incarnation = ?",
                (rows.incarnation_key(self._log.incarnation),),
            )
            previous = connection.one("SELECT coalesce(max(number), 0) FROM checkpoints")
            if (pending and pending[0]) or heads is None or previous is None:
                return None
            batches: list[Batch] = []
            size = 0
            for batch in _batches(connection):
                batches.append(batch)
                size += len(_encoder.encode(batch))
                if size >= PART_BYTES:
                    files.append(self._seal_part(Part(VERSION, batches)))
                    batches, size = [], 0
        files.append(self._seal_part(Part(VERSION, batches)))
        number = int(previous[0]) + 1
        parts = [PartName(name, file.hash) for name, file in files]
        root = Root(int(heads[0]), int(heads[1]), parts, settings, now_ns)
        files.append(self._seal_part(Part(VERSION, [], root)))
        self._record(number, root, files)
        return number

    def _seal_part(self, part: Part) -> tuple[BlobName, SealedFile]:
        log = self._log
        name = BlobName(self._entropy.bytes(16))
        content = _encoder.encode(part)
        blob = envelope.wrap(log.vault_keys, log.keys, log.box, Kind.CHECKPOINT_PART, name, content, self._entropy)
        return name, SealedFile(self._folder, name, blob, self._disk)

    def _record(self, number: int, root: Root, files: list[tuple[BlobName, SealedFile]]) -> None:
        def work(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO checkpoints (number, base, position, segment, parts, bytes, state, created)"
                " VALUES (?, NULL, ?, ?, ?, ?, 0, ?)",
                (number, root.position, root.segment, len(files), sum(file.size for _, file in files), root.created),
            )
            for index, (name, file) in enumerate(files):
                label = seal_label(
                    self._log.vault_keys, self._label(number, index, len(files), file), name, self._entropy
                )
                transaction.execute(
                    "INSERT INTO checkpoint_parts (number, part, name, hash, size, file, label, blob)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                    (number, index, name, file.hash, file.size, file.file, label),
                )

        self._database.writer.run(work, durable=True, sync=[file for _, file in files])
        reach("checkpoint.sealed")

    def _label(self, number: int, part: int, parts: int, file: SealedFile) -> Label:
        return Label(
            kind=BlobKind.CHECKPOINT,
            namespace=self._log.namespace,
            machine=self._log.machine_id,
            incarnation=self._log.incarnation,
            number=number,
            part=part,
            parts=parts,
            body_hash=file.hash,
            size=file.size,
        )

    def send_sealed(self) -> None:
        """Send the parts that wait, in order; after the last the checkpoint counts and older log files may go."""
        with self._database.reading() as connection:
            waiting = connection.all(
                "SELECT number, part, name, hash, file, label, size FROM checkpoint_parts"
                " WHERE blob IS NULL AND file IS NOT NULL ORDER BY number, part"
            )
        for number, part, name, hash_, file, label, size in waiting:
            info = send(self._store, self._folder, file, BlobName(name), hash_, label)
            self._note_stored(number, part, rows.blob_row(info.id, name, BlobKind.CHECKPOINT, size, hash_))
            self._disk.unlink(self._folder / file)

    def _note_stored(self, number: int, part: int, blob: tuple[Any, ...]) -> None:
        def work(transaction: Transaction) -> None:
            transaction.execute(
                "UPDATE checkpoint_parts SET blob = ?, file = NULL WHERE number = ? AND part = ?",
                (blob[0], number, part),
            )
            transaction.execute(rows.INSERT_BLOB, blob)
            transaction.execute(
                "UPDATE checkpoints SET state = 1 WHERE number = ? AND NOT EXISTS"
                " (SELECT 1 FROM checkpoint_parts WHERE number = ? AND blob IS NULL)",
                (number, number),
            )

        self._database.writer.run(work, durable=True)
        reach("checkpoint.part-stored")
