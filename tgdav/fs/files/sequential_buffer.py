"""A buffer for a file that is written in order, or nearly so: each byte is chunked and sealed once.

The last bytes stay in memory, in a window in which they can still be changed: the kernel writes a page again while a program
fills it bit by bit, and a small file is often written, read and corrected before it is closed. Bytes that leave the window go
to a content stream. The file shows none of them before ``finish`` and the commit after it.
"""

import threading
from collections import deque

from tgdav.content.staging.stream import ContentStream, StagedContent
from tgdav.content.store import ContentStore
from tgdav.errors import LocalFailure, TgdavError

WINDOW = 1024 * 1024
"""Bytes at the end that can still be changed. The window grows to twice that before its first half goes to the stream."""

GAP = 64 * 1024
"""Longest gap that is filled with zeros, bytes; a longer one is better kept as a hole, in an overlay."""

_PIECE = 64 * 1024
"""Smallest write that is kept without copying it, bytes."""

_STREAM_BYTES = 4 * 1024 * 1024
"""What a content stream may hold in memory: a block that is not chunked yet."""


class BufferBudget:
    """Counts the memory of all buffers against a limit. Thread-safe."""

    def __init__(self, limit: int = 48 * 1024 * 1024) -> None:
        self._limit, self._held, self._lock = limit, 0, threading.Lock()

    def change(self, by: int) -> None:
        """Add ``by`` bytes, which may be negative."""
        with self._lock:
            self._held += by

    @property
    def is_exceeded(self) -> bool:
        """Whether buffers must become content instead of growing."""
        return self._held > self._limit


class _Tail:
    """The bytes in the window, as a queue of pieces: large writes are neither copied nor joined while they wait."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Append data. Large ``bytes`` are kept as they are; all else is copied, because the caller may change it."""
        self._length += len(data)
        # A bytes object cannot change, so it needs no copy.
        if len(data) >= _PIECE and isinstance(data, bytes):
            self._pieces.append(data)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += data
        else:
            self._pieces.append(bytearray(data))

    def take(self, most: int) -> bytes | bytearray | None:
        """Remove and return the first piece, or ``most`` bytes of it; None if that would make very small pieces."""
        first = self._pieces[0]
        if len(first) > most:
            if most < _PIECE:
                # A piece of a few bytes would cost as much as a large one; the next write makes the piece longer.
                return None
            with memoryview(first) as whole:
                self._pieces[0], first = bytearray(whole[most:]), bytes(whole[:most])
        else:
            self._pieces.popleft()
        self._length -= len(first)
        return first

    def whole(self) -> bytearray:
        """Return all bytes as one array, in which the caller may change bytes but not the length."""
        if len(self._pieces) != 1 or not isinstance(self._pieces[0], bytearray):
            self._pieces = deque([bytearray().join(self._pieces)])
        found = self._pieces[0]
        assert isinstance(found, bytearray)
        return found

    def put(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Overwrite from ``position`` on, which is at most the end, and append what goes beyond the end."""
        if position == self._length:
            self.append(data)
            return
        whole = self.whole()
        whole[position : position + len(data)] = data
        self._length = len(whole)

    def cut(self, length: int) -> None:
        """Drop everything after ``length`` bytes."""
        del self.whole()[length:]
        self._length = length

    def read(self, start: int, end: int) -> bytes:
        """Return a range, clipped to the end."""
        if not self._length:
            return b""
        with memoryview(self.whole()) as whole:
            return bytes(whole[start:end])


class SequentialWriteBuffer:
    """Not thread-safe: its open file locks. ``size`` (of the file) and ``changes`` (number of writes) are read without it."""

    def __init__(self, content: ContentStore, budget: BufferBudget, *, local: bool) -> None:
        self._content, self._budget, self._local = content, budget, local
        self._stream: ContentStream | None = None
        self._sent = 0
        self._tail = _Tail()
        self._held = 0
        self._failed: TgdavError | None = None
        self.changes, self.size = 1, 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Write; return False if the offset is before the window or leaves a hole.

        Raises NoSpace, LocalFailure. Part of the content is lost then, so ``finish`` and each later write raise the same error.
        """
        # What failed has been removed from the window already.
        if self._failed is not None:
            raise self._failed
        position = offset - self._sent
        gap = position - len(self._tail)
        if position < 0 or gap > GAP:
            return False
        # Kernels write pages out of order by a few; the gap is filled by the next write.
        if gap > 0:
            self._tail.append(bytes(gap))
        self._tail.put(position, data)
        self.changes += 1
        if len(self._tail) > 2 * WINDOW:
            self._send()
        self._account()
        return True

    @property
    def is_small(self) -> bool:
        """Whether the whole content is in memory."""
        return not self._sent

    def accepts_nowait(self, offset: int, length: int) -> bool:
        """Return whether a write would stay in memory and leave no hole."""
        return self._failed is None and self._sent <= offset <= self.size and offset - self._sent + length <= 2 * WINDOW

    def truncate(self, size: int) -> bool:
        """Truncate or extend; return False if the new end is before the window or leaves a hole."""
        position = size - self._sent
        if position < 0 or position - len(self._tail) > GAP:
            return False
        if position < len(self._tail):
            self._tail.cut(position)
        else:
            self._tail.append(bytes(position - len(self._tail)))
        self.changes += 1
        self._account()
        return True

    def read(self, offset: int, length: int) -> bytes | None:
        """Return the bytes at ``offset``, fewer at the end; None if some of them have left the window."""
        if offset < self._sent:
            return None
        return self._tail.read(offset - self._sent, offset - self._sent + length)

    def finish(self) -> StagedContent:
        """Return the staged content. Raises NoSpace, LocalFailure; the buffer is gone then too."""
        if self._failed is not None:
            self._forget()
            raise self._failed
        stream = self._provide_stream()
        try:
            while len(self._tail):
                self._send_one(stream, len(self._tail))
            return stream.finish()
        except BaseException:
            stream.abort()
            raise
        finally:
            self._forget()

    def abort(self) -> None:
        """Discard everything."""
        if self._stream is not None:
            self._stream.abort()
        self._forget()

    def _provide_stream(self) -> ContentStream:
        if self._stream is None:
            self._stream = self._content.open_stream(local=self._local)
        return self._stream

    def _send(self) -> None:
        """Send what is before the window to the stream."""
        stream = self._provide_stream()
        try:
            while self._send_one(stream, len(self._tail) - WINDOW):
                pass
        except BaseException as error:
            self._failed = error if isinstance(error, TgdavError) else LocalFailure()
            stream.abort()
            raise

    def _send_one(self, stream: ContentStream, most: int) -> bool:
        piece = self._tail.take(most)
        if piece is None:
            return False
        self._sent += len(piece)
        stream.write(piece)
        return True

    def _account(self) -> None:
        self.size = self._sent + len(self._tail)
        held = len(self._tail) + min(self._sent, _STREAM_BYTES)
        if abs(held - self._held) >= GAP:  # the budget has a lock, so small changes are not counted one by one
            self._budget.change(held - self._held)
            self._held = held

    def _forget(self) -> None:
        self._budget.change(-self._held)
        self._held, self._stream = 0, None
        self._tail = _Tail()
