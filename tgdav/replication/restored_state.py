"""Going on after this machine's state was restored from a backup: the store holds more of its own log than it knows.

What it had sent after the backup is its own, acknowledged history: every segment is checked as any other (signature, chain,
count) and applied. What the backup has unsent was mostly sent later: those groups are found in the chain and forgotten here.
The rest is kept, if it touches nothing that the chain changes: it is issued anew, after the chain, by a fresh incarnation of
this machine, which is the writer of the next epoch. So no number, id or blob name of the former life is used a second time.

Each step is one transaction, and before the first a setting says that all this is under way (``watch.RESTORED``); a crash in
between leaves less to be done by the next start. Nothing here reaches the store: pushing does, as after joining.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.clock import Clock
from tgdav.config import Config
from tgdav.content.staging.recovery import rename_unsent
from tgdav.crdt.clocks import next_stamp
from tgdav.crdt.membership import Verdict
from tgdav.crdt.ops import Group, Make, Member, Place, decode_ops
from tgdav.crypto.label import BlobKind
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, TgdavError, WriterReplaced
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName, Incarnation, NodeId
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform
from tgdav.replication import sql
from tgdav.replication.blob_listing import BlobListing, LabelledBlob
from tgdav.replication.checkpoint import LAST_NUMBER
from tgdav.replication.import_segment import import_segment
from tgdav.replication.intake import Intake, base_of, gap_damage
from tgdav.replication.log_identity import INCARNATION, PREDECESSOR, LogIdentity, incarnation_of, open_journal
from tgdav.replication.log_reader import LogReader, OpenedSegment
from tgdav.replication.pusher import Unsent
from tgdav.replication.rebuild import is_unfinished, rebuild_again
from tgdav.replication.writer_check import RESTORED, SEEN, UNSEEN, WriterStatus

_log = logging.getLogger(__name__)

_RECOVER = "run 'tgdav check' to see what is missing; 'tgdav init --join' in a fresh home rebuilds all that opens"
_COPY = "copy what is yours and newer to another place, then run 'tgdav init --join' in a fresh home"


class Resumed(msgspec.Struct, frozen=True):
    """What was done: segments applied, the writer epoch to go on in, operations that still wait to be sent."""

    segments: int
    epoch: int
    kept: int


class Comparison:
    """What a restored state has unsent, against what its former life sent. Pure."""

    def __init__(self, unsent: Sequence[Unsent]) -> None:
        self._unsent = {each.group.sequence: each for each in unsent}
        self.sent: set[int] = set()
        self.changes: set[bytes] = set()
        self._needs: set[bytes] = set()
        self._moves: set[NodeId] = set()

    @property
    def rest(self) -> list[Unsent]:
        """The groups that were never sent, in the order in which they were applied here."""
        return [each for sequence, each in self._unsent.items() if sequence not in self.sent]

    def take_in(self, group: Group, *, same_life: bool) -> None:
        """Look at the next group of the chain; ``same_life``: of the incarnation that the unsent ones are of."""
        mine = self._unsent.get(group.sequence) if same_life else None
        if mine is not None and mine.group == group:
            self.sent.add(group.sequence)
            return
        each = Unsent(0, group, 0)
        self.changes |= each.changes
        self._needs |= each.needs
        self._moves |= _moved(group)

    def is_clear(self, is_folder: Callable[[NodeId], bool]) -> bool:
        """Whether the rest and the chain give the same tree in either order: they touch different things.

        Moved folders may take along, or make a cycle with, what is not seen from the operations alone.
        """
        rest = self.rest
        if not rest or not self._needs:
            return True
        changes = set[bytes]().union(*(each.changes for each in rest))
        needs = set[bytes]().union(*(each.needs for each in rest))
        if changes & self._needs or needs & self.changes:
            return False
        return not any(map(is_folder, self._moves.union(*(_moved(each.group) for each in rest))))


def _moved(group: Group) -> set[NodeId]:
    """Return the nodes that a group puts elsewhere: deleted, renamed, linked."""
    made = {op.node for op in group.ops if isinstance(op, Make)}
    return {op.node for op in group.ops if isinstance(op, Place)} - made


class Resumer:
    """One attempt to go on; the database's content store must not be open."""

    def __init__(
        self, database: Database, store: BlobStore, log: LogIdentity, *, clock: Clock, entropy: Entropy
    ) -> None:
        self._database, self._store, self._log = database, store, log
        self._clock, self._entropy = clock, entropy
        self._key = sql.incarnation_key(log.incarnation)
        self._reader = LogReader(store, log.vault_keys, log.keys)

    def run(self, open_journal: Callable[[], tuple[Journal, Incarnation]]) -> Resumed:
        """Take in the former life's log and go on as the writer, under the fresh incarnation of ``open_journal``.

        Raises WriterReplaced when what is unsent here is at odds with it, DamageError when a part of it is missing or does
        not open; then nothing that was unsent is gone. StoreUnavailable, LocalFailure, NoSpace: to be tried again.
        """
        survey = BlobListing(self._store.list(), self._log.vault_keys)
        self._settle_sealed(survey)
        comparison = Comparison(self._unsent())
        for opened in self._later(survey):
            same_life = opened.segment.incarnation == self._log.incarnation
            for group in opened.segment.groups:
                comparison.take_in(group, same_life=same_life)
        self._refuse_conflict(comparison)
        self._make_way(survey, comparison)
        journal, incarnation = open_journal()
        count = self._take(survey, comparison, journal)
        return self._go_on(survey, comparison.rest, journal, incarnation, count)

    # ---- looking -------------------------------------------------------------------------------------------------

    def _later(self, survey: BlobListing) -> Iterator[OpenedSegment]:
        """Go through the segments that this machine, in a former life, sent or took in, and does not know."""
        with self._database.reading() as connection:
            intake = Intake(self._reader, base_of(connection))
        segments = survey.of(self._log.namespace, BlobKind.SEGMENT)
        intake.take((found for found in segments if not self._is_known(found)), behind=True)
        for trouble in intake.troubles:
            if trouble.found.label.machine == self._log.machine_id:
                raise DamageError(trouble.reason, blob=trouble.found.info.name.hex())
        judged = intake.judge()
        self._refuse(intake, judged)
        yield from (intake.opened(link) for link in judged.order)

    def _refuse(self, intake: Intake, judged: Verdict) -> None:
        """Raises DamageError where something is missing or exchanged, WriterReplaced where another machine is the writer."""
        log, writer = self._log, judged.writer
        if writer is not None and writer.public_key != log.machine.signing_public:
            raise WriterReplaced(f"machine {writer.name} is the writer now", hint=_COPY)
        for link in (*judged.doubles, *judged.behind):
            if link.machine == log.machine_id:
                raise DamageError(
                    f"the store holds two different segments {link.number} of this machine: a copy of its state wrote too",
                    blob=intake.found(link).info.name.hex(),
                    hint=_COPY,
                )
        for gap in judged.gaps:
            raise DamageError(
                "a part of what this machine sent after its backup is missing in the store:"
                f" {gap_damage(gap, judged.claims).reason}",
                blob=gap.id,
                hint=_RECOVER,
            )

    def _writer(self, connection: Connection) -> tuple[Incarnation, int]:
        row = connection.one(sql.OWN_MEMBER, (self._log.machine_id,))
        return (sql.incarnation_of(row[0]), row[1]) if row else (self._log.incarnation, 0)

    def _is_known(self, found: LabelledBlob) -> bool:
        with self._database.reading() as connection:
            return connection.one(sql.KNOWN_SEGMENT, (found.info.name,)) is not None

    def _unsent(self) -> list[Unsent]:
        with self._database.reading() as connection:
            found = connection.all(sql.OWN_UNSENT, (self._log.machine_id, self._key))
        return [
            Unsent(position, Group(sequence, stamp, time, decode_ops(ops)), len(ops))
            for position, sequence, stamp, time, ops in found
        ]

    def _refuse_conflict(self, comparison: Comparison) -> None:
        with self._database.reading() as connection:
            blind = bool(settings.get(connection, UNSEEN, False))
            overlaid = {row[1] for row in connection.all(sql.OVERLAID)}
            is_clear = comparison.is_clear(lambda node: connection.one(sql.IS_FOLDER, (node,)) is not None)
        if is_clear and not (blind and overlaid & comparison.changes):
            return
        operations = sum(len(each.group.ops) for each in comparison.rest)
        raise WriterReplaced(
            "this machine's state was restored from a backup, and what was changed here without the store"
            f" ({operations} operations) concerns the same files as what it had sent since that backup; all of it is kept",
            hint=_COPY,
        )

    # ---- changing ------------------------------------------------------------------------------------------------

    def _settle_sealed(self, survey: BlobListing) -> None:
        """Segments that wait to be sent: the store has them, or their groups are unsent again. No old checkpoint is sent."""
        there = {found.info.name: found for found in survey.of(self._log.namespace, BlobKind.SEGMENT)}
        with self._database.reading() as connection:
            waiting = connection.all(sql.SEALED_SEGMENTS)
            checkpoints = connection.all(sql.WAITING_CHECKPOINTS)

        def work(transaction: Transaction) -> None:
            for incarnation, number, name, hash_, _, _, size in waiting:
                found = there.get(BlobName(name))
                if found is None:
                    transaction.execute(sql.DROP_SEGMENT, (incarnation, number))
                    transaction.execute(sql.UNMARK_LOG, (number,))
                    transaction.execute(sql.UNMARK_PACKS, (number,))
                    continue
                blob = sql.blob_row(found.info.id, name, BlobKind.SEGMENT, size, hash_)
                transaction.execute(sql.SEGMENT_STORED, (found.info.id, incarnation, number))
                transaction.execute(sql.INSERT_BLOB, blob)
                transaction.execute(sql.FORGET_LOG, (number,))
            transaction.executemany(sql.DROP_PART_FILES, checkpoints)
            transaction.executemany(sql.GIVE_UP_CHECKPOINT, checkpoints)

        self._database.writer.run(work, durable=True)
        failpoint("resuming.settled")

    def _make_way(self, survey: BlobListing, comparison: Comparison) -> None:
        """Names that the former life used are free again; writes that it had settled are not settled a second time."""
        packs = {found.info.name: found.info.label for found in survey.of(self._log.namespace, BlobKind.PACK)}

        def work(transaction: Transaction) -> None:
            rename_unsent(transaction, packs, self._entropy)
            settled = [(ino,) for ino, node in transaction.all(sql.OVERLAID) if node in comparison.changes]
            transaction.executemany(sql.DROP_OVERLAY, settled)
            transaction.executemany(sql.IS_CLEAN, settled)

        self._database.writer.run(work, durable=True)
        failpoint("resuming.made-way")

    def _take(self, survey: BlobListing, comparison: Comparison, journal: Journal) -> int:
        packs = {found.info.name: found.info for found in survey.of(self._log.namespace, BlobKind.PACK)}
        count = 0
        for opened in self._later(survey):
            same_life = opened.segment.incarnation == self._log.incarnation
            import_segment(journal, opened, packs, comparison.sent if same_life else ())
            self._database.checkpoint()
            count += 1
            failpoint("resuming.segment-taken")
        return count

    def _go_on(
        self, survey: BlobListing, rest: Sequence[Unsent], journal: Journal, incarnation: Incarnation, count: int
    ) -> Resumed:
        """In one transaction: the fresh incarnation, its membership in the log, and after that what was never sent."""
        log, now = self._log, self._clock.now_ns()
        with self._database.reading() as connection:
            former, epoch = self._writer(connection)
            (stamp,) = connection.one(sql.LAST_STAMP) or (0,)
        machine = log.machine
        member = Member(
            log.machine_id,
            log.machine_name,
            machine.signing_public,
            incarnation,
            epoch + 1,
            log.machine_id,
            machine.exchange_public,
        )
        groups = [Group(1, next_stamp(stamp, now), now, (member,))]
        for each in rest:
            groups.append(msgspec.structs.replace(each.group, sequence=groups[-1].sequence + len(groups[-1].ops)))

        def record(transaction: Transaction) -> None:
            transaction.executemany(sql.FORGET_POSITION, [(each.position,) for each in rest])
            self._record(transaction, survey, incarnation, former)

        journal.apply_groups(log.machine_id, incarnation, groups, record=record, durable=True)
        failpoint("resuming.gone-on")
        return Resumed(count, epoch + 1, sum(len(each.group.ops) for each in rest))

    def _record(
        self, transaction: Transaction, survey: BlobListing, incarnation: Incarnation, former: Incarnation
    ) -> None:
        settings.put(transaction, INCARNATION, sql.incarnation_key(incarnation))
        settings.put(transaction, PREDECESSOR, sql.incarnation_key(former))
        settings.put(transaction, SEEN, survey.last)
        newest = [parts[-1].label.number for parts in survey.checkpoints(self._log.namespace)]
        settings.put(transaction, LAST_NUMBER, max([settings.get(transaction, LAST_NUMBER, 0), *newest]))
        settings.remove(transaction, RESTORED)
        transaction.executemany(sql.NOTE_BLOB, _blob_rows(survey))


def _blob_rows(survey: BlobListing) -> list[tuple[Any, ...]]:
    noted = [
        sql.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
        for each in survey.found
    ]
    return noted + [sql.blob_row(each.id, each.name, sql.HEADER, each.size, None) for each in survey.headers]


def resume_if_restored(
    database: Database,
    store: BlobStore,
    log: LogIdentity,
    config: Config,
    platform: Platform,
    poll: Callable[[], WriterStatus | None],
) -> LogIdentity:
    """Return in whose name to go on: as before, or under a fresh incarnation if the store is ahead of this state.

    ``poll`` checks the log in the store once and returns None if that fails or takes too long. The state is not changed
    before it returns. A store that is away does not keep the volume from opening: the check is repeated later. Neither does
    a join that a gap in the log holds up, unless the gap is being filled. Raises LocalFailure, NoSpace; StoreUnavailable
    while a gap is being filled.
    """
    if is_unfinished(database):
        return _rebuild(database, store, log, config, platform)
    status = poll()
    if status is not None and status.is_refilled:
        return _rebuild(database, store, log, config, platform)
    if status is not None and status.held:
        status = None
    with database.reading() as connection:
        was_unseen = bool(settings.get(connection, UNSEEN, False))
    if status is None or not status.is_restored:
        if was_unseen != (status is None):
            database.writer.run(lambda transaction: _note_unseen(transaction, status is None), durable=True)
        return log
    return _resume(database, store, log, config, platform)


def _note_unseen(transaction: Transaction, unseen: bool) -> None:
    if unseen:
        settings.put(transaction, UNSEEN, True)
    else:
        settings.remove(transaction, UNSEEN)


def _rebuild(database: Database, store: BlobStore, log: LogIdentity, config: Config, platform: Platform) -> LogIdentity:
    """Join once more: what was missing from the log is there, and belongs before what was applied."""
    rebuild_again(database, store, log.vault_keys, log.keys, log.machine, config, platform)
    _log.warning("a part of the log that was missing when this machine joined was taken in")
    return msgspec.structs.replace(log, incarnation=incarnation_of(database))


def _resume(database: Database, store: BlobStore, log: LogIdentity, config: Config, platform: Platform) -> LogIdentity:
    resumer = Resumer(database, store, log, clock=platform.clock, entropy=platform.entropy)
    try:
        done = resumer.run(lambda: open_journal(database, config, log.machine, log.keys, platform))
    except (WriterReplaced, DamageError) as error:
        reason = f"{error.message}; {error.hint}" if error.hint else error.message
        _log.error("%s", reason)
        database.writer.run(lambda transaction: settings.put(transaction, RESTORED, reason), durable=True)
        return log
    except TgdavError as error:
        _log.warning("what this machine sent after its backup cannot be taken in now: %s", error.message)
        return log
    _log.warning(
        "this machine's state was restored from a backup: it has taken in what it had sent since (%d segments of its log),"
        " keeps %d operations that were never sent, and goes on as the writer of epoch %d",
        done.segments,
        done.kept,
        done.epoch,
    )
    return msgspec.structs.replace(log, incarnation=incarnation_of(database))
