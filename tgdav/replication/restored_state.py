"""Resume a state that was restored from a backup: the store holds more of this machine's own log than the state does.

What the machine sent after the backup is its own, acknowledged history: every segment is checked like any other (signature,
chain, numbers) and applied. Most of what is unsent in the backup was sent later: those groups are found in the chain and
removed from the local log. The others are kept if they touch nothing that the chain changes: they are issued again, after the
chain, by a fresh incarnation of this machine, which is the writer of the next epoch. So no number, id or blob name of the
former incarnation is used a second time.

Each step is one transaction. The setting ``writer_check.RESTORED`` is set before the first step and removed by the last one,
so after a crash the next start repeats what is left. Nothing is sent to the store here; pushing does that, as after joining.
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
from tgdav.crdt.ops import Group, Make, Member, Place, Retire, Retracted, decode_ops
from tgdav.crypto.label import BlobKind
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, TgdavError, WriterReplaced
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName, ChunkId, Incarnation, NodeId
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform
from tgdav.replication import sql, trimming
from tgdav.replication.blob_listing import BlobListing, LabelledBlob
from tgdav.replication.format.segment import PackIndex
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
    """``segments`` applied, the new writer ``epoch``, and ``kept``: operations that are still to be sent."""

    segments: int
    epoch: int
    kept: int


class Comparison:
    """Compares what a restored state has unsent with what the machine sent after the backup. Pure.

    ``sent`` are sequence numbers of unsent groups that the chain contains; ``changes`` what the other groups of the chain
    change.
    """

    def __init__(self, unsent: Sequence[Unsent]) -> None:
        self._unsent = {each.group.sequence: each for each in unsent}
        self._rests: list[Unsent] = []
        self.sent: set[int] = set()
        self.changes: set[bytes] = set()
        self._needs: set[bytes] = set()
        self._moves: set[NodeId] = set()
        self._retired: set[bytes] = set()
        self._moved_to: dict[ChunkId, BlobName] = {}

    @property
    def never_sent(self) -> list[Unsent]:
        """The groups that were never sent, in the order in which they were applied here."""
        rest = [each for sequence, each in self._unsent.items() if sequence not in self.sent] + self._rests
        return sorted(rest, key=lambda each: each.position)

    def add(self, group: Group, *, is_own: bool) -> None:
        """Add the next group of the chain; ``is_own``: it has the incarnation of the unsent groups."""
        mine = self._unsent.get(group.sequence) if is_own else None
        if mine is not None and _was_sent(mine.group, group):
            self.sent.add(group.sequence)
            # What the chain does not have was retracted after the backup. The backup still has what it is about.
            left_out = zip(mine.group.ops, group.ops, strict=True)
            rest = tuple(op for op, sent in left_out if isinstance(sent, Retracted) and not isinstance(op, Retracted))
            if rest:
                self._rests.append(msgspec.structs.replace(mine, group=msgspec.structs.replace(mine.group, ops=rest)))
            return
        each = Unsent(0, group, 0)
        self._retired.update(name for op in group.ops if isinstance(op, Retire) for name in op.packs)
        self.changes |= each.changes
        self._needs |= each.needs
        self._moves |= _moved(group)

    def add_packs(self, packs: Sequence[PackIndex]) -> None:
        """Add the packs that a segment of the chain announces."""
        wanted = set[ChunkId]().union(*(each.chunks for each in self._unsent.values()))
        for pack in packs:
            self._moved_to.update({entry.id: pack.name for entry in pack.entries if entry.id in wanted})

    def lacks_content(self, pack_of: Callable[[ChunkId], BlobName | None]) -> bool:
        """Whether the unsent groups name chunks whose packs were retired after the backup. ``pack_of`` is asked for others."""
        wanted = set[ChunkId]().union(*(each.chunks for each in self.never_sent))
        return any((self._moved_to.get(chunk) or pack_of(chunk)) in self._retired for chunk in wanted)

    def is_clear(self, is_folder: Callable[[NodeId], bool]) -> bool:
        """Whether the unsent groups and the chain commute: they touch different things.

        A moved directory is refused: it may carry, or form a cycle with, nodes that the operations do not name.
        """
        rest = self.never_sent
        if not rest or not self._needs:
            return True
        changes = set[bytes]().union(*(each.changes for each in rest))
        needs = set[bytes]().union(*(each.needs for each in rest))
        if changes & self._needs or needs & self.changes:
            return False
        return not any(map(is_folder, self._moves.union(*(_moved(each.group) for each in rest))))


def _was_sent(mine: Group, sent: Group) -> bool:
    """Whether a group of the chain is one of the unsent groups, whole or with some operations retracted."""
    same = (mine.sequence, mine.stamp, mine.time, len(mine.ops)) == (
        sent.sequence,
        sent.stamp,
        sent.time,
        len(sent.ops),
    )
    return same and all(op in (here, Retracted()) for here, op in zip(mine.ops, sent.ops, strict=True))


def _moved(group: Group) -> set[NodeId]:
    """Return the existing nodes that a group deletes, renames or links."""
    made = {op.node for op in group.ops if isinstance(op, Make)}
    return {op.node for op in group.ops if isinstance(op, Place)} - made


class Resumer:
    """One attempt to resume. The database's content store must not be open."""

    def __init__(
        self, database: Database, store: BlobStore, log: LogIdentity, *, clock: Clock, entropy: Entropy
    ) -> None:
        self._database, self._store, self._log = database, store, log
        self._clock, self._entropy = clock, entropy
        self._key = sql.incarnation_key(log.incarnation)
        self._reader = LogReader(store, log.vault_keys, log.keys)

    def run(self, open_journal: Callable[[], tuple[Journal, Incarnation]]) -> Resumed:
        """Apply the log of the former incarnation and become the writer, under the fresh incarnation of ``open_journal``.

        Raises WriterReplaced if unsent groups conflict with it, DamageError if a part of it is missing or does not open; both
        leave the unsent groups in place. After StoreUnavailable, LocalFailure or NoSpace the next start tries again.
        """
        listing = BlobListing(self._store.list(), self._log.vault_keys)
        self._resolve_sealed(listing)
        comparison = Comparison(self._unsent())
        for opened in self._later(listing):
            is_own = opened.segment.incarnation == self._log.incarnation
            for group in opened.segment.groups:
                comparison.add(group, is_own=is_own)
            comparison.add_packs(opened.segment.packs)
        self._refuse_conflict(comparison)
        self._free_names(listing, comparison)
        journal, incarnation = open_journal()
        count = self._apply(listing, comparison, journal)
        return self._continue(listing, comparison.never_sent, journal, incarnation, count)

    # ---- reading -------------------------------------------------------------------------------------------------

    def _later(self, listing: BlobListing) -> Iterator[OpenedSegment]:
        """Yield the segments that this machine sent or applied after the backup, in the order in which they count."""
        with self._database.reading() as connection:
            intake = Intake(self._reader, base_of(connection))
        segments = listing.of(self._log.namespace, BlobKind.SEGMENT)
        intake.open_all((found for found in segments if not self._is_known(found)), behind=True)
        for trouble in intake.troubles:
            if trouble.found.label.machine == self._log.machine_id:
                raise DamageError(trouble.reason, blob=trouble.found.info.name.hex())
        judged = intake.judge()
        if judged.gaps and self._is_trimmed(listing):
            raise WriterReplaced(
                "this machine's state was restored from a backup that is older than the log in the store: what it sent"
                " after the backup is in checkpoints, and its segments are deleted",
                hint=_COPY,
            )
        self._refuse(intake, judged)
        yield from (intake.opened(link) for link in judged.order)

    def _is_trimmed(self, listing: BlobListing) -> bool:
        """Whether checkpoints were written after the backup, so that segments were deleted."""
        with self._database.reading() as connection:
            _, known = connection.one(sql.ENDS, (self._key,)) or (0, 0)
        return any(found.label.number > known for found in listing.of(self._log.namespace, BlobKind.CHECKPOINT))

    def _refuse(self, intake: Intake, judged: Verdict) -> None:
        """Raise DamageError if something is missing or was exchanged, WriterReplaced if another machine is the writer."""
        log, writer = self._log, judged.writer
        if writer is not None and writer.public_key != log.machine.signing_public:
            raise WriterReplaced(f"machine {writer.name} is the writer now", hint=_COPY)
        for link in (*judged.doubles, *judged.behind):
            if link.machine == log.machine_id:
                raise DamageError(
                    f"the store has two different segments {link.number} of this machine: a copy of its state wrote too",
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
            is_clear = comparison.is_clear(lambda node: connection.one(sql.IS_DIRECTORY, (node,)) is not None)
            lacks_content = comparison.lacks_content(lambda chunk: _pack_of(connection, chunk))
        # Blind: written while the store could not be checked, so an open file may overlay content that the chain replaced.
        if is_clear and not lacks_content and not (blind and overlaid & comparison.changes):
            return
        operations = sum(len(each.group.ops) for each in comparison.never_sent)
        raise WriterReplaced(
            "this machine's state was restored from a backup, and what was changed here without the store"
            f" ({operations} operations) concerns the same files as what it had sent since that backup, or content that was"
            " deleted for good since; all of it is kept",
            hint=_COPY,
        )

    # ---- changing ------------------------------------------------------------------------------------------------

    def _resolve_sealed(self, listing: BlobListing) -> None:
        """Record sealed segments as stored if the store has them, else unseal their groups. Drop unsent checkpoints."""
        there = {found.info.name: found for found in listing.of(self._log.namespace, BlobKind.SEGMENT)}
        with self._database.reading() as connection:
            waiting = connection.all(sql.SEALED_SEGMENTS)
            checkpoints = connection.all(sql.WAITING_CHECKPOINTS)

        def resolve(transaction: Transaction) -> None:
            for incarnation, number, name, hash_, _, _, size in waiting:
                found = there.get(BlobName(name))
                if found is None:
                    transaction.execute(sql.DROP_SEGMENT, (incarnation, number))
                    transaction.execute(sql.UNMARK_LOG, (number,))
                    transaction.execute(sql.UNMARK_PACKS, (number,))
                    continue
                blob = sql.blob_row(found.info.id, name, BlobKind.SEGMENT, size, hash_)
                transaction.execute(sql.SEGMENT_STORED, (found.info.id, incarnation, number))
                transaction.execute(sql.SET_CHAIN, (incarnation, number))
                transaction.execute(sql.INSERT_BLOB, blob)
                transaction.execute(sql.FORGET_LOG, (number,))
            transaction.executemany(sql.DROP_PART_FILES, checkpoints)
            transaction.executemany(sql.GIVE_UP_CHECKPOINT, checkpoints)

        self._database.writer.run(resolve, durable=True)
        failpoint("resuming.settled")

    def _free_names(self, listing: BlobListing, comparison: Comparison) -> None:
        """Rename unsent packs whose names the store has, and drop overlays of files that the chain has committed."""
        packs = {found.info.name: found.info.label for found in listing.of(self._log.namespace, BlobKind.PACK)}

        def free_names(transaction: Transaction) -> None:
            # A pack of the backup may have been filled further and sent after it: its name belongs to those bytes now.
            rename_unsent(transaction, packs, self._entropy)
            committed = [(ino,) for ino, node in transaction.all(sql.OVERLAID) if node in comparison.changes]
            transaction.executemany(sql.DROP_OVERLAY, committed)
            transaction.executemany(sql.IS_CLEAN, committed)

        self._database.writer.run(free_names, durable=True)
        failpoint("resuming.made-way")

    def _apply(self, listing: BlobListing, comparison: Comparison, journal: Journal) -> int:
        packs = {found.info.name: found.info for found in listing.of(self._log.namespace, BlobKind.PACK)}
        count = 0
        for opened in self._later(listing):
            is_own = opened.segment.incarnation == self._log.incarnation
            import_segment(journal, opened, packs, comparison.sent if is_own else ())
            self._database.checkpoint()  # keeps the WAL small: the log may be large
            count += 1
            failpoint("resuming.segment-taken")
        return count

    def _continue(
        self, listing: BlobListing, rest: Sequence[Unsent], journal: Journal, incarnation: Incarnation, count: int
    ) -> Resumed:
        """Record, in one transaction, the fresh incarnation, its membership, and after that what was never sent."""
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
            self._record(transaction, listing, incarnation, former)

        journal.apply_groups(log.machine_id, incarnation, groups, record=record, durable=True)
        failpoint("resuming.gone-on")
        return Resumed(count, epoch + 1, sum(len(each.group.ops) for each in rest))

    def _record(
        self, transaction: Transaction, listing: BlobListing, incarnation: Incarnation, former: Incarnation
    ) -> None:
        settings.put(transaction, INCARNATION, sql.incarnation_key(incarnation))
        settings.put(transaction, PREDECESSOR, sql.incarnation_key(former))
        settings.put(transaction, SEEN, listing.last)
        _, known = transaction.one(sql.ENDS, (self._key,)) or (0, 0)
        trimming.adopt(transaction, listing, self._log.namespace, known)
        settings.remove(transaction, RESTORED)
        transaction.executemany(sql.RECORD_BLOB, _blob_rows(listing))


def _pack_of(connection: Connection, chunk: ChunkId) -> BlobName | None:
    row = connection.one(sql.CHUNK_PACK, (chunk,))
    return None if row is None else BlobName(row[0])


def _blob_rows(listing: BlobListing) -> list[tuple[Any, ...]]:
    recorded = [
        sql.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
        for each in listing.found
    ]
    return recorded + [sql.blob_row(each.id, each.name, sql.HEADER, each.size, None) for each in listing.headers]


def resume_if_restored(
    database: Database,
    store: BlobStore,
    log: LogIdentity,
    config: Config,
    platform: Platform,
    poll: Callable[[], WriterStatus | None],
) -> LogIdentity:
    """Return the identity to continue with: the same, or one with a fresh incarnation if the store is ahead of this state.

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
            database.writer.run(lambda transaction: _record_unseen(transaction, status is None), durable=True)
        return log
    return _resume(database, store, log, platform)


def _record_unseen(transaction: Transaction, unseen: bool) -> None:
    if unseen:
        settings.put(transaction, UNSEEN, True)
    else:
        settings.remove(transaction, UNSEEN)


def _rebuild(database: Database, store: BlobStore, log: LogIdentity, config: Config, platform: Platform) -> LogIdentity:
    """Join once more: what was missing from the log is in the store, and comes before what was applied."""
    rebuild_again(database, store, log, config, platform)
    _log.warning("a part of the log that was missing when this machine joined is in the store now and was applied")
    return msgspec.structs.replace(log, incarnation=incarnation_of(database))


def _resume(database: Database, store: BlobStore, log: LogIdentity, platform: Platform) -> LogIdentity:
    resumer = Resumer(database, store, log, clock=platform.clock, entropy=platform.entropy)
    try:
        done = resumer.run(lambda: open_journal(database, log.machine, log.keys, platform))
    except (WriterReplaced, DamageError) as error:
        reason = f"{error.message}; {error.hint}" if error.hint else error.message
        _log.error("%s", reason)
        database.writer.run(lambda transaction: settings.put(transaction, RESTORED, reason), durable=True)
        return log
    except TgdavError as error:
        _log.warning("what this machine sent after its backup cannot be applied now: %s", error.message)
        return log
    _log.warning(
        "this machine's state was restored from a backup: what it had sent since was applied (%d segments of its log),"
        " %d operations that were never sent are kept, and it is the writer of epoch %d",
        done.segments,
        done.kept,
        done.epoch,
    )
    return msgspec.structs.replace(log, incarnation=incarnation_of(database))
