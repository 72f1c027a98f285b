"""pyfuse3's session loop, with the wait for the kernel's next request replaced by poll(2).

One turn of trio's loop costs more than most requests, and pyfuse3 takes two for each. Most requests are answered without
waiting, and the next one comes within microseconds. So while no request is in progress, the thread polls the kernel's
descriptor for a moment before it gives control to trio. Trio gets no turn while requests follow each other without a gap;
no task needs one then, since a request that waits for a worker is in progress until its reply.

pyfuse3 looks trio up by its module attribute ``pyfuse3.trio``, which can be replaced; ``pyfuse3.asyncio`` does the same.
"""

import select
from collections import deque
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

SPINS = 100
"""How often the thread polls, about a microsecond each, before it sleeps. A sleeping thread may be woken on another core
than the program's, which costs the program a third of its rate."""

LINGER_MS = 5
"""How long the thread then sleeps in poll(2) before it gives control to trio."""


class BargingLock:
    """A lock that its last owner may take again before a waiter gets it. One waiter is woken each time it is released.

    pyfuse3 holds it while it reads a request. A fair lock would switch tasks after each request.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._woken: trio.lowlevel.Task | None = None

    async def __aenter__(self) -> None:
        while self._held:
            await self._wait()
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False
        if self._woken is None and self._waiting:
            self._woken = self._waiting.popleft()
            trio.lowlevel.reschedule(self._woken)

    async def _wait(self) -> None:
        task = trio.lowlevel.current_task()

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._woken = None


class _LowLevel:
    """The part of ``trio.lowlevel`` that pyfuse3 uses."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        self._is_idle = is_idle
        self._descriptor = -1
        self._poll = select.poll()

    async def wait_readable(self, descriptor: int) -> None:
        """Return when the kernel has a request."""
        if self._is_idle():
            if descriptor != self._descriptor:
                self._poll, self._descriptor = select.poll(), descriptor
                self._poll.register(descriptor, select.POLLIN)
            for _ in range(SPINS):
                if self._poll.poll(0):
                    return
            if self._poll.poll(LINGER_MS):
                return
        await trio.lowlevel.wait_readable(descriptor)


class _Trio:
    """The part of ``trio`` that pyfuse3 uses."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = BargingLock
    open_nursery = staticmethod(trio.open_nursery)

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        self.lowlevel = _LowLevel(is_idle)


def serve(is_idle: Callable[[], bool]) -> None:
    """Serve the kernel's requests until the mount ends. ``is_idle`` returns whether no request is in progress."""
    pyfuse3.trio = _Trio(is_idle)  # type: ignore[attr-defined]
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]
