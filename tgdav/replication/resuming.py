"""Going on after this machine's state was restored from a backup: the store holds more of its own log than it knows.

What it had sent after the backup is its own, acknowledged history: every segment is checked as any other (signature, chain,
count) and applied. What the backup has unsent was mostly sent later: those groups are found in the chain and forgotten here.
The rest is kept, if it touches nothing that the chain changes: it is issued anew, after the chain, by a fresh incarnation of
this machine, which is the writer of the next epoch. So no number, id or blob name of the former life is used a second time.

Each step is one transaction, and before the first a setting says that all this is under way (``watch.RESTORED``); a crash in
between leaves less to be done by the next start. Nothing here reaches the store: pushing does, as after joining.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.clock import Clock
from tgdav.content.staging.recovery import rename_unsent
from tgdav.crdt.clocks import next_stamp
from tgdav.crdt.membership import Verdict
from tgdav.crdt.ops import Group, Member, decode_ops
from tgdav.crypto.label import BlobKind
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, WriterReplaced
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName, Incarnation
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.replication import rows
from tgdav.replication.checkpoint import LAST_NUMBER
from tgdav.replication.comparison import Comparison
from tgdav.replication.fetching import LogReader, OpenedSegment
from tgdav.replication.identity import INCARNATION, LogIdentity
from tgdav.replication.intake import Intake, base_of, gap_damage
from tgdav.replication.pusher import Unsent
from tgdav.replication.survey import Found, Survey
from tgdav.replication.taking import take_segment
from tgdav.replication.watch import PREDECESSOR, RESTORED, SEEN, UNSEEN

_RECOVER = "run 'tgdav check' to see what is missing; 'tgdav init --join' in a fresh home rebuilds all that opens"
_COPY = "copy what is yours and newer to another place, then run 'tgdav init --join' in a fresh home"


class Resumed(msgspec.Struct, frozen=True):
    """What was done: segments applied, the writer epoch to go on in, operations that still wait to be sent."""

    segments: int
    epoch: int
    kept: int


class Resumer:
    """One attempt to go on; the database's content store must not be open."""

    def __init__(
        self, database: Database, store: BlobStore, log: LogIdentity, *, clock: Clock, entropy: Entropy
    ) -> None:
        self._database, self._store, self._log = database, store, log
        self._clock, self._entropy = clock, entropy
        self._key = rows.incarnation_key(log.incarnation)
        self._reader = LogReader(store, log.vault_keys, log.keys)

    def run(self, open_journal: Callable[[], tuple[Journal, Incarnation]]) -> Resumed:
        """Take in the former life's log and go on as the writer, under the fresh incarnation of ``open_journal``.

        Raises WriterReplaced when what is unsent here is at odds with it, DamageError when a part of it is missing or does
        not open; then nothing that was unsent is gone. StoreUnavailable, LocalFailure, NoSpace: to be tried again.
        """
        survey = Survey(self._store.list(), self._log.vault_keys)
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

    def _later(self, survey: Survey) -> Iterator[OpenedSegment]:
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
        row = connection.one(rows.OWN_MEMBER, (self._log.machine_id,))
        return (rows.incarnation_of(row[0]), row[1]) if row else (self._log.incarnation, 0)

    def _is_known(self, found: Found) -> bool:
        with self._database.reading() as connection:
            return connection.one(rows.KNOWN_SEGMENT, (found.info.name,)) is not None

    def _unsent(self) -> list[Unsent]:
        with self._database.reading() as connection:
            found = connection.all(rows.OWN_UNSENT, (self._log.machine_id, self._key))
        return [
            Unsent(position, Group(sequence, stamp, time, decode_ops(ops)), len(ops))
            for position, sequence, stamp, time, ops in found
        ]

    def _refuse_conflict(self, comparison: Comparison) -> None:
        with self._database.reading() as connection:
            blind = bool(settings.get(connection, UNSEEN, False))
            overlaid = {row[1] for row in connection.all(rows.OVERLAID)}
            is_clear = comparison.is_clear(lambda node: connection.one(rows.IS_FOLDER, (node,)) is not None)
        if is_clear and not (blind and overlaid & comparison.changes):
            return
        operations = sum(len(each.group.ops) for each in comparison.rest)
        raise WriterReplaced(
            "this machine's state was restored from a backup, and what was changed here without the store"
            f" ({operations} operations) concerns the same files as what it had sent since that backup; all of it is kept",
            hint=_COPY,
        )

    # ---- changing ------------------------------------------------------------------------------------------------

    def _settle_sealed(self, survey: Survey) -> None:
        """Segments that wait to be sent: the store has them, or their groups are unsent again. No old checkpoint is sent."""
        there = {found.info.name: found for found in survey.of(self._log.namespace, BlobKind.SEGMENT)}
        with self._database.reading() as connection:
            waiting = connection.all(rows.SEALED_SEGMENTS)
            checkpoints = connection.all(rows.WAITING_CHECKPOINTS)

        def work(transaction: Transaction) -> None:
            for incarnation, number, name, hash_, _, _, size in waiting:
                found = there.get(BlobName(name))
                if found is None:
                    transaction.execute(rows.DROP_SEGMENT, (incarnation, number))
                    transaction.execute(rows.UNMARK_LOG, (number,))
                    transaction.execute(rows.UNMARK_PACKS, (number,))
                    continue
                blob = rows.blob_row(found.info.id, name, BlobKind.SEGMENT, size, hash_)
                transaction.execute(rows.SEGMENT_STORED, (found.info.id, incarnation, number))
                transaction.execute(rows.INSERT_BLOB, blob)
                transaction.execute(rows.FORGET_LOG, (number,))
            transaction.executemany(rows.DROP_PART_FILES, checkpoints)
            transaction.executemany(rows.GIVE_UP_CHECKPOINT, checkpoints)

        self._database.writer.run(work, durable=True)
        failpoint("resuming.settled")

    def _make_way(self, survey: Survey, comparison: Comparison) -> None:
        """Names that the former life used are free again; writes that it had settled are not settled a second time."""
        packs = {found.info.name: found.info.label for found in survey.of(self._log.namespace, BlobKind.PACK)}

        def work(transaction: Transaction) -> None:
            rename_unsent(transaction, packs, self._entropy)
            settled = [(ino,) for ino, node in transaction.all(rows.OVERLAID) if node in comparison.changes]
            transaction.executemany(rows.DROP_OVERLAY, settled)
            transaction.executemany(rows.IS_CLEAN, settled)

        self._database.writer.run(work, durable=True)
        failpoint("resuming.made-way")

    def _take(self, survey: Survey, comparison: Comparison, journal: Journal) -> int:
        packs = {found.info.name: found for found in survey.of(self._log.namespace, BlobKind.PACK)}
        count = 0
        for opened in self._later(survey):
            same_life = opened.segment.incarnation == self._log.incarnation
            take_segment(journal, opened, packs, comparison.sent if same_life else ())
            self._database.checkpoint()
            count += 1
            failpoint("resuming.segment-taken")
        return count

    def _go_on(
        self, survey: Survey, rest: Sequence[Unsent], journal: Journal, incarnation: Incarnation, count: int
    ) -> Resumed:
        """In one transaction: the fresh incarnation, its membership in the log, and after that what was never sent."""
        log, now = self._log, self._clock.now_ns()
        with self._database.reading() as connection:
            former, epoch = self._writer(connection)
            (stamp,) = connection.one(rows.LAST_STAMP) or (0,)
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
            transaction.executemany(rows.FORGET_POSITION, [(each.position,) for each in rest])
            self._record(transaction, survey, incarnation, former)

        journal.apply_groups(log.machine_id, incarnation, groups, record=record, durable=True)
        failpoint("resuming.gone-on")
        return Resumed(count, epoch + 1, sum(len(each.group.ops) for each in rest))

    def _record(self, transaction: Transaction, survey: Survey, incarnation: Incarnation, former: Incarnation) -> None:
        settings.put(transaction, INCARNATION, rows.incarnation_key(incarnation))
        settings.put(transaction, PREDECESSOR, rows.incarnation_key(former))
        settings.put(transaction, SEEN, survey.last)
        newest = [parts[-1].label.number for parts in survey.checkpoints(self._log.namespace)]
        settings.put(transaction, LAST_NUMBER, max([settings.get(transaction, LAST_NUMBER, 0), *newest]))
        settings.remove(transaction, RESTORED)
        transaction.executemany(rows.NOTE_BLOB, _blob_rows(survey))


def _blob_rows(survey: Survey) -> list[tuple[Any, ...]]:
    noted = [
        rows.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
        for each in survey.found
    ]
    return noted + [rows.blob_row(each.id, each.name, rows.HEADER, each.size, None) for each in survey.headers]
