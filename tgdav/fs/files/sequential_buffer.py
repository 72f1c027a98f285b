"""A file's whole new content on its way in, given in order or nearly so: each byte is cut and sealed once.

The last bytes stay in memory, where they can still be changed: the kernel writes a page again when a program fills it
bit by bit, and a small file is often written, looked at and corrected before it is closed. What leaves that window goes to
a content stream. Nothing is on disk under the file's name before ``finish`` and the commit after it.
"""

import threading
from collections import deque

from tgdav.content.staging.stream import ContentStream, StagedContent
from tgdav.content.store import ContentStore
from tgdav.errors import LocalFailure, TgdavError

WINDOW = 1024 * 1024
"""Bytes at the end that can still be changed; twice as many are gathered before the first half moves on."""

GAP = 64 * 1024
"""Longest stretch of zeros that is written out; what skips more is better kept as a hole."""

_PIECE = 64 * 1024
"""Least block that is kept as it came, bytes."""

_STREAM_BYTES = 4 * 1024 * 1024
"""What a stream may hold in memory: a block that is not cut yet."""


class BufferBudget:
    """How much all buffers hold in memory, against a limit. Thread-safe."""

    def __init__(self, limit: int = 48 * 1024 * 1024) -> None:
        self._limit, self._held, self._lock = limit, 0, threading.Lock()

    def change(self, by: int) -> None:
        """Count ``by`` bytes more (negative: less)."""
        with self._lock:
            self._held += by

    @property
    def is_short(self) -> bool:
        """Whether buffers should be made content before they grow."""
        return self._held > self._limit


class _Tail:
    """The bytes at the end, in pieces as they came: a large block is neither copied nor joined while it waits."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add to the end. ``bytes`` of some size stay as they are, all else is copied."""
        self._length += len(data)
        if len(data) >= _PIECE and isinstance(data, bytes):
            self._pieces.append(data)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += data
        else:
            self._pieces.append(bytearray(data))

    def take(self, most: int) -> bytes | bytearray | None:
        """Remove the first piece, or part of it, of at most ``most`` bytes; None where that would leave crumbs."""
        first = self._pieces[0]
        if len(first) > most:
            if most < _PIECE:
                return None
            with memoryview(first) as whole:
                self._pieces[0], first = bytearray(whole[most:]), bytes(whole[:most])
        else:
            self._pieces.popleft()
        self._length -= len(first)
        return first

    def whole(self) -> bytearray:
        """Return all of it, where it may be changed, but for its length."""
        if len(self._pieces) != 1 or not isinstance(self._pieces[0], bytearray):
            self._pieces = deque([bytearray().join(self._pieces)])
        found = self._pieces[0]
        assert isinstance(found, bytearray)
        return found

    def put(self, place: int, data: bytes | bytearray | memoryview) -> None:
        """Write over what is there, and further; ``place`` lies at most at the end."""
        if place == self._length:
            self.append(data)
            return
        whole = self.whole()
        whole[place : place + len(data)] = data
        self._length = len(whole)

    def cut(self, length: int) -> None:
        """Drop what is behind ``length``."""
        del self.whole()[length:]
        self._length = length

    def read(self, start: int, end: int) -> bytes:
        """Return a range, clipped."""
        if not self._length:
            return b""
        with memoryview(self.whole()) as whole:
            return bytes(whole[start:end])


class SequentialWriteBuffer:
    """Not thread-safe: its open file locks. ``size`` is the file's size, ``changes`` counts writes; both may be looked at."""

    def __init__(self, content: ContentStore, memory: BufferBudget, *, local: bool) -> None:
        self._content, self._memory, self._local = content, memory, local
        self._stream: ContentStream | None = None
        self._sent = 0
        self._tail = _Tail()
        self._held = 0
        self._failed: TgdavError | None = None
        self.changes, self.size = 1, 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Take a write; False if it lies behind the window or leaves a hole.

        Raises NoSpace, LocalFailure: part of the content is lost then, so it cannot be finished, and each later write raises
        the same.
        """
        if self._failed is not None:
            raise self._failed
        place = offset - self._sent
        gap = place - len(self._tail)
        if place < 0 or gap > GAP:
            return False
        if gap > 0:
            self._tail.append(bytes(gap))
        self._tail.put(place, data)
        self.changes += 1
        if len(self._tail) > 2 * WINDOW:
            self._send()
        self._account()
        return True

    @property
    def is_small(self) -> bool:
        """Whether all of it is in memory."""
        return not self._sent

    def accepts_nowait(self, offset: int, length: int) -> bool:
        """Whether a write stays in memory and in order."""
        return self._failed is None and self._sent <= offset <= self.size and offset - self._sent + length <= 2 * WINDOW

    def truncate(self, size: int) -> bool:
        """Cut or extend; False if that reaches behind the window or leaves a hole."""
        place = size - self._sent
        if place < 0 or place - len(self._tail) > GAP:
            return False
        if place < len(self._tail):
            self._tail.cut(place)
        else:
            self._tail.append(bytes(place - len(self._tail)))
        self.changes += 1
        self._account()
        return True

    def read(self, offset: int, length: int) -> bytes | None:
        """Return the bytes there, fewer at the end; None when some of them left the window."""
        if offset < self._sent:
            return None
        return self._tail.read(offset - self._sent, offset - self._sent + length)

    def finish(self) -> StagedContent:
        """Return the content, to be recorded. Raises NoSpace, LocalFailure; the buffer is gone then too."""
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
        """Drop everything."""
        if self._stream is not None:
            self._stream.abort()
        self._forget()

    def _provide_stream(self) -> ContentStream:
        if self._stream is None:
            self._stream = self._content.open_stream(local=self._local)
        return self._stream

    def _send(self) -> None:
        """Let what is before the window go."""
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
        if abs(held - self._held) >= GAP:
            self._memory.change(held - self._held)
            self._held = held

    def _forget(self) -> None:
        self._memory.change(-self._held)
        self._held, self._stream = 0, None
        self._tail = _Tail()
