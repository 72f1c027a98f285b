"""Looking at the log in the store before adding to it: is this machine still the writer, and is its state the newest?

Who joins is the writer from where its first segment stands in the store. What its predecessor stored before that, and
the joining machine did not see yet when it rebuilt its state, still counts: a look finds it (``Verdict.late``), and until
it is taken in and the first segment is stored, the joining machine changes nothing.
"""

from collections.abc import Iterator

import msgspec

from tgdav.blobs.contract import BlobStore
from tgdav.crdt.ops import Member
from tgdav.crypto.label import BlobKind
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, BlobName
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.replication import rows
from tgdav.replication.fetching import LogReader, OpenedSegment
from tgdav.replication.identity import LogIdentity
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


_KNOWN = """SELECT 1 FROM blobs WHERE name = :name UNION SELECT 1 FROM packs WHERE name = :name
 UNION SELECT 1 FROM segments WHERE name = :name"""


class Verdict(msgspec.Struct, frozen=True):
    """What a look at the store said.

    ``reason`` is why this machine may not write any more, or None; ``late`` are segments of the predecessor that count
    and are not applied here yet; ``is_restored``: it may not since its own log in the store is ahead of what it knows.
    """

    reason: str | None
    late: tuple[OpenedSegment, ...] = ()
    is_restored: bool = False


class _Findings(msgspec.Struct):
    reason: str | None = None
    successor: BlobId | None = None
    is_restored: bool = False
    late: list[OpenedSegment] = []


class LogWatch:
    """Remembers how far the listing of the store was seen."""

    def __init__(self, database: Database, store: BlobStore, log: LogIdentity) -> None:
        self._database, self._store, self._log = database, store, log
        self._key = rows.incarnation_key(log.incarnation)
        self._reader = LogReader(store, log.vault_keys, log.keys)

    def replaced(self) -> str | None:
        """Return why this machine is no longer the writer, as an earlier look found it."""
        with self._database.reading() as connection:
            found: str | None = settings.get(connection, REPLACED) or settings.get(connection, RESTORED)
        return found

    def has_joined(self) -> bool:
        """Whether the store knows that this machine is the writer; always true of the first one."""
        with self._database.reading() as connection:
            return settings.get(connection, PREDECESSOR) is None or self._first_stored() is not None

    def look(self) -> Verdict:
        """List what is new in the store, and judge it. What is late is found again by the next look, until it is applied.

        Raises StoreUnavailable; DamageError when another machine's segment does not open, or when the newest blob that
        this machine knows is gone: the store was set back; NewerFormat when a later program wrote there.
        """
        with self._database.reading() as connection:
            after = BlobId(settings.get(connection, SEEN, 0))
        survey = Survey(self._store.list(after), self._log.vault_keys, after)
        survey.refuse_later(self._knows)
        found = self._judge(survey)
        if found.reason is None:
            self._refuse_older_store()
            if found.is_restored:
                return self._was_restored()
        if survey.last > after and not found.late:
            self._remember(survey, found)
        with self._database.reading() as connection:
            is_restored = settings.get(connection, REPLACED) is None and settings.get(connection, RESTORED) is not None
        return Verdict(found.reason or self.replaced(), tuple(found.late), is_restored)

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
        for opened in verdict.late:
            take_segment(journal, opened, packs)
        blobs = [each for each in survey.found if each.label.namespace == self._log.namespace]
        noted = [
            rows.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
            for each in blobs
        ]
        self._database.writer.run(lambda transaction: transaction.executemany(rows.NOTE_BLOB, noted))

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

    def _judge(self, survey: Survey) -> _Findings:
        with self._database.reading() as connection:
            newest = connection.one(rows.NEWEST_EPOCH)
            predecessor: bytes | None = settings.get(connection, PREDECESSOR)
        epoch = int(newest[0]) if newest else 0
        joined = self._first_stored()
        result = _Findings()
        for found in survey.of(self._log.namespace, BlobKind.SEGMENT):
            if self._is_known(found):
                continue
            if found.label.incarnation == self._log.incarnation:
                result.is_restored = True
                continue
            is_before = joined is None or found.info.id < joined
            opened = self._open(found, is_before=is_before)
            if opened is None:
                continue
            for member in _successors(opened, epoch, is_before=is_before):
                epoch = member.epoch
                if member.public_key == self._log.machine.signing_public:
                    result.is_restored = True
                    continue
                result.successor = found.info.id
                result.reason = f"machine {self._called(member)} is the writer now"
            if is_before and result.successor is None and rows.incarnation_key(found.label.incarnation) == predecessor:
                result.late.append(opened)
        return result

    def _called(self, member: Member) -> str:
        """Return what to call a machine, which may have the name of one that is known."""
        with self._database.reading() as connection:
            known = connection.all("SELECT machine, name FROM machines")
        pairs = [(machine.hex(), name) for machine, name in known]
        return machine_names([*pairs, (member.machine.hex(), member.name)])[member.machine.hex()]

    def _open(self, found: Found, *, is_before: bool) -> OpenedSegment | None:
        """Open another machine's segment; None for a damaged one that cannot matter: of a machine replaced before."""
        try:
            return self._reader.segment(found)
        except (DamageError, BlobMissing):
            key = rows.incarnation_key(found.label.incarnation)
            with self._database.reading() as connection:
                was_replaced = connection.one(rows.KNOWN_INCARNATION, (key,)) is not None
            if was_replaced and not is_before:
                return None
            raise

    def _is_known(self, found: Found) -> bool:
        with self._database.reading() as connection:
            return connection.one(rows.KNOWN_SEGMENT, (found.info.name,)) is not None

    def _first_stored(self) -> int | None:
        with self._database.reading() as connection:
            row = connection.one(rows.FIRST_STORED, (self._key,))
        return row[0] if row else None

    def _remember(self, survey: Survey, found: _Findings) -> None:
        headers = [rows.blob_row(each.id, each.name, rows.HEADER, each.size, None) for each in survey.headers]

        def work(transaction: Transaction) -> None:
            settings.put(transaction, SEEN, survey.last)
            transaction.executemany(rows.NOTE_BLOB, headers)
            if found.reason is not None:
                settings.put(transaction, REPLACED, found.reason)
            if found.successor is not None:
                # What came after the successor counts for nobody: it is unsent work again.
                transaction.execute(rows.UNSTORE_AFTER, (self._key, found.successor))

        self._database.writer.run(work, durable=found.reason is not None)


def _successors(opened: OpenedSegment, epoch: int, *, is_before: bool) -> Iterator[Member]:
    """Go through the members that are writers after ``epoch``, or in it where they stand before this machine."""
    segment = opened.segment
    for member in segment.members:
        if member.epoch > epoch or (member.epoch == epoch and is_before and member.incarnation == segment.incarnation):
            yield member
