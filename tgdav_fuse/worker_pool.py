"""The bridge from trio's loop to the file system's blocking calls.

What may wait for a disk, a lock or the store runs in a worker thread; the loop only looks things up. Changes made through
here are the mount's own: the kernel knows of them, and telling it again while it waits for the answer would deadlock.

The threads are kept by ourselves: a request is worth little more than a hundred microseconds, of which
``trio.to_thread`` would take half.
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
"""Most requests that work at once."""

Job = Callable[[trio.lowlevel.TrioToken], None]
"""What a worker thread does; it is given the way back to the loop."""


def job_of(work: Callable[[], Any]) -> Job:
    """Return the job that runs ``work`` and lets the current task go on, which is to wait by ``answered``."""
    return partial(_answer, work, trio.lowlevel.current_task())


async def answered() -> Any:
    """Return the result of the current task's job; it is not given up once it began."""
    return await trio.lowlevel.wait_task_rescheduled(_never_aborted)


def _answer(work: Callable[[], Any], task: trio.lowlevel.Task, token: trio.lowlevel.TrioToken) -> None:
    result = outcome.capture(work)
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)


def _never_aborted(_raise_cancel: Any) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class WorkerPool:
    """Runs calls for one mount."""

    def __init__(self, threads: int = THREADS) -> None:
        self._most = threads
        self._own = threading.local()
        self._jobs: SimpleQueue[tuple[Job, trio.lowlevel.TrioToken] | None] = SimpleQueue()
        self._threads: list[Worker] = []
        self._under_way = 0

    async def call(self, work: Callable[[], R]) -> R:
        """Run ``work`` in a worker thread; return its result."""
        self.start(job_of(work))
        try:
            result: R = await answered()
            return result
        finally:
            self.ended()

    def start(self, job: Job) -> None:
        """Have a worker thread do ``job``; call ``ended`` when it has."""
        self._under_way += 1
        if self._under_way > len(self._threads) and len(self._threads) < self._most:
            thread = Worker("tgdav-fuse-worker", self._work)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((job, trio.lowlevel.current_trio_token()))

    def ended(self) -> None:
        """Take in that one job has ended."""
        self._under_way -= 1

    def _work(self) -> None:
        self._own.active = True
        while (found := self._jobs.get()) is not None:
            job, token = found
            job(token)
            del job, token, found

    def call_nowait(self, work: Callable[[*A], R], *arguments: *A) -> R:
        """Run ``work``, which waits for nothing, in the loop."""
        self._own.active = True
        try:
            return work(*arguments)
        finally:
            self._own.active = False

    def stop(self) -> None:
        """End the threads, when their calls have returned."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def is_own(self) -> bool:
        """Whether the calling thread works for the kernel right now."""
        return getattr(self._own, "active", False)


class WriteQueue:
    """Used in the loop's thread. ``alone`` is for what must not happen beside a write: ``async with queue.alone``."""

    def __init__(self, pool: WorkerPool) -> None:
        self.alone = trio.Semaphore(1, max_value=1)
        self._pool = pool
        self._jobs: deque[Job] = deque()
        self._flows = False

    @property
    def is_busy(self) -> bool:
        """Whether whoever comes now has to wait."""
        return not self.alone.value

    async def write(self, work: Callable[[], int]) -> int:
        """Run ``work`` in a worker thread, after all that came before it; return its result."""
        if not self.is_busy:
            self.alone.acquire_nowait()  # without a turn of the loop, in which the next write would find it taken, and wait
        elif not self._flows or self.alone.statistics().tasks_waiting:
            await self.alone.acquire()  # whoever waits to be alone is not to be passed by writes for ever
        self._jobs.append(job_of(work))
        if not self._flows:
            self._flows = True
            self._pool.start(self._work_off)
        result: int = await answered()
        return result

    def _work_off(self, token: trio.lowlevel.TrioToken) -> None:
        """In the worker thread: do what is there, and what comes meanwhile."""
        while self._jobs:
            self._jobs.popleft()(token)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self._worked_off)

    def _worked_off(self) -> None:
        self._pool.ended()
        if self._jobs:
            self._pool.start(self._work_off)
        else:
            self._flows = False
            self.alone.release()
