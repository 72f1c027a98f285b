"""``gc``: rewrite sparse packs, retire those of which nothing is in use, and delete them when nobody can need them any more.

The database says how far a collection is, so one that was interrupted goes on where it stopped: chunks that moved are in new
packs, retired packs are marked with the position of their operation, and a stored checkpoint after that position allows to
delete them. What is in use is decided anew each time.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.check.structure import structural_problems
from tgdav.clock import Clock
from tgdav.content.chunk_table import DeadRow, dead_rows
from tgdav.content.collecting import (
    Activity,
    GcPlan,
    GcRule,
    GcState,
    GcStep,
    PackContents,
    PackUse,
    StoreFacts,
    is_due,
    next_step,
    plan,
)
from tgdav.content.format.pack import padme
from tgdav.content.store import ContentStore
from tgdav.crdt.ops import Retire
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError, StoreUnavailable, TgdavError, WriterReplaced
from tgdav.failpoints import failpoint
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.liveness import LiveChunks, live_chunks
from tgdav.ids import BlobId, BlobName, ChunkId
from tgdav.metadata import settings
from tgdav.metadata.change import Change
from tgdav.metadata.journal import LAST_POSITION
from tgdav.replication.deletion import delete_blobs
from tgdav.replication.rebuild import is_unfinished
from tgdav.replication.replicator import Replicator

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]

COLLECTED = "gc.collected"
"""The setting with what the last complete collection saw: (log position, bytes of all packs)."""
AUTOMATIC_BUDGET = 512 * 1024 * 1024
"""Bytes that an automatic collection moves at most."""
_MOST_STAGED = 128 * 1024 * 1024
_PACKS_TOGETHER = 100
"""Packs that are deleted at once."""
_DEAD_ROWS = 100_000
"""Staged chunks that one collection deletes at most."""
_RETIRED_TOGETHER, _ROWS_TOGETHER = 16, 2000
"""Packs that one change retires, and rows of chunks that one transaction deletes: other writers wait for it."""
_FLUSH_SECONDS, _SHORT_FLUSH_SECONDS = 60.0, 0.3
_WAIT_SECONDS = 1.0
_ATTEMPTS = 50
"""Attempts to have everything in the store at one moment: others may be writing all the time."""

_CONTENTS = """SELECT p.no, p.name, p.size, c.id, c.stored FROM packs p LEFT JOIN chunks c ON c.pack = p.no
WHERE p.state = 3 AND p.announced IS NOT NULL ORDER BY p.no"""
_CHUNKS = "SELECT id FROM chunks WHERE pack = ?"
_IS_RETIRABLE = "SELECT 1 FROM packs WHERE no = ? AND state = 3 AND announced IS NOT NULL"
_COVERED = "SELECT coalesce(max(position), 0) FROM checkpoints WHERE state = 1"
_RETIRED = """SELECT count(*) FILTER (WHERE retired > :covered), count(*) FILTER (WHERE retired <= :covered)
FROM packs WHERE state = 4 AND retired IS NOT NULL"""
_DELETABLE = "SELECT no, name, size FROM packs WHERE state = 4 AND retired <= ? ORDER BY no LIMIT ?"
_PLACES = "SELECT id FROM blobs WHERE name = ?"
_FORGET_CHUNKS = "DELETE FROM chunks WHERE no IN (SELECT no FROM chunks WHERE pack = ? LIMIT ?)"
_FORGET_BLOBS = "DELETE FROM blobs WHERE gone = 1 AND name = (SELECT name FROM packs WHERE no = ?)"
_FORGET_PACK = "DELETE FROM packs WHERE no = ?"
_DAMAGE = "SELECT blob, kind, reason FROM damage ORDER BY found"
_DAMAGED_PACKS = "SELECT lower(hex(name)), no FROM packs WHERE damaged = 1"
_STORED_BYTES = "SELECT coalesce(sum(size), 0) FROM packs WHERE state = 3"


class _Collection(msgspec.Struct):
    """One collection: the chunks in use, the plan, how far it is, and what it has done."""

    live: LiveChunks
    plan: GcPlan
    state: GcState
    position: int
    repacked: set[int]
    attempts: int = 0
    deleted: int = 0
    rewritten: int = 0
    freed: int = 0


class Collector:
    """Collects the garbage of one namespace, by hand or automatically. Thread-safe: one collection at a time."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        content: ContentStore,
        replicator: Replicator,
        files: OpenFiles,
        prepare: Callable[[], None],
        clock: Clock,
    ) -> None:
        """``prepare`` commits the unflushed writes of open files, and removes the rows of what was purged."""
        self._database, self._store, self._content = database, store, content
        self._replicator, self._files, self._prepare, self._clock = replicator, files, prepare, clock
        self._lock = threading.Lock()
        self._collection: _Collection | None = None
        self._planned = self._changed = clock.monotonic()
        self._seen = 0
        """The log position that the last look saw, at ``_changed`` or later."""

    # ---- by hand -------------------------------------------------------------------------------------------------

    def run(self, *, dry_run: bool = False, progress: Progress | None = None) -> dict[str, Any]:
        """Collect, to the end; return the ``gc`` object. With ``dry_run``, say what would be done, and change nothing.

        Raises DamageError (nothing is deleted while something is damaged), WriterReplaced, StoreUnavailable, NoSpace,
        LocalFailure.
        """
        report = progress or _silent
        while not self._lock.acquire(timeout=_WAIT_SECONDS):
            report("waiting for a check", 0, 0)
        with self._locked():
            self._end()
            self._require_writer()
            try:
                if not dry_run:
                    report("sending", 0, 0)
                    self._send(_FLUSH_SECONDS)
                return self._run(dry_run, report)
            finally:
                self._end()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Delete nothing during the ``with`` block: a check compares the store with what this machine knows."""
        with self._lock:
            yield

    def trim(self) -> int:
        """Trim the log, unless a check or a collection is at work; return how many blobs. Raises as ``Replicator.trim``."""
        if not self._lock.acquire(blocking=False):
            return 0
        with self._locked():
            return self._replicator.trim()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Release the lock at the end."""
        try:
            yield
        finally:
            self._lock.release()

    def _run(self, dry_run: bool, report: Progress) -> dict[str, Any]:
        report("looking for what is in use", 0, 0)
        collection = self._begin(GcRule(), dry_run=dry_run)
        if dry_run:
            return self._forecast(collection.plan)
        steps = len(collection.plan.repack) + 1
        while (step := next_step(collection.state, self._facts())) is not GcStep.DONE:
            report(step.value, steps - 1 - len(collection.state.repack), steps)
            self._do(step, collection, _FLUSH_SECONDS)
        self._remember(collection)
        self._replicator.trim()
        return _object(collection.deleted, collection.rewritten, collection.freed, dry_run=False)

    def _forecast(self, found: GcPlan) -> dict[str, Any]:
        with self._database.reading() as connection:
            waiting = connection.all(_DELETABLE, (1 << 62, -1))
        freed = found.freed + sum(size for _, _, size in waiting)
        return _object(
            len(found.drop) + len(found.repack) + len(waiting), len(found.repack), max(freed, 0), dry_run=True
        )

    # ---- automatically -------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Do the next step of an automatic collection and return True, if one is due; none takes long. Raises as ``run``."""
        if not self._lock.acquire(blocking=False):
            return False
        with self._locked():
            try:
                return self._tick()
            except TgdavError:
                self._end()
                raise

    def _tick(self) -> bool:
        collection = self._collection
        if collection is None:
            if not self._is_due():
                return False
            collection = self._begin(GcRule(budget=AUTOMATIC_BUDGET))
        step = next_step(collection.state, self._facts())
        if step is GcStep.DONE:
            self._remember(collection)
            self._end()
        else:
            self._do(step, collection, _SHORT_FLUSH_SECONDS)
        return True

    def _is_due(self) -> bool:
        now = self._clock.monotonic()
        with self._database.autocommit_reader(committed=True) as connection:
            (position,) = connection.one(LAST_POSITION) or (0,)
            waiting = connection.one("SELECT 1 FROM packs WHERE state = 4 AND retired IS NOT NULL LIMIT 1") is not None
            before, size = settings.get(connection, COLLECTED, (0, 0))
            if position != self._seen:
                self._seen, self._changed = position, now
            changed = position != before or waiting
            (stored,) = (connection.one(_STORED_BYTES) or (0,)) if changed else (size,)
        idle = now - max(self._changed, self._content.idle_since())
        if not is_due(Activity(changed, idle, now - self._planned, stored, size)):
            return False
        return not self._content.pending() and not self._replicator.pusher.pending_operations()

    def _remember(self, collection: _Collection) -> None:
        """Record what this collection saw, so that the next one need not look again if nothing has changed."""
        with self._database.reading() as connection:
            (stored,) = connection.one(_STORED_BYTES) or (0,)
        seen = collection.position, stored
        self._database.writer.run(lambda transaction: settings.put(transaction, COLLECTED, seen))

    # ---- planning ------------------------------------------------------------------------------------------------

    def _require_writer(self) -> None:
        reason = self._replicator.read_only_reason
        if reason is None and is_unfinished(self._database):
            reason = "joining this vault is not finished"
        if reason is not None:
            raise WriterReplaced(f"nothing is deleted: {reason}")

    def _begin(self, rule: GcRule, *, dry_run: bool = False) -> _Collection:
        self._require_writer()
        self._planned = self._clock.monotonic()
        self._content.record_pins(True)
        with self._database.reading() as connection:
            (position,) = connection.one(LAST_POSITION) or (0,)
            live = live_chunks(connection, self._content, self._files)
            found = plan(_packs(connection), live, rule)
            dead = dead_rows(connection, live, _DEAD_ROWS)
            if found or dead or sum(connection.one(_RETIRED, {"covered": 0}) or (0, 0)):
                self._refuse_damage(connection, live)
        if not dry_run:
            self._drop_rows(dead)
        state = GcState([*found.repack], [*found.drop], [])
        self._collection = _Collection(live, found, state, position, {pack.number for pack in found.repack})
        failpoint("gc.planned")
        return self._collection

    def _drop_rows(self, dead: list[DeadRow]) -> None:
        for start in range(0, len(dead), _ROWS_TOGETHER):
            self._content.uploader.drop_rows(dead[start : start + _ROWS_TOGETHER])
            failpoint("gc.rows-dropped")

    def _end(self) -> None:
        self._collection = None
        self._content.record_pins(False)

    def _refuse_damage(self, connection: Connection, live: LiveChunks) -> None:
        """Raise DamageError if something is damaged: what looks superfluous may be the last copy of something."""
        for problem in structural_problems(connection, self._content.identity.keys.content_tag):
            raise _refusal(problem.reason, "database")
        bad: dict[str, int] = dict(connection.all(_DAMAGED_PACKS))
        in_use = {name for name, number in bad.items() if self._uses(connection, number, live)}
        for name in sorted(in_use):
            raise _refusal(f"pack {name} is damaged", name)
        for blob, kind, reason in connection.all(_DAMAGE):
            if blob not in bad:
                raise _refusal(f"{kind} {blob}: {reason}", blob)

    def _uses(self, connection: Connection, number: int, live: LiveChunks) -> bool:
        """Whether a chunk of a pack is in use."""
        return any(chunk in live for (chunk,) in connection.each(_CHUNKS, (number,)))

    # ---- steps ---------------------------------------------------------------------------------------------------

    def _facts(self) -> StoreFacts:
        pending = self._content.pending()
        with self._database.reading() as connection:
            (covered,) = connection.one(_COVERED) or (0,)
            retired, deletable = connection.one(_RETIRED, {"covered": covered}) or (0, 0)
        unsent = self._replicator.pusher.pending_operations()
        return StoreFacts(pending > 0, pending >= _MOST_STAGED, unsent > 0, retired, deletable)

    def _do(self, step: GcStep, collection: _Collection, seconds: float) -> None:
        match step:
            case GcStep.REPACK:
                self._repack(collection)
            case GcStep.RETIRE:
                self._retire(collection)
            case GcStep.PUSH:
                self._count_attempt(collection, seconds)
                self._send(seconds)
            case GcStep.CHECKPOINT:
                self._count_attempt(collection, seconds)
                self._replicator.checkpoint()
                failpoint("gc.checkpointed")
            case GcStep.DELETE:
                self._delete(collection)
            case _:
                self._forget(collection)

    def _count_attempt(self, collection: _Collection, seconds: float) -> None:
        collection.attempts += 1
        if collection.attempts > _ATTEMPTS and seconds == _FLUSH_SECONDS:
            raise StoreUnavailable(
                "gc cannot finish while so much is written: it needs a moment in which all changes are in the store",
                hint="run it again later; what it has done stays done",
            )

    def _send(self, seconds: float) -> None:
        if seconds == _FLUSH_SECONDS:
            self._prepare()
        self._content.flush(seconds)
        self._replicator.push()
        failpoint("gc.sent")

    def _repack(self, collection: _Collection) -> None:
        """Move what is in use of one pack. A pack from which something cannot be read stays as it is."""
        pack = collection.state.repack.pop(0)
        if self._content.rewriter.move(pack.number, collection.live):
            collection.state.retire.append(pack)
        else:
            _log.warning("pack %s cannot be rewritten: a part of it cannot be read", pack.name.hex())
        failpoint("gc.repacked")

    def _retire(self, collection: _Collection) -> None:
        """Retire packs that nothing uses, in one change. Those that something uses by now are left alone."""
        packs = collection.state.retire[:_RETIRED_TOGETHER]
        with self._database.reading() as connection:
            if connection.one(_LOST_STAGED) is not None:
                raise _refusal("staged content is damaged", "staging")
        with ExitStack() as removing:
            done = self._replicator.journal.change(
                lambda change: self._log_retirement(change, packs, collection, removing), durable=True
            )
        del collection.state.retire[: len(packs)]
        collection.position += 1 if done else 0
        collection.attempts = 0
        failpoint("gc.retired")

    def _log_retirement(
        self, change: Change, packs: list[PackUse], collection: _Collection, removing: ExitStack
    ) -> list[BlobName]:
        names = []
        for pack in packs:
            chunks = [ChunkId(row[0]) for row in change.connection.all(_CHUNKS, (pack.number,))]
            # Streams cannot pin these chunks before the change is committed; afterwards they are unknown.
            is_free = removing.enter_context(self._content.removing(chunks))
            is_used = any(chunk in collection.live for chunk in chunks)
            if is_free and not is_used and change.connection.one(_IS_RETIRABLE, (pack.number,)) is not None:
                names.append(pack.name)
        if names:
            change.emit(Retire(tuple(names)))
        return names

    def _delete(self, collection: _Collection) -> None:
        self._replicator.poll()
        with self._database.reading() as connection:
            (covered,) = connection.one(_COVERED) or (0,)
            packs = connection.all(_DELETABLE, (covered, _PACKS_TOGETHER))
            for number, name, _ in packs:
                if self._uses(connection, number, collection.live):
                    raise _refusal(f"the retired pack {name.hex()} has content in use", name.hex())
            doomed = {
                BlobId(row[0]): BlobName(name) for _, name, _ in packs for row in connection.all(_PLACES, (name,))
            }
        delete_blobs(self._database, self._store, doomed)
        for number, name, size in packs:
            self._content.forget_pack(BlobName(name), size)
            collection.state.deleted.append(number)
            self._count(collection, number, size)

    def _count(self, collection: _Collection, number: int, size: int) -> None:
        collection.deleted += 1
        collection.freed += size
        if number in collection.repacked:
            collection.rewritten += 1
            if collection.rewritten == 1:
                collection.freed -= padme(sum(pack.live for pack in collection.plan.repack))

    def _forget(self, collection: _Collection) -> None:
        writer, numbers = self._database.writer, [(number,) for number in collection.state.deleted]
        for (number,) in numbers:
            while writer.run(lambda t, number=number: _forget_chunks(t, number)):  # type: ignore[misc]
                continue

        def forget(transaction: Transaction) -> None:
            for statement in (_FORGET_BLOBS, _FORGET_PACK):
                transaction.executemany(statement, numbers)

        writer.run(forget, durable=True)
        collection.state.deleted.clear()
        failpoint("gc.forgotten")


_LOST_STAGED = """SELECT 1 FROM packs p WHERE p.state < 3 AND p.damaged = 1
AND EXISTS (SELECT 1 FROM chunks c WHERE c.pack = p.no)"""
"""Whether content that was never stored is damaged: what moved into such a pack is still in the pack that it came from."""


def _forget_chunks(transaction: Transaction, pack: int) -> bool:
    """Delete some rows of a pack's chunks; return whether there may be more."""
    return int(transaction.execute(_FORGET_CHUNKS, (pack, _ROWS_TOGETHER)).rowcount) == _ROWS_TOGETHER


def _packs(connection: Connection) -> Iterator[PackContents]:
    for (number, name, size), rows in groupby(connection.each(_CONTENTS), lambda row: row[:3]):
        chunks = [(ChunkId(row[3]), row[4]) for row in rows if row[3] is not None]
        yield PackContents(number, BlobName(name), size, chunks)


def _refusal(reason: str, blob: str) -> DamageError:
    return DamageError(f"gc deletes nothing: {reason}", blob=blob, hint="run 'tgdav check'")


def _object(deleted: int, repacked: int, freed: int, *, dry_run: bool) -> dict[str, Any]:
    return {"packs_deleted": deleted, "packs_repacked": repacked, "bytes_freed": max(freed, 0), "dry_run": dry_run}


def _silent(_stage: str, _done: int, _total: int) -> None:
    return
