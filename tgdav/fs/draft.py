"""A file's whole new content on its way in, given in order or nearly so: each byte is cut and sealed once.

The last bytes stay in memory, where they can still be changed: the kernel writes a page again when a program fills it
bit by bit, and a small file is often written, looked at and corrected before it is closed. What leaves that window goes to
a content stream. Nothing is on disk under the file's name before ``finish`` and the commit after it.
"""

import threading

from tgdav.content.store import ContentStore
from tgdav.content.stream import ContentStream, StagedContent

WINDOW = 1024 * 1024
"""Bytes at the end that can still be changed; twice as many are gathered before the first half moves on."""

GAP = 64 * 1024
"""Longest stretch of zeros that is written out; what skips more is better kept as a hole."""

_STREAM_BYTES = 2 * 1024 * 1024
"""What a stream may hold in memory: one chunk that is not cut yet."""


class DraftMemory:
    """How much all drafts hold in memory, against a limit. Thread-safe."""

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self._limit, self._held, self._lock = limit, 0, threading.Lock()

    def change(self, by: int) -> None:
        """Count ``by`` bytes more (negative: less)."""
        with self._lock:
            self._held += by

    @property
    def is_short(self) -> bool:
        """Whether drafts should be made content before they grow."""
        return self._held > self._limit


class Draft:
    """Not thread-safe: its open file locks. ``size`` is the file's size, ``changes`` counts writes; both may be looked at."""

    def __init__(self, content: ContentStore, memory: DraftMemory, *, local: bool) -> None:
        self._content, self._memory, self._local = content, memory, local
        self._stream: ContentStream | None = None
        self._sent = 0
        self._tail = bytearray()
        self._held = 0
        self.changes, self.size = 1, 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Take a write; False if it lies behind the window or leaves a hole. Raises NoSpace, LocalFailure."""
        place = offset - self._sent
        gap = place - len(self._tail)
        if place < 0 or gap > GAP:
            return False
        if gap > 0:
            self._tail += bytes(gap)
        self._tail[place : place + len(data)] = data
        self.changes += 1
        if len(self._tail) > 2 * WINDOW:
            self._send(len(self._tail) - WINDOW)
        self._account()
        return True

    @property
    def is_small(self) -> bool:
        """Whether all of it is in memory."""
        return not self._sent

    def takes_at_once(self, offset: int, length: int) -> bool:
        """Whether a write stays in memory and in order."""
        return self._sent <= offset <= self.size and offset - self._sent + length <= 2 * WINDOW

    def truncate(self, size: int) -> bool:
        """Cut or extend; False if that reaches behind the window or leaves a hole."""
        place = size - self._sent
        if place < 0 or place - len(self._tail) > GAP:
            return False
        if place < len(self._tail):
            del self._tail[place:]
        else:
            self._tail += bytes(place - len(self._tail))
        self.changes += 1
        self._account()
        return True

    def read(self, offset: int, length: int) -> bytes | None:
        """Return the bytes there, fewer at the end; None when some of them left the window."""
        if offset < self._sent:
            return None
        return bytes(self._tail[offset - self._sent : offset - self._sent + length])

    def finish(self) -> StagedContent:
        """Return the content, to be recorded. Raises NoSpace, LocalFailure; the draft is gone then too."""
        stream = self._provide_stream()
        try:
            stream.write(self._tail)
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

    def _send(self, count: int) -> None:
        with memoryview(self._tail) as whole, whole[:count] as first:
            self._provide_stream().write(first)
        del self._tail[:count]
        self._sent += count

    def _account(self) -> None:
        self.size = self._sent + len(self._tail)
        held = len(self._tail) + min(self._sent, _STREAM_BYTES)
        if abs(held - self._held) >= GAP:
            self._memory.change(held - self._held)
            self._held = held

    def _forget(self) -> None:
        self._memory.change(-self._held)
        self._held, self._stream = 0, None
        self._tail = bytearray()
