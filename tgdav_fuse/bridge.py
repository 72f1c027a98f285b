"""The bridge from trio's loop to the file system's blocking calls.

What may wait for a disk, a lock or the store runs in a worker thread; the loop only looks things up. Changes made through
here are the mount's own: the kernel knows of them, and telling it again while it waits for the answer would deadlock.

The threads are kept by ourselves: a request is worth little more than a hundred microseconds, of which
``trio.to_thread`` would take half.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

import outcome
import trio

A = TypeVarTuple("A")
R = TypeVar("R")

THREADS = 24
"""Most requests that work at once."""

_Job = tuple[Callable[[], Any], trio.lowlevel.Task, trio.lowlevel.TrioToken]


class Bridge:
    """Runs calls for one mount."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0

    async def call(self, work: Callable[[], R]) -> R:
        """Run ``work`` in a worker thread; it is not given up once it began."""
        self._waiting += 1
        if self._waiting > len(self._threads) and len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name="tgdav-fuse-worker", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((work, trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()))
        try:
            result: R = await trio.lowlevel.wait_task_rescheduled(_never_aborted)
            return result
        finally:
            self._waiting -= 1

    def _work(self) -> None:
        self._own.active = True
        while (job := self._jobs.get()) is not None:
            work, task, token = job
            result = outcome.capture(work)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(trio.lowlevel.reschedule, task, result)
            del job, work, task, result

    def at_once(self, work: Callable[[*A], R], *arguments: *A) -> R:
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


def _never_aborted(_raise_cancel: Any) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
