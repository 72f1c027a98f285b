"""How pyfuse3's session waits for the kernel's next request: in the thread itself while nothing else is to be done.

A turn of trio's loop costs more than most requests: pyfuse3 takes two of them for each. Most are answered without waiting
for anybody, and the next comes within microseconds; so while no request is under way, this thread waits at the kernel's
descriptor by poll(2) for a moment before it turns to the loop. While requests follow each other without a gap the loop has no
turn; nobody waits for one, since a request that waits for a worker is under way until its answer.

pyfuse3 takes what it needs of trio from its own name ``trio``, which may be replaced (``pyfuse3.asyncio`` does that too).
"""

import select
from collections import deque
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

LOOKS = 100
"""So often a thread looks for the next request, about a microsecond each, before it sleeps: to be woken on another core than
that of the program which asks costs it more, and the program a third of its rate."""

LINGER_MS = 5
"""How long it sleeps so before it turns to the loop."""


class BargingLock:
    """A lock that whoever gives it up may take again at once; one of those who wait is told each time that it is free."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._told: trio.lowlevel.Task | None = None

    async def __aenter__(self) -> None:
        while self._held:
            await self._wait()
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False
        if self._told is None and self._waiting:
            self._told = self._waiting.popleft()
            trio.lowlevel.reschedule(self._told)

    async def _wait(self) -> None:
        task = trio.lowlevel.current_task()

        def give_up(_raise_cancel: Any) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting.append(task)
        await trio.lowlevel.wait_task_rescheduled(give_up)
        self._told = None


class _LowLevel:
    """What pyfuse3 uses of ``trio.lowlevel``."""

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
            if any(self._poll.poll(0) for _ in range(LOOKS)) or self._poll.poll(LINGER_MS):
                return
        await trio.lowlevel.wait_readable(descriptor)


class _Trio:
    """What pyfuse3 uses of ``trio``."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = BargingLock
    open_nursery = staticmethod(trio.open_nursery)

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        self.lowlevel = _LowLevel(is_idle)


def serve(is_idle: Callable[[], bool]) -> None:
    """Answer the kernel until the mount ends. ``is_idle`` tells whether no request is under way."""
    pyfuse3.trio = _Trio(is_idle)  # type: ignore[attr-defined]
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]
