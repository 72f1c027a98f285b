"""A store in one directory, one file per blob: the embedded store, a second disk, or a directory that machines share.

Processes and machines that share the directory are synchronised by flock on its lock file. So it must be on a file
system where flock works between all of them (local disks, NFS 4, SMB 3), not in a directory that a cloud client
synchronises. File names and ids: ``filenames``.

An append writes a temporary file, syncs it, assigns an id durably, renames the file, and syncs the directory. If the
source is a private file of this user on the same file system, it is hard-linked instead of copied.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tgdav.blobs.directory.filenames import MAX_LABEL_CHARACTERS, DirectoryListing, Entry, make_entry, temporary_name
from tgdav.blobs.directory.scan import BlobDirectory, translated
from tgdav.blobs.interface import START, BlobInfo, Source, StoreTraits
from tgdav.blobs.validation import check_append, check_name, check_range, check_source_end, check_within, read_source
from tgdav.clock import Clock
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import BlobMissing, DamageError, StoreRejected
from tgdav.failpoints import failpoint
from tgdav.ids import BlobId, BlobName

BLOCK_BYTES = 1 << 20
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
_Progress = Callable[[int], None] | None


class DirectoryStore:
    """The ``BlobStore`` of one directory. The constructor does not access the disk, which may be disconnected.

    A directory that is missing, unreadable, on a full disk, or an empty mount point raises StoreUnavailable.
    """

    traits = StoreTraits(
        backend="directory",
        max_blob_bytes=(1 << 63) - 1,
        max_label_characters=MAX_LABEL_CHARACTERS,
        is_local=True,
        read_alignment=1,
    )

    def __init__(self, path: Path, *, disk: Disk, clock: Clock, entropy: Entropy) -> None:
        self._path = path
        self._disk = disk
        self._entropy = entropy
        self._directory = BlobDirectory(path, disk, clock)
        self._has_removed_temporaries = False
        self._is_closed = False

    @classmethod
    def create(cls, path: Path, *, disk: Disk, clock: Clock, entropy: Entropy) -> "DirectoryStore":
        """Create the directory (0700, with its parents) unless it exists, and return its store. Content is kept."""
        store = cls(path, disk=disk, clock=clock, entropy=entropy)
        store.create_directory()
        return store

    def create_directory(self) -> None:
        """Create the directory (0700, with its parents) unless it exists."""
        with translated(self._path):
            self._directory.create()

    def append(self, name: BlobName, source: Source, label: str, *, progress: _Progress = None) -> BlobInfo:
        """Store the source's bytes as a new blob; see ``BlobStore.append``."""
        self._check_open()
        check_append(self.traits, name, source, label)
        report = progress or _ignore
        linkable = self._linkable(name, source)
        if name in self._directory.cached().by_name:  # saves a copy; _publish checks again under the lock
            info = self._find_durable(name)
            if info is not None:
                report(source.size)
                return info
        if linkable is not None:
            info = self._append_link(name, source.size, linkable, label, report)
            if info is not None:
                return info
        return self._append_copy(name, source, label, report)

    def _find_durable(self, name: BlobName) -> BlobInfo | None:
        """Find a blob and make it durable: another append may have renamed it and not synced the directory yet.

        The lock is needed because an append whose sync fails removes the name again before it unlocks.
        """
        with translated(self._path), self._directory.locked(fcntl.LOCK_EX):
            info = self._first(self._directory.listing_locked(), name)
            if info is not None:
                self._disk.sync_directory(self._path)
            return info

    def _linkable(self, name: BlobName, source: Source) -> Path | None:
        """Return the source's file if it can be linked instead of copied: private, of this user, on this file system."""
        if source.path is None:
            return None
        try:
            status = os.lstat(source.path)
        except OSError:
            return None  # reading the source will raise the proper error
        if stat.S_ISREG(status.st_mode) and status.st_size != source.size:
            raise DamageError(f"a file to be stored has {status.st_size} bytes, not {source.size}", blob=name.hex())
        with translated(self._path):
            device = os.stat(self._path).st_dev
        # The link shares mode and owner with the source: a file that others may write could change the blob.
        private = stat.S_IFREG | 0o600
        is_ours = (status.st_mode, status.st_uid, status.st_dev) == (private, os.geteuid(), device)
        return source.path if is_ours else None

    def _append_link(
        self, name: BlobName, size: int, path: Path, label: str, report: Callable[[int], None]
    ) -> BlobInfo | None:
        """Append by hard link; None if the file system does not support that."""
        report(size)
        with translated(self._path):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._disk.sync(
                    descriptor
                )  # before the id is assigned: the blob must not be listed before it is durable
            finally:
                os.close(descriptor)
            try:
                return self._publish(name, size, label, lambda target: self._disk.link(path, target))
            except OSError as error:
                if error.errno in _CANNOT_LINK:
                    return None
                raise

    def _append_copy(self, name: BlobName, source: Source, label: str, report: Callable[[int], None]) -> BlobInfo:
        with translated(self._path):
            temporary, descriptor = self._directory.open_temporary(temporary_name(name, self._entropy.bytes(8)))
        try:
            self._copy(name, source, descriptor, report)
            with translated(self._path):
                self._disk.sync(descriptor)
                failpoint("directory.temporary-synced")
                info = self._publish(name, source.size, label, lambda target: self._disk.rename(temporary, target))
            self._discard(temporary)
            return info
        except Exception:
            self._discard(temporary)
            raise
        finally:
            os.close(descriptor)

    def _copy(self, name: BlobName, source: Source, descriptor: int, report: Callable[[int], None]) -> None:
        report(0)
        for offset in range(0, source.size, BLOCK_BYTES):
            data = read_source(name, source, offset, min(BLOCK_BYTES, source.size - offset))
            with translated(self._path):
                self._disk.write(descriptor, data, offset)
            report(offset + len(data))
        check_source_end(name, source)

    def _discard(self, temporary: Path) -> None:
        # Usually the rename removed the name already. If unlink fails, a later append removes the file.
        with contextlib.suppress(OSError):
            self._disk.unlink(temporary)

    def _publish(self, name: BlobName, size: int, label: str, move: Callable[[Path], None]) -> BlobInfo:
        """Give synced bytes an id and their final name, durably, unless another append stored the blob meanwhile."""
        with self._directory.locked(fcntl.LOCK_EX) as lock:
            self._remove_dead_temporaries_once()
            listing = self._directory.listing_locked()
            existing = self._first(listing, name)
            if existing is None:
                entry = make_entry(self._directory.assign_id(lock, listing), name, label)
                failpoint("directory.id-taken")
                move(self._path / entry.file_name)
                failpoint("directory.published")
                self._sync_or_undo(entry)
                failpoint("directory.durable")
                return BlobInfo(entry.id, name, size, label)
            self._disk.sync_directory(self._path)
            return existing

    def _sync_or_undo(self, entry: Entry) -> None:
        """Sync the directory. If that fails, the name may never become durable: remove it, so that a retry appends
        again instead of reporting a blob as durable."""
        try:
            self._disk.sync_directory(self._path)
        except OSError:
            self._disk.unlink(self._path / entry.file_name)
            raise

    def _remove_dead_temporaries_once(self) -> None:
        if not self._has_removed_temporaries:
            self._directory.remove_dead_temporaries()
            self._has_removed_temporaries = True

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``; see ``BlobStore.read``."""
        self._check_open()
        check_range(offset, length)
        with translated(self._path):
            entry, descriptor = self._open_blob(blob_id)
            try:
                size = os.fstat(descriptor).st_size
                check_within(blob_id, entry.name, size, offset + length)
                data = _read_fully(descriptor, offset, length)
            finally:
                os.close(descriptor)
        check_within(blob_id, entry.name, offset + len(data), offset + length)
        return data

    def _open_blob(self, blob_id: BlobId) -> tuple[Entry, int]:
        """Open by the last listing, then by a new one: a blob may be new, or its file may have been renamed manually."""
        for listing in (self._directory.cached, self._directory.listing):
            entry = listing().by_id.get(blob_id)
            descriptor = self._directory.open(entry) if entry else None
            if entry is not None and descriptor is not None:
                return entry, descriptor
        raise BlobMissing(f"blob {blob_id} is not in the store {self._path}")

    def size(self, blob_id: BlobId) -> int:
        """Return the blob's current length in bytes. Raises BlobMissing."""
        self._check_open()
        with translated(self._path):
            entry = self._directory.listing().by_id.get(blob_id)
            size = self._directory.size(entry) if entry else None
        if size is None:
            raise BlobMissing(f"blob {blob_id} is not in the store {self._path}")
        return size

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """Yield all blobs with ids greater than ``after`` in append order, with their current sizes."""
        self._check_open()
        with translated(self._path):
            entries = self._directory.listing().after(after)
        for entry in entries:
            with translated(self._path):
                info = self._info(entry)
            if info is not None:
                yield info

    def find(self, name: BlobName) -> BlobInfo | None:
        """Return the first blob of this name in append order, or None."""
        self._check_open()
        check_name(name)
        with translated(self._path):
            return self._first(self._directory.listing(), name)

    def _first(self, listing: DirectoryListing, name: BlobName) -> BlobInfo | None:
        found = (self._info(entry) for entry in listing.by_name.get(name, ()))
        return next((info for info in found if info is not None), None)

    def _info(self, entry: Entry) -> BlobInfo | None:
        size = self._directory.size(entry)
        return None if size is None else BlobInfo(entry.id, entry.name, size, entry.label)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """Delete blobs; missing ids are ignored."""
        self._check_open()
        with translated(self._path), self._directory.locked(fcntl.LOCK_EX):
            listing = self._directory.listing_locked()
            for entry in filter(None, map(listing.by_id.get, ids)):
                if self._directory.size(entry) is not None:
                    with contextlib.suppress(FileNotFoundError):
                        self._disk.unlink(self._path / entry.file_name)
                    failpoint("directory.deleted")
            # Synced even if nothing was deleted: an earlier attempt may have unlinked the file and failed to sync.
            self._disk.sync_directory(self._path)

    def close(self) -> None:
        """Refuse all further calls. No file is kept open between calls."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreRejected("the store is closed")


def _ignore(_sent: int) -> None:
    return


def _read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """Read up to ``length`` bytes, fewer only if the file ends."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
