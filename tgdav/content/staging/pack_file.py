"""The staging directory: pack files from their first byte until the store has them (``docs/formats/staging.md``).

One owner at a time writes to a pack file, only at its end. Bytes are synced before a commit references them. What follows
the last referenced byte may be torn and is cut off at the next start. A file whose sync or write failed is poisoned: no
further commit may reference bytes of it.
"""

import errno
import logging
import os
import threading
from pathlib import Path

from tgdav.clock import Clock
from tgdav.content.staging.quota import StagingQuota
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NoSpace
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName

_log = logging.getLogger(__name__)

SUFFIX = ".pack"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITEBACK_BYTES = 8 * 1024 * 1024
"""Writeback starts after this many appended bytes."""
_PAGE = os.sysconf("SC_PAGE_SIZE")

Data = bytes | bytearray | memoryview


class PackFile:
    """An open pack in the staging directory. It has one owner at a time; any thread may call ``sync``.

    ``end``: bytes that commits reference; ``length``: bytes in the file; ``count``: chunks appended, referenced or not;
    ``touched``: monotonic time at which its owner released it.
    """

    def __init__(self, staging: "StagingDirectory", descriptor: int, *, name: BlobName, epoch: int, file: str) -> None:
        self.name = name
        self.epoch = epoch
        self.file = file
        self.path = staging.directory / file
        self.end = 0
        self.length = 0
        self.count = 0
        self.created = 0
        self.touched = 0.0
        self.is_poisoned = False
        self._staging = staging
        self._descriptor = descriptor
        self._synced = 0
        self._written_back = 0
        self._is_name_durable = False
        self._lock = threading.Lock()

    def restore(self, *, end: int, length: int, count: int, created: int) -> None:
        """Set the state of a file from an earlier run: all up to ``end`` was synced and is referenced."""
        self.end, self.length, self._synced, self._written_back = end, length, end, length
        self.count, self.created, self._is_name_durable = count, created, True

    def append(self, data: Data) -> int:
        """Write ``data`` at the end; return its offset. Raises NoSpace (the file is as before), LocalFailure (poisoned)."""
        offset = self.length
        self._require_usable()
        failpoint("content.before-append")
        try:
            self._staging.disk.write(self._descriptor, data, offset)
        except OSError as error:
            self._after_failed_write(error)
            raise self._translated(error) from error
        failpoint("content.after-append")
        self.length += len(data)
        self._staging.quota.charge(len(data))
        self._start_writeback()
        return offset

    def _start_writeback(self) -> None:
        """Start writeback early, so that the later fsync is short (it took 60 ms)."""
        if self.length - self._written_back >= _WRITEBACK_BYTES and hasattr(os, "posix_fadvise"):
            # POSIX_FADV_DONTNEED on dirty pages does not drop them but starts writeback (posix_fadvise(2)).
            os.posix_fadvise(
                self._descriptor, self._written_back, self.length - self._written_back, os.POSIX_FADV_DONTNEED
            )
            self._written_back = self.length

    def sync(self) -> None:
        """Return when all appended bytes and the file's name survive a power cut. Raises LocalFailure (poisoned)."""
        with self._lock:
            self._require_usable()
            # Another thread may append while this one syncs: only the bytes that were there before are synced.
            length = self.length
            if length == self._synced and self._is_name_durable:
                return
            try:
                failpoint("content.before-pack-sync")
                self._staging.disk.sync(self._descriptor)
                if not self._is_name_durable:
                    self._staging.disk.sync_directory(self._staging.directory)
                failpoint("content.after-pack-sync")
            except OSError as error:
                # After a failed fsync the kernel may have dropped the dirty pages: a second fsync would prove nothing.
                self.is_poisoned = True
                raise self._translated(error) from error
            self._synced, self._is_name_durable = length, True

    def cut(self, length: int) -> None:
        """Drop the bytes from ``length`` on; no commit may reference them. Raises LocalFailure (poisoned)."""
        assert length >= self.end, "referenced bytes are never cut"
        with self._lock:
            try:
                self._staging.disk.truncate(self._descriptor, length)
            except OSError as error:
                self.is_poisoned = True
                raise self._translated(error) from error
            self._staging.quota.charge(length - self.length)
            self.length = length
            self._synced, self._written_back = min(self._synced, length), min(self._written_back, length)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, fewer only at the end. Raises LocalFailure."""
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self._translated(error) from error

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset`` on; return how many bytes were read, fewer only at the end. Raises LocalFailure."""
        done = 0
        try:
            while done < len(view) and (count := os.preadv(self._descriptor, [view[done:]], offset + done)):
                done += count
        except OSError as error:
            raise self._translated(error) from error
        return done

    def drop_page_cache(self, start: int = 0) -> None:
        """Drop the kernel's copy from ``start`` on, so that the next read comes from the disk."""
        if hasattr(os, "posix_fadvise"):
            # Only whole pages are dropped; length 0 means: to the end of the file.
            os.posix_fadvise(self._descriptor, start - start % _PAGE, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _require_usable(self) -> None:
        if self.is_poisoned:
            raise LocalFailure

    def _after_failed_write(self, error: OSError) -> None:
        """After a full disk cut off the torn tail; any other failure poisons the file, whose bytes are then unknown."""
        if error.errno not in _FULL:
            self.is_poisoned = True
            return
        try:
            self._staging.disk.truncate(self._descriptor, self.length)
        except OSError:
            self.is_poisoned = True

    def _translated(self, error: OSError) -> NoSpace | LocalFailure:
        if error.errno in _FULL and not self.is_poisoned:
            return NoSpace("the disk of the staging directory is full")
        return LocalFailure(f"a staging file failed: {error.strerror}")


class StagingDirectory:
    """The directory itself (mode 0700, files 0600)."""

    def __init__(self, directory: Path, quota: StagingQuota, *, disk: Disk, clock: Clock, entropy: Entropy) -> None:
        self.directory = directory
        self.quota = quota
        self.disk = disk
        self._clock = clock
        self._entropy = entropy

    def create(self, epoch: int) -> PackFile:
        """Make a new pack file with a fresh name. Raises NoSpace, LocalFailure."""
        name = BlobName(self._entropy.bytes(16))
        file = name.hex() + SUFFIX
        descriptor = self._open(file, os.O_CREAT | os.O_EXCL)
        pack = PackFile(self, descriptor, name=name, epoch=epoch, file=file)
        pack.created = self._clock.now_ns()
        return pack

    def reopen(self, name: BlobName, epoch: int, file: str) -> PackFile:
        """Open an existing pack file. Raises DamageError if it is missing, LocalFailure."""
        return PackFile(self, self._open(file, 0), name=name, epoch=epoch, file=file)

    def remove(self, file: str) -> None:
        """Remove a file, if it exists, and stop charging its length. Raises LocalFailure."""
        path = self.directory / file
        try:
            length = path.stat().st_size
            self.disk.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalFailure(f"a staging file could not be removed: {error.strerror}") from error
        self.quota.charge(-length)

    def read(self, file: str, offset: int, length: int) -> bytes | None:
        """Return bytes of a file, fewer only at its end; None if there is no such file. Raises LocalFailure."""
        try:
            descriptor = os.open(self.directory / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalFailure(f"a staging file could not be read: {error.strerror}") from error
        try:
            return os.pread(descriptor, length, offset)
        except OSError as error:
            raise LocalFailure(f"a staging file could not be read: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def files(self) -> dict[str, int]:
        """Return the pack files in the directory and their lengths. Raises LocalFailure."""
        try:
            return {path.name: path.stat().st_size for path in self.directory.iterdir() if path.name.endswith(SUFFIX)}
        except OSError as error:
            raise LocalFailure(f"the staging directory cannot be used: {error.strerror}") from error

    def _open(self, file: str, flags: int) -> int:
        try:
            return os.open(self.directory / file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        except FileNotFoundError as error:
            raise DamageError("a staging file is missing", blob=file.removesuffix(SUFFIX)) from error
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace("the disk of the staging directory is full") from error
            raise LocalFailure(f"a staging file could not be opened: {error.strerror}") from error
