"""The folder under a directory store: its lock, its scan, and the translation of operating-system errors.

Others may write to the folder, so no path in it is trusted: nothing is opened through a symbolic link, nothing that is no
regular file is waited for or used.

A ``Folder`` makes no decision about blobs. Its lock file is locked exclusively by whoever changes the order (append)
and shared by whoever scans: reading a folder while others add to it may show a later file and miss an earlier one.
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
    Entry,
    Listing,
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

SETTLE_SECONDS = 2.5
"""Longer than the coarsest tick of a folder's time stamp (2 s on FAT)."""

_UNTRUSTED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A symbolic link is an error, and opening a FIFO does not wait for its other end."""
_NO_FILE = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR}
"""What opening says of a symbolic link, a socket or FIFO, a device without a driver, a folder."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PERMANENT = {errno.EFBIG, errno.ENAMETOOLONG}


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Turn an OSError of the store's disk into StoreUnavailable or StoreRejected, in plain words."""
    try:
        yield
    except OSError as error:
        raise _translate(folder, error) from error


def _translate(folder: Path, error: OSError) -> StoreUnavailable | StoreRejected:
    if error.errno in _FULL:
        return StoreUnavailable(f"the disk of the store {folder} is full", hint="make space on it")
    if error.errno in _PERMANENT:
        return StoreRejected(f"the disk of the store {folder} cannot hold this blob: {error.strerror}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return StoreUnavailable(f"the store {folder} is not there", hint="is its disk connected and mounted?")
    return StoreUnavailable(f"the store {folder} cannot be used: {error.strerror}")


def _untrusted(path: Path) -> StoreRejected:
    return StoreRejected(
        f"{path} is not a regular file with one name, so it is neither read nor written",
        hint="somebody put it there: look at who may write to that folder, then remove it; the store makes a new one",
    )


class Folder:
    """One folder of blobs. Makes no system call until it is used; all methods are thread-safe and raise OSError."""

    def __init__(self, path: Path, disk: Disk, clock: Clock) -> None:
        self.path = path
        self._disk = disk
        self._clock = clock
        self._mutex = threading.Lock()
        self._listing = Listing()
        self._parsed: dict[str, Entry] = {}
        self._stamp: tuple[int, ...] = ()
        self._stamp_seen = 0.0
        self._settled = False
        self._next_scan_settles = False

    def create(self) -> None:
        """Make the folder (0700) and its lock file, durably; harmless when they are there."""
        for parent in reversed([self.path, *self.path.parents]):
            if not parent.is_dir():
                parent.mkdir(mode=0o700, exist_ok=True)
                self._disk.sync_directory(parent.parent)
        os.close(self._open_checked(os.O_RDWR | os.O_CREAT))
        self._disk.sync_directory(self.path)

    @contextlib.contextmanager
    def locked(self, operation: int) -> Iterator[int]:
        """Hold the lock file, ``fcntl.LOCK_EX`` or ``LOCK_SH``; yields its descriptor.

        Raises StoreRejected where the name of the lock file is anything but a regular file with that one name.
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
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _open_lock(self, mode: int) -> int:
        try:
            return self._open_checked(mode)
        except FileNotFoundError:
            # A folder with neither lock file nor blobs is no store: most likely the mount point of a disk that is away.
            if not any(parse_entry(name) for name in os.listdir(self.path)):
                raise
            return self._open_checked(os.O_RDWR | os.O_CREAT)

    def _open_checked(self, mode: int) -> int:
        """Open the lock file, and see that writing it changes nothing but it."""
        path = self.path / LOCK_NAME
        try:
            descriptor = os.open(path, mode | _UNTRUSTED, 0o600)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise _untrusted(path) from error
            raise
        status = os.fstat(descriptor)
        # No name at all: removed since it was opened, which its caller notices.
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
            return descriptor
        os.close(descriptor)
        raise _untrusted(path)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the lock file that was locked is still the one in the folder, and not one removed meanwhile."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.path / LOCK_NAME))
        except FileNotFoundError:
            return False

    def listing(self) -> Listing:
        """Return what is in the folder now. Scans, unless the folder is known not to have changed."""
        with self._mutex:
            if self._is_unchanged():
                return self._listing
        with self.locked(fcntl.LOCK_SH):
            return self.listing_locked()

    def listing_locked(self) -> Listing:
        """Return what is in the folder now, for a caller that holds the lock."""
        with self._mutex:
            if not self._is_unchanged():
                self._scan()
            return self._listing

    def cached(self) -> Listing:
        """Return the last listing, without looking."""
        return self._listing

    def _is_unchanged(self) -> bool:
        """Compare the folder's time stamp with that of the last scan.

        A change within one tick of the stamp's clock leaves the stamp as it is, so a scan is final only if it began
        a tick or more after this stamp was first seen. Monotonic time is compared with itself only: the stamp may
        come from another machine's clock.
        """
        status = os.stat(self.path)
        stamp = (status.st_mtime_ns, status.st_ino, status.st_dev)
        now = self._clock.monotonic()
        if stamp != self._stamp:
            self._stamp, self._stamp_seen, self._settled = stamp, now, False
        elif self._settled:
            return True
        self._next_scan_settles = now - self._stamp_seen > SETTLE_SECONDS
        return False

    def _scan(self) -> None:
        parsed: dict[str, Entry] = {}
        for file_name in os.listdir(self.path):
            entry = self._parsed.get(file_name) or parse_entry(file_name)
            if entry is not None:
                parsed[file_name] = entry
        self._listing, self._parsed = make_listing(list(parsed.values())), parsed
        self._settled = self._next_scan_settles

    def size(self, entry: Entry) -> int | None:
        """Return the length of a blob's file in bytes, or None if it is gone or no regular file."""
        try:
            status = os.lstat(self.path / entry.file_name)
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, entry: Entry) -> int | None:
        """Open a blob's file for reading; None if it is gone or no regular file."""
        try:
            descriptor = os.open(self.path / entry.file_name, os.O_RDONLY | _UNTRUSTED)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None

    def take_id(self, lock: int, listing: Listing) -> BlobId:
        """Return a new id, above all that were ever given, and remember it durably in the locked lock file."""
        new = next_id(os.pread(lock, 64, 0), listing)
        self._disk.write(lock, f"{new:0{ID_DIGITS}d}\n".encode(), 0)
        self._disk.sync(lock)
        return new

    def open_temporary(self, file_name: str) -> tuple[Path, int]:
        """Make a temporary file (0600), locked by this writer until its descriptor is closed."""
        path = self.path / file_name
        with self.locked(fcntl.LOCK_EX):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return path, descriptor

    def remove_dead_temporaries(self) -> None:
        """Remove the temporary files of writers that are no more. The caller holds the lock exclusively."""
        for file_name in os.listdir(self.path):
            if is_temporary(file_name):
                self._remove_if_dead(self.path / file_name)

    def _remove_if_dead(self, path: Path) -> None:
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return
            descriptor = os.open(path, os.O_RDWR | _UNTRUSTED)
        except (FileNotFoundError, PermissionError):
            return  # its writer gave it up just now, or it is another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._disk.unlink(path)
            log.info("removed an unfinished append from the store")
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)
