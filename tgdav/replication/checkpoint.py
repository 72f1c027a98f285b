"""Write checkpoints: from one read of the database into sealed parts, and from there to the store; and load them.

The format is that of ``tgdav.replication.format.checkpoint``. A checkpoint counts once its root part, sent last, is in
the store; until then its parts are files of the outbox, resent byte for byte.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tgdav.blobs.interface import BlobStore
from tgdav.crdt.membership import ClockEntry
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.crypto.sealing import Kind
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, TgdavError
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName, MachineId
from tgdav.metadata import settings
from tgdav.metadata.journal import LAST_POSITION
from tgdav.replication import outbox, sql
from tgdav.replication.blob_listing import LabelledBlob
from tgdav.replication.format import checkpoint as checkpoint_format
from tgdav.replication.format import checkpoint_tables, envelope
from tgdav.replication.format.checkpoint import Batch, Outline, Part, PartName, Root, TableOutline
from tgdav.replication.format.checkpoint_tables import TABLES
from tgdav.replication.log_identity import LogIdentity
from tgdav.replication.log_reader import LogReader
from tgdav.replication.outbox import SealedFile, discard_unnamed, send

_log = logging.getLogger(__name__)

PART_BYTES = 16 * 1024 * 1024
"""A part gets no further rows once it has so many bytes of content."""
OUTLINE = "checkpoint.base"
"""The setting with the outline of the full checkpoint that later ones are based on."""
LAST_NUMBER = "checkpoint.last-number"
"""The setting with the largest checkpoint number seen in the store."""

Sealed = list[tuple[BlobName, SealedFile]]


class _TooManyChanges(Exception):
    """So much changed that a full checkpoint is smaller than twice the changes."""


class CheckpointWriter:
    """Writes checkpoints of one namespace. Not thread-safe: the caller serializes calls."""

    def __init__(
        self, database: Database, store: BlobStore, log: LogIdentity, directory: Path, *, entropy: Entropy, disk: Disk
    ) -> None:
        self._database, self._store, self._log, self._directory = database, store, log, directory
        self._entropy, self._disk = entropy, disk
        self.part_bytes = PART_BYTES

    def write(self, counters: dict[str, bytes], now_ns: int) -> bool:
        """Seal and send a checkpoint; return False when some operation is in no stored segment yet.

        Raises StoreUnavailable, NoSpace, LocalFailure.
        """
        sealed: Sealed = []
        try:
            if not self._seal(sealed, counters, now_ns):
                return False
        except TgdavError:
            discard_unnamed(self._database, (file for _, file in sealed))
            raise
        self.send_sealed()
        return True

    # ---- sealing -------------------------------------------------------------------------------------------------

    def _seal(self, sealed: Sealed, counters: dict[str, bytes], now_ns: int) -> bool:
        with self._database.reading() as connection:
            pending = connection.one(sql.PENDING_OPERATIONS)
            last = connection.one(LAST_POSITION)
            ends = connection.one(sql.ENDS, (sql.incarnation_key(self._log.incarnation),))
            if pending is None or pending[0] or last is None or ends is None:
                return False
            position, (segment, number) = last[0], ends
            number = max(number, settings.get(connection, LAST_NUMBER, 0)) + 1
            clock = tuple(
                ClockEntry(MachineId(machine), sql.incarnation_of(key), sequence, at, hash_)
                for key, machine, at, hash_, sequence in connection.all(sql.CHAINS)
            )
            base = self._base(connection)
            rest = self._seal_changes(connection, base, sealed) if base is not None else None
            if base is None or rest is None:
                base, outline = None, Outline(number, PartName(b"", b""))
                rest = self._seal_batches(_all(connection, outline), sealed)
            else:
                outline = base
        parts = [PartName(name, file.hash) for name, file in sealed]
        root = Root(position, segment, base.root if base else None, parts, counters, now_ns, clock)
        # The root part is sealed last: it names the hash of every other part.
        name, file = self._seal_part(rest, root)
        sealed.append((name, file))
        if base is None:
            outline.root = PartName(name, file.hash)
        self._record(number, base.number if base else None, root, sealed, None if base else outline)
        return True

    def _base(self, connection: Connection) -> Outline | None:
        """Return the outline of the full checkpoint to base this one on, if the store has one that is not damaged."""
        encoded: bytes | None = settings.get(connection, OUTLINE)
        if encoded is None:
            return None
        outline = checkpoint_format.decode_outline(encoded)
        sound = connection.one(sql.SOUND_CHECKPOINT, (outline.number,))
        return outline if sound is not None and sound[0] else None

    def _seal_changes(self, connection: Connection, base: Outline, sealed: Sealed) -> list[bytes] | None:
        """Seal what changed since ``base``; None, and nothing is left of it, if that is more than half the size of ``base``."""
        try:
            return self._seal_batches(_changes(connection, base), sealed)
        except _TooManyChanges:
            while sealed:
                sealed.pop()[1].discard()
            return None

    def _seal_batches(self, batches: Iterator[bytes], sealed: Sealed) -> list[bytes]:
        """Seal full parts; return the remaining batches, which go into the root part."""
        gathered: list[bytes] = []
        size = 0
        for encoded in batches:
            if size >= self.part_bytes:
                sealed.append(self._seal_part(gathered))
                gathered, size = [], 0
            gathered.append(encoded)
            size += len(encoded)
        return gathered

    def _seal_part(self, batches: list[bytes], root: Root | None = None) -> tuple[BlobName, SealedFile]:
        log = self._log
        name = BlobName(self._entropy.bytes(16))
        content = checkpoint_format.encode_part(batches, root)
        blob = envelope.wrap(log.vault_keys, log.keys, log.box, Kind.CHECKPOINT_PART, name, content, self._entropy)
        return name, SealedFile(self._directory, name, blob, self._disk)

    def _record(self, number: int, base: int | None, root: Root, sealed: Sealed, outline: Outline | None) -> None:
        """Record a sealed checkpoint, and with ``outline`` that later ones are based on it, in one transaction."""
        whole = (number, base, root.position, root.segment, len(sealed), sum(file.size for _, file in sealed))
        parts = []
        for index, (name, file) in enumerate(sealed):
            label = encode_label(
                self._label(number, index, len(sealed), file), self._log.vault_keys, name, self._entropy
            )
            parts.append((number, index, name, file.hash, file.size, file.file, label, None))

        def write_rows(transaction: Transaction) -> None:
            transaction.execute(sql.INSERT_CHECKPOINT, (*whole, sql.SEALED, root.created))
            transaction.executemany(sql.INSERT_PART, parts)
            if outline is not None:
                settings.put(transaction, OUTLINE, checkpoint_format.encode_outline(outline))

        self._database.writer.run(write_rows, durable=True, sync=[file for _, file in sealed])
        failpoint("checkpoint.sealed")

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

    # ---- sending -------------------------------------------------------------------------------------------------

    def send_sealed(self) -> int:
        """Send the unsent parts in order; return how many there were. A checkpoint counts once its last part is stored.

        A checkpoint whose file was damaged here is abandoned: the next one does not need it.
        """
        with self._database.reading() as connection:
            waiting = connection.all(sql.WAITING_PARTS)
        given_up: set[int] = set()
        for number, part, name, hash_, file, label, size in waiting:
            if number in given_up:
                continue
            try:
                info = send(self._store, self._directory, file, BlobName(name), hash_, label)
            except DamageError as error:
                _log.error("checkpoint %d is abandoned: %s", number, error.message)
                self._give_up(number)
                given_up.add(number)
                continue
            # The file is removed after the row says that the part is stored: a crash in between leaves a file without a row.
            self._record_stored(number, part, sql.blob_row(info.id, name, BlobKind.CHECKPOINT, size, hash_))
            outbox.remove(self._directory / file, self._disk)
        return len(waiting)

    def _record_stored(self, number: int, part: int, blob: tuple[Any, ...]) -> None:
        def record(transaction: Transaction) -> None:
            transaction.execute(sql.PART_STORED, (blob[0], number, part))
            transaction.execute(sql.INSERT_BLOB, blob)
            transaction.execute(sql.CHECKPOINT_STORED, (number, number))

        self._database.writer.run(record, durable=True)
        failpoint("checkpoint.part-stored")

    def _give_up(self, number: int) -> None:
        with self._database.reading() as connection:
            files = [row[0] for row in connection.all(sql.PART_FILES, (number,))]

        def abandon(transaction: Transaction) -> None:
            transaction.execute(sql.DROP_PART_FILES, (number,))
            transaction.execute(sql.GIVE_UP_CHECKPOINT, (number,))

        self._database.writer.run(abandon, durable=True)
        for file in files:
            outbox.remove(self._directory / file, self._disk)


def _all(connection: Connection, outline: Outline) -> Iterator[bytes]:
    """Yield all batches, encoded, and add them to ``outline``."""
    for table in TABLES.values():
        for batch in checkpoint_format.full(table, table.rows(connection)):
            encoded = checkpoint_format.encode_batch(batch)
            outline.add(batch, encoded)
            yield encoded


def _changes(connection: Connection, base: Outline) -> Iterator[bytes]:
    """Yield the batches, encoded, that changed since ``base``. Raises _TooManyChanges beyond half of its size."""
    size = 0
    for table in TABLES.values():
        outline = base.tables.get(table.name) or TableOutline()
        for encoded in checkpoint_format.changed(table, table.rows(connection), outline):
            size += len(encoded)
            if size * 2 > base.size:
                raise _TooManyChanges
            yield encoded


Parts = list[LabelledBlob]


class CheckpointLoader:
    """Loads one of the complete ``checkpoints`` of a listing into an empty database."""

    def __init__(self, database: Database, reader: LogReader, checkpoints: list[Parts]) -> None:
        self._database, self._reader = database, reader
        self._checkpoints = checkpoints

    def load(self, parts: Parts) -> Root:
        """Fill the database's tables with the state of a checkpoint, part by part. After an error the tables are incomplete.

        Raises DamageError, BlobMissing, StoreUnavailable, LocalFailure, NoSpace.
        """
        last, root = self._root(parts)
        base_parts, base_last, base_root = (parts, last, root) if root.base is None else self._base(root.base)
        replaced = {}
        if base_parts is not parts:
            for part in self._parts(parts, last):
                replaced.update({(batch.table, batch.number): batch.rows for batch in part.batches})
        self._database.writer.run(checkpoint_tables.clear)
        outline = Outline(base_parts[-1].label.number, _name_of(base_parts[-1]))
        for part in self._parts(base_parts, base_last):
            for batch in part.batches:
                outline.add(batch, checkpoint_format.encode_batch(batch))
            self._insert(checkpoint_format.merged(part.batches, replaced))
        self._insert(Batch(table, number, there) for (table, number), there in replaced.items())
        self._finish(root, [(base_parts, base_root), (parts, root)], outline, last.version)
        return root

    def _root(self, parts: Parts) -> tuple[Part, Root]:
        last = self._reader.part(parts[-1])
        root = last.root
        if root is None or root.parts != [_name_of(found) for found in parts[:-1]]:
            name = parts[-1].info.name.hex()
            raise DamageError(f"checkpoint part {name} does not name its parts", blob=name)
        return last, root

    def _base(self, wanted: PartName) -> tuple[Parts, Part, Root]:
        for parts in self._checkpoints:
            if _name_of(parts[-1]) == wanted:
                last, root = self._root(parts)
                if root.base is None:
                    return parts, last, root
        name = wanted.name.hex()
        raise DamageError(f"checkpoint {name}, on which another is based, is missing", blob=name)

    def _parts(self, parts: Parts, last: Part) -> Iterator[Part]:
        yield from (self._reader.part(found) for found in parts[:-1])
        yield last

    def _insert(self, batches: Iterator[Batch]) -> None:
        def insert(transaction: Transaction) -> None:
            for batch in batches:
                transaction.executemany(checkpoint_tables.TABLES[batch.table].insert, batch.rows)

        self._database.writer.run(insert)
        self._database.checkpoint()

    def _finish(self, root: Root, used: list[tuple[Parts, Root]], outline: Outline, version: int) -> None:
        last_number = max(parts[-1].label.number for parts in self._checkpoints)

        def complete(transaction: Transaction) -> None:
            checkpoint_tables.complete(transaction, version)
            for key, value in root.settings.items():
                transaction.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))
            settings.put(transaction, OUTLINE, checkpoint_format.encode_outline(outline))
            settings.put(transaction, LAST_NUMBER, last_number)
            for parts, its_root in used:
                _record(transaction, parts, its_root, outline.number if its_root.base else None)

        self._database.writer.run(complete)


def _name_of(found: LabelledBlob) -> PartName:
    return PartName(found.info.name, found.label.body_hash)


def _record(transaction: Transaction, parts: Parts, root: Root, base: int | None) -> None:
    number, size = parts[-1].label.number, sum(found.label.size for found in parts)
    row = (number, base, root.position, root.segment, len(parts), size, sql.STORED, root.created)
    transaction.execute(sql.INSERT_CHECKPOINT, row)
    for found in parts:
        info, label = found.info, found.label
        named = (number, label.part, info.name, label.body_hash, label.size, None, info.label, info.id)
        transaction.execute(sql.INSERT_PART, named)
