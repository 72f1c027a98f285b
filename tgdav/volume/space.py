"""How much room ``df`` and WebDAV clients see."""

import os
from collections.abc import Callable

from tgdav.blobs.contract import StoreTraits
from tgdav.config import Places

UNLIMITED = 1 << 50
"""What a store without a limit of its own shows as its size: 1 PiB."""


def space_of(traits: StoreTraits, places: Places, used: Callable[[], int]) -> Callable[[], tuple[int, int]]:
    """Return a function that gives (total, free) bytes: the disk's for an embedded store, else as good as unlimited."""

    def embedded() -> tuple[int, int]:
        try:
            disk = os.statvfs(places.store)
        except OSError:
            return UNLIMITED, 0
        free = disk.f_bavail * disk.f_frsize
        return used() + free, free

    def unlimited() -> tuple[int, int]:
        return UNLIMITED, max(UNLIMITED - used(), 0)

    return embedded if traits.is_local else unlimited
