"""A lock for each key, made when it is first wanted and dropped when nobody holds or waits for it."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class KeyedLocks:
    """Mutual exclusion for each key. Thread-safe; not reentrant."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Hashable, tuple[threading.Lock, int]] = {}
        """The lock of each key in use, and how many threads hold it or wait for it."""

    @contextmanager
    def holding(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of ``key`` during a ``with`` block."""
        with self._lock:
            lock, users = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._held.pop(key)
                if users > 1:
                    self._held[key] = (lock, users - 1)
