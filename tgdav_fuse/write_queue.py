"""Writes of one file, worked off in the order in which the kernel sent them.

While writes keep coming, one worker thread takes one after the other and lets each one's task go on; were the turn handed on
by the loop, the worker would be idle between any two of them until the loop gets there.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

from tgdav_fuse.bridge import Bridge, Job, answered, job_of


class WriteQueue:
    """Used in the loop's thread. ``alone`` is for what must not happen beside a write: ``async with queue.alone``."""

    def __init__(self, bridge: Bridge) -> None:
        self.alone = trio.Semaphore(1, max_value=1)
        self._bridge = bridge
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
            self._bridge.start(self._work_off)
        result: int = await answered()
        return result

    def _work_off(self, token: trio.lowlevel.TrioToken) -> None:
        """In the worker thread: do what is there, and what comes meanwhile."""
        while self._jobs:
            self._jobs.popleft()(token)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self._worked_off)

    def _worked_off(self) -> None:
        self._bridge.ended()
        if self._jobs:
            self._bridge.start(self._work_off)
        else:
            self._flows = False
            self.alone.release()
