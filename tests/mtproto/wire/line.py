"""A simulated line: each direction of a connection has a delay and a rate, and never reorders."""

import asyncio
from collections import deque
from collections.abc import Callable


class Line:
    """Delivers payloads in order, `delay()` seconds late each, at no more than `rate()` bytes a second (0: any)."""

    def __init__(self, deliver: Callable[[bytes], None], delay: Callable[[], float], rate: Callable[[], float]) -> None:
        self._deliver = deliver
        self._delay = delay
        self._rate = rate
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._free = 0.0
        self.queued = 0

    def put(self, payload: bytes) -> None:
        """Takes a payload; delivers it before returning when the line is neither slow nor occupied."""
        delay, rate = self._delay(), self._rate()
        if not delay and not rate and not self._waiting:
            self._deliver(payload)
            return
        now = asyncio.get_running_loop().time()
        sent = max(now, self._free) + (len(payload) / rate if rate else 0.0)
        self._free = sent
        due = max(sent + delay, self._waiting[-1][0] if self._waiting else 0.0)
        self._waiting.append((due, payload))
        self.queued += len(payload)
        if self._timer is None:
            self._arm(due)

    def _arm(self, due: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0][0] <= now + 0.0005:
            payload = self._waiting.popleft()[1]
            self.queued -= len(payload)
            self._deliver(payload)
        if self._waiting and self._timer is None:
            self._arm(self._waiting[0][0])

    def cut(self) -> None:
        """Drops what is under way."""
        self._waiting.clear()
        self.queued = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
