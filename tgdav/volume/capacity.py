"""The capacity that ``df`` and WebDAV clients see."""

import os
from collections.abc import Callable

from tgdav.blobs.bounded import BoundedStore
from tgdav.config import StatePaths
from tgdav.errors import StoreUnavailable

UNLIMITED = 1 << 50
"""The size that is shown for a store without a limit of its own: 1 PiB."""
ASK_SECONDS = 1.0
"""How long a call waits for the disk of the store before it returns the last known value."""

Space = Callable[[], tuple[int, int]]


def disk_capacity(paths: StatePaths, used: Callable[[], int], bounded: BoundedStore | None) -> Space:
    """Return a function that returns (total, free) bytes: of the disk of a directory store, through ``bounded``; without
    that, practically unlimited.
    """

    def unlimited() -> tuple[int, int]:
        return UNLIMITED, max(UNLIMITED - used(), 0)

    if bounded is None:
        return unlimited
    disk = _DiskSpace(paths, bounded)

    def embedded() -> tuple[int, int]:
        free = disk.free()
        return (UNLIMITED, 0) if free is None else (used() + free, free)

    return embedded


class _DiskSpace:
    """The free bytes of the store's disk. ``statvfs`` can hang on a network file system whose server is gone."""

    def __init__(self, paths: StatePaths, bounded: BoundedStore) -> None:
        self._paths, self._bounded = paths, bounded
        self._free: int | None = None

    def free(self) -> int | None:
        """Return the last known value, None if there is none."""
        if not self._bounded.is_stuck:
            try:
                disk = self._bounded.run(lambda: os.statvfs(self._paths.store), ASK_SECONDS)
                self._free = disk.f_bavail * disk.f_frsize
            except OSError:
                self._free = None
            except StoreUnavailable:
                pass
        return self._free
