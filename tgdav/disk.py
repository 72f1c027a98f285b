"""The disk calls that make data durable, injected as a ``Disk``.

All code that needs bytes or names to survive a power cut goes through a ``Disk``; tests put in one that fails, or
that forgets what was not synced. Errors are the operating system's own ``OSError``.
"""

import os
from pathlib import Path
from typing import Protocol

from tgdav.failpoints import failpoint


class Disk(Protocol):
    """Durable disk calls."""

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``; a short write is continued, an error leaves a torn tail."""
        ...

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes and size survive a power cut (fdatasync)."""
        ...

    def sync_directory(self, folder: Path) -> None:
        """Return when the folder's names survive a power cut."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target`` atomically. Durable after ``sync_directory``."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Make a hard link. Raises FileExistsError when ``target`` is there."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name. Raises FileNotFoundError."""
        ...

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file at ``length`` bytes."""
        ...


class SystemDisk:
    """The operating system's calls; each is a failpoint ``disk.<call>``."""

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        failpoint("disk.write")
        rest = memoryview(data).cast("B")
        while rest:
            done = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[done:], offset + done

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes and size survive a power cut."""
        failpoint("disk.sync")
        os.fdatasync(descriptor)

    def sync_directory(self, folder: Path) -> None:
        """Return when the folder's names survive a power cut."""
        failpoint("disk.sync-folder")
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target`` atomically."""
        failpoint("disk.rename")
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Make a hard link."""
        failpoint("disk.link")
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        failpoint("disk.unlink")
        os.unlink(path)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file at ``length`` bytes."""
        failpoint("disk.truncate")
        os.ftruncate(descriptor, length)
