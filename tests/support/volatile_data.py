"""What a power cut does to the bytes of files: an undo log of pages that were written and not yet synced.

The live state is in ordinary files. Before a page is first changed, its durable bytes are kept here; a sync of the
file forgets them; a power cut puts some of them back.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096


class Pinned:
    """An inode held by an ``O_PATH`` descriptor: renames and unlinks cannot take it away, its number is not reused."""

    def __init__(self, name: str | bytes, folder: "Pinned | None" = None) -> None:
        """Pin ``name`` (in ``folder``). Raises OSError when it is not there."""
        where = None if folder is None else folder.descriptor
        self.descriptor: int = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
        self.number = self.stat().st_ino

    def stat(self) -> os.stat_result:
        return os.stat(self.descriptor)

    @property
    def path(self) -> Path:
        """A path to this inode, independent of its name."""
        return Path(f"/proc/self/fd/{self.descriptor}")

    def open(self, flags: int = os.O_RDWR) -> int:
        return os.open(self.path, flags | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@dataclass(frozen=True)
class PagesOutcome:
    """How many un-synced pages a power cut kept and lost."""

    kept: int
    lost: int


@dataclass
class FileUndo:
    """The durable state of one file with un-synced changes.

    ``pages`` maps a page number to its durable bytes (empty: zeros, or past the durable end). ``doomed`` are pages
    whose write-back failed: as on Linux, a later sync that succeeds does not write them.
    """

    file: Pinned
    descriptor: int
    durable_size: int
    pages: dict[int, bytes] = field(default_factory=dict)
    doomed: set[int] = field(default_factory=set)

    @classmethod
    def begin(cls, file: Pinned) -> "FileUndo":
        """Start keeping the undo of ``file``, whose state now is durable."""
        descriptor = file.open()
        return cls(file, descriptor, os.fstat(descriptor).st_size)

    def before_write(self, offset: int, length: int) -> None:
        """Save the bytes that a write of ``length`` bytes at ``offset`` is about to change."""
        for page in range(offset // PAGE, (offset + length + PAGE - 1) // PAGE):
            self.doomed.discard(page)
            self._keep(page)

    def before_truncate(self, length: int) -> None:
        """Save the bytes that truncating the file to ``length`` is about to remove."""
        for page in range(length // PAGE, (self.durable_size + PAGE - 1) // PAGE):
            self._keep(page)

    def _keep(self, page: int) -> None:
        if page in self.pages:
            return
        length = min(PAGE, self.durable_size - page * PAGE)
        self.pages[page] = os.pread(self.descriptor, length, page * PAGE) if length > 0 else b""

    def synced(self) -> bool:
        """Drop the undo data of what is durable now; return whether none is left."""
        self.pages = {page: old for page, old in self.pages.items() if page in self.doomed}
        self.durable_size = os.fstat(self.descriptor).st_size
        return not self.pages

    def sync_failed(self) -> None:
        """Note that the pages dirty now are given up: only a new write makes them dirty again."""
        self.doomed.update(self.pages)

    def power_cut(self, choose: random.Random) -> PagesOutcome:
        """Put a random subset of the pages and a random size between old and new back."""
        live_size = os.fstat(self.descriptor).st_size
        loss = choose.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        lost = [page for page in self.pages if choose.random() < loss]
        os.ftruncate(self.descriptor, max(live_size, self.durable_size))
        for page in lost:
            os.pwrite(self.descriptor, self.pages[page].ljust(PAGE, b"\0"), page * PAGE)
        os.ftruncate(self.descriptor, self._size_after_cut(choose, live_size))
        return PagesOutcome(len(self.pages) - len(lost), len(lost))

    def _size_after_cut(self, choose: random.Random, live_size: int) -> int:
        low, high = sorted((live_size, self.durable_size))
        between = choose.randint(low, high)
        return choose.choice((live_size, self.durable_size, between, max(low, between // PAGE * PAGE)))

    def __del__(self) -> None:
        os.close(self.descriptor)
