"""Worker threads for the blocking calls of the file system, and one file's writes in order.

Whatever may wait for a disk, a lock or the store runs in a worker thread; trio's loop only reads memory and the database.
Changes made by these threads are the mount's own: the kernel knows them already. Notifying it of one while it waits for
the reply would deadlock.

``trio.to_thread`` would take half of a request's time, which is little more than a hundred microseconds.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

import outcome
import trio

from tgdav.threads import Worker

A = TypeVarTuple("A")
R = TypeVar("R")

THREADS = 24
"""Most requests that are worked on at the same time."""

Job = Callable[[trio.lowlevel.TrioToken], None]
"""What a worker thread runs. The token is its way back to the loop."""


def job_of(work: Callable[[], Any]) -> Job:
    """Return a job that runs ``work`` and resumes the current task, which must wait in ``job_result``."""
    return partial(_run, work, trio.lowlevel.current_task())


async def job_result() -> Any:
    """Return the result of the current task's job. Cannot be cancelled: the job has begun."""
    return await trio.lowlevel.wait_task_rescheduled(_never_aborted)


def _run(work: Callable[[], Any], task: trio.lowlevel.Task, token: trio.lowlevel.TrioToken) -> None:
    result = outcome.capture(work)
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)


def _never_aborted(_raise_cancel: Any) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class WorkerPool:
    """The worker threads of one mount; they start as needed. All but ``is_worker`` is used in the loop's thread."""

    def __init__(self) -> None:
        self._current = threading.local()
        self._jobs: SimpleQueue[tuple[Job, trio.lowlevel.TrioToken] | None] = SimpleQueue()
        self._threads: list[Worker] = []
        self._running = 0

    async def call(self, work: Callable[[], R]) -> R:
        """Run ``work`` in a worker thread and return its result."""
        self.start(job_of(work))
        try:
            result: R = await job_result()
            return result
        finally:
            self.finished()

    def start(self, job: Job) -> None:
        """Hand ``job`` to a worker thread. The caller must call ``finished`` after it."""
        self._running += 1
        if self._running > len(self._threads) and len(self._threads) < THREADS:
            thread = Worker("tgdav-fuse-worker", self._work)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((job, trio.lowlevel.current_trio_token()))

    def finished(self) -> None:
        """Record that one job has ended."""
        self._running -= 1

    def _work(self) -> None:
        self._current.is_worker = True
        while (found := self._jobs.get()) is not None:
            job, token = found
            job(token)
            del job, token, found  # or an idle thread would keep a request's data alive

    def call_nowait(self, work: Callable[[*A], R], *arguments: *A) -> R:
        """Run ``work``, which must not wait, in the loop's thread, as if a worker did."""
        self._current.is_worker = True
        try:
            return work(*arguments)
        finally:
            self._current.is_worker = False

    def stop(self) -> None:
        """End the threads. Blocks until their jobs have returned."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def is_worker(self) -> bool:
        """Whether the calling thread is working on a request of the kernel."""
        return getattr(self._current, "is_worker", False)


class WriteQueue:
    """Runs one file's writes in the order in which the kernel sent them. Used in the loop's thread.

    As long as writes keep coming, one worker thread runs them one after another. If the loop started each of them, the
    worker would be idle between two writes until the loop got there.

    ``exclusive`` is for what must not run at the same time as a write: ``async with queue.exclusive``.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self.exclusive = trio.Semaphore(1, max_value=1)
        self._pool = pool
        self._jobs: deque[Job] = deque()
        self._draining = False

    @property
    def is_busy(self) -> bool:
        """Whether a write that comes now has to wait."""
        return not self.exclusive.value

    async def write(self, work: Callable[[], int]) -> int:
        """Run ``work`` in a worker thread, after all writes that came before it. Return its result."""
        if not self.is_busy:
            # acquire() would yield to the loop, and the next write would find the semaphore taken and wait.
            self.exclusive.acquire_nowait()
        elif not self._draining or self.exclusive.statistics().tasks_waiting:
            await self.exclusive.acquire()  # a stream of writes must not starve a task that waits for exclusive access
        self._jobs.append(job_of(work))
        if not self._draining:
            self._draining = True
            self._pool.start(self._drain)
        result: int = await job_result()
        return result

    def _drain(self, token: trio.lowlevel.TrioToken) -> None:
        """Run all queued writes, and those that are added meanwhile. Called in a worker thread."""
        while self._jobs:
            self._jobs.popleft()(token)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self._drained)

    def _drained(self) -> None:
        self._pool.finished()
        if self._jobs:  # added after the worker found the queue empty
            self._pool.start(self._drain)
        else:
            self._draining = False
            self.exclusive.release()
