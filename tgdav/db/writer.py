"""The one writer: group commit by combining, with the durability barrier.

A thread that calls ``run`` while nobody writes becomes the leader: it takes all jobs that wait (at first its own alone;
where several callers write at once, it gives them a moment to come), and for all of them together syncs the staging files
they name, begins a transaction, runs each job so that it can fail alone (in a savepoint, once it does more than defer
rows), commits, and syncs the write-ahead log once if one of them is durable. Then it wakes their callers, and the first
job that came meanwhile makes its own thread the next leader. (Flat combining, Hendler et al. 2010; group commit, DeWitt et
al. 1984.)

A *lazy* job is answered before it is committed: its transaction stays open for a moment, in which other lazy jobs join it.
It is committed together with the first job that is not lazy, before anybody reads through another connection (``show``),
when it is full, and 30 ms after it was begun. Before it is answered, its statements are written to the redo log
(``tgdav.db.redo_log``), from which the next start executes them again; if that is not possible, it is committed at once. So a
killed process loses nothing that was answered, a power cut takes the last moment of lazy jobs and nothing else, all that is
durable takes along what was answered before it, and nobody in this process can see that something is not committed. Should
that commit fail, nothing more is written until the process is restarted, which then finds what was answered in the redo log.
To make that unlikely, nothing is gathered while the disk is nearly full.

The order is the promise: bytes are synced before a transaction that names them is committed, for SQLite or the kernel may
make a commit durable at any time; and nothing durable is acknowledged before the log is synced.

Jobs run in the leader's thread, one after another. They must not call ``run`` (RuntimeError), nor wait for another thread
that does; what they read they read from their own transaction. ``after_commit`` callbacks run in the leader's thread too,
in commit order, when the barrier is passed and no transaction is open: before the caller's ``run`` returns (if it is not
lazy), and under the same two rules. A callback may take locks, but none that a thread holds while it calls ``run`` or reads.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, cast

from tgdav.db.connection import Connection
from tgdav.db.gathering import Committer, Gathered
from tgdav.db.redo_log import RedoLog
from tgdav.db.transaction import Batch, Transaction
from tgdav.errors import LocalFailure, NoSpace, TgdavError, WouldWait
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)

T = TypeVar("T")

LINGER = 0.0006
"""Seconds that a leader waits for one more of the callers that it knows of; about what a small upload takes on its way."""


class Syncable(Protocol):
    """A file whose bytes a transaction names."""

    def sync(self) -> None:
        """Return when its bytes survive a power cut. Raises LocalFailure, now and ever after once it failed."""
        ...


class _Job(Generic[T]):
    """One call of ``run`` or ``exclusively`` on its way through. ``outside`` runs between transactions.

    One that ``shows`` has nothing to do but to see that all is committed that was answered.
    """

    __slots__ = ("callbacks", "done", "durable", "error", "gate", "lazy", "outside", "result", "shows", "sync", "work")

    def __init__(
        self,
        work: Callable[[Transaction], T] | None,
        durable: bool,
        sync: Sequence[Syncable],
        outside: Callable[[], T] | None = None,
        *,
        lazy: bool = False,
        shows: bool = False,
    ) -> None:
        self.work = work
        self.outside = outside
        self.durable = durable
        self.sync = sync
        self.lazy, self.shows = lazy, shows
        self.callbacks: list[Callable[[], None]] = []
        self.result: T | None = None
        self.error: BaseException | None = None
        self.done = False
        self.gate = threading.Lock()
        self.gate.acquire()

    def finish(self) -> None:
        """Let the caller go on."""
        if not self.done:
            self.done = True
            self.gate.release()

    def outcome(self) -> T:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast(T, self.result)


class Writer:
    """Serializes all changes of one database. Thread-safe."""

    def __init__(
        self, connection: Connection, redo: RedoLog, sync_log: Callable[[], None], has_room: Callable[[], bool]
    ) -> None:
        """``has_room`` tells whether it is certain that a few MiB can be written."""
        self._redo = redo
        self._connection = connection
        self._sync_log = sync_log
        self._has_room = has_room
        self._gathered: Gathered | None = None
        self._committer = Committer(self.show)
        self._on_loss: list[Callable[[], None]] = []
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._waiting: list[_Job[Any]] = []
        self._busy = False
        self._next: _Job[Any] | None = None
        self._leader: int | None = None
        self._current: Transaction | None = None
        self._refusal: str | None = None
        self._poisoned = False
        self._generation = 0
        self._unsynced = True
        self.is_concluding = False
        """Whether the database may show something whose callbacks are still to run."""
        self._arrival = threading.Lock()
        self._arrival.acquire()
        self._awaits = False
        self._company = 1

    def run(
        self,
        work: Callable[[Transaction], T],
        *,
        durable: bool = False,
        sync: Sequence[Syncable] = (),
        lazy: bool = False,
        at_once: bool = False,
    ) -> T:
        """Commit what ``work`` does, whole or not at all; return its result. Raises what ``work`` raises.

        The files in ``sync`` are synced before; name every file whose bytes the change names. With ``durable`` the
        change survives a power cut when this returns. A ``lazy`` one, which names no files, may be committed a moment later.
        With ``at_once``, which is for lazy jobs, WouldWait is raised where another is at work or a commit is due.
        Raises LocalFailure (also for a file's failed sync; after a failed sync of the log always, until restarted) and
        NoSpace.
        """
        job = _Job(work, durable, sync, lazy=lazy and not durable and not sync)
        return self._enter_at_once(job) if at_once else self._enter(job)

    def show(self) -> None:
        """Let all that was answered be seen through other connections; what cannot be committed is not (see ``on_loss``).

        Not to be called in the writer's turn while a transaction is open: RuntimeError.
        """
        if self._leader == threading.get_ident() and self._connection.in_transaction:
            raise RuntimeError("a job of the writer is to read from its own transaction")
        if self._gathered is not None:
            with suppress(LocalFailure, NoSpace):
                self._enter(_Job[None](None, False, (), shows=True))

    @property
    def own_transaction(self) -> Transaction | None:
        """The transaction of the job that the calling thread is in, or None."""
        return self._current if self._leader == threading.get_ident() else None

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the writer's turn when lazy jobs that were answered could not be committed."""
        self._on_loss.append(callback)

    def sync(self) -> None:
        """Return when all that is committed survives a power cut. Raises LocalFailure."""
        self._enter(_Job[None](None, True, ()))

    def exclusively(self, action: Callable[[], T]) -> T:
        """Call ``action`` while no transaction is open and none begins; return its result."""
        return self._enter(_Job(None, False, (), action))

    def poison(self, reason: str) -> None:
        """Refuse all later work; what is answered and not committed yet is for the next start."""
        self._redo.stop()
        with self._mutex:
            self._poisoned = True
            self._refuse(f"{reason}; read-only until restarted")

    @property
    def refusal(self) -> str | None:
        """Why nothing can be written any more, or None."""
        return self._refusal

    def close(self) -> None:
        """Wait for the batch at work, commit what is gathered, refuse all else."""
        with self._mutex:
            self._refuse("the local database is closed")
            while self._busy:
                self._idle.wait()
        self.show()
        self._committer.stop()

    # ---- taking turns --------------------------------------------------------------------------------------------

    def _enter(self, job: _Job[T]) -> T:
        if self._leader == threading.get_ident():
            raise RuntimeError("a job of the writer called the writer")
        with self._mutex:
            if self._refusal is not None and not job.shows:
                raise LocalFailure(self._refusal)
            self._waiting.append(job)
            leads = not self._busy
            self._busy = True
            if self._awaits:
                self._awaits = False
                self._arrival.release()
        if not leads:
            self._wait(job)
        if not job.done:
            self._lead()
        return job.outcome()

    def _enter_at_once(self, job: _Job[T]) -> T:
        """Do a lazy job if nobody is at work; whoever comes meanwhile is not waited for."""
        gathered = self._gathered
        is_easy = job.lazy and (self._has_room() if gathered is None else not gathered.is_nearly_full)
        with self._mutex:
            if not is_easy or self._busy or self._refusal is not None:
                raise WouldWait("the writer is at work")
            self._busy = True
        self._lead([job])
        return job.outcome()

    def _wait(self, job: _Job[Any]) -> None:
        """Wait until the job is done or its thread is to lead. An interrupted wait gives the turn on."""
        try:
            job.gate.acquire()
        except BaseException:
            with self._mutex:
                if job in self._waiting:
                    self._waiting.remove(job)
                chosen = self._next is job
            if chosen:
                self._hand_over([])
            raise

    def _lead(self, alone: Sequence[_Job[Any]] = ()) -> None:
        """Work off all that wait, or the jobs that are to be done ``alone``."""
        batch: list[_Job[Any]] = list(alone)
        self._leader = threading.get_ident()
        try:
            if not batch:
                self._await_company()
                with self._mutex:
                    batch, self._waiting, self._next = self._waiting, [], None
            self._process(batch)
        except BaseException:
            self._abandon(batch)
            raise
        finally:
            self.is_concluding = False
            self._leader = None
            self._hand_over(batch)

    def _await_company(self) -> None:
        """Wait while one after the other of as many callers as there were lately comes with a job, if a sync is at stake.

        Callers of a batch come back together. Whoever began without them would make two groups of them for ever, and each
        would pay for a commit and a sync of its own.
        """
        while self._expects_more():
            if not self._arrival.acquire(timeout=LINGER):
                with self._mutex:
                    came = not self._awaits
                    self._awaits = False
                if came:
                    self._arrival.acquire()
                return

    def _expects_more(self) -> bool:
        with self._mutex:
            waiting = self._waiting
            self._awaits = len(waiting) < self._company and any(job.durable for job in waiting)
            return self._awaits

    def _abandon(self, batch: list[_Job[Any]]) -> None:
        """After an error that is none of a job's own: what stands is unknown, so nothing more is written."""
        self.poison("writing was cut off")
        _fail(batch, LocalFailure(cast(str, self._refusal)))
        with suppress(TgdavError):
            self._roll_back()
        if self._gathered is not None:
            self._lose()

    def _hand_over(self, batch: list[_Job[Any]]) -> None:
        with self._mutex:
            refused: list[_Job[Any]] = []
            if self._refusal is not None:
                refused = [job for job in self._waiting if not job.shows]
                self._waiting = [job for job in self._waiting if job.shows]
                _fail(refused, LocalFailure(self._refusal))
            self._company = sum(not (job.lazy or job.shows) for job in batch) + len(self._waiting)
            self._next = self._waiting[0] if self._waiting else None
            successor = self._next
            if successor is None:
                self._busy = False
                if self._refusal is not None:  # nobody else waits for that
                    self._idle.notify_all()
        for job in batch + refused:
            job.finish()
        if successor is not None:
            successor.gate.release()

    def _refuse(self, reason: str) -> None:
        if self._refusal is None:
            self._refusal = reason

    # ---- one batch -----------------------------------------------------------------------------------------------

    def _process(self, batch: list[_Job[Any]]) -> None:
        if all(job.lazy for job in batch) and (self._gathered is not None or self._has_room()):
            self._gather(batch)
            return
        if self._gathered is not None and self._poisoned:
            self._give_up([], LocalFailure(cast(str, self._refusal)))
        if self._gathered is not None and any(job.sync for job in batch):
            self._commit([])  # who only looks is not to wait for files
        failpoint("writer.before-sync")
        _sync_files(batch)
        failpoint("writer.after-sync")
        working = [job for job in batch if job.work is not None and job.error is None]
        if working or self._gathered is not None:
            self._commit(working)
        self._answer_lookers(batch)
        if self._unsynced and any(job.durable and job.error is None for job in batch):
            self._pass_barrier(batch)
        for job in batch:
            if job.error is None:
                _conclude(job)

    def _gather(self, jobs: list[_Job[Any]]) -> None:
        """Run lazy jobs in a transaction that stays open."""
        try:
            gathered = self._gathered or self._begin()
            for job in jobs:
                late = self._run(job, gathered.batch)
                gathered.count += 1
                if job.error is None:
                    self._gathered = gathered
                    gathered.callbacks += late
        except TgdavError as error:
            self._give_up(jobs, error)
            return
        is_logged = self._redo.append(gathered.batch.take_notes())
        if self._gathered is None or gathered.is_full or not is_logged:
            self._gathered = gathered
            self._commit([])
            if self._poisoned:
                _fail(jobs, LocalFailure(cast(str, self._refusal)))
        for job in jobs:
            if job.error is None:
                _conclude(job)

    def _begin(self) -> Gathered:
        batch = Batch(self._connection, alone=False, is_noted=True)
        self._connection.execute("BEGIN IMMEDIATE")
        self._committer.begun()
        return Gathered(batch)

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        connection, gathered = self._connection, self._gathered
        batch = Batch(connection, alone=len(jobs) == 1) if gathered is None else gathered.batch
        batch.notes = None
        try:
            if gathered is None:
                connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                late = self._run(job, batch)
                job.callbacks += late
            if gathered is not None and not connection.in_transaction:
                raise LocalFailure("the local database gave up a transaction")
            if connection.in_transaction:
                batch.write()
                failpoint("writer.before-commit")
                self._unsynced = self.is_concluding = True
                durable = any(job.durable and job.error is None for job in jobs)
                self._redo.commit(connection, batch.released, durable=durable)
                self._gathered = None
                failpoint("writer.after-commit")
        except TgdavError as error:
            self._give_up(jobs, error)
            return
        for callback in gathered.callbacks if gathered is not None else ():
            callback()

    def _give_up(self, jobs: list[_Job[Any]], error: TgdavError) -> None:
        """The transaction is lost, with all jobs in it."""
        self._generation += 1
        self._roll_back()
        _fail(jobs, error)
        if self._gathered is not None:
            _log.error("changes that were made a moment ago could not be kept: %s", error)
            self.poison(f"changes could not be kept ({error})")
            self._lose()

    def _lose(self) -> None:
        self._gathered = None
        for callback in self._on_loss:
            callback()

    def _answer_lookers(self, batch: list[_Job[Any]]) -> None:
        """Let those go on who wait for nothing but the commit."""
        with self._mutex:
            come = [job for job in self._waiting if job.shows]
            self._waiting = [job for job in self._waiting if not job.shows]
        for job in come + [job for job in batch if job.shows]:
            job.finish()

    def _run(self, job: _Job[Any], batch: Batch) -> list[Callable[[], None]]:
        """Run one job; an error undoes it alone. Raises where the whole transaction is lost.

        Return what is to be called after the commit; what is to be called before is noted in the job.
        """
        transaction = self._current = Transaction(batch, self._generation)
        try:
            job.result = job.work(transaction) if job.work else None
            transaction.keep()
        except Exception as error:
            job.error = error
            transaction.undo()
            return []
        finally:
            self._current = None
        called = transaction.callbacks
        job.callbacks = [callback for callback, late in called if not (late and job.lazy)]
        return [callback for callback, late in called if late and job.lazy]

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _pass_barrier(self, batch: list[_Job[Any]]) -> None:
        failpoint("writer.before-wal-sync")
        try:
            self._sync_log()
        except OSError as error:
            self.poison(f"the local database's log could not be synced ({error.strerror})")
            _fail([job for job in batch if job.durable], LocalFailure(cast(str, self._refusal)))
            return
        self._unsynced = False
        failpoint("writer.after-wal-sync")


def _sync_files(batch: list[_Job[Any]]) -> None:
    """Sync each file that a job names, once; a failure fails the jobs that named it, and no others."""
    files = {id(file): file for job in batch for file in job.sync}
    for number, file in files.items():
        try:
            file.sync()
        except Exception as error:
            _fail([job for job in batch if any(id(named) == number for named in job.sync)], error)


def _conclude(job: _Job[Any]) -> None:
    try:
        for callback in job.callbacks:
            callback()
        if job.outside is not None:
            job.result = job.outside()
    except Exception as error:
        job.error = error


def _fail(jobs: Iterable[_Job[Any]], error: Exception) -> None:
    for job in jobs:
        if job.error is None:
            job.error = error
