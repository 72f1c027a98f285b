"""Counts of files and bytes for ``df`` and quota, which are asked for often and may be a little old."""

import threading
from collections.abc import Callable

from tgdav.clock import Clock

SHARE = 100
"""Counting a million files takes about a second; it may take this part of the time at most."""
QUICK_SECONDS = 0.005
"""What is counted faster is counted each time."""


class RecentTotals:
    """Remembers a slow count for a hundred times as long as it took. Thread-safe."""

    def __init__(self, count: Callable[[], tuple[int, int]], clock: Clock) -> None:
        self._count, self._clock = count, clock
        self._lock = threading.Lock()
        self._until = 0.0
        self._last: tuple[int, int] | None = None

    def get(self) -> tuple[int, int]:
        """Return (files, bytes of data)."""
        with self._lock:
            began = self._clock.monotonic()
            if self._last is None or began >= self._until:
                self._last = self._count()
                took = self._clock.monotonic() - began
                self._until = began + (took * SHARE if took > QUICK_SECONDS else 0.0)
            return self._last
