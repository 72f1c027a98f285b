"""The overlay of an open file: its dirty writes, sealed, in an append-only file (``docs/formats/overlay.md``).

File format, version 1: consecutive records, each ``length (u32, little-endian) ‖ sealed record``. The associated data
bind the node's id and the record's counter (0, 1, 2 …), so that no record can be moved, dropped from the middle, or used
for another node. A record's plaintext begins with its kind (1 byte):

========  =========================================================================
kind      rest, integers little-endian
========  =========================================================================
1 write   offset u64 ‖ the bytes written there
2 cut     size u64: the new size of the file (truncate and extend)
3 mark    size u64: an fsync made everything before this record durable
========  =========================================================================

After a crash only the records before the last mark count: the overlay then has exactly the state of the last fsync.
Each overlay has its own key (machine root + random salt), and the counter stays far below 2^32.
"""

import errno
import os
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from pathlib import Path

from tgdav.crypto.sealing import Sealer
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NoSpace

WRITE, CUT, MARK = 1, 2, 3
BLOCK = 128 * 1024
"""Largest write in one record, bytes; larger ones are split."""
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<BQ")
_CACHED_RECORDS = 16


class Piece:
    """Bytes ``start``..``end`` of the file are in record ``counter``, from ``skip`` on."""

    __slots__ = ("counter", "end", "skip", "start")

    def __init__(self, start: int, end: int, counter: int, skip: int) -> None:
        self.start, self.end, self.counter, self.skip = start, end, counter, skip

    def part(self, start: int, end: int) -> "Piece":
        """Return the piece narrowed to ``start``..``end``."""
        return Piece(start, end, self.counter, self.skip + start - self.start)


class ExtentMap:
    """Maps each dirty byte to its record; sorted, without overlaps. Pure.

    Pieces are columns of numbers, not objects: random writes make hundreds of thousands of them.
    """

    def __init__(self) -> None:
        self._starts, self._ends = array("q"), array("q")
        self._counters, self._skips = array("I"), array("I")

    def __bool__(self) -> bool:
        return bool(self._starts)

    def _piece(self, index: int) -> Piece:
        return Piece(self._starts[index], self._ends[index], self._counters[index], self._skips[index])

    def _replace(self, first: int, last: int, pieces: list[Piece]) -> None:
        self._starts[first:last] = array("q", [each.start for each in pieces])
        self._ends[first:last] = array("q", [each.end for each in pieces])
        self._counters[first:last] = array("I", [each.counter for each in pieces])
        self._skips[first:last] = array("I", [each.skip for each in pieces])

    def put(self, piece: Piece) -> None:
        """Add a piece, over what was there."""
        first = bisect_right(self._starts, piece.start) - 1
        if first < 0 or self._ends[first] <= piece.start:
            first += 1
        last = bisect_left(self._starts, piece.end)
        kept = [piece]
        for old in map(self._piece, range(first, last)):
            if old.start < piece.start:
                kept.insert(0, old.part(old.start, piece.start))
            if old.end > piece.end:
                kept.append(old.part(piece.end, old.end))
        self._replace(first, last, kept)

    def cut(self, size: int) -> None:
        """Remove everything from ``size`` on."""
        index = bisect_left(self._starts, size)
        self._replace(index, len(self._starts), [])
        if self._ends and self._ends[-1] > size:
            self._ends[-1] = size

    def within(self, start: int, end: int) -> list[Piece]:
        """Return the pieces in ``start``..``end``, narrowed to that range."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        last = bisect_left(self._starts, end)
        return [
            each.part(max(each.start, start), min(each.end, end))
            for each in map(self._piece, range(first, last))
            if each.end > start
        ]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the dirty ranges; adjacent ones are joined."""
        joined: list[tuple[int, int]] = []
        for start, end in zip(self._starts, self._ends, strict=True):
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        return joined


class Overlay:
    """Dirty writes of one node over a base of ``size`` bytes. Not thread-safe: its open file has the lock.

    ``floor``: bytes of the base that are still visible. A truncate lowers it; bytes between it and ``size`` that are in no
    piece are a hole. A failed write or sync poisons the overlay: every later call raises LocalFailure.
    """

    def __init__(
        self, path: Path, node: bytes, key: bytes, *, base_size: int, disk: Disk, entropy: Entropy, fresh: bool = True
    ) -> None:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if fresh else 0)
        self._descriptor = os.open(path, flags, 0o600)
        self._path, self._node, self._disk, self._entropy = path, node, disk, entropy
        self._sealer = Sealer(key)
        self._ends = array("q")
        """The end of each record in the file, where the next one begins."""
        self._poisoned = False
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._is_name_durable = not fresh
        self.map = ExtentMap()
        self.size = self.floor = base_size
        self.changes = 0
        self.durable_changes = 0

    def close(self, *, remove: bool) -> None:
        """Close the file; ``remove``: its writes have become content, and it is deleted."""
        os.close(self._descriptor)
        if remove:
            self._disk.unlink(self._path)

    @property
    def staged(self) -> int:
        """Size of the file in bytes."""
        return self._ends[-1] if self._ends else 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Add a write. Raises NoSpace, LocalFailure."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), BLOCK):
            part = view[start : start + BLOCK]
            counter = self._append(_HEAD.pack(WRITE, offset + start) + part)
            self.map.put(Piece(offset + start, offset + start + len(part), counter, _HEAD.size))
        self.size = max(self.size, offset + len(view))
        self.changes += 1

    def truncate(self, size: int) -> None:
        """Cut or extend the node to ``size`` bytes."""
        self._append(_HEAD.pack(CUT, size))
        self._cut(size)
        self.changes += 1

    def fsync(self) -> None:
        """Make everything so far durable. Raises LocalFailure."""
        if self.durable_changes == self.changes:
            return
        # The mark is synced with the records before it. After a power cut in between, it is missing or they do not open: then
        # the previous mark counts.
        self._append(_HEAD.pack(MARK, self.size))
        try:
            self._disk.sync(self._descriptor)
            if not self._is_name_durable:
                self._disk.sync_directory(self._path.parent)
                self._is_name_durable = True
        except OSError as error:
            self._poisoned = True
            raise LocalFailure("writing dirty data to the local disk failed") from error
        self.durable_changes = self.changes

    def read(self, piece: Piece) -> bytes:
        """Return a piece's bytes. Raises DamageError."""
        record = self._cache.get(piece.counter)
        if record is None:
            record = self._open_record(piece.counter)
            self._cache[piece.counter] = record
            if len(self._cache) > _CACHED_RECORDS:
                self._cache.popitem(last=False)
        return record[piece.skip : piece.skip + piece.end - piece.start]

    def replay(self) -> None:
        """Restore the state of the last mark from the file, and cut the file there."""
        # Records take effect at the next mark only: after the last mark they were never synced, so some may be missing.
        length_of_file = os.fstat(self._descriptor).st_size
        end = marked = 0
        waiting: list[tuple[int, int, int]] = []
        while end + _LENGTH.size <= length_of_file:
            (length,) = _LENGTH.unpack(os.pread(self._descriptor, _LENGTH.size, end))
            end += _LENGTH.size + length
            if end > length_of_file:
                break
            self._ends.append(end)
            try:
                record = self._open_record(len(self._ends) - 1)
            except DamageError:
                break
            waiting.append((*_HEAD.unpack_from(record), len(record) - _HEAD.size))
            if record[0] == MARK:
                self._apply(marked, waiting)
                waiting, marked = [], len(self._ends)
        del self._ends[marked:]
        self._disk.truncate(self._descriptor, self.staged)
        self.durable_changes = self.changes

    def _apply(self, counter: int, records: list[tuple[int, int, int]]) -> None:
        """Apply records from ``counter`` on: (kind, offset or size, length)."""
        for number, (kind, value, length) in enumerate(records, counter):
            if kind == WRITE:
                self.map.put(Piece(value, value + length, number, _HEAD.size))
                self.size = max(self.size, value + length)
                self.changes += 1
            elif kind == CUT:
                self._cut(value)
                self.changes += 1

    def _cut(self, size: int) -> None:
        self.map.cut(size)
        self.floor = min(self.floor, size)
        self.size = size

    def _append(self, plaintext: bytes) -> int:
        if self._poisoned:
            raise LocalFailure("an earlier write of dirty data failed")
        counter, end = len(self._ends), self.staged
        sealed = self._sealer.seal(plaintext, self._associated_data(counter), self._entropy)
        try:
            self._disk.write(self._descriptor, _LENGTH.pack(len(sealed)) + sealed, end)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                # Not poisoned: the next record overwrites the torn one.
                raise NoSpace("the local disk is full") from error
            self._poisoned = True
            raise LocalFailure("writing dirty data to the local disk failed") from error
        self._ends.append(end + _LENGTH.size + len(sealed))
        return counter

    def _open_record(self, counter: int) -> bytes:
        offset = (self._ends[counter - 1] if counter else 0) + _LENGTH.size
        sealed = os.pread(self._descriptor, self._ends[counter] - offset, offset)
        return self._sealer.open(sealed, self._associated_data(counter), "overlay")

    def _associated_data(self, counter: int) -> bytes:
        return b"tgdav overlay 1" + self._node + counter.to_bytes(8, "little")
