"""Rebuilding a namespace's local state from the store alone: last whole checkpoint, then the segments after it.

Every segment that opens is applied, in store order, and only while its author's writer epoch is the newest. What does not
open, and every gap in a chain, is reported as damage; it never stops the rest.
"""

from collections.abc import Callable

import msgspec

from tgdav.blobs.contract import BlobStore
from tgdav.clock import Clock
from tgdav.content.adoption import record_stored_pack
from tgdav.content.types import IndexEntry
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crdt.ops import Member
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys
from tgdav.crypto.label import BlobKind
from tgdav.crypto.sealing import Kind
from tgdav.db.database import Database
from tgdav.db.writer import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, Incarnation, MachineId, NamespaceId
from tgdav.metadata.journal import LAST_POSITION, Journal
from tgdav.replication import checkpoint, envelope, rows
from tgdav.replication.fetching import fetch
from tgdav.replication.segment import FIRST, PackIndex, Segment, check_signature
from tgdav.replication.segment import decode as decode_segment
from tgdav.replication.survey import Found, Survey

Progress = Callable[[str, int, int], None]
"""Told (what, done, total)."""


class Head(msgspec.Struct):
    """How far the chain of one incarnation is applied."""

    machine: MachineId
    number: int = 0
    hash: bytes = FIRST
    sequence: int = 0
    time: int = 0


class Rebuilt(msgspec.Struct):
    """What a rebuild found. ``damage`` holds (blob name in hex, kind, reason)."""

    writer: Member | None = None
    heads: dict[Incarnation, Head] = {}
    members: dict[MachineId, Member] = {}
    damage: list[tuple[str, str, str]] = []
    last_stamp: int = 0


def find_secret(store: BlobStore, survey: Survey, vault_keys: VaultKeys, namespace: NamespaceId) -> NamespaceSecret:
    """Return the namespace's secret from the newest blob of its log that opens. Raises DamageError if none does."""
    log = survey.of(namespace, BlobKind.SEGMENT) + survey.of(namespace, BlobKind.CHECKPOINT)
    for found in sorted(log, key=lambda each: each.info.id, reverse=True):
        try:
            return envelope.secret_of(vault_keys, namespace, fetch(store, found), found.info.name)
        except (DamageError, BlobMissing):
            continue
    raise DamageError("no part of the namespace's log opens", blob=namespace.hex())


class Rebuilder:
    """One rebuild into an empty database."""

    def __init__(
        self,
        store: BlobStore,
        survey: Survey,
        vault_keys: VaultKeys,
        keys: NamespaceKeys,
        database: Database,
        clock: Clock,
        open_journal: Callable[[], Journal],
        progress: Progress,
    ) -> None:
        self._store, self._survey, self._vault_keys, self._keys = store, survey, vault_keys, keys
        self._database, self._clock, self._progress = database, clock, progress
        self._open_journal = open_journal
        self._result = Rebuilt()
        self._packs = {each.info.name: each for each in survey.of(keys.namespace, BlobKind.PACK)}

    def run(self) -> tuple[Rebuilt, Journal]:
        """Rebuild; return what was found, and the journal to go on with."""
        self._load_newest_checkpoint()
        self._journal = self._open_journal()
        segments = self._survey.of(self._keys.namespace, BlobKind.SEGMENT)
        for number, found in enumerate(segments, 1):
            self._take_segment(found)
            self._progress("segments", number, len(segments))
        self._note_blobs()
        self._database.writer.run(lambda t: t.execute("DELETE FROM log WHERE segment IS NOT NULL"))
        return self._result, self._journal

    # ---- checkpoint ----------------------------------------------------------------------------------------------

    def _load_newest_checkpoint(self) -> None:
        for parts in reversed(self._survey.checkpoints(self._keys.namespace)):
            try:
                self._load_checkpoint(parts)
            except (DamageError, BlobMissing) as error:
                self._damaged(parts[-1], "checkpoint", error)
            else:
                return

    def _load_checkpoint(self, parts: list[Found]) -> None:
        root = self._open_part(parts[-1]).root
        if root is None or [each.name for each in root.parts] != [each.info.name for each in parts[:-1]]:
            name = parts[-1].info.name.hex()
            raise DamageError(f"checkpoint part {name} does not name its parts", blob=name)
        opened = [self._open_part(found) for found in parts[:-1]]

        def work(transaction: Transaction) -> None:
            for table in checkpoint.TABLES:
                transaction.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
            for number, part in enumerate(opened, 1):
                for batch in part.batches:
                    _insert(transaction, batch)
                self._progress("checkpoint", number, len(opened))
            for key, value in root.settings.items():
                transaction.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))

        self._database.writer.run(work)
        self._read_heads()

    def _open_part(self, found: Found) -> checkpoint.Part:
        name = found.info.name
        blob = fetch(self._store, found)
        return checkpoint.decode(envelope.unwrap(self._vault_keys, self._keys, Kind.CHECKPOINT_PART, name, blob), name)

    def _read_heads(self) -> None:
        with self._database.reading() as connection:
            segments = connection.all(
                "SELECT incarnation, number, machine, hash, last, last_stamp FROM segments ORDER BY number"
            )
            machines = connection.all("SELECT machine, name, public_key, incarnation, epoch FROM machines")
        for incarnation, number, machine, hash_, last, stamp in segments:
            key = Incarnation(int.from_bytes(incarnation, "big"))
            self._result.heads[key] = Head(MachineId(machine), number, hash_, last, stamp_time_ns(stamp))
            self._result.last_stamp = max(self._result.last_stamp, stamp)
        for machine, name, public_key, incarnation, epoch in machines:
            key = Incarnation(int.from_bytes(incarnation, "big"))
            self._admit(Member(MachineId(machine), name, public_key, key, epoch, None))

    # ---- segments ------------------------------------------------------------------------------------------------

    def _take_segment(self, found: Found) -> None:
        label = found.label
        head = self._result.heads.get(label.incarnation) or Head(label.machine)
        if label.number <= head.number:
            return
        try:
            segment, hash_ = self._open_segment(found)
        except (DamageError, BlobMissing) as error:
            self._damaged(found, "segment", error)
            return
        if label.number != head.number + 1 or segment.previous != head.hash:
            self._gap(found, head)
        if self._is_valid(segment):
            self._apply(found, segment, hash_)
        self._result.heads[label.incarnation] = _head_after(head, segment, hash_)

    def _open_segment(self, found: Found) -> tuple[Segment, bytes]:
        name = found.info.name
        blob = fetch(self._store, found)
        content = envelope.unwrap(self._vault_keys, self._keys, Kind.SEGMENT, name, blob)
        segment = decode_segment(content, name)
        if (segment.machine, segment.incarnation, segment.number) != (
            found.label.machine,
            found.label.incarnation,
            found.label.number,
        ):
            raise DamageError(f"segment {name.hex()} is not what its label says", blob=name.hex())
        check_signature(content, name, self._public_key(segment, name.hex()))
        return segment, found.label.body_hash

    def _public_key(self, segment: Segment, name: str) -> bytes:
        own = [member for member in segment.members if member.machine == segment.machine]
        known = self._result.members.get(segment.machine)
        if known is not None:
            return known.public_key
        if not own:
            raise DamageError(f"segment {name} is of a machine that nobody admitted", blob=name)
        return own[0].public_key

    def _is_valid(self, segment: Segment) -> bool:
        """An older writer's segment counts only if it stands before its successor's in the store."""
        writer = self._result.writer
        if writer is None or writer.incarnation == segment.incarnation:
            return True
        return any(member.epoch > writer.epoch for member in segment.members)

    def _apply(self, found: Found, segment: Segment, hash_: bytes) -> None:
        def record(transaction: Transaction) -> None:
            for index in segment.packs:
                self._record_pack(transaction, index, segment.number)
            position = transaction.one(LAST_POSITION)
            transaction.execute(
                rows.INSERT_SEGMENT, _segment_row(found, segment, hash_, position[0] if position else 0)
            )

        self._journal.apply_groups(segment.machine, segment.incarnation, segment.groups, segment=segment.number)
        self._database.writer.run(record)
        for member in segment.members:
            self._admit(member)
        self._result.last_stamp = max([self._result.last_stamp, *(group.stamp for group in segment.groups)])

    def _record_pack(self, transaction: Transaction, index: PackIndex, segment: int) -> None:
        found = self._packs.get(index.name)
        entries = [IndexEntry(e.id, e.offset, e.stored, e.length, e.codec, e.epoch) for e in index.entries]
        record_stored_pack(
            transaction,
            name=index.name,
            epoch=index.epoch,
            size=index.size,
            digest=index.hash,
            label=found.info.label if found else "",
            blob=found.info.id if found else None,
            segment=segment,
            entries=entries,
        )
        if found is None:
            self._result.damage.append((index.name.hex(), "pack", "the store does not have it"))

    def _admit(self, member: Member) -> None:
        self._result.members[member.machine] = member
        if member.epoch and (self._result.writer is None or member.epoch > self._result.writer.epoch):
            self._result.writer = member

    # ---- reports -------------------------------------------------------------------------------------------------

    def _gap(self, found: Found, head: Head) -> None:
        label = found.label
        missing = f"{head.number + 1} to {label.number - 1}" if label.number > head.number + 1 else f"{head.number}"
        reason = f"segments {missing} of machine {label.machine.hex()} are missing or were replaced"
        self._result.damage.append((found.info.name.hex(), "segment", reason))

    def _damaged(self, found: Found, kind: str, error: Exception) -> None:
        self._result.damage.append((found.info.name.hex(), kind, str(error)))

    def _note_blobs(self) -> None:
        """Remember every blob of the namespace that the store shows, so that one that goes missing is noticed."""
        known = [
            rows.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
            for each in self._survey.found
        ]
        known += [rows.blob_row(each.id, each.name, rows.HEADER, each.size, None) for each in self._survey.headers]
        self._database.writer.run(lambda t: t.executemany(rows.INSERT_BLOB, known))


def _insert(transaction: Transaction, batch: checkpoint.Batch) -> None:
    columns = checkpoint.TABLES[batch.table][0]
    marks = ",".join("?" * len(columns.split(",")))
    transaction.executemany(f"INSERT INTO {batch.table} ({columns}) VALUES ({marks})", batch.rows)  # noqa: S608 - constants


def _head_after(head: Head, segment: Segment, hash_: bytes) -> Head:
    last = segment.groups[-1] if segment.groups else None
    sequence = last.sequence + len(last.ops) - 1 if last else head.sequence
    return Head(segment.machine, segment.number, hash_, sequence, last.time if last else head.time)


def _segment_row(found: Found, segment: Segment, hash_: bytes, position: int) -> tuple[object, ...]:
    first, last = segment.groups[0], segment.groups[-1]
    blob: BlobId = found.info.id
    return (
        rows.incarnation_key(segment.incarnation),
        segment.number,
        segment.machine,
        found.info.name,
        hash_,
        found.info.size,
        first.sequence,
        last.sequence + len(last.ops) - 1,
        last.stamp,
        position,
        None,
        found.info.label,
        blob,
    )
