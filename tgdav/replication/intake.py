"""The only entrance for segments of other chains: joining, recovering, resuming and polling open and judge them here.

A segment is opened, checked against its label, and must be signed by the machine that its chain's membership names.
``tgdav.crdt.membership`` then decides what counts, from signed content alone.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crdt.membership import Base, Gap, Head, Link, Verdict, judge
from tgdav.crdt.ops import Member
from tgdav.db.connection import Connection
from tgdav.db.transaction import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import Incarnation, MachineId
from tgdav.metadata import settings
from tgdav.replication import sql
from tgdav.replication.blob_listing import LabelledBlob
from tgdav.replication.format.segment import check_signature
from tgdav.replication.log_reader import LogReader, OpenedSegment

LEFT_OUT = "log.left-out"
"""The setting with segments of replaced machines that do not count: {incarnation: (member, {number: (changes, time)})}."""
_KEPT_BYTES = 32 * 1024 * 1024
"""Bytes of opened segments that are kept between judging and applying; what is beyond is read again."""
_LOST = (
    "the changes in it cannot be rebuilt; if that machine still has its state, run 'tgdav check --repair' there, then"
    " 'tgdav recover' in a fresh home"
)
_EXCHANGED = "one of the two was exchanged; put the store back as it was, then run 'tgdav recover' in a fresh home"


class Damage(msgspec.Struct, frozen=True):
    """A blob that is missing or does not open. ``blob`` is its name in hex, or the ``Gap.id`` if ``kind`` is ``gap``."""

    blob: str
    kind: str
    reason: str


class Trouble(msgspec.Struct, frozen=True):
    """A segment that does not open, or (``opens``) one that no known machine signed."""

    found: LabelledBlob
    reason: str
    opens: bool = True

    @property
    def damage(self) -> Damage:
        """The same as damage."""
        return Damage(self.found.info.name.hex(), "segment", self.reason)


class LeftOut(msgspec.Struct, frozen=True):
    """What a replaced machine wrote and does not count. ``changes``: operations; ``last``: time of the last one in ns."""

    machine: MachineId
    name: str
    changes: int
    last: int


def base_of(connection: Connection) -> Base:
    """Return how far each chain is applied in this state, and the memberships that it knows."""
    heads = {
        sql.incarnation_of(key): Head(MachineId(machine), number, hash_, last, stamp_time_ns(stamp))
        for key, number, machine, hash_, last, stamp in connection.all(sql.HEADS)
    }
    known = [
        Member(MachineId(machine), name, public_key, sql.incarnation_of(key), epoch, None)
        for machine, name, public_key, key, epoch in connection.all(sql.MEMBERS)
    ]
    known += [member for member, _ in _left_out_of(connection).values()]
    return Base(heads, {member.incarnation: member for member in known})


class Intake:
    """Opens segments. Those with a valid signature become ``links``, the others ``troubles``."""

    def __init__(self, reader: LogReader, base: Base) -> None:
        self._reader, self.base = reader, base
        self._claims = dict(base.claims)
        self._found: dict[bytes, LabelledBlob] = {}
        self._kept: dict[bytes, OpenedSegment] = {}
        self._kept_bytes = 0
        self.links: list[Link] = []
        self.troubles: list[Trouble] = []

    def open_all(
        self, segments: Iterable[LabelledBlob], progress: Callable[[int], None] | None = None, *, behind: bool = False
    ) -> None:
        """Open segments; without ``behind`` only those with higher numbers than the base has applied of their chain.

        Of the others one is read only for a membership that no other segment states. Raises StoreUnavailable.
        """
        done = 0
        for chain in _chains(segments):
            head = self.base.heads.get(chain[0].label.incarnation)
            number = head.number if head and not behind else 0
            keyless = []
            for found in [each for each in chain if each.label.number > number]:
                opened = self._open(found)
                if opened is not None and not self._accept(opened):
                    keyless.append(opened)
                done += 1
                if progress is not None:
                    progress(done)
            if keyless:
                self._find_membership([each for each in chain if each.label.number <= number])
            self._accept_or_refuse(keyless)

    def judge(self, base: Base | None = None, links: Sequence[Link] | None = None) -> Verdict:
        """Return what counts of all links, or of ``links``, judged from ``base`` or from the one that this intake began with."""
        base = base or self.base
        learned = {key: claim for key, claim in self._claims.items() if key not in self.base.claims}
        return judge(self.links if links is None else links, Base(base.heads, {**base.claims, **learned}))

    def opened(self, link: Link) -> OpenedSegment:
        """Return the segment of a link. Raises DamageError, BlobMissing, StoreUnavailable."""
        kept = self._kept.get(link.hash)
        return kept if kept is not None else self._reader.segment(self._found[link.hash])

    def found(self, link: Link) -> LabelledBlob:
        """Return the blob of a link's segment."""
        return self._found[link.hash]

    def _open(self, found: LabelledBlob) -> OpenedSegment | None:
        try:
            return self._reader.segment(found)
        except (DamageError, BlobMissing) as error:
            self.troubles.append(Trouble(found, str(error), opens=False))
            return None

    def _accept(self, opened: OpenedSegment) -> bool:
        """Accept or refuse a segment; return False if its author's key is not known yet."""
        segment = opened.segment
        claim = self._claims.get(segment.incarnation) or segment.membership
        if claim is None:
            return False
        try:
            if (claim.machine, claim.incarnation) != (segment.machine, segment.incarnation):
                raise DamageError(f"segment {opened.name} is not by the machine that it names", blob=opened.name)
            check_signature(opened.content, opened.found.info.name, claim.public_key)
        except DamageError as error:
            self.troubles.append(Trouble(opened.found, str(error)))
            return True
        self._claims[segment.incarnation] = claim
        self._keep(opened)
        return True

    def _keep(self, opened: OpenedSegment) -> None:
        link = opened.segment.link(opened.hash)
        self.links.append(link)
        self._found[link.hash] = opened.found
        if self._kept_bytes + len(opened.content) <= _KEPT_BYTES:
            self._kept_bytes += len(opened.content)
            self._kept[link.hash] = opened

    def _find_membership(self, earlier: Sequence[LabelledBlob]) -> None:
        """Read a chain's membership from its segments that are applied already."""
        for found in earlier:
            try:
                opened = self._reader.segment(found)
                claim = opened.segment.membership
                if claim is not None and claim.machine == opened.segment.machine:
                    check_signature(opened.content, found.info.name, claim.public_key)
                    self._claims.setdefault(claim.incarnation, claim)
                    return
            except (DamageError, BlobMissing):
                continue

    def _accept_or_refuse(self, keyless: Sequence[OpenedSegment]) -> None:
        for opened in keyless:
            if not self._accept(opened):
                reason = f"segment {opened.name} was written by an unknown machine"
                self.troubles.append(Trouble(opened.found, reason))


def _chains(segments: Iterable[LabelledBlob]) -> list[list[LabelledBlob]]:
    """Return the segments of each incarnation by their numbers. Pure."""
    chains: dict[Incarnation, list[LabelledBlob]] = {}
    for found in segments:
        chains.setdefault(found.label.incarnation, []).append(found)
    return [sorted(chain, key=lambda each: (each.label.number, each.label.body_hash)) for chain in chains.values()]


# ---- what is missing -----------------------------------------------------------------------------------------------


def gap_damage(gap: Gap, claims: Mapping[Incarnation, Member]) -> Damage:
    """Return a gap as damage: the reason names the log and the remedy."""
    author = author_name(gap.machine, claims)
    if gap.operations is not None:
        first, last = gap.operations
        reason = f"operations {first} to {last} of the log of {author} are missing: {_LOST}"
    elif gap.last < gap.first:
        reason = f"segment {gap.first} of the log of {author} does not follow segment {gap.first - 1}: {_EXCHANGED}"
    elif gap.first == gap.last:
        reason = f"segment {gap.first} of the log of {author} is missing: {_LOST}"
    else:
        reason = f"segments {gap.first} to {gap.last} of the log of {author} are missing: {_LOST}"
    return Damage(gap.id, "gap", reason)


def holes(connection: Connection) -> list[Gap]:
    """Return the segments that are missing in the applied chains before the last applied segment of each.

    Those at the beginning of a chain that are trimmed are not missing.
    """
    found, before = [], (b"", 0)
    for key, number, machine, trimmed in connection.all(sql.APPLIED):
        expected = before[1] + 1 if key == before[0] else trimmed + 1
        if number > expected:
            found.append(Gap(MachineId(machine), sql.incarnation_of(key), expected, number - 1))
        before = (key, number)
    return found


def author_name(machine: MachineId, claims: Mapping[Incarnation, Member]) -> str:
    """Return a machine's name and id for a sentence; only the id if its membership is lost."""
    number = uuid.UUID(bytes=machine)
    names = [claim.name for claim in claims.values() if claim.machine == machine]
    return f"machine {names[-1]} ({number})" if names else f"a machine whose name is lost too ({number})"


# ---- what does not count -------------------------------------------------------------------------------------------


def record_left_out(transaction: Transaction, links: Sequence[Link], claims: Mapping[Incarnation, Member]) -> None:
    """Record segments that do not count, for reports."""
    if not links:
        return
    recorded = _left_out_of(transaction)
    for link in links:
        _, numbers = recorded.setdefault(link.incarnation, (claims[link.incarnation], {}))
        numbers[link.number] = (link.changes, link.time)
    settings.put(
        transaction,
        LEFT_OUT,
        {key: (msgspec.msgpack.encode(member), numbers) for key, (member, numbers) in recorded.items()},
    )


def left_out(connection: Connection) -> list[LeftOut]:
    """Return what replaced machines wrote and does not count, one item for each chain."""
    found = []
    for member, numbers in _left_out_of(connection).values():
        changes = sum(each[0] for each in numbers.values())
        if changes:
            last = max(time for count, time in numbers.values() if count)
            found.append(LeftOut(member.machine, member.name, changes, last))
    return found


_member = msgspec.msgpack.Decoder(Member)


def _left_out_of(connection: Connection) -> dict[Incarnation, tuple[Member, dict[int, tuple[int, int]]]]:
    kept: dict[Incarnation, Any] = settings.get(connection, LEFT_OUT, {})
    return {key: (_member.decode(member), dict(numbers)) for key, (member, numbers) in kept.items()}
