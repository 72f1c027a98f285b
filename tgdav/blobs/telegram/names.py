"""One append of a name at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tgdav.ids import BlobName


class NameLocks:
    """A lock for each name in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[BlobName, tuple[threading.Lock, int]] = {}

    @contextmanager
    def holding(self, name: BlobName) -> Iterator[None]:
        """Hold a name's lock."""
        with self._lock:
            lock, users = self._held.get(name, (threading.Lock(), 0))
            self._held[name] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                users = self._held[name][1] - 1
                if users:
                    self._held[name] = (lock, users)
                else:
                    del self._held[name]
