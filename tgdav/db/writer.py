"""The only writer of a database: group commit by combining, with a durability barrier.

A thread that calls ``run`` while nobody writes becomes the leader. It takes all waiting jobs (at first its own alone; if
several callers write at once, it waits briefly for them) and, for all of them together, syncs the staging files they name,
begins a transaction, runs each job so that it can fail alone (in a savepoint, once it does more than defer rows), commits,
and syncs the write-ahead log once if one of them is durable. Then it wakes their callers, and the thread of the first job
that arrived meanwhile becomes the next leader. (Flat combining, Hendler et al. 2010; group commit, DeWitt et al. 1984.)

A *lazy* job is answered before it is committed: its transaction, the lazy batch, stays open for a moment so that other lazy
jobs can join. The batch is committed with the first job that is not lazy, before anybody reads through another connection
(``commit_pending``), when it is full, and 30 ms after it was opened. Before a lazy job is answered, its statements go to the
redo log (``tgdav.db.redo_log``), from which the next start executes them again; if that fails, the batch is committed at
once. So a killed process loses nothing it has answered; a power cut loses at most the last moment of lazy jobs; a durable job
makes everything answered before it durable as well; and nobody in this process can see that something is not committed. If
the commit of a lazy batch fails, nothing more is written until the process is restarted, which then finds the answered
changes in the redo log. To make that unlikely, no lazy batch is opened while the disk is nearly full.

The order is the promise: files are synced before a transaction that names them is committed, because SQLite or the kernel may
make a commit durable at any time; and no durable job is acknowledged before the log is synced.

Jobs run in the leader's thread, one after another. They must not call ``run`` (RuntimeError) nor wait for another thread that
does; they read from their own transaction. ``after_commit`` callbacks also run in the leader's thread, in commit order, after
the barrier and with no transaction open: before the caller's ``run`` returns (unless the job is lazy), and under the same two
rules. A callback may take locks, but none that a thread holds while it calls ``run`` or reads.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, cast

from tgdav.db.connection import Connection
from tgdav.db.lazy_batch import CommitTimer, LazyBatch
from tgdav.db.redo_log import RedoLog
from tgdav.db.transaction import Transaction, TransactionBatch
from tgdav.errors import LocalFailure, NoSpace, TgdavError, WouldBlock
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)

T = TypeVar("T")

LINGER = 0.0006
"""Seconds that a leader waits for each of its recent callers; about as long as a small upload needs before it commits."""


class Syncable(Protocol):
    """A file whose bytes a transaction names."""

    def sync(self) -> None:
        """Return when its bytes survive a power cut. Raises LocalFailure; after one failure every later call fails too."""
        ...


class _Job(Generic[T]):
    """One call of ``run``, ``exclusively`` or ``commit_pending``. ``outside`` runs while no transaction is open.

    ``only_commits``: it has no work of its own; it commits the lazy batch.
    """

    __slots__ = (
        "callbacks", "done", "durable", "error", "gate", "lazy", "only_commits", "outside", "result", "sync", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: Callable[[Transaction], T] | None,
        durable: bool,
        sync: Sequence[Syncable],
        outside: Callable[[], T] | None = None,
        *,
        lazy: bool = False,
        only_commits: bool = False,
    ) -> None:
        self.work = work
        self.outside = outside
        self.durable = durable
        self.sync = sync
        self.lazy, self.only_commits = lazy, only_commits
        self.callbacks: list[Callable[[], None]] = []
        self.result: T | None = None
        self.error: BaseException | None = None
        self.done = False
        # A lock that another thread releases once: cheaper than an Event, and made for each job.
        self.gate = threading.Lock()
        self.gate.acquire()

    def finish(self) -> None:
        """Wake the caller."""
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
        """``has_room`` returns whether a few MiB can certainly be written."""
        self._redo = redo
        self._connection = connection
        self._sync_log = sync_log
        self._has_room = has_room
        self._lazy_batch: LazyBatch | None = None
        self._timer = CommitTimer(self.commit_pending)
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
        """Whether the database may contain changes whose callbacks have not run yet."""
        # Released by a job that arrives while the leader waits for its group.
        self._arrival = threading.Lock()
        self._arrival.acquire()
        self._awaits = False
        self._group_size = 1

    def run(
        self,
        work: Callable[[Transaction], T],
        *,
        durable: bool = False,
        sync: Sequence[Syncable] = (),
        lazy: bool = False,
        nowait: bool = False,
    ) -> T:
        """Commit all changes of ``work`` or none; return its result. Raises what ``work`` raises.

        The files in ``sync`` are synced first; list every file whose bytes the change refers to. With ``durable`` the change
        survives a power cut when this returns. A ``lazy`` change, which refers to no files, may be committed a moment later.
        With ``nowait``, for lazy jobs only, WouldBlock is raised if another job runs or a commit is due. Raises LocalFailure
        (also if a file cannot be synced; after a failed sync of the log every call fails until restarted) and NoSpace.
        """
        job = _Job(work, durable, sync, lazy=lazy and not durable and not sync)
        return self._enter_nowait(job) if nowait else self._enter(job)

    def commit_pending(self) -> None:
        """Commit the lazy batch, so that other connections see it; if that fails, see ``on_loss``.

        Raises RuntimeError inside a job: a job reads from its own transaction.
        """
        if self._leader == threading.get_ident() and self._connection.in_transaction:
            raise RuntimeError("a job of the writer must read from its own transaction")
        if self._lazy_batch is not None:
            with suppress(LocalFailure, NoSpace):
                self._enter(_Job[None](None, False, (), only_commits=True))

    @property
    def own_transaction(self) -> Transaction | None:
        """The transaction of the job that the calling thread is in, or None."""
        return self._current if self._leader == threading.get_ident() else None

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, in the leader's thread, when a lazy batch could not be committed."""
        self._on_loss.append(callback)

    def sync(self) -> None:
        """Return when every answered change survives a power cut. Raises LocalFailure."""
        self._enter(_Job[None](None, True, ()))

    def exclusively(self, action: Callable[[], T]) -> T:
        """Call ``action`` while no transaction is open and none can begin; return its result."""
        return self._enter(_Job(None, False, (), action))

    def poison(self, reason: str) -> None:
        """Refuse all later jobs; answered changes that are not committed remain in the redo log for the next start."""
        self._redo.stop()
        with self._mutex:
            self._poisoned = True
            self._refuse(f"{reason}; read-only until restarted")

    @property
    def refusal(self) -> str | None:
        """Why no job is accepted any more, or None."""
        return self._refusal

    def close(self) -> None:
        """Wait for the running batch, commit the lazy batch, refuse all later jobs."""
        with self._mutex:
            self._refuse("the local database is closed")
            while self._busy:
                self._idle.wait()
        self.commit_pending()
        self._timer.stop()

    # ---- taking turns --------------------------------------------------------------------------------------------

    def _enter(self, job: _Job[T]) -> T:
        if self._leader == threading.get_ident():
            raise RuntimeError("a job of the writer called the writer")
        with self._mutex:
            if self._refusal is not None and not job.only_commits:
                raise LocalFailure(self._refusal)
            self._waiting.append(job)
            # Under the same mutex as ``_hand_over``: either this job is in its list, or this thread leads.
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

    def _enter_nowait(self, job: _Job[T]) -> T:
        """Run a lazy job if no other job runs, without waiting for others to join it."""
        with self._mutex:
            if self._busy or self._refusal is not None or not (job.lazy and self._takes_at_once()):
                raise WouldBlock("the writer is busy")
            self._busy = True
        self._lead(job)
        return job.outcome()

    def _takes_at_once(self) -> bool:
        """Return whether one more lazy job certainly causes no commit, which takes milliseconds: not in the event loop."""
        lazy_batch = self._lazy_batch
        return self._has_room() if lazy_batch is None else not lazy_batch.is_nearly_full

    def _wait(self, job: _Job[Any]) -> None:
        """Wait until the job is done or its thread is the next leader. An interrupted wait passes the lead on."""
        try:
            job.gate.acquire()
        except BaseException:
            # KeyboardInterrupt: a job that waits is withdrawn; one that a leader has taken runs to its end.
            with self._mutex:
                if job in self._waiting:
                    self._waiting.remove(job)
                chosen = self._next is job
            if chosen:
                self._hand_over([])
            raise

    def _lead(self, alone: _Job[Any] | None = None) -> None:
        """Run all waiting jobs, or only ``alone``: a lazy job for which ``_takes_at_once``."""
        batch: list[_Job[Any]] = []
        self._leader = threading.get_ident()
        try:
            if alone is not None:
                batch = [alone]
                self._run_lazy(batch)
            else:
                self._wait_for_group()
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

    def _wait_for_group(self) -> None:
        """If a sync is due, wait up to LINGER per recent caller so that they share the commit.

        The callers of one batch return together. A leader that started without them would split them into two groups for
        good, each paying for its own commit and sync.
        """
        while self._expects_more():
            if not self._arrival.acquire(timeout=LINGER):
                with self._mutex:
                    came = not self._awaits
                    self._awaits = False
                # A job arrived between the timeout and the mutex and released the lock: take that release, or the
                # next wait would return at once.
                if came:
                    self._arrival.acquire()
                return

    def _expects_more(self) -> bool:
        with self._mutex:
            waiting = self._waiting
            self._awaits = len(waiting) < self._group_size and any(job.durable for job in waiting)
            return self._awaits

    def _abandon(self, batch: list[_Job[Any]]) -> None:
        """After an error outside any job the database's state is unknown: write nothing more."""
        self.poison("writing was interrupted")
        _fail(batch, LocalFailure(cast(str, self._refusal)))
        with suppress(TgdavError):
            self._roll_back()
        if self._lazy_batch is not None:
            self._abandon_lazy_batch()

    def _hand_over(self, batch: list[_Job[Any]]) -> None:
        with self._mutex:
            refused: list[_Job[Any]] = []
            if self._refusal is not None:
                refused = [job for job in self._waiting if not job.only_commits]
                self._waiting = [job for job in self._waiting if job.only_commits]
                _fail(refused, LocalFailure(self._refusal))
            callers = [job for job in batch if not (job.lazy or job.only_commits)]
            self._group_size = len(callers) + len(self._waiting)
            self._next = self._waiting[0] if self._waiting else None
            successor = self._next
            if successor is None:
                self._busy = False
                if self._refusal is not None:  # only ``close`` waits for it
                    self._idle.notify_all()
        # Outside the mutex: each caller wakes up and takes it at once.
        for job in batch + refused:
            job.finish()
        if successor is not None:
            successor.gate.release()

    def _refuse(self, reason: str) -> None:
        if self._refusal is None:
            self._refusal = reason

    # ---- one batch -----------------------------------------------------------------------------------------------

    def _process(self, batch: list[_Job[Any]]) -> None:
        if all(job.lazy for job in batch) and (self._lazy_batch is not None or self._has_room()):
            self._run_lazy(batch)
            return
        # A failed sync or checkpoint came after the batch was opened: nothing may be committed any more.
        if self._lazy_batch is not None and self._poisoned:
            self._give_up([], LocalFailure(cast(str, self._refusal)))
        if self._lazy_batch is not None and any(job.sync for job in batch):
            self._commit([])  # readers need not wait until files are synced
        failpoint("writer.before-sync")
        _sync_files(batch)
        failpoint("writer.after-sync")
        # Jobs whose file could not be synced have an error by now: a transaction must not name unsynced bytes.
        working = [job for job in batch if job.work is not None and job.error is None]
        if working or self._lazy_batch is not None:
            self._commit(working)
        self._release_readers(batch)
        if self._unsynced and any(job.durable and job.error is None for job in batch):
            self._pass_barrier(batch)
        for job in batch:
            if job.error is None:
                _conclude(job)

    def _run_lazy(self, jobs: list[_Job[Any]]) -> None:
        """Run lazy jobs in the lazy batch, which stays open."""
        try:
            lazy_batch = self._lazy_batch or self._begin_lazy()
            for job in jobs:
                late = self._run(job, lazy_batch.batch)
                lazy_batch.count += 1
                if job.error is None:
                    self._lazy_batch = lazy_batch
                    lazy_batch.callbacks += late
        except TgdavError as error:
            self._give_up(jobs, error)
            return
        # Before the answer, so that a kill after it loses nothing.
        is_logged = self._redo.append(lazy_batch.batch.take_redo_entries())
        if self._lazy_batch is None or lazy_batch.is_full or not is_logged:
            self._lazy_batch = lazy_batch
            self._commit([])
            if self._poisoned:
                _fail(jobs, LocalFailure(cast(str, self._refusal)))
        for job in jobs:
            if job.error is None:
                _conclude(job)

    def _begin_lazy(self) -> LazyBatch:
        batch = TransactionBatch(self._connection, alone=False, is_logged=True)
        self._connection.execute("BEGIN IMMEDIATE")
        self._timer.start()
        return LazyBatch(batch)

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        connection, lazy_batch = self._connection, self._lazy_batch
        batch = TransactionBatch(connection, alone=len(jobs) == 1) if lazy_batch is None else lazy_batch.batch
        batch.redo_entries = None
        try:
            if lazy_batch is None:
                connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                late = self._run(job, batch)
                job.callbacks += late
            if lazy_batch is not None and not connection.in_transaction:
                raise LocalFailure("the local database rolled a transaction back")
            if connection.in_transaction:
                # Jobs may have deferred rows without executing a statement.
                batch.write()
                failpoint("writer.before-commit")
                # Set before COMMIT: from then on readers may see rows whose callbacks have not run.
                self._unsynced = self.is_concluding = True
                durable = any(job.durable and job.error is None for job in jobs)
                self._redo.commit(connection, batch.released, durable=durable)
                self._lazy_batch = None
                failpoint("writer.after-commit")
        except TgdavError as error:
            self._give_up(jobs, error)
            return
        for callback in lazy_batch.callbacks if lazy_batch is not None else ():
            callback()

    def _give_up(self, jobs: list[_Job[Any]], error: TgdavError) -> None:
        """The transaction is lost with all its jobs."""
        # First: a job that starts during the rollback must not trust what it remembers.
        self._generation += 1
        self._roll_back()
        _fail(jobs, error)
        if self._lazy_batch is not None:
            _log.error("changes of the last moment could not be committed: %s", error)
            self.poison(f"changes could not be committed ({error})")
            self._abandon_lazy_batch()

    def _abandon_lazy_batch(self) -> None:
        self._lazy_batch = None
        for callback in self._on_loss:
            callback()

    def _release_readers(self, batch: list[_Job[Any]]) -> None:
        """Release readers that waited only for the commit."""
        with self._mutex:
            arrived = [job for job in self._waiting if job.only_commits]
            self._waiting = [job for job in self._waiting if not job.only_commits]
        for job in arrived + [job for job in batch if job.only_commits]:
            job.finish()

    def _run(self, job: _Job[Any], batch: TransactionBatch) -> list[Callable[[], None]]:
        """Run one job; an error undoes only this job. Raises if the whole transaction is lost.

        Returns the callbacks to call after the commit; those to call before it are stored in the job.
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
        after_commit: list[Callable[[], None]] = []
        for callback, late in transaction.callbacks:
            (after_commit if late and job.lazy else job.callbacks).append(callback)
        return after_commit

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
    """Sync each file that a job names, once; a failure fails only the jobs that name that file."""
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
