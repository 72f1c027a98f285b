"""Push the log: groups of operations are sent as segments, after the packs that they name.

A segment is sealed once. Its exact bytes are in a file, and a row names the file, durably, before the first attempt to send;
it is sent byte for byte until the store has it, and the next segment is not sealed before that. So neither a crash nor a lost
response creates a second version of a segment.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from tgdav.blobs.interface import BlobStore
from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.crdt.membership import FIRST
from tgdav.crdt.ops import BARRIERS, Attr, Field, Group, Make, Member, Op, Place, Prune, Purge, Write, decode_ops
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.crypto.sealing import Kind
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import TgdavError
from tgdav.failpoints import failpoint
from tgdav.ids import BlobId, BlobName, ChunkId, MachineId
from tgdav.replication import sql
from tgdav.replication.format import envelope
from tgdav.replication.format.segment import ClockEntry, PackEntry, PackIndex, Segment
from tgdav.replication.format.segment import encode as encode_segment
from tgdav.replication.log_identity import LogIdentity
from tgdav.replication.outbox import SealedFile, discard_unnamed, send
from tgdav.replication.retractions import Retractions

GROUPS_A_SEGMENT = 20_000
SEGMENT_BYTES = 16 * 1024 * 1024
"""A segment gets no further group once its operations have so many bytes."""
_QUERY_IDS = 500


class Unsent(msgspec.Struct, frozen=True):
    """A group of the log that is in no segment yet. ``size`` is that of its encoded operations in bytes."""

    position: int
    group: Group
    size: int

    @property
    def chunks(self) -> set[ChunkId]:
        """The chunks that it names."""
        return {
            extent.chunk
            for op in self.group.ops
            if isinstance(op, Write)
            for extent in decode_manifest(op.manifest).extents
            if extent.chunk is not None
        }

    @property
    def changes(self) -> set[bytes]:
        """Identities of what it creates or changes: nodes, entries, and names in directories."""
        return {key for op in self.group.ops for key in _changed_by(op)}

    @property
    def is_barrier(self) -> bool:
        """Whether it depends on all groups before it."""
        return any(isinstance(op, BARRIERS) for op in self.group.ops)

    @property
    def needs(self) -> set[bytes]:
        """What must exist before it: everything that it changes, and the directories that it adds an entry to."""
        return self.changes | {op.parent for op in self.group.ops if isinstance(op, Place)}


def _changed_by(op: Op) -> tuple[bytes, ...]:
    match op:
        case Place():
            return (op.entry, op.node, op.parent + op.name)
        case Make() | Write() | Attr() | Field() | Prune():
            return (op.node,)
        case Purge():
            return op.entries
        case _:
            return ()


def choose_ready(unsent: Sequence[Unsent], stored: set[ChunkId], lost: set[ChunkId]) -> list[Unsent]:
    """Return the groups that may be sent now, in order. Pure.

    The log waits for chunks that are still being uploaded. A group that names a lost chunk can never be sent: later groups
    that do not depend on it overtake it. A snapshot depends on all groups before it, so it never overtakes one; changes made
    after a snapshot that is held back still overtake both, because the store must get them.
    """
    ready: list[Unsent] = []
    held: set[bytes] = set()
    is_held = False
    for each in unsent:
        if each.chunks & lost or each.needs & held or (each.is_barrier and is_held):
            held |= each.changes
            is_held = True
        elif each.chunks <= stored:
            ready.append(each)
        else:
            break
    return ready


class Pushed(msgspec.Struct):
    """What one push sent: segments, and their bytes."""

    segments: int = 0
    bytes: int = 0


class Pusher:
    """Sends the log of one namespace. Thread-safe: one push at a time."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        log: LogIdentity,
        directory: Path,
        retractions: Retractions,
        *,
        entropy: Entropy,
        disk: Disk,
    ) -> None:
        self._database, self._store, self._log, self._directory = database, store, log, directory
        self._retractions = retractions
        self._entropy, self._disk = entropy, disk
        self._lock = threading.Lock()

    def pending_operations(self) -> int:
        """Return how many operations are not in the store yet."""
        with self._database.reading() as connection:
            row = connection.one(sql.PENDING_OPERATIONS)
        return int(row[0]) if row else 0

    def oldest_unsent(self) -> int | None:
        """Return the log position of the oldest group that is in no segment yet."""
        with self._database.reading() as connection:
            row = connection.one(sql.OLDEST_UNSENT)
        return row[0] if row else None

    def push(self) -> Pushed:
        """Send all groups whose chunks are stored, in order.

        Raises StoreUnavailable, what the writer raises, DamageError (a sealed segment was damaged before it was sent).
        """
        with self._lock:
            pushed = Pushed()
            self._send_sealed(pushed)  # what an earlier push, or a crash, left unsent
            while self._retract_and_seal():
                self._send_sealed(pushed)
            return pushed

    # ---- sealing -------------------------------------------------------------------------------------------------

    def _retract_and_seal(self) -> bool:
        with self._retractions.lock:
            self._retractions.run()
            return self._seal_next()

    def _seal_next(self) -> bool:
        with self._database.reading() as connection:
            ready = self._ready(connection)
            if not ready:
                return False
            segment, packs = self._compose(connection, ready)
        name = BlobName(self._entropy.bytes(16))  # signed and bound into the envelope, so chosen first
        content = encode_segment(segment, self._log.machine, name)
        log = self._log
        blob = envelope.wrap(log.vault_keys, log.keys, log.box, Kind.SEGMENT, name, content, self._entropy)
        file = SealedFile(self._directory, name, blob, self._disk)
        label = encode_label(self._label(segment, file), log.vault_keys, name, self._entropy)
        try:
            self._record(segment, ready, packs, name, file, label)
        except TgdavError:
            # Asked of the database: a failed commit may have been written all the same.
            discard_unnamed(self._database, [file])
            raise
        return True

    def _ready(self, connection: Connection) -> list[Unsent]:
        ready: list[Unsent] = []
        size = 0
        for row in connection.all(sql.UNSENT, (GROUPS_A_SEGMENT,)):
            position, sequence, _, stamp, time, ops = row
            ready.append(Unsent(position, Group(sequence, stamp, time, decode_ops(ops)), len(ops)))
            size += len(ops)
            if size >= SEGMENT_BYTES:
                break
        wanted = set().union(*(each.chunks for each in ready))
        stored = _among(connection, sql.STORED_CHUNKS, wanted)
        lost = wanted - stored - _among(connection, sql.COMING_CHUNKS, wanted - stored)
        return choose_ready(ready, stored, lost)

    def _compose(self, connection: Connection, ready: list[Unsent]) -> tuple[Segment, list[int]]:
        log = self._log
        last = connection.one(sql.LAST_SEGMENT, (sql.incarnation_key(log.incarnation),))
        number, previous = (last[0] + 1, last[1]) if last else (1, FIRST)
        packs = connection.all(sql.NEW_PACKS)
        indexes = tuple(
            PackIndex(
                name, size, hash_, epoch, tuple(PackEntry(*row) for row in connection.all(sql.PACK_CHUNKS, (no,)))
            )
            for no, name, size, hash_, epoch in packs
        )
        groups = tuple(each.group for each in ready)
        others = connection.all(sql.OTHERS_APPLIED, (sql.incarnation_key(log.incarnation),))
        clock = (
            ClockEntry(log.machine_id, log.incarnation, _last_sequence(groups)),
            *(
                ClockEntry(MachineId(machine), sql.incarnation_of(key), last, at, hash_)
                for machine, key, last, at, hash_ in others
            ),
        )
        author = self._membership(connection)
        segment = Segment(log.machine_id, log.incarnation, number, previous, clock, indexes, groups, author)
        return segment, [row[0] for row in packs]

    def _membership(self, connection: Connection) -> Member | None:
        """Return this machine's membership, as its member operation says it."""
        log = self._log
        row = connection.one(sql.OWN_MEMBER, (log.machine_id,))
        if row is None or sql.incarnation_of(row[0]) != log.incarnation:
            return None
        keys = log.machine.signing_public, log.machine.exchange_public
        return Member(log.machine_id, log.machine_name, keys[0], log.incarnation, row[1], None, keys[1])

    def _label(self, segment: Segment, file: SealedFile) -> Label:
        return Label(
            kind=BlobKind.SEGMENT,
            namespace=self._log.namespace,
            machine=segment.machine,
            incarnation=segment.incarnation,
            number=segment.number,
            body_hash=file.hash,
            size=file.size,
        )

    def _record(
        self,
        segment: Segment,
        ready: Sequence[Unsent],
        packs: Sequence[int],
        name: BlobName,
        file: SealedFile,
        label: str,
    ) -> None:
        groups = segment.groups
        row = (
            sql.incarnation_key(segment.incarnation),
            segment.number,
            segment.machine,
            name,
            file.hash,
            file.size,
            groups[0].sequence,
            _last_sequence(groups),
            groups[-1].stamp,
            ready[-1].position,
            file.file,
            label,
            None,
        )

        def write_rows(transaction: Transaction) -> None:
            transaction.execute(sql.INSERT_SEGMENT, row)
            transaction.executemany(sql.MARK_LOG, [(segment.number, each.position) for each in ready])
            transaction.executemany(sql.MARK_PACKS, [(segment.number, no) for no in packs])
            self._retractions.sealed(ready[-1].position, set().union(*(each.chunks for each in ready)))

        self._database.writer.run(write_rows, durable=True, sync=[file])
        failpoint("pusher.sealed")

    # ---- sending -------------------------------------------------------------------------------------------------

    def _send_sealed(self, pushed: Pushed) -> None:
        with self._database.reading() as connection:
            waiting = connection.all(sql.SEALED_SEGMENTS)
        for incarnation, number, name, hash_, file, label, size in waiting:
            info = send(self._store, self._directory, file, BlobName(name), hash_, label)
            self._record_stored(incarnation, number, name, hash_, info.id, size)
            pushed.segments += 1
            pushed.bytes += size

    def resend(self, names: Sequence[str]) -> list[str]:
        """Replace segments (blob names in hex) in the store whose files are still here; return those sent.

        After a crash in between the next push sends them.
        """
        sent = []
        with self._lock:
            for name in names:
                with self._database.reading() as connection:
                    row = connection.one(sql.SEGMENT_BY_NAME, (_blob_name(name),))
                if row is None or not self._is_whole(row[4], row[3]):
                    continue
                incarnation, number, blob_name, hash_, file, label, size, old = row
                if old is not None:
                    self._forget_blob(incarnation, number, old)
                info = send(self._store, self._directory, file, BlobName(blob_name), hash_, label)
                self._record_stored(incarnation, number, blob_name, hash_, info.id, size)
                sent.append(name)
        return sent

    def resendable(self, names: Sequence[str]) -> list[str]:
        """Return those of the segments that ``resend`` would send."""
        with self._database.reading() as connection:
            rows = [(name, connection.one(sql.SEGMENT_BY_NAME, (_blob_name(name),))) for name in names]
        return [name for name, row in rows if row is not None and self._is_whole(row[4], row[3])]

    def _is_whole(self, file: str, hash_: bytes) -> bool:
        try:
            return bytes(blake3((self._directory / file).read_bytes()).digest()) == hash_
        except OSError:
            return False

    def _forget_blob(self, incarnation: bytes, number: int, blob: int) -> None:
        """Delete a damaged blob first: ``BlobStore.append`` returns an existing blob of the name instead of storing a new one."""

        def forget(transaction: Transaction) -> None:
            transaction.execute(sql.SEGMENT_LOST, (incarnation, number))
            transaction.execute(sql.BLOB_GONE, (blob,))

        self._database.writer.run(forget, durable=True)
        self._store.delete([BlobId(blob)])

    def damaged_files(self) -> list[str]:
        """Return the blob names, in hex, of unsent segments whose files are damaged."""
        with self._database.reading() as connection:
            waiting = connection.all(sql.SEALED_SEGMENTS)
        return [name.hex() for _, _, name, hash_, file, *_ in waiting if not self._is_whole(file, hash_)]

    def reseal(self, names: Sequence[str]) -> list[str]:
        """Unseal damaged segments that never reached the store, so that the next push seals their operations again.

        Return the names of those that were unsealed.
        """
        with self._lock:
            undone = self._resealable(names)
            for incarnation, number in undone.values():
                self._unseal(incarnation, number)
        return [*undone]

    def resealable(self, names: Sequence[str]) -> list[str]:
        """Return those of the segments that ``reseal`` would unseal."""
        return [*self._resealable(names)]

    def _resealable(self, names: Sequence[str]) -> dict[str, tuple[bytes, int]]:
        """Return incarnation and number of those whose operations are in the log, and that the store does not have."""
        found = {}
        for name in names:
            with self._database.reading() as connection:
                row = connection.one(sql.SEGMENT_BY_NAME, (_blob_name(name),))
                number = row[1] if row is not None and row[7] is None else 0
                logged = connection.one(sql.LOGGED_IN, (number,))
            if row is None or logged is None or not logged[0] or self._store.find(BlobName(row[2])) is not None:
                continue
            found[name] = (row[0], number)
        return found

    def _unseal(self, incarnation: bytes, number: int) -> None:
        def unseal(transaction: Transaction) -> None:
            transaction.execute(sql.DROP_SEGMENT, (incarnation, number))
            transaction.execute(sql.UNMARK_LOG, (number,))
            transaction.execute(sql.UNMARK_PACKS, (number,))

        self._database.writer.run(unseal, durable=True)

    def _record_stored(
        self, incarnation: bytes, number: int, name: bytes, hash_: bytes, blob: BlobId, size: int
    ) -> None:
        def record(transaction: Transaction) -> None:
            transaction.execute(sql.SEGMENT_STORED, (blob, incarnation, number))
            transaction.execute(sql.SET_CHAIN, (incarnation, number))
            transaction.execute(sql.INSERT_BLOB, sql.blob_row(blob, name, BlobKind.SEGMENT, size, hash_))
            transaction.execute(sql.FORGET_LOG, (number,))

        self._database.writer.run(record, durable=True)
        failpoint("pusher.stored")


def _blob_name(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _last_sequence(groups: Sequence[Group]) -> int:
    return groups[-1].sequence + len(groups[-1].ops) - 1


def _among(connection: Connection, statement: str, chunks: set[ChunkId]) -> set[ChunkId]:
    """Return those of ``chunks`` that a statement of ``rows`` finds."""
    wanted = list(chunks)
    found: set[ChunkId] = set()
    for start in range(0, len(wanted), _QUERY_IDS):
        part = wanted[start : start + _QUERY_IDS]
        sql = statement.format(",".join("?" * len(part)))
        found.update(ChunkId(row[0]) for row in connection.all(sql, part))
    return found
