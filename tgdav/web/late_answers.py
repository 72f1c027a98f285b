"""Answers that go out late on purpose, without a thread waiting for each."""

import heapq
import threading
from collections.abc import Callable
from itertools import count

from tgdav.clock import Clock
from tgdav.threads import Worker


class LateAnswers:
    """Calls functions when their time has come, from one thread. At most ``capacity`` wait at a time."""

    def __init__(self, clock: Clock, capacity: int = 500) -> None:
        self._clock = clock
        self._capacity = capacity
        self._order = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = Worker("late-answers", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Call all that wait at once and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def put(self, delay: float, call: Callable[[], None]) -> bool:
        """Have ``call`` called in ``delay`` seconds; return False, and do nothing, when too many wait already."""
        with self._changed:
            if self._stopping or len(self._heap) >= self._capacity:
                return False
            heapq.heappush(self._heap, (self._clock.monotonic() + delay, next(self._order), call))
            self._changed.notify()
            return True

    def _run(self) -> None:
        while (call := self._next()) is not None:
            call()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while True:
                if not self._heap:
                    if self._stopping:
                        return None
                    self._changed.wait()
                    continue
                left = self._heap[0][0] - self._clock.monotonic()
                if left <= 0 or self._stopping:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(left)
