"""Request bodies: of known length, and chunked (RFC 9112 §6.2, §7.1). Pure: bytes come from a ``ByteSource``."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from tgdav.http.messages import HttpError

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:[ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?\Z")
_MAX_CHUNK_LINE = 4096
_MAX_TRAILER_BYTES = 16 * 1024


class ByteSource(Protocol):
    """Where a body's bytes come from; a ``SocketStream``, in tests a string of bytes."""

    def read_into(self, view: memoryview) -> int:
        """Receive between 1 and ``len(view)`` bytes. Raises BodyCutOff at the end of the stream."""
        ...

    def read_line(self, limit: int) -> bytes:
        """Return a line without its CRLF. Raises HttpError 400."""
        ...

    def acknowledge(self) -> None:
        """Acknowledge what has arrived: a client that sends head and body separately may wait for that (Nagle)."""
        ...

    def skip(self, count: int) -> None:
        """Drop the next ``count`` bytes as they arrive."""
        ...


class StreamBody(ABC):
    """What both kinds share. ``on_first_read`` runs before the first byte is requested (100 Continue)."""

    length: int | None

    def __init__(self, stream: ByteSource, length: int | None, on_first_read: Callable[[], None] | None) -> None:
        self._stream = stream
        self.length = length
        self._on_first_read = on_first_read
        self.finished = length == 0
        self.most: int | None = None

    @property
    def awaits_continue(self) -> bool:
        """Whether the client still waits for 100 Continue before it sends anything."""
        return self._on_first_read is not None and not self.finished

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as the body goes; return the count, 0 only at the body's proper end."""
        # 100 Continue is sent when the handler reads, not before: a refused body is then never sent (RFC 9110 §10.1.1).
        if self._on_first_read is not None:
            announce, self._on_first_read = self._on_first_read, None
            announce()
        if not self.finished:
            self._stream.acknowledge()
        filled = 0
        while filled < len(buffer) and not self.finished:
            filled += self._receive(buffer[filled:])
        return filled

    def read(self, limit: int) -> bytes:
        """Return the whole body; raises HttpError 413 when it has more than ``limit`` bytes."""
        if self.length is not None and self.length > limit:
            raise HttpError(413)
        self.most = limit
        # One byte more than allowed shows that a chunked body is too long without reading all of it.
        buffer = bytearray(self.length if self.length is not None else limit + 1)
        count = self.read_into(memoryview(buffer))
        if count > limit:
            raise HttpError(413)
        return bytes(buffer[:count])

    @abstractmethod
    def _receive(self, view: memoryview) -> int:
        """Receive at least one byte of the body, or reach its end and return 0."""


class SizedBody(StreamBody):
    """A body of ``length`` bytes. Its end before that is a ``BodyCutOff``, never a short body."""

    def __init__(self, stream: ByteSource, length: int, on_first_read: Callable[[], None] | None = None) -> None:
        super().__init__(stream, length, on_first_read)
        self.remaining = length

    def _receive(self, view: memoryview) -> int:
        count = self._stream.read_into(view[: self.remaining])
        self.remaining -= count
        self.finished = self.remaining == 0
        return count

    def skip(self) -> None:
        """Drop the rest of the body as it arrives."""
        self._stream.skip(self.remaining)


class ChunkedBody(StreamBody):
    """A chunked body; sizes are bare hexadecimal, extensions and trailers are read and ignored."""

    def __init__(self, stream: ByteSource, on_first_read: Callable[[], None] | None = None) -> None:
        super().__init__(stream, None, on_first_read)
        self._chunk = 0
        self._between = False

    def _receive(self, view: memoryview) -> int:
        if not self._chunk:
            self._next_chunk()
            if self.finished:
                return 0
        count = self._stream.read_into(view[: self._chunk])
        self._chunk -= count
        return count

    def _next_chunk(self) -> None:
        if self._between and self._stream.read_line(0):
            raise HttpError(400, "malformed chunk", close=True)
        self._between = True
        match = _CHUNK_SIZE.match(self._stream.read_line(_MAX_CHUNK_LINE))
        if not match:
            raise HttpError(400, "malformed chunk size", close=True)
        self._chunk = int(match[1], 16)
        if self.most is not None and self._chunk > self.most:
            raise HttpError(413, close=True)
        if not self._chunk:
            self._read_trailers()
            self.finished = True

    def _read_trailers(self) -> None:
        budget = _MAX_TRAILER_BYTES
        while line := self._stream.read_line(_MAX_CHUNK_LINE):
            budget -= len(line)
            if budget < 0:
                raise HttpError(400, "trailers too long", close=True)
