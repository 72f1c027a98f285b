"""Rebuilding a namespace's local state from the store alone: last whole checkpoint, then the segments after it.

Every segment that opens is applied, in store order, and only while its author's writer epoch is the newest. What does not
open, and every gap in a chain, is reported as damage; it never stops the rest.
"""

import uuid
from collections.abc import Callable, Iterator

import msgspec

from tgdav.blobs.contract import BlobStore
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crdt.ops import Member
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys
from tgdav.crypto.label import BlobKind
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, BlobName, Incarnation, MachineId, NamespaceId
from tgdav.metadata.journal import Journal
from tgdav.replication import envelope, rows, tables
from tgdav.replication.fetching import LogReader, OpenedSegment, fetch
from tgdav.replication.loading import CheckpointLoader
from tgdav.replication.segment import FIRST, ClockEntry, Segment, check_signature
from tgdav.replication.survey import Found, Survey
from tgdav.replication.taking import take_segment

Progress = Callable[[str, int, int], None]
"""Told (what, done, total)."""


_LOST = (
    "the changes in it cannot be rebuilt; if that machine still has its state, run 'tgdav check --repair' there, then"
    " 'tgdav recover' in a fresh home"
)
_EXCHANGED = "one of the two was exchanged; put the store back as it was, then run 'tgdav recover' in a fresh home"


class Head(msgspec.Struct):
    """How far the chain of one incarnation was followed. ``time`` of its last operation in ns."""

    machine: MachineId
    number: int = 0
    hash: bytes = FIRST
    sequence: int = 0
    time: int = 0


class Damage(msgspec.Struct, frozen=True):
    """Something that is missing or does not open. ``blob``: its name in hex; of a ``gap`` the incarnation in hex, and behind a
    dash the number of the segment that should have come.
    """

    blob: str
    kind: str
    reason: str


class Rebuilt(msgspec.Struct):
    """What a rebuild found. ``writer`` is the member with the newest epoch."""

    writer: Member | None = None
    heads: dict[Incarnation, Head] = {}
    members: dict[MachineId, Member] = {}
    damage: list[Damage] = []


def find_secret(store: BlobStore, survey: Survey, vault_keys: VaultKeys, namespace: NamespaceId) -> NamespaceSecret:
    """Return the namespace's secret from the newest blob of its log that opens. Raises DamageError if none does."""
    log = survey.of(namespace, BlobKind.SEGMENT) + survey.of(namespace, BlobKind.CHECKPOINT)
    for found in sorted(log, key=lambda each: each.info.id, reverse=True):
        try:
            return envelope.secret_of(vault_keys, namespace, fetch(store, found), found.info.name)
        except (DamageError, BlobMissing):
            continue
    raise DamageError("no part of the namespace's log opens", blob=namespace.hex())


def chain_order(segments: list[Found]) -> Iterator[Found]:
    """Go through segments in store order, but each chain in the order of its numbers: one that was lost and appended
    again stands where it belongs. Pure.
    """
    by_number: dict[Incarnation, dict[int, Found]] = {}
    for found in segments:
        by_number.setdefault(found.label.incarnation, {}).setdefault(found.label.number, found)
    done: dict[Incarnation, int] = {}
    for found in segments:
        incarnation, number = found.label.incarnation, found.label.number
        chain, last = by_number[incarnation], done.get(incarnation, 0)
        yield from (chain[each] for each in sorted(chain) if last < each <= number)
        done[incarnation] = max(last, number)


class Rebuilder:
    """One rebuild into an empty database."""

    def __init__(
        self,
        store: BlobStore,
        survey: Survey,
        vault_keys: VaultKeys,
        keys: NamespaceKeys,
        database: Database,
        open_journal: Callable[[], Journal],
        progress: Progress,
    ) -> None:
        self._survey, self._keys = survey, keys
        self._database, self._progress = database, progress
        self._open_journal = open_journal
        self._reader = LogReader(store, vault_keys, keys)
        self._result = Rebuilt()
        self._signers: dict[Incarnation, bytes] = {}
        self._seen: dict[Incarnation, ClockEntry] = {}
        self._packs = {each.info.name: each for each in survey.of(keys.namespace, BlobKind.PACK)}

    def run(self) -> tuple[Rebuilt, Journal]:
        """Rebuild; return what was found, and the journal to go on with.

        Raises StoreUnavailable, LocalFailure, NoSpace.
        """
        self._load_newest_checkpoint()
        journal = self._open_journal()
        segments = list(chain_order(self._survey.of(self._keys.namespace, BlobKind.SEGMENT)))
        for number, found in enumerate(segments, 1):
            self._follow(journal, found)
            self._database.checkpoint()
            self._progress("segments", number, len(segments))
        self._find_lost_ends()
        self._find_packs()
        self._note_blobs()
        return self._result, journal

    # ---- checkpoint ----------------------------------------------------------------------------------------------

    def _load_newest_checkpoint(self) -> None:
        checkpoints = self._survey.checkpoints(self._keys.namespace)
        loader = CheckpointLoader(self._database, self._reader, checkpoints)
        for number, parts in enumerate(reversed(checkpoints), 1):
            self._progress("checkpoint", number, len(checkpoints))
            try:
                loader.load(parts)
            except (DamageError, BlobMissing) as error:
                self._damaged(parts[-1].info.name.hex(), "checkpoint", str(error))
                self._database.writer.run(tables.clear)
            else:
                self._read_heads()
                return

    def _read_heads(self) -> None:
        with self._database.reading() as connection:
            segments = connection.all(
                "SELECT incarnation, number, machine, hash, last, last_stamp FROM segments ORDER BY number"
            )
            machines = connection.all("SELECT machine, name, public_key, incarnation, epoch FROM machines")
        for key, number, machine, hash_, last, stamp in segments:
            head = Head(MachineId(machine), number, hash_, last, stamp_time_ns(stamp))
            self._result.heads[rows.incarnation_of(key)] = head
        for machine, name, public_key, key, epoch in machines:
            self._admit(Member(MachineId(machine), name, public_key, rows.incarnation_of(key), epoch, None))

    # ---- segments ------------------------------------------------------------------------------------------------

    def _follow(self, journal: Journal, found: Found) -> None:
        label = found.label
        head = self._result.heads.get(label.incarnation) or Head(label.machine)
        if label.number <= head.number:
            return
        try:
            opened = self._reader.segment(found)
            counts = self._counts(opened.segment)
            if counts:
                self._check_signature(opened, head)
        except (DamageError, BlobMissing) as error:
            self._damaged(found.info.name.hex(), "segment", str(error))
            return
        if label.number != head.number + 1 or opened.segment.previous != head.hash:
            self._gap(found, head)
        if counts:
            self._take(journal, opened)
        self._result.heads[label.incarnation] = _head_after(head, opened)

    def _counts(self, segment: Segment) -> bool:
        """An older writer's segment counts only if it stands before its successor's in the store."""
        writer = self._result.writer
        if writer is None or writer.incarnation == segment.incarnation:
            return True
        return any(member.epoch > writer.epoch for member in segment.members)

    def _check_signature(self, opened: OpenedSegment, head: Head) -> None:
        """A machine is admitted by what it signed first; where that was lost, the seal of the log must do."""
        segment, name = opened.segment, opened.found.info.name
        own = [member.public_key for member in segment.members if member.incarnation == segment.incarnation]
        key = self._signers.get(segment.incarnation) or (own[0] if own else None)
        if key is not None:
            check_signature(opened.content, name, key)
        elif segment.number == head.number + 1 and not self._result.damage:
            raise DamageError(f"segment {name.hex()} is of a machine that nobody admitted", blob=name.hex())

    def _take(self, journal: Journal, opened: OpenedSegment) -> None:
        take_segment(journal, opened, self._packs)
        for entry in opened.segment.clock:
            known = self._seen.get(entry.incarnation)
            if known is None or known.sequence < entry.sequence:
                self._seen[entry.incarnation] = entry
        for member in opened.segment.members:
            self._admit(member)

    def _admit(self, member: Member) -> None:
        self._result.members[member.machine] = member
        self._signers[member.incarnation] = member.public_key
        if member.epoch and (self._result.writer is None or member.epoch > self._result.writer.epoch):
            self._result.writer = member

    # ---- packs and blobs -----------------------------------------------------------------------------------------

    def _find_packs(self) -> None:
        """Look for every pack that the log names: where it lies now, or that it is lost."""
        with self._database.reading() as connection:
            known = connection.all(rows.STORED_PACKS)
        moved: list[tuple[BlobId | None, int, int]] = []
        for number, name, size, _, blob, damaged in known:
            found = self._packs.get(BlobName(name))
            if found is None:
                self._damaged(name.hex(), "pack", "the store does not have it")
                moved.append((None, 1, number))
            elif found.info.size != size:
                self._damaged(name.hex(), "pack", f"it has {found.info.size} bytes, not {size}")
                moved.append((found.info.id, 1, number))
            elif (blob, damaged) != (found.info.id, 0):
                moved.append((found.info.id, 0, number))
        self._database.writer.run(lambda transaction: transaction.executemany(rows.PLACE_PACK, moved))

    def _note_blobs(self) -> None:
        """Remember every blob that the store shows, so that one that goes missing is noticed, and what is missing."""
        known = [
            rows.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
            for each in self._survey.found
        ]
        known += [rows.blob_row(each.id, each.name, rows.HEADER, each.size, None) for each in self._survey.headers]

        def work(transaction: Transaction) -> None:
            transaction.executemany(rows.INSERT_BLOB, known)

        self._database.writer.run(work)

    # ---- reports -------------------------------------------------------------------------------------------------

    def _gap(self, found: Found, head: Head) -> None:
        label = found.label
        lost = range(head.number + 1, label.number)
        author = self._name_of(label.machine)
        if not lost:
            reason = (
                f"segment {label.number} of the log of {author} does not follow segment {head.number}: {_EXCHANGED}"
            )
        elif len(lost) == 1:
            reason = f"segment {lost[0]} of the log of {author} is missing: {_LOST}"
        else:
            reason = f"segments {lost[0]} to {lost[-1]} of the log of {author} are missing: {_LOST}"
        self._damaged(f"{label.incarnation:016x}-{head.number + 1}", "gap", reason)

    def _find_lost_ends(self) -> None:
        """A chain whose last segments are gone shows no gap; but who wrote after it tells how much of it there was."""
        for incarnation, entry in self._seen.items():
            head = self._result.heads.get(incarnation) or Head(entry.machine)
            if head.sequence < entry.sequence:
                self._damaged(
                    f"{incarnation:016x}",
                    "gap",
                    f"operations {head.sequence + 1} to {entry.sequence} of the log of {self._name_of(entry.machine)} are"
                    f" missing: {_LOST}",
                )

    def _name_of(self, machine: MachineId) -> str:
        """Return what its user calls a machine, and its id; where its beginning is lost, the id is all there is."""
        member = self._result.members.get(machine)
        number = uuid.UUID(bytes=machine)
        return f"machine {member.name} ({number})" if member else f"a machine whose name is lost too ({number})"

    def _damaged(self, blob: str, kind: str, reason: str) -> None:
        self._result.damage.append(Damage(blob, kind, reason))


def _head_after(head: Head, opened: OpenedSegment) -> Head:
    segment = opened.segment
    last = segment.groups[-1] if segment.groups else None
    sequence = last.sequence + len(last.ops) - 1 if last else head.sequence
    return Head(segment.machine, segment.number, opened.hash, sequence, last.time if last else head.time)
