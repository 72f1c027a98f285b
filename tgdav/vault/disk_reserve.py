"""A file that keeps some MiB of the state's disk free for the day when it is full."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from tgdav.config import StatePaths
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import NoSpace
from tgdav.vault.state_dir import translated, write_file

_log = logging.getLogger(__name__)

RESERVE_BYTES = 8 * 1024**2
"""Size of the file that is removed when the disk is full."""
NEEDED_BYTES = 4 * 1024**2
"""Free bytes that opening the database and some hundred deletions need."""
PLENTY_BYTES = 256 * 1024**2
"""Free bytes from which on the file is created again."""


class Reserve:
    """A file that reserves some MiB of the state's disk, to be removed when the disk is full.

    The cache is shrunk first, then this file is removed: so files can still be read, and deleted to free space.
    """

    def __init__(self, paths: StatePaths, disk: Disk, entropy: Entropy) -> None:
        self._paths, self._disk, self._entropy = paths, disk, entropy
        self._file = paths.state / "reserve"

    def free_space(self) -> None:
        """Free enough space to open the database. Raises NoSpace, LocalFailure."""
        if self._free() >= NEEDED_BYTES or self._shrink_cache() or self._remove():
            return
        lacking = NEEDED_BYTES - self._free()
        raise NoSpace(
            f"the disk that holds {self._paths.state} is full", hint=f"free {-(-lacking // 1024**2)} MiB on it"
        )

    def maintain(self) -> None:
        """Remove the file if the disk is full; create it again once enough is free. Raises LocalFailure."""
        free = self._free()
        if free < NEEDED_BYTES and self._file.exists():
            _log.warning("the disk that holds %s is full: free some of it", self._paths.state)
            self._shrink_cache() or self._remove()
        elif free >= PLENTY_BYTES and not self._file.exists():
            self._create()

    def _create(self) -> None:
        # Random bytes: a compressing file system would store zeros in almost no space.
        try:
            write_file(self._file, self._entropy.bytes(RESERVE_BYTES), self._disk)
        except NoSpace:
            self._remove()

    def _remove(self) -> bool:
        """Remove the file; return whether enough space is free then."""
        with translated(self._file):
            self._file.unlink(missing_ok=True)
            self._file.with_name(f".{self._file.name}.tmp").unlink(missing_ok=True)
        return self._free() >= NEEDED_BYTES

    def _shrink_cache(self) -> bool:
        """Remove the least recently used files of the cache; return whether enough space is free then."""
        with translated(self._paths.cache):
            for path in self._cached():
                path.unlink(missing_ok=True)
                if self._free() >= NEEDED_BYTES:
                    return True
        return False

    def _cached(self) -> Iterator[Path]:
        """Yield the cache's files, least recently used first, if they are on the state's disk."""
        cache = self._paths.cache
        if not cache.is_dir() or cache.stat().st_dev != self._paths.state.stat().st_dev:
            return
        files = [path for directory in cache.iterdir() if len(directory.name) == 2 for path in directory.iterdir()]
        yield from sorted(files, key=lambda path: path.lstat().st_mtime_ns)

    def _free(self) -> int:
        with translated(self._paths.state):
            found = os.statvfs(self._paths.state)
        return found.f_bavail * found.f_frsize
