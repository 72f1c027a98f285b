"""The disk cache: sealed ranges of stored packs on this machine (``docs/formats/cache.md``).

It has no only copies, and nothing in it is trusted: readers check every range and drop those that fail. So nothing is
synced, and after a failure of the disk a range is simply not cached.
"""

import errno
import logging
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tgdav.clock import Clock
from tgdav.disk import Disk
from tgdav.ids import BlobName
from tgdav.threads import Worker

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_EVICT_BYTES = 64 * 1024 * 1024
"""Bytes evicted at once when the disk is full."""
_TOUCH_NS = 60 * 1_000_000_000
"""A file's mtime is set to the time of use at most this often."""

Data = bytes | bytearray | memoryview


_NAME_DIGITS = 32
_MOST_DIGITS = 16


class CachedRange(msgspec.Struct, frozen=True):
    """``length`` sealed bytes from ``offset`` of a pack: one cache file."""

    pack: BlobName
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset in the pack after the last byte."""
        return self.offset + self.length

    @property
    def directory(self) -> str:
        """Name of the directory of the file."""
        return self.pack.hex()[:2]

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.pack.hex()}-{self.offset:x}-{self.length:x}"

    def covers(self, offset: int, length: int) -> bool:
        """Whether this range contains the given one."""
        return self.offset <= offset and offset + length <= self.end


def parse(file: str) -> CachedRange | None:
    """Return the range that a file name encodes; None if it encodes none."""
    parts = file.split("-")
    if len(parts) != 3 or len(parts[0]) != _NAME_DIGITS or max(map(len, parts[1:])) > _MOST_DIGITS:
        return None
    try:
        found = CachedRange(BlobName(bytes.fromhex(parts[0])), int(parts[1], 16), int(parts[2], 16))
    except ValueError:
        return None
    # Only the canonical spelling, so that no two files are the same range.
    return found if found.file == file and found.length else None


class CachedRanges:
    """The cached ranges, least recently used first. Pure; not thread-safe. ``used``: bytes of all ranges."""

    def __init__(self) -> None:
        self._order: OrderedDict[CachedRange, int] = OrderedDict()
        self._packs: dict[BlobName, set[CachedRange]] = {}
        self.used = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, entry: CachedRange) -> bool:
        return entry in self._order

    def find(self, pack: BlobName, offset: int, length: int) -> CachedRange | None:
        """Return a cached range that covers this one."""
        return next((entry for entry in self._packs.get(pack, ()) if entry.covers(offset, length)), None)

    def within(self, outer: CachedRange) -> list[CachedRange]:
        """Return the other cached ranges that ``outer`` covers."""
        inside = self._packs.get(outer.pack, ())
        return [entry for entry in inside if entry != outer and outer.covers(entry.offset, entry.length)]

    def overlapping(self, pack: BlobName, offset: int, length: int) -> list[CachedRange]:
        """Return the cached ranges that overlap this one."""
        inside = self._packs.get(pack, ())
        return [entry for entry in inside if entry.offset < offset + length and offset < entry.end]

    def use(self, entry: CachedRange, now_ns: int) -> int:
        """Record a use; return the time of the previous one, ns."""
        before, self._order[entry] = self._order[entry], now_ns
        self._order.move_to_end(entry)
        return before

    def add(self, entry: CachedRange, now_ns: int, *, oldest: bool = False) -> None:
        """Add a range, if it is new, as the most recently used one or the least recently used one (``oldest``)."""
        if entry in self._order:
            return
        self._order[entry] = now_ns
        self._order.move_to_end(entry, last=not oldest)
        self._packs.setdefault(entry.pack, set()).add(entry)
        self.used += entry.length

    def remove(self, entry: CachedRange) -> bool:
        """Remove a range; False if there is no such range."""
        if self._order.pop(entry, None) is None:
            return False
        inside = self._packs[entry.pack]
        inside.remove(entry)
        if not inside:
            del self._packs[entry.pack]
        self.used -= entry.length
        return True

    def pop_oldest(self, limit: int) -> Iterator[CachedRange]:
        """Remove and yield ranges, least recently used first, until at most ``limit`` bytes are used."""
        while self.used > limit and self._order:
            entry = next(iter(self._order))
            self.remove(entry)
            yield entry


class CacheStatistics(msgspec.Struct, frozen=True):
    """Sizes in bytes; ``chunks``: cached ranges; ``hits``, ``misses``: reads since the start."""

    bytes: int
    max_bytes: int
    chunks: int
    hits: int
    misses: int


class DiskCache:
    """Ranges of packs as files below ``directory``, at most ``max_bytes`` (0: no cache). Thread-safe."""

    def __init__(self, directory: Path, max_bytes: int, *, disk: Disk, clock: Clock) -> None:
        self.max_bytes = max_bytes
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._lock = threading.Lock()
        self._ranges = CachedRanges()
        self._writing: set[CachedRange] = set()
        self._hits = 0
        self._misses = 0
        self._stopping = False
        self._scanner: Worker | None = None

    def start(self) -> None:
        """Start to scan for files of an earlier run. Until a file is found, it is neither used nor counted."""
        self._scanner = Worker("cache-scan", self._scan)
        self._scanner.start()

    def close(self) -> None:
        """Stop the scan. The files stay for the next start."""
        self._stopping = True
        self.wait_for_scan()

    def wait_for_scan(self) -> None:
        """Return when the scan is finished."""
        if self._scanner is not None:
            self._scanner.join()

    def statistics(self) -> CacheStatistics:
        """Return the contents and the use of the cache."""
        with self._lock:
            return CacheStatistics(
                self._ranges.used, self.max_bytes, len(self._ranges), hits=self._hits, misses=self._misses
            )

    def get(self, pack: BlobName, offset: int, length: int, *, counted: bool = True) -> bytes | None:
        """Return ``length`` sealed bytes from ``offset`` of a pack, unchecked; None if they are not cached."""
        if not self.max_bytes:
            return None
        with self._lock:
            entry = self._ranges.find(pack, offset, length)
        # Read without the lock: a file that is evicted meanwhile is a miss.
        data = None if entry is None else self._read(entry, offset - entry.offset, length)
        if entry is not None and data is None:
            self._remove([entry])
        with self._lock:
            self._hits += counted and data is not None
            self._misses += counted and data is None
        return data

    def holds(self, pack: BlobName, offset: int, length: int) -> bool:
        """Whether ``get`` would probably return this range; does not count as a use."""
        with self._lock:
            return self._ranges.find(pack, offset, length) is not None

    def put(self, pack: BlobName, offset: int, data: Data) -> None:
        """Cache sealed bytes of a pack, if they fit."""
        entry = CachedRange(pack, offset, len(data))
        with self._adding(entry) as admitted:
            if admitted and self._write(entry, data):
                self._added(entry)

    def adopt(self, pack: BlobName, path: Path) -> bool:
        """Cache a whole stored pack by a hard link to its file; False if that fails. The caller unlinks ``path``."""
        if not self.max_bytes:
            return False
        try:
            entry = CachedRange(pack, 0, path.stat().st_size)
            with self._adding(entry) as admitted:
                if not admitted:
                    return False
                self._disk.link(path, self._free_path(entry))
                self._added(entry)
        except OSError as error:
            _log.debug("a stored pack could not be cached: %s", error.strerror)
            return False
        return True

    def drop(self, pack: BlobName, offset: int, length: int) -> None:
        """Remove the ranges that have any of these bytes, which failed a check."""
        with self._lock:
            bad = self._ranges.overlapping(pack, offset, length)
        self._remove(bad)

    def evict(self, count: int) -> int:
        """Remove at least ``count`` bytes, least recently used first; return how many were removed."""
        with self._lock:
            before = self._ranges.used
            victims = list(self._ranges.pop_oldest(max(before - count, 0)))
        self._unlink(victims)
        return sum(victim.length for victim in victims)

    def clear(self) -> None:
        """Remove everything."""
        self.wait_for_scan()  # otherwise it would add files again
        with self._lock:
            victims = list(self._ranges.pop_oldest(0))
        self._unlink(victims)

    @contextmanager
    def _adding(self, entry: CachedRange) -> Iterator[bool]:
        """Make room for a range and yield True; False if it is not wanted or another thread is adding it."""
        with self._lock:
            admitted = self._is_wanted(entry)
            # Counted before it is written, so that concurrent writers together stay within the limit.
            if admitted:
                self._writing.add(entry)
            victims = self._pop_excess()
        # Outside the lock, because removing large files takes time.
        self._unlink(victims)
        try:
            yield admitted
        finally:
            if admitted:
                with self._lock:
                    self._writing.discard(entry)

    def _is_wanted(self, entry: CachedRange) -> bool:
        if not entry.length or entry in self._writing or self._being_written() + entry.length > self.max_bytes:
            return False
        return self._ranges.find(entry.pack, entry.offset, entry.length) is None

    def _being_written(self) -> int:
        return sum(entry.length for entry in self._writing)

    def _pop_excess(self) -> list[CachedRange]:
        """Remove the ranges for which there is no room beside those that are being written."""
        return list(self._ranges.pop_oldest(max(self.max_bytes - self._being_written(), 0)))

    def _added(self, entry: CachedRange) -> None:
        with self._lock:
            self._writing.discard(entry)
            self._ranges.add(entry, self._clock.now_ns())
            # Smaller ranges inside the new one are redundant.
            covered = self._ranges.within(entry)
            for inner in covered:
                self._ranges.remove(inner)
        self._unlink(covered)

    def _write(self, entry: CachedRange, data: Data) -> bool:
        """Write a range's file; if the disk is full, evict and try once more. False if it failed."""
        for _ in range(2):
            try:
                self._write_file(entry, data)
            except OSError as error:
                self._unlink([entry])
                if error.errno not in _FULL or not self.evict(max(_EVICT_BYTES, entry.length)):
                    _log.debug("a range could not be cached: %s", error.strerror)
                    return False
            else:
                return True
        return False

    def _write_file(self, entry: CachedRange, data: Data) -> None:
        descriptor = os.open(self._free_path(entry), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._disk.write(descriptor, data, 0)
        finally:
            os.close(descriptor)

    def _read(self, entry: CachedRange, offset: int, length: int) -> bytes | None:
        try:
            # O_NONBLOCK: a FIFO in place of the file must not block the reader.
            descriptor = os.open(self._path(entry), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = os.pread(descriptor, length, offset)
                self._record_use(entry, descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            return None  # removed meanwhile, or unreadable: the store has the bytes
        return data if len(data) == length else None

    def _record_use(self, entry: CachedRange, descriptor: int) -> None:
        now = self._clock.now_ns()
        with self._lock:
            # A negative time means that the clock was set back: then the mtime is set, too.
            if entry not in self._ranges or 0 <= now - self._ranges.use(entry, now) < _TOUCH_NS:
                return
        os.utime(descriptor, ns=(now, now))

    def _remove(self, entries: Iterable[CachedRange]) -> None:
        with self._lock:
            removed = [entry for entry in entries if self._ranges.remove(entry)]
        self._unlink(removed)

    def _unlink(self, entries: Iterable[CachedRange]) -> None:
        for entry in entries:
            try:
                self._disk.unlink(self._path(entry))
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("a cache file could not be removed: %s", error.strerror)

    def _free_path(self, entry: CachedRange) -> Path:
        """Return the path for a range's new file, after creating its directory.

        An existing file (not scanned yet, or left by a crash) is unlinked, not overwritten: it may have another hard link.
        """
        path = self._path(entry)
        for directory in (self._directory, path.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def _path(self, entry: CachedRange) -> Path:
        return self._directory / entry.directory / entry.file

    def _scan(self) -> None:
        """Add the files of an earlier run, as less recently used than everything since."""
        try:
            found = sorted(self._scan_files(), key=lambda one: one[0])
        except OSError as error:
            _log.warning("the cache directory cannot be read: %s", error.strerror)
            return
        with self._lock:
            # From the newest to the oldest, each before the others: what was used since the start stays newer than all.
            for touched, entry in reversed(found):
                if entry not in self._ranges:
                    self._ranges.add(entry, touched, oldest=True)
            victims = self._pop_excess()
        self._unlink(victims)

    def _scan_files(self) -> Iterator[tuple[int, CachedRange]]:
        """Yield (time of last use, range) of the complete files; remove the others."""
        if not self._directory.is_dir():
            return
        for directory in sorted(path for path in self._directory.iterdir() if len(path.name) == 2 and path.is_dir()):
            for path in directory.iterdir():
                if self._stopping:
                    return
                try:
                    status = path.lstat()
                    entry = parse(path.name)
                    if entry is not None and stat.S_ISREG(status.st_mode) and status.st_size == entry.length:
                        yield status.st_mtime_ns, entry
                    else:
                        self._remove_torn(path, entry)
                except OSError as error:  # removed meanwhile, or not a file of this program
                    _log.debug("a cache file is skipped: %s", error.strerror)

    def _remove_torn(self, path: Path, entry: CachedRange | None) -> None:
        with self._lock:
            is_live = entry is not None and (entry in self._writing or entry in self._ranges)
        if not is_live:
            path.unlink(missing_ok=True)
