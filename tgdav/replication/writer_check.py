"""Check the log in the store before adding to it: is this machine still the writer, and is its state the newest?

A machine that joins is the writer once its first segment is in the store. What its predecessor stored, and the joining
machine had not seen when it rebuilt its state, counts as long as the joining machine has changed nothing: a poll finds it
(``WriterStatus.missed``), it is applied, and the clock of the next segment covers it. If a part of it is missing, joining is
held up until a check has reported that.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from tgdav.blobs.interface import START, BlobInfo, BlobStore
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crdt.membership import Base, Link, Verdict
from tgdav.crdt.ops import Group, Member
from tgdav.crypto.label import BLOB_VERSION, BlobKind, decode_label
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.ids import BlobId, BlobName, Incarnation
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.replication import sql
from tgdav.replication.blob_listing import BlobListing, LabelledBlob
from tgdav.replication.import_segment import import_segment
from tgdav.replication.intake import Damage, Intake, author_name, base_of, gap_damage, record_left_out
from tgdav.replication.log_identity import PREDECESSOR, LogIdentity
from tgdav.replication.log_reader import LogReader, OpenedSegment
from tgdav.wording import machine_names

SEEN = "store.last-seen"
"""The setting with the highest blob id that a poll has judged."""
REPLACED = "writer.replaced"
"""Why another machine is the writer; set once and for all."""
RESTORED = "writer.restored"
"""Why this machine writes nothing although none replaced it: its state was restored from a backup. Removed once it resumed."""
UNSEEN = "store.opened-unseen"
"""Set while this machine may have changed something without having checked first whether its state is the newest."""
AHEAD = (
    "the store holds later changes of this very machine: its state was restored from a backup, or a copy of it runs"
    " elsewhere; it serves read-only and keeps what it has not sent; started again, tgdav applies those changes and resumes"
)
REPORTED = "store.losses-reported"
"""Losses of blobs up to this id were reported by a check; they no longer hold pushing up."""
GAPS_REPORTED = "log.gaps-reported"
"""What is missing from others' logs, as ``Damage.blob``, that the last check reported; it no longer holds joining up."""

_NEAR_IDS = 100
"""How far below ``SEEN`` a listing may begin to include the newest known blob: ids that fit into one page of history."""
_MAX_NOTICES = 1000


_KNOWN = """SELECT 1 FROM blobs WHERE name = :name UNION SELECT 1 FROM packs WHERE name = :name
 UNION SELECT 1 FROM segments WHERE name = :name"""


class Polled(msgspec.Struct, frozen=True):
    """What a poll listed. ``has_newest``: the newest blob that should be in the store was among it."""

    blobs: BlobListing
    has_newest: bool


class WriterStatus(msgspec.Struct, frozen=True):
    """What a poll of the store found.

    ``reason`` is why this machine may not write any more, or None; ``missed`` are segments of others that count and are not
    applied here yet; ``is_restored``: it may not write because its own log in the store is ahead of its state; ``held``: what
    is missing from others' logs, or does not open, and no check has reported; ``is_refilled``: what was missing when this
    machine joined is in the store, so that its state is to be rebuilt; ``polled``: what the poll listed.
    """

    reason: str | None
    missed: tuple[OpenedSegment, ...] = ()
    is_restored: bool = False
    held: tuple[Damage, ...] = ()
    is_refilled: bool = False
    polled: Polled | None = None


class _Findings(msgspec.Struct):
    reason: str | None = None
    bound: int | None = None
    """The last own operation that the successor's clock covers."""
    is_restored: bool = False
    missed: list[OpenedSegment] = []
    missing: list[Damage] = []
    unreadable: list[Damage] = []
    refilled: list[Damage] = []
    left_out: list[Link] = []
    claims: dict[Incarnation, Member] = {}


class WriterCheck:
    """Polls the store for what other machines added to the log; remembers up to which blob it has judged."""

    def __init__(self, database: Database, store: BlobStore, log: LogIdentity) -> None:
        self._database, self._store, self._log = database, store, log
        self._key = sql.incarnation_key(log.incarnation)
        self._reader = LogReader(store, log.vault_keys, log.keys)
        self._refilled: list[Damage] = []
        """What was missing when this machine joined and is in the store now; only a start can apply it."""
        self._notices: deque[LabelledBlob] = deque(maxlen=_MAX_NOTICES)

    def replaced(self) -> str | None:
        """Return why this machine is no longer the writer, as an earlier poll found."""
        with self._database.reading() as connection:
            found: str | None = settings.get(connection, REPLACED) or settings.get(connection, RESTORED)
        return found

    def has_joined(self) -> bool:
        """Whether the store knows that this machine is the writer; always true of the first one."""
        with self._database.reading() as connection:
            return settings.get(connection, PREDECESSOR) is None or self._first_stored() is not None

    def on_notice(self, blob: BlobInfo) -> bool:
        """Record a blob that another login stored; return whether it may change who the writer is. Any thread may call it."""
        label = decode_label(blob.label, self._log.vault_keys, blob.name)
        if label is None or label.incarnation == self._log.incarnation:
            return False
        if label.format_version <= BLOB_VERSION:
            self._notices.append(LabelledBlob(blob, label))
        return label.kind != BlobKind.PACK

    def poll(self, *, joining: bool = False, at_start: bool = False) -> WriterStatus:
        """List what is new in the store, and judge it. Missed segments are found again by the next poll, until applied.

        ``joining``: this machine has changed nothing since it joined, so that missed segments can be applied. ``at_start``:
        what fills a gap over which it joined can be applied too. Raises StoreUnavailable; DamageError when the newest blob
        that this machine knows is gone: the store was set back; NewerFormat when a later program wrote there.
        """
        return self._judge_polled(self._list_new(at_start=at_start), joining=joining)

    def apply_missed(self, journal: Journal, status: WriterStatus) -> WriterStatus:
        """Apply what a poll found missed, and return the status afterwards, judged from the same listing.

        Raises StoreUnavailable, LocalFailure, NoSpace.
        """
        polled = status.polled
        assert polled is not None, "missed segments come from a listing"
        packs = self._places_of_packs(status.missed, polled.blobs)
        if self._first_stored() is not None:
            self._restate_membership(journal)
        for opened in status.missed:
            import_segment(journal, opened, packs)
        blobs = self._blob_rows(polled.blobs)

        def record(transaction: Transaction) -> None:
            transaction.executemany(sql.RECORD_BLOB, blobs)
            _forget_filled_gaps(transaction)

        self._database.writer.run(record)
        return self._judge_polled(polled, joining=True)

    def missing(self, *, joining: bool) -> list[Damage]:
        """Return what is missing from others' logs in the store, or does not open, among what was not seen before.

        Raises StoreUnavailable.
        """
        found = self._judge(self._list_new().blobs, joining=joining or not self.has_joined())
        return [] if found.reason is not None else [*found.unreadable, *found.missing]

    def _judge_polled(self, polled: Polled, *, joining: bool) -> WriterStatus:
        joining = joining or not self.has_joined()
        blobs = polled.blobs
        blobs.refuse_later(self._knows)
        found = self._judge(blobs, joining=joining)
        if found.reason is None:
            # First: what a restored state knows may have been deleted on purpose since.
            if found.is_restored:
                return self._record_restored()
            if not polled.has_newest:
                self._refuse_older_store()
        self._refilled = found.refilled or self._refilled  # a later listing begins above these segments
        held = self._held(found) if found.reason is None else ()
        if blobs.last > blobs.after and not found.missed and not held:
            self._remember(blobs, found, joining=joining)
        with self._database.reading() as connection:
            is_restored = settings.get(connection, REPLACED) is None and settings.get(connection, RESTORED) is not None
        reason = found.reason or self.replaced()
        is_refilled = reason is None and bool(self._refilled)
        return WriterStatus(reason, tuple(found.missed), is_restored, held, is_refilled, polled)

    # ---- listing -------------------------------------------------------------------------------------------------

    def _list_new(self, *, at_start: bool = False) -> Polled:
        """List what was not seen before, together with the notices that came after it.

        What fills a gap has a smaller id where a shared directory is copied slowly. So everything is listed where a join
        over a gap may go on: at a start, or once a check has reported the gap.
        """
        with self._database.reading() as connection:
            seen = BlobId(settings.get(connection, SEEN, 0))
        newest = self._newest_unreported()
        gaps = self._gaps()
        everything = bool(gaps) and not self._refilled and (at_start or not self._unreported(gaps))
        start = START if everything else seen
        noticed = [self._notices.popleft() for _ in range(len(self._notices))]
        blobs, has_newest = BlobListing((), self._log.vault_keys, seen), newest is None
        for info in self._store.list(_begin(start, newest)):
            has_newest = has_newest or (info.id, info.name) == newest
            if info.id > start:
                blobs.add(info)
        # What lies between the end of the listing and a notice was not seen, so a notice does not raise ``last``.
        blobs.found += [each for each in noticed if each.info.id > blobs.last]
        return Polled(blobs, has_newest)

    def _newest_unreported(self) -> tuple[int, bytes] | None:
        """Return id and name of the newest blob that should be in the store, None if a check reported its loss."""
        with self._database.reading() as connection:
            newest = connection.one(sql.NEWEST_BLOB)
            reported = settings.get(connection, REPORTED, 0)
        return None if newest is None or newest[0] <= reported else (newest[0], newest[1])

    def _refuse_older_store(self) -> None:
        """Raise DamageError if the newest known blob is gone: appending would bury what a rolled-back store lost.

        ``check`` reports first what is missing.
        """
        newest = self._newest_unreported()
        if newest is None:
            return
        first = next(iter(self._store.list(BlobId(newest[0] - 1))), None)
        if first is None or (first.id, first.name) != newest:
            raise DamageError(
                "the store no longer has the newest blob that this machine knows: it was set back, or lost something",
                blob=newest[1].hex(),
                hint="nothing is sent until 'tgdav check' has said what is missing",
            )

    def _gaps(self) -> list[Damage]:
        """Return what was missing when this state was rebuilt, or a check found missing, until this machine has joined."""
        if self.has_joined():
            return []
        with self._database.reading() as connection:
            return [Damage(*row) for row in connection.all(sql.GAPS)]

    def _unreported(self, missing: list[Damage]) -> list[Damage]:
        with self._database.reading() as connection:
            reported = set(settings.get(connection, GAPS_REPORTED, ()))
        return [each for each in missing if each.blob not in reported]

    def _held(self, found: _Findings) -> tuple[Damage, ...]:
        """Return what is missing and no check has reported, and what no report settles."""
        missing = self._unreported([*self._gaps(), *found.missing])
        return tuple({each.blob: each for each in (*found.unreadable, *self._refilled, *missing)}.values())

    def _knows(self, name: BlobName) -> bool:
        with self._database.reading() as connection:
            return connection.one(_KNOWN, {"name": name}) is not None

    def _record_restored(self) -> WriterStatus:
        """Record the state as restored; do not advance SEEN, so that resuming lists these blobs again."""
        with self._database.reading() as connection:
            known: str | None = settings.get(connection, RESTORED)
        if known is None:
            self._database.writer.run(lambda transaction: settings.put(transaction, RESTORED, AHEAD), durable=True)
        return WriterStatus(known or AHEAD, is_restored=True)

    # ---- applying ------------------------------------------------------------------------------------------------

    def _places_of_packs(self, missed: Iterable[OpenedSegment], blobs: BlobListing) -> dict[BlobName, BlobInfo]:
        """Return where the packs are that these segments name; those that the store lost are left out."""
        packs = {each.info.name: each.info for each in blobs.of(self._log.namespace, BlobKind.PACK)}
        for name in {index.name for opened in missed for index in opened.segment.packs}:
            # The last resort: on Telegram ``find`` reads the whole history, once.
            place = packs.get(name) or self._known_place(name) or self._store.find(name)
            if place is not None:
                packs[name] = place
        return packs

    def _known_place(self, name: BlobName) -> BlobInfo | None:
        """Return a pack that an earlier listing showed. Its label was not kept; a repair makes a new one."""
        with self._database.reading() as connection:
            row = connection.one(sql.KNOWN_BLOB, (name,))
        return None if row is None else BlobInfo(BlobId(row[0]), name, row[1], "")

    def _blob_rows(self, blobs: BlobListing) -> list[tuple[Any, ...]]:
        return [
            sql.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
            for each in blobs.found
            if each.label.namespace == self._log.namespace
        ]

    def _restate_membership(self, journal: Journal) -> None:
        """State this machine's membership once more: the clock of the segment that will carry it covers what was missed."""
        log = self._log
        with self._database.reading() as connection:
            (_, epoch) = connection.one(sql.OWN_MEMBER, (log.machine_id,)) or (b"", 0)
            (stamp,) = connection.one(sql.LAST_STAMP) or (0,)
            (sequence,) = connection.one(sql.LAST_OWN, (self._key, self._key)) or (0,)
        keys = log.machine.signing_public, log.machine.exchange_public
        member = Member(log.machine_id, log.machine_name, keys[0], log.incarnation, epoch, None, keys[1])
        group = Group(sequence + 1, stamp + 1, stamp_time_ns(stamp), (member,))
        journal.apply_groups(log.machine_id, log.incarnation, [group], durable=True)

    # ---- judging -------------------------------------------------------------------------------------------------

    def _judge(self, blobs: BlobListing, *, joining: bool) -> _Findings:
        own = self._log.incarnation
        with self._database.reading() as connection:
            base = base_of(connection)
            if settings.get(connection, REPLACED) is not None:
                return _Findings()
        segments = blobs.of(self._log.namespace, BlobKind.SEGMENT)
        unknown = [found for found in segments if not self._is_known(found)]
        intake = Intake(self._reader, base)
        # ``behind``: a segment with a number that is applied already may be a second one, by a copy of its author's state.
        intake.open_all((found for found in unknown if found.label.incarnation != own), behind=True)
        result = _Findings(is_restored=any(found.label.incarnation == own for found in unknown))
        stored = self._first_stored() or _first_of(own, segments)
        if joining and stored is None:
            self._judge_joining(intake, _without(base, own), base.claims.get(own), result)
        else:
            self._judge_joined(intake, base, result)
        # The first segment of this machine is stored, but nothing was changed since: what came before it in the store counts.
        if joining and stored is not None and result.reason is None:
            late = [link for link in intake.links if intake.found(link).info.id < stored]
            self._find_missed(intake, intake.judge(_without(base, own), late), result)
            result.left_out = [link for link in result.left_out if intake.found(link).info.id > stored]
        for trouble in intake.troubles:
            # A segment that does not open may name a new writer, unless its chain had been replaced before.
            if joining or trouble.found.label.incarnation not in base.heads:
                (result.missing if joining or trouble.opens else result.unreadable).append(trouble.damage)
        return result

    def _judge_joining(self, intake: Intake, base: Base, own: Member | None, result: _Findings) -> None:
        """Judge for a machine whose membership the store does not have: a machine with its epoch in the store wins."""
        judged = intake.judge(base)
        if judged.writer is not None and own is not None and judged.writer.epoch >= own.epoch:
            self._yield_to_writer(judged, result)
        else:
            self._find_missed(intake, judged, result)
            self._find_refilled(intake, judged, result)

    def _judge_joined(self, intake: Intake, base: Base, result: _Findings) -> None:
        judged = intake.judge(base)
        result.left_out, result.claims = judged.left_out, judged.claims
        if judged.writer is not None and judged.writer.incarnation != self._log.incarnation:
            self._yield_to_writer(judged, result)

    def _yield_to_writer(self, judged: Verdict, result: _Findings) -> None:
        writer = judged.writer
        assert writer is not None, "there is a writer to yield to"
        if writer.public_key == self._log.machine.signing_public:
            result.is_restored = True
            return
        result.reason = f"machine {_called(writer, judged)} is the writer now"
        result.bound = judged.bounds.get(self._log.incarnation, 0)

    def _find_missed(self, intake: Intake, judged: Verdict, result: _Findings) -> None:
        result.missed = [intake.opened(link) for link in judged.order]
        result.missing += [gap_damage(gap, judged.claims) for gap in judged.gaps]

    def _find_refilled(self, intake: Intake, judged: Verdict, result: _Findings) -> None:
        """Find segments that come before or at a gap over which this state was rebuilt."""
        ends = {each.blob for each in self._gaps()}
        late = [link for link in intake.links if f"{link.incarnation:016x}" in ends]
        for link in (*judged.behind, *late):
            author = author_name(link.machine, judged.claims)
            reason = (
                f"segment {link.number} of the log of {author} came after this machine was joined without it:"
                " the next start applies it"
            )
            result.refilled.append(Damage(f"{link.incarnation:016x}-{link.number}", "gap", reason))

    def _is_known(self, found: LabelledBlob) -> bool:
        with self._database.reading() as connection:
            return connection.one(sql.KNOWN_SEGMENT, (found.info.name,)) is not None

    def _first_stored(self) -> int | None:
        with self._database.reading() as connection:
            row = connection.one(sql.FIRST_STORED, (self._key,))
        return row[0] if row else None

    # ---- recording ----------------------------------------------------------------------------------------------

    def _remember(self, blobs: BlobListing, found: _Findings, *, joining: bool) -> None:
        new = [sql.blob_row(each.id, each.name, sql.HEADER, each.size, None) for each in blobs.headers]
        if joining:
            # A segment that comes later may name these packs: applying it must find them without another listing.
            new += self._blob_rows(blobs)
        moved = [each for each in blobs.found if self._has_moved(each)]

        def record(transaction: Transaction) -> None:
            settings.put(transaction, SEEN, blobs.last)
            transaction.executemany(sql.RECORD_BLOB, new)
            for each in moved:
                _record_place(transaction, each)
            if found.reason is not None:
                settings.put(transaction, REPLACED, found.reason)
                # What the successor's clock does not cover does not count: it is unsent again.
                transaction.execute(sql.UNSTORE_AFTER, (self._key, found.bound))
                transaction.execute(sql.DROP_CHAIN, (self._key,))
                transaction.execute(sql.RESTORE_CHAIN, (self._key,))
            else:
                record_left_out(transaction, found.left_out, found.claims)

        self._database.writer.run(record, durable=found.reason is not None)

    def _has_moved(self, found: LabelledBlob) -> bool:
        """Whether a known blob that was lost is in the store again under a new id, with the size that its label states."""
        with self._database.reading() as connection:
            known = connection.one(sql.KNOWN_BLOB, (found.info.name,))
        if known is None or known[0] == found.info.id or found.info.size != found.label.size:
            return False
        # It moved only if its old place is empty: two equal copies are no move.
        there = next(iter(self._store.list(BlobId(known[0] - 1))), None)
        return there is None or (there.id, there.name) != (known[0], found.info.name)


def _begin(start: BlobId, newest: tuple[int, bytes] | None) -> BlobId:
    """Return where a listing begins that shows what comes after ``start``, and the newest known blob if it is near."""
    if newest is not None and 0 <= start - newest[0] < _NEAR_IDS:
        return BlobId(newest[0] - 1)
    return start


def _called(member: Member, judged: Verdict) -> str:
    """Return the name of a machine, with its short id if another one has the same name."""
    return machine_names((each.machine.hex(), each.name) for each in judged.claims.values())[member.machine.hex()]


def _first_of(incarnation: Incarnation, segments: list[LabelledBlob]) -> int | None:
    return min((found.info.id for found in segments if found.label.incarnation == incarnation), default=None)


def _without(base: Base, incarnation: Incarnation) -> Base:
    """Return a base without one incarnation."""
    heads = {key: head for key, head in base.heads.items() if key != incarnation}
    return Base(heads, {key: claim for key, claim in base.claims.items() if key != incarnation})


def _record_place(transaction: Transaction, found: LabelledBlob) -> None:
    info, label = found.info, found.label
    for statement in (sql.MOVED_SEGMENT, sql.MOVED_PART, sql.MOVED_PACK):
        transaction.execute(statement, (info.id, info.name))
    transaction.execute(sql.FORGET_PLACES, (info.name,))
    transaction.execute(sql.INSERT_BLOB, sql.blob_row(info.id, info.name, label.kind, label.size, label.body_hash))


def _forget_filled_gaps(transaction: Transaction) -> None:
    """Remove gaps that a check reported and that were filled before what follows them was applied."""
    for gap, _, _ in transaction.all(sql.GAPS):
        incarnation, _, number = gap.partition("-")
        if number.isdigit() and transaction.one(sql.SEGMENT_AT, (bytes.fromhex(incarnation), int(number))) is not None:
            transaction.execute(sql.FORGET_GAP, (gap,))
