"""The staging folder: pack files from their first byte until the store has them (``docs/formats/staging.md``).

A pack file is written by one owner at a time, strictly at its end. What a commit names is synced before; anything after
the last named byte may be torn and is cut off at the next start. A file whose sync or write failed is poisoned: nothing
more is acknowledged from it.
"""

import errno
import logging
import os
import threading
from pathlib import Path

from tgdav.clock import Clock
from tgdav.content.staging.quota import Space
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NoSpace
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName

_log = logging.getLogger(__name__)

SUFFIX = ".pack"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITE_BACK = 8 * 1024 * 1024
"""So many appended bytes are handed to the disk at once, long before a sync waits for them."""
_PAGE = os.sysconf("SC_PAGE_SIZE")

Data = bytes | bytearray | memoryview


class PackFile:
    """An open pack in the staging folder. One owner at a time; ``sync`` may be called by any thread.

    ``end``: bytes that commits name; ``length``: bytes in the file; ``count``: chunks appended, dead ones too;
    ``touched``: monotonic time at which its owner let go of it.
    """

    def __init__(self, staging: "Staging", descriptor: int, *, name: BlobName, epoch: int, file: str) -> None:
        self.name = name
        self.epoch = epoch
        self.file = file
        self.path = staging.folder / file
        self.end = 0
        self.length = 0
        self.count = 0
        self.created = 0
        self.touched = 0.0
        self.is_poisoned = False
        self._staging = staging
        self._descriptor = descriptor
        self._synced = 0
        self._begun = 0
        self._named = False
        self._lock = threading.Lock()

    def adopt(self, *, end: int, length: int, count: int, created: int) -> None:
        """Take over what an earlier run left: all up to ``end`` was synced and named."""
        self.end, self.length, self._synced, self._begun = end, length, end, length
        self.count, self.created, self._named = count, created, True

    def append(self, data: Data) -> int:
        """Write ``data`` at the end; return its offset. Raises NoSpace (the file is as before), LocalFailure (poisoned)."""
        offset = self.length
        self._require_sound()
        failpoint("content.before-append")
        try:
            self._staging.disk.write(self._descriptor, data, offset)
        except OSError as error:
            self._after_failed_write(error)
            raise self._translated(error) from error
        failpoint("content.after-append")
        self.length += len(data)
        self._staging.space.charge(len(data))
        self._begin_to_write()
        return offset

    def _begin_to_write(self) -> None:
        """Have the kernel write what lies there, while the owner goes on: a pack's sync kept it waiting for 60 ms."""
        if self.length - self._begun >= _WRITE_BACK and hasattr(os, "posix_fadvise"):
            # Pages that are not written yet are not dropped: the kernel begins to write them (posix_fadvise(2)).
            os.posix_fadvise(self._descriptor, self._begun, self.length - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self.length

    def sync(self) -> None:
        """Return when all appended bytes, and the file's name, survive a power cut. Raises LocalFailure for good."""
        with self._lock:
            self._require_sound()
            length = self.length
            if length == self._synced and self._named:
                return
            try:
                failpoint("content.before-pack-sync")
                self._staging.disk.sync(self._descriptor)
                if not self._named:
                    self._staging.disk.sync_directory(self._staging.folder)
                failpoint("content.after-pack-sync")
            except OSError as error:
                self.is_poisoned = True
                raise self._translated(error) from error
            self._synced, self._named = length, True

    def cut(self, length: int) -> None:
        """Drop the bytes from ``length`` on; none of them may be named by a commit. Raises LocalFailure (poisoned)."""
        assert length >= self.end, "named bytes are never cut"
        with self._lock:
            try:
                self._staging.disk.truncate(self._descriptor, length)
            except OSError as error:
                self.is_poisoned = True
                raise self._translated(error) from error
            self._staging.space.charge(length - self.length)
            self.length = length
            self._synced, self._begun = min(self._synced, length), min(self._begun, length)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, fewer only past the end. Raises LocalFailure."""
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self._translated(error) from error

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset`` on; return how many bytes, fewer only past the end. Raises LocalFailure."""
        done = 0
        try:
            while done < len(view) and (count := os.preadv(self._descriptor, [view[done:]], offset + done)):
                done += count
        except OSError as error:
            raise self._translated(error) from error
        return done

    def forget_pages(self, start: int = 0) -> None:
        """Let the kernel drop its copy from ``start`` on, so that what is read next comes from the disk."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, start - start % _PAGE, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _require_sound(self) -> None:
        if self.is_poisoned:
            raise LocalFailure

    def _after_failed_write(self, error: OSError) -> None:
        """A full disk leaves at most a torn tail, which is cut off; any other failure poisons."""
        if error.errno not in _FULL:
            self.is_poisoned = True
            return
        try:
            self._staging.disk.truncate(self._descriptor, self.length)
        except OSError:
            self.is_poisoned = True

    def _translated(self, error: OSError) -> NoSpace | LocalFailure:
        if error.errno in _FULL and not self.is_poisoned:
            return NoSpace("the disk that holds the staging folder is full")
        return LocalFailure(f"a staging file failed: {error.strerror}")


class Staging:
    """The folder itself (0700, files 0600)."""

    def __init__(self, folder: Path, space: Space, *, disk: Disk, clock: Clock, entropy: Entropy) -> None:
        self.folder = folder
        self.space = space
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
        """Open a pack file that is there. Raises DamageError if it is not, LocalFailure."""
        return PackFile(self, self._open(file, 0), name=name, epoch=epoch, file=file)

    def remove(self, file: str) -> None:
        """Remove a file; that it is gone already is fine. Its length is no longer charged."""
        path = self.folder / file
        try:
            length = path.stat().st_size
            self.disk.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalFailure(f"a staging file could not be removed: {error.strerror}") from error
        self.space.charge(-length)

    def read(self, file: str, offset: int, length: int) -> bytes | None:
        """Return bytes of a file, fewer only past its end; None if the file is gone. Raises LocalFailure."""
        try:
            descriptor = os.open(self.folder / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
        """Return the pack files in the folder and their lengths. Raises LocalFailure."""
        try:
            return {path.name: path.stat().st_size for path in self.folder.iterdir() if path.name.endswith(SUFFIX)}
        except OSError as error:
            raise LocalFailure(f"the staging folder cannot be used: {error.strerror}") from error

    def _open(self, file: str, flags: int) -> int:
        try:
            return os.open(self.folder / file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        except FileNotFoundError as error:
            raise DamageError("a staging file is gone", blob=file.removesuffix(SUFFIX)) from error
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace("the disk that holds the staging folder is full") from error
            raise LocalFailure(f"a staging file could not be opened: {error.strerror}") from error
