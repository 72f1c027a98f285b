"""The bridge from trio's loop to the file system's blocking calls.

What may wait for a disk, a lock or the store runs in a worker thread; the loop only looks things up. Changes made through
here are the mount's own: the kernel knows of them, and telling it again while it waits for the answer would deadlock.
"""

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import trio

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 24
"""Most requests that work at once."""


class Bridge:
    """Runs calls for one mount."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(THREADS)
        self._own = threading.local()

    async def call(self, work: Callable[[], R]) -> R:
        """Run ``work`` in a worker thread."""
        return await trio.to_thread.run_sync(self._mark, work, limiter=self._limiter)

    def _mark(self, work: Callable[[], R]) -> R:
        self._own.active = True
        try:
            return work()
        finally:
            self._own.active = False

    @property
    def is_own(self) -> bool:
        """Whether the calling thread works for the kernel right now."""
        return getattr(self._own, "active", False)
