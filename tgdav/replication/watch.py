"""Looking at the log in the store before adding to it: is this machine still the writer, and is its state the newest?

Who joins is the writer once its first segment is in the store. What its predecessor stored, and the joining machine did not
see yet when it rebuilt its state, still counts as long as the joining machine has changed nothing: a look finds it
(``Verdict.late``), it is taken in, and the clock of the next segment covers it. Where a part of it is missing, joining is
held up until a check has reported that.
"""

import msgspec

from tgdav.blobs.interface import START, BlobStore
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crdt.membership import Base, Link
from tgdav.crdt.membership import Verdict as Judged
from tgdav.crdt.ops import Group, Member
from tgdav.crypto.label import BlobKind
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.ids import BlobId, BlobName, Incarnation
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.replication import rows
from tgdav.replication.fetching import LogReader, OpenedSegment
from tgdav.replication.identity import LogIdentity
from tgdav.replication.intake import Damage, Intake, author_name, base_of, gap_damage, note_left_out
from tgdav.replication.survey import Found, Survey
from tgdav.replication.taking import take_segment
from tgdav.wording import machine_names

SEEN = "store.last-seen"
REPLACED = "writer.replaced"
RESTORED = "writer.restored"
"""Why this machine writes nothing although nobody replaced it: its state was restored from a backup. Until it has gone on."""
PREDECESSOR = "writer.predecessor"
"""The incarnation that this machine replaced as the writer, 8 bytes; absent for the first writer."""
UNSEEN = "store.opened-unseen"
"""Set while this machine may have changed something without having looked first whether its state is the newest."""
AHEAD = (
    "the store holds later changes of this very machine: its state was restored from a backup, or a copy of it runs"
    " elsewhere; it serves read-only and keeps what it has not sent; started again, tgdav takes in those changes and goes on"
)
REPORTED = "store.losses-reported"
"""Losses of blobs up to this id were reported by a check; they no longer hold pushing up."""
GAPS_REPORTED = "log.gaps-reported"
"""What is missing from others' logs, as ``Damage.blob``, that the last check reported; it no longer holds joining up."""


_KNOWN = """SELECT 1 FROM blobs WHERE name = :name UNION SELECT 1 FROM packs WHERE name = :name
 UNION SELECT 1 FROM segments WHERE name = :name"""


class Verdict(msgspec.Struct, frozen=True):
    """What a look at the store said.

    ``reason`` is why this machine may not write any more, or None; ``late`` are segments of others that count and are not
    applied here yet; ``is_restored``: it may not since its own log in the store is ahead of what it knows; ``held``: what is
    missing from others' logs, or does not open, and no check has reported; ``is_refilled``: what was missing when this
    machine was joined is in the store, so that its state is to be rebuilt.
    """

    reason: str | None
    late: tuple[OpenedSegment, ...] = ()
    is_restored: bool = False
    held: tuple[Damage, ...] = ()
    is_refilled: bool = False


class _Findings(msgspec.Struct):
    reason: str | None = None
    bound: int | None = None
    """The last own operation that the successor's clock covers."""
    is_restored: bool = False
    late: list[OpenedSegment] = []
    missing: list[Damage] = []
    unreadable: list[Damage] = []
    refilled: list[Damage] = []
    left_out: list[Link] = []
    claims: dict[Incarnation, Member] = {}


class LogWatch:
    """Remembers how far the listing of the store was seen."""

    def __init__(self, database: Database, store: BlobStore, log: LogIdentity) -> None:
        self._database, self._store, self._log = database, store, log
        self._key = rows.incarnation_key(log.incarnation)
        self._reader = LogReader(store, log.vault_keys, log.keys)
        self._refilled: list[Damage] = []
        """What was missing when this machine was joined and is there; only a start can take it in."""

    def replaced(self) -> str | None:
        """Return why this machine is no longer the writer, as an earlier look found it."""
        with self._database.reading() as connection:
            found: str | None = settings.get(connection, REPLACED) or settings.get(connection, RESTORED)
        return found

    def has_joined(self) -> bool:
        """Whether the store knows that this machine is the writer; always true of the first one."""
        with self._database.reading() as connection:
            return settings.get(connection, PREDECESSOR) is None or self._first_stored() is not None

    def look(self, *, joining: bool = False, at_start: bool = False) -> Verdict:
        """List what is new in the store, and judge it. What is late is found again by the next look, until it is applied.

        ``joining``: this machine has changed nothing since it joined, so that what is late can be taken in. ``at_start``:
        what fills a gap over which it joined can be taken in too. Raises StoreUnavailable; DamageError when the newest blob
        that this machine knows is gone: the store was set back; NewerFormat when a later program wrote there.
        """
        joining = joining or not self.has_joined()
        survey, after = self._new(at_start=at_start)
        survey.refuse_later(self._knows)
        found = self._judge(survey, joining=joining)
        if found.reason is None:
            self._refuse_older_store()
            if found.is_restored:
                return self._was_restored()
        self._refilled = found.refilled or self._refilled
        held = self._held(found) if found.reason is None else ()
        if survey.last > after and not found.late and not held:
            self._remember(survey, found)
        with self._database.reading() as connection:
            is_restored = settings.get(connection, REPLACED) is None and settings.get(connection, RESTORED) is not None
        reason = found.reason or self.replaced()
        return Verdict(reason, tuple(found.late), is_restored, held, reason is None and bool(self._refilled))

    def missing(self, *, joining: bool) -> list[Damage]:
        """Return what is missing from others' logs in the store, or does not open, among what was not seen before.

        Raises StoreUnavailable.
        """
        found = self._judge(self._new()[0], joining=joining or not self.has_joined())
        return [] if found.reason is not None else [*found.unreadable, *found.missing]

    def _new(self, *, at_start: bool = False) -> tuple[Survey, BlobId]:
        """List what was not seen before; return it, and the last id seen before.

        What fills a gap has a smaller id where a shared folder is copied slowly. So all is listed where a join over a gap
        may go on: by a start, or since a check has reported the gap.
        """
        with self._database.reading() as connection:
            seen = BlobId(settings.get(connection, SEEN, 0))
        gaps = self._gaps()
        everything = bool(gaps) and not self._refilled and (at_start or not self._unreported(gaps))
        return Survey(self._store.list(START if everything else seen), self._log.vault_keys, seen), seen

    def _gaps(self) -> list[Damage]:
        """Return what was missing when this state was rebuilt, or a check found missing, until this machine has joined."""
        if self.has_joined():
            return []
        with self._database.reading() as connection:
            return [Damage(*row) for row in connection.all(rows.GAPS)]

    def _unreported(self, missing: list[Damage]) -> list[Damage]:
        with self._database.reading() as connection:
            reported = set(settings.get(connection, GAPS_REPORTED, ()))
        return [each for each in missing if each.blob not in reported]

    def _held(self, found: _Findings) -> tuple[Damage, ...]:
        """Return what no check has reported of what is missing, and what no report settles."""
        missing = self._unreported([*self._gaps(), *found.missing])
        return tuple({each.blob: each for each in (*found.unreadable, *self._refilled, *missing)}.values())

    def _knows(self, name: BlobName) -> bool:
        with self._database.reading() as connection:
            return connection.one(_KNOWN, {"name": name}) is not None

    def _was_restored(self) -> Verdict:
        """Note it; what was seen is to be seen again by whoever goes on from there."""
        with self._database.reading() as connection:
            known: str | None = settings.get(connection, RESTORED)
        if known is None:
            self._database.writer.run(lambda transaction: settings.put(transaction, RESTORED, AHEAD), durable=True)
        return Verdict(known or AHEAD, is_restored=True)

    def take_late(self, journal: Journal, verdict: Verdict) -> None:
        """Apply what is late. Raises StoreUnavailable, LocalFailure, NoSpace."""
        survey = Survey(self._store.list(), self._log.vault_keys)
        packs = {each.info.name: each for each in survey.of(self._log.namespace, BlobKind.PACK)}
        if self._first_stored() is not None:
            self._state_again(journal)
        for opened in verdict.late:
            take_segment(journal, opened, packs)
        blobs = [each for each in survey.found if each.label.namespace == self._log.namespace]
        noted = [
            rows.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
            for each in blobs
        ]

        def work(transaction: Transaction) -> None:
            transaction.executemany(rows.NOTE_BLOB, noted)
            _forget_filled_gaps(transaction)

        self._database.writer.run(work)

    def _state_again(self, journal: Journal) -> None:
        """State this machine's membership once more: the clock of the segment that will carry it covers what is late."""
        log = self._log
        with self._database.reading() as connection:
            (_, epoch) = connection.one(rows.OWN_MEMBER, (log.machine_id,)) or (b"", 0)
            (stamp,) = connection.one(rows.LAST_STAMP) or (0,)
            (sequence,) = connection.one(rows.LAST_OWN, (self._key, self._key)) or (0,)
        keys = log.machine.signing_public, log.machine.exchange_public
        member = Member(log.machine_id, log.machine_name, keys[0], log.incarnation, epoch, None, keys[1])
        group = Group(sequence + 1, stamp + 1, stamp_time_ns(stamp), (member,))
        journal.apply_groups(log.machine_id, log.incarnation, [group], durable=True)

    def _refuse_older_store(self) -> None:
        """Adding to a store that was set back would bury what it lost; a check says what that is first."""
        with self._database.reading() as connection:
            newest = connection.one(rows.NEWEST_BLOB)
            reported = settings.get(connection, REPORTED, 0)
        if newest is None or newest[0] <= reported:
            return
        first = next(iter(self._store.list(BlobId(newest[0] - 1))), None)
        if first is None or (first.id, first.name) != newest:
            raise DamageError(
                "the store no longer has the newest blob that this machine knows: it was set back, or lost something",
                blob=newest[1].hex(),
                hint="nothing is sent until 'tgdav check' has said what is missing",
            )

    # ---- judging -------------------------------------------------------------------------------------------------

    def _judge(self, survey: Survey, *, joining: bool) -> _Findings:
        own = self._log.incarnation
        with self._database.reading() as connection:
            base = base_of(connection)
            if settings.get(connection, REPLACED) is not None:
                return _Findings()
        segments = survey.of(self._log.namespace, BlobKind.SEGMENT)
        unknown = [found for found in segments if not self._is_known(found)]
        intake = Intake(self._reader, base)
        intake.take((found for found in unknown if found.label.incarnation != own), behind=True)
        result = _Findings(is_restored=any(found.label.incarnation == own for found in unknown))
        stored = self._first_stored() or _first_of(own, segments)
        if joining and stored is None:
            self._judge_joining(intake, _without(base, own), base.claims.get(own), result)
        else:
            self._judge_joined(intake, base, result)
        if joining and stored is not None and result.reason is None:
            late = [link for link in intake.links if intake.found(link).info.id < stored]
            self._find_late(intake, intake.judge(_without(base, own), late), result)
            result.left_out = [link for link in result.left_out if intake.found(link).info.id > stored]
        for trouble in intake.troubles:
            # One that does not open may say who the writer is; not so of a chain that was replaced before.
            if joining or trouble.found.label.incarnation not in base.heads:
                (result.missing if joining or trouble.opens else result.unreadable).append(trouble.damage)
        return result

    def _judge_joining(self, intake: Intake, base: Base, own: Member | None, result: _Findings) -> None:
        """The store does not know of this machine's membership: whoever has this epoch there already is before it."""
        judged = intake.judge(base)
        if judged.writer is not None and own is not None and judged.writer.epoch >= own.epoch:
            self._give_way(judged, result)
        else:
            self._find_late(intake, judged, result)
            self._find_refilled(intake, judged, result)

    def _judge_joined(self, intake: Intake, base: Base, result: _Findings) -> None:
        judged = intake.judge(base)
        result.left_out, result.claims = judged.left_out, judged.claims
        if judged.writer is not None and judged.writer.incarnation != self._log.incarnation:
            self._give_way(judged, result)

    def _give_way(self, judged: Judged, result: _Findings) -> None:
        writer = judged.writer
        assert writer is not None, "there is somebody to give way to"
        if writer.public_key == self._log.machine.signing_public:
            result.is_restored = True
            return
        result.reason = f"machine {_called(writer, judged)} is the writer now"
        result.bound = judged.bounds.get(self._log.incarnation, 0)

    def _find_late(self, intake: Intake, judged: Judged, result: _Findings) -> None:
        result.late = [intake.opened(link) for link in judged.order]
        result.missing += [gap_damage(gap, judged.claims) for gap in judged.gaps]

    def _find_refilled(self, intake: Intake, judged: Judged, result: _Findings) -> None:
        """Find what belongs before, or at, a place where this state was rebuilt over a gap."""
        ends = {each.blob for each in self._gaps()}
        late = [link for link in intake.links if f"{link.incarnation:016x}" in ends]
        for link in (*judged.behind, *late):
            author = author_name(link.machine, judged.claims)
            reason = (
                f"segment {link.number} of the log of {author} came after this machine was joined without it:"
                " the next start takes it in"
            )
            result.refilled.append(Damage(f"{link.incarnation:016x}-{link.number}", "gap", reason))

    def _is_known(self, found: Found) -> bool:
        with self._database.reading() as connection:
            return connection.one(rows.KNOWN_SEGMENT, (found.info.name,)) is not None

    def _first_stored(self) -> int | None:
        with self._database.reading() as connection:
            row = connection.one(rows.FIRST_STORED, (self._key,))
        return row[0] if row else None

    # ---- remembering ---------------------------------------------------------------------------------------------

    def _remember(self, survey: Survey, found: _Findings) -> None:
        headers = [rows.blob_row(each.id, each.name, rows.HEADER, each.size, None) for each in survey.headers]
        moved = [each for each in survey.found if self._has_moved(each)]

        def work(transaction: Transaction) -> None:
            settings.put(transaction, SEEN, survey.last)
            transaction.executemany(rows.NOTE_BLOB, headers)
            for each in moved:
                _note_place(transaction, each)
            if found.reason is not None:
                settings.put(transaction, REPLACED, found.reason)
                # What the successor's clock does not cover counts for nobody: it is unsent work again.
                transaction.execute(rows.UNSTORE_AFTER, (self._key, found.bound))
            else:
                note_left_out(transaction, found.left_out, found.claims)

        self._database.writer.run(work, durable=found.reason is not None)

    def _has_moved(self, found: Found) -> bool:
        """Whether a known blob that was lost is there again, whole by its label, in a new place."""
        with self._database.reading() as connection:
            known = connection.one(rows.KNOWN_BLOB, (found.info.name,))
        if known is None or known[0] == found.info.id or found.info.size != found.label.size:
            return False
        there = next(iter(self._store.list(BlobId(known[0] - 1))), None)
        return there is None or (there.id, there.name) != (known[0], found.info.name)


def _called(member: Member, judged: Judged) -> str:
    """Return what to call a machine, which may have the name of one that is known."""
    return machine_names((each.machine.hex(), each.name) for each in judged.claims.values())[member.machine.hex()]


def _first_of(incarnation: Incarnation, segments: list[Found]) -> int | None:
    return min((found.info.id for found in segments if found.label.incarnation == incarnation), default=None)


def _without(base: Base, incarnation: Incarnation) -> Base:
    """Return a base as it was before one incarnation joined."""
    heads = {key: head for key, head in base.heads.items() if key != incarnation}
    return Base(heads, {key: claim for key, claim in base.claims.items() if key != incarnation})


def _note_place(transaction: Transaction, found: Found) -> None:
    info, label = found.info, found.label
    for statement in (rows.MOVED_SEGMENT, rows.MOVED_PART, rows.MOVED_PACK):
        transaction.execute(statement, (info.id, info.name))
    transaction.execute(rows.FORGET_PLACES, (info.name,))
    transaction.execute(rows.INSERT_BLOB, rows.blob_row(info.id, info.name, label.kind, label.size, label.body_hash))


def _forget_filled_gaps(transaction: Transaction) -> None:
    """What a check reported as missing, and came before what follows it was applied, is not missing."""
    for gap, _, _ in transaction.all(rows.GAPS):
        incarnation, _, number = gap.partition("-")
        if number.isdigit() and transaction.one(rows.SEGMENT_AT, (bytes.fromhex(incarnation), int(number))) is not None:
            transaction.execute(rows.FORGET_GAP, (gap,))
