"""The directory of a directory store: its lock file, its scan, its files, and the translation of OSError.

Others may be able to write to the directory, so no path in it is trusted: nothing is opened through a symbolic link,
and anything but a regular file is neither used nor waited for.

Appends and deletes lock the lock file exclusively. Scans lock it shared: a readdir that runs while another process
appends may return a later file and miss an earlier one.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from tgdav.blobs.directory.filenames import (
    ID_DIGITS,
    LOCK_NAME,
    DirectoryListing,
    Entry,
    is_temporary,
    make_listing,
    next_id,
    parse_entry,
)
from tgdav.clock import Clock
from tgdav.disk import Disk
from tgdav.errors import StoreRejected, StoreUnavailable
from tgdav.ids import BlobId

log = logging.getLogger(__name__)

MTIME_TICK_SECONDS = 2.5
"""Longer than the coarsest resolution of a directory's mtime (2 s on FAT)."""

_UNTRUSTED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Opening a symbolic link fails, and opening a FIFO does not block until its other end is opened."""
_NOT_REGULAR = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR}
"""The errno of opening a symbolic link, a socket or FIFO, a device without a driver, a directory."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PERMANENT = {errno.EFBIG, errno.ENAMETOOLONG}


@contextlib.contextmanager
def translated(directory: Path) -> Iterator[None]:
    """Turn an OSError of the store's disk into StoreUnavailable or StoreRejected."""
    try:
        yield
    except OSError as error:
        raise _translate(directory, error) from error


def _translate(directory: Path, error: OSError) -> StoreUnavailable | StoreRejected:
    if error.errno in _FULL:
        return StoreUnavailable(f"the disk of the store {directory} is full", hint="make space on it")
    if error.errno in _PERMANENT:
        return StoreRejected(f"the disk of the store {directory} cannot hold this blob: {error.strerror}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return StoreUnavailable(
            f"the store {directory} does not exist", hint="check that its disk is connected and mounted"
        )
    return StoreUnavailable(f"the store {directory} cannot be used: {error.strerror}")


def _untrusted(path: Path) -> StoreRejected:
    return StoreRejected(
        f"{path} is not a regular file with one name, so it is neither read nor written",
        hint="check who may write to that directory, then remove the file; the store creates a new one",
    )


class BlobDirectory:
    """The files of a directory store. The constructor makes no system call; methods are thread-safe and raise OSError."""

    def __init__(self, path: Path, disk: Disk, clock: Clock) -> None:
        self.path = path
        self._disk = disk
        self._clock = clock
        self._mutex = threading.Lock()
        self._listing = DirectoryListing()
        self._parsed: dict[str, Entry] = {}
        self._stamp: tuple[int, ...] = ()
        self._stamp_seen = 0.0
        self._is_settled = False
        self._next_scan_settles = False

    def create(self) -> None:
        """Create the directory (0700) with its parents, and its lock file, durably. Existing ones are kept."""
        for parent in reversed([self.path, *self.path.parents]):
            if not parent.is_dir():
                parent.mkdir(mode=0o700, exist_ok=True)
                self._disk.sync_directory(parent.parent)
        os.close(self._open_checked(os.O_RDWR | os.O_CREAT))
        self._disk.sync_directory(self.path)

    @contextlib.contextmanager
    def locked(self, operation: int) -> Iterator[int]:
        """Hold the lock file with ``fcntl.LOCK_EX`` or ``LOCK_SH``; yields its descriptor.

        Raises StoreRejected if the lock file is not a regular file with one link.
        """
        descriptor = self._lock(operation)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self, operation: int) -> int:
        while True:
            descriptor = self._open_lock(os.O_RDONLY if operation == fcntl.LOCK_SH else os.O_RDWR)
            try:
                fcntl.flock(descriptor, operation)
                if self._is_current(descriptor):
                    return descriptor
                # Another process removed or replaced the file while this one waited: lock the new file.
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _open_lock(self, mode: int) -> int:
        try:
            return self._open_checked(mode)
        except FileNotFoundError:
            # Without lock file and blobs this is not a store: probably the empty mount point of a disconnected disk.
            if not any(parse_entry(name) for name in os.listdir(self.path)):
                raise
            return self._open_checked(os.O_RDWR | os.O_CREAT)

    def _open_checked(self, mode: int) -> int:
        """Open the lock file, after checking that writing to it changes no other file."""
        path = self.path / LOCK_NAME
        try:
            descriptor = os.open(path, mode | _UNTRUSTED, 0o600)
        except OSError as error:
            if error.errno in _NOT_REGULAR:
                raise _untrusted(path) from error
            raise
        status = os.fstat(descriptor)
        # No link at all means that it was unlinked after it was opened; _lock checks for that and opens it again.
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
            return descriptor
        os.close(descriptor)
        raise _untrusted(path)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one in the directory, and was not replaced before it was locked."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.path / LOCK_NAME))
        except FileNotFoundError:
            return False

    def listing(self) -> DirectoryListing:
        """Return the current blobs. Scans unless the directory is known to be unchanged."""
        with self._mutex:
            if self._is_unchanged():
                return self._listing
        with self.locked(fcntl.LOCK_SH):
            return self.listing_locked()

    def listing_locked(self) -> DirectoryListing:
        """Return the current blobs, for a caller that holds the lock."""
        with self._mutex:
            if not self._is_unchanged():
                self._scan()
            return self._listing

    def cached(self) -> DirectoryListing:
        """Return the last listing, which may be stale."""
        return self._listing

    def _is_unchanged(self) -> bool:
        """Compare the directory's mtime with that of the last scan.

        A change within one tick of the file system's clock does not change the mtime, so a scan is valid for later
        calls only if it began at least a tick after this mtime was first seen. That age is measured with the
        monotonic clock, because the mtime may come from another machine's clock.
        """
        status = os.stat(self.path)
        stamp = (status.st_mtime_ns, status.st_ino, status.st_dev)
        now = self._clock.monotonic()
        if stamp != self._stamp:
            self._stamp, self._stamp_seen, self._is_settled = stamp, now, False
        elif self._is_settled:
            return True
        self._next_scan_settles = now - self._stamp_seen > MTIME_TICK_SECONDS
        return False

    def _scan(self) -> None:
        parsed: dict[str, Entry] = {}
        for file_name in os.listdir(self.path):
            entry = self._parsed.get(file_name) or parse_entry(file_name)
            if entry is not None:
                parsed[file_name] = entry
        self._listing, self._parsed = make_listing(list(parsed.values())), parsed
        self._is_settled = self._next_scan_settles

    def size(self, entry: Entry) -> int | None:
        """Return the length of a blob's file in bytes, or None if it is missing or not a regular file."""
        try:
            status = os.lstat(self.path / entry.file_name)
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, entry: Entry) -> int | None:
        """Open a blob's file for reading; None if it is missing or not a regular file."""
        try:
            descriptor = os.open(self.path / entry.file_name, os.O_RDONLY | _UNTRUSTED)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NOT_REGULAR:
                return None
            raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # O_NOFOLLOW and O_NONBLOCK let devices and FIFOs pass
            return descriptor
        os.close(descriptor)
        return None

    def assign_id(self, lock: int, listing: DirectoryListing) -> BlobId:
        """Return a new id, greater than all earlier ones, after writing it durably to the locked lock file."""
        new = next_id(os.pread(lock, 64, 0), listing)
        self._disk.write(lock, f"{new:0{ID_DIGITS}d}\n".encode(), 0)
        self._disk.sync(lock)
        return new

    def open_temporary(self, file_name: str) -> tuple[Path, int]:
        """Create a temporary file (0600) that stays locked until its descriptor is closed."""
        path = self.path / file_name
        # The exclusive lock keeps remove_dead_temporaries away until the new file is locked.
        with self.locked(fcntl.LOCK_EX):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return path, descriptor

    def remove_dead_temporaries(self) -> None:
        """Remove the temporary files of processes that died. The caller holds the lock exclusively."""
        for file_name in os.listdir(self.path):
            if is_temporary(file_name):
                self._remove_if_dead(self.path / file_name)

    def _remove_if_dead(self, path: Path) -> None:
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return
            descriptor = os.open(path, os.O_RDWR | _UNTRUSTED)
        except (FileNotFoundError, PermissionError):
            return  # its writer removed it just now, or it belongs to another user
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._disk.unlink(path)
            log.info("removed the temporary file of an interrupted append from the store")
        except BlockingIOError:  # its writer lives
            return
        finally:
            os.close(descriptor)
