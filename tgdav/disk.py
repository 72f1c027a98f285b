"""The disk calls that make data durable, injected as a ``Disk``.

All code whose bytes or names must survive a power cut uses one. Tests pass in a disk that fails, or that loses what was
not synced. Errors are the ``OSError`` of the system call.
"""

import os
from pathlib import Path
from typing import Protocol

from tgdav.failpoints import failpoint


class Disk(Protocol):
    """Durable disk calls."""

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``. Short writes are continued; after an error, any prefix may be written."""
        ...

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes and size durable (fdatasync)."""
        ...

    def sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable (fsync)."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target`` atomically. Durable after ``sync_directory``."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Create a hard link. Raises FileExistsError when ``target`` exists."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name. Raises FileNotFoundError."""
        ...

    def truncate(self, descriptor: int, length: int) -> None:
        """Set the length of the file."""
        ...


class SystemDisk:
    """The operating system's calls; each is a failpoint ``disk.<call>``."""

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        failpoint("disk.write")
        remaining = memoryview(data).cast("B")
        while remaining:
            written = os.pwrite(descriptor, remaining, offset)
            remaining, offset = remaining[written:], offset + written

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes and size durable."""
        failpoint("disk.sync")
        os.fdatasync(descriptor)

    def sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable (fsync)."""
        failpoint("disk.sync-folder")
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target`` atomically."""
        failpoint("disk.rename")
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Create a hard link."""
        failpoint("disk.link")
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        failpoint("disk.unlink")
        os.unlink(path)

    def truncate(self, descriptor: int, length: int) -> None:
        """Set the length of the file."""
        failpoint("disk.truncate")
        os.ftruncate(descriptor, length)
