"""The "full" TCP transport: `length, sequence, payload, crc32`, little endian, length counting all of it.

Format: https://core.telegram.org/mtproto/mtproto-transports#full. Received bytes go straight into one buffer per
connection; a payload is copied once, when it is cut out.
"""

import asyncio
import struct
from collections.abc import Callable
from zlib import crc32

MAX_FRAME = 1_100_000
"""Bytes. Telegram closes a connection that sends more than about 1 MiB in one message."""

TOO_MANY = -429

_CAPACITY = 4 * 1024 * 1024
_HEAD = struct.Struct("<ii")
_CRC = struct.Struct("<I")
_CODE = struct.Struct("<i")


def frame(sequence: int, payload: bytes) -> bytes:
    """One frame around `payload`."""
    head = _HEAD.pack(len(payload) + 12, sequence)
    return b"".join((head, payload, _CRC.pack(crc32(payload, crc32(head)))))


class FrameProtocol(asyncio.BufferedProtocol):
    """Cuts frames out of a TCP stream and hands each payload to `received`; bad frames end the connection."""

    def __init__(self, connected: Callable[["FrameProtocol"], None]) -> None:
        self._connected = connected
        self._buffer = bytearray(_CAPACITY)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._received = 0
        self._sent = 0
        self.transport: asyncio.Transport | None = None
        self.received: Callable[[bytes], None] = lambda payload: None
        self.closed: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=64 * 1024 * 1024)
        self.transport = transport
        self._connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if _CAPACITY - self._end < MAX_FRAME:
            waiting = self._end - self._start
            self._view[:waiting] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, waiting
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        while self.transport is not None and self._end - self._start >= 8:
            length, sequence = _HEAD.unpack_from(self._buffer, self._start)
            if not 12 <= length <= MAX_FRAME or sequence != self._received:
                self.close()
                return
            if self._end - self._start < length:
                return
            self._cut(length)
        if self._start == self._end:
            self._start = self._end = 0

    def _cut(self, length: int) -> None:
        start, stop = self._start, self._start + length
        self._start = stop
        self._received += 1
        (checksum,) = _CRC.unpack_from(self._buffer, stop - 4)
        if crc32(self._view[start : stop - 4]) != checksum:
            self.close()
            return
        self.received(bytes(self._view[start + 8 : stop - 4]))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.closed()

    def send(self, payload: bytes) -> None:
        """Frames and sends `payload`; nothing happens on a connection that is gone."""
        if self.transport is not None:
            self.transport.write(frame(self._sent, payload))
            self._sent += 1

    def send_error(self, code: int) -> None:
        """A transport error: a payload of 4 bytes; for -429 (too many connections) length and sequence say it too."""
        if self.transport is not None and code == TOO_MANY:
            self.transport.write(_HEAD.pack(code, code) + _CODE.pack(code))
        else:
            self.send(_CODE.pack(code))

    def close(self) -> None:
        """Ends the connection after what is written has gone out."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self.transport is not None:
            self.transport.abort()
