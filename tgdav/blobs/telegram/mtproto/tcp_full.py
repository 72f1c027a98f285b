"""MTProto's "full" TCP transport with one receive buffer, because Telethon's copies large frames several times.

A frame is ``length, sequence, payload, crc32`` in little endian; the length includes all four. A payload of four bytes
is an error code of the transport (https://core.telegram.org/mtproto/mtproto-transports#full).
"""

import asyncio
import struct
from collections import deque
from zlib import crc32

import msgspec
from telethon.errors import InvalidBufferError, InvalidChecksumError
from telethon.network import ConnectionTcpFull

LARGE = 64 * 1024
"""Payloads of at least this size hold file content; they are not copied more often than needed."""
MAX_FRAME_BYTES = 16 * 1024 * 1024
_INITIAL_BUFFER = 4 * 1024 * 1024
_MIN_FREE = 256 * 1024
_KEY_BYTES = 24
_HEAD = struct.Struct("<ii")
_CRC = struct.Struct("<I")
_MIN_FRAME_BYTES = 12
_CODE_BYTES = 4


class Sealed(msgspec.Struct, frozen=True):
    """An encrypted message: 24 bytes with the id of the key and the message key, and the ciphertext."""

    key: bytes
    body: bytes


Payload = bytes | Sealed


class FrameProtocol(asyncio.BufferedProtocol):
    """Splits the received stream into frames. ``receive`` returns payloads, large ones as ``Sealed``.

    ``refusal`` is the transport's error, or None.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(_INITIAL_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._frames: deque[Payload | Exception] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._sent = 0
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()
        self.refusal: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  (asyncio's)
        """Return free space for the next read."""
        if len(self._buffer) - self._end < _MIN_FREE:
            self._make_space()
        return self._view[self._end :]

    def _make_space(self) -> None:
        """Move the incomplete frame to the front of the buffer, or into a larger buffer if it fills this one."""
        incomplete = self._view[self._start : self._end]
        if self._start < _MIN_FREE:
            larger = bytearray(2 * len(self._buffer))
            larger[: len(incomplete)] = incomplete
            self._buffer, self._view = larger, memoryview(larger)
        else:
            self._view[: len(incomplete)] = bytes(incomplete)
        self._start, self._end = 0, self._end - self._start

    def buffer_updated(self, nbytes: int) -> None:
        """Take the complete frames out of the buffer."""
        self._end += nbytes
        while self._end - self._start >= _HEAD.size:
            length, sequence = _HEAD.unpack_from(self._buffer, self._start)
            # Seen instead of a frame: length, sequence and four bytes of body that all are the negative error code.
            if length < 0 and sequence < 0:
                length = _MIN_FRAME_BYTES
            if not _MIN_FRAME_BYTES <= length <= MAX_FRAME_BYTES:
                self._put(InvalidBufferError(bytes(self._view[self._start : self._start + _HEAD.size])))
                self.abort()
                return
            if self._end - self._start < length:
                return
            self._put(self._parse(self._view[self._start : self._start + length]))
            self._start += length
        if self._start == self._end:
            self._start = self._end = 0

    def _parse(self, frame: memoryview) -> Payload | Exception:
        end = len(frame) - _CRC.size
        (announced,) = _HEAD.unpack_from(frame)[:1]
        if announced < 0:
            self.refusal = _typed(InvalidBufferError(bytes(frame[_HEAD.size :])))
            return self.refusal
        (checksum,) = _CRC.unpack_from(frame, end)
        found = crc32(frame[:end])
        if found != checksum:
            return _typed(InvalidChecksumError(checksum, found))
        payload = frame[_HEAD.size : end]
        if len(payload) == _CODE_BYTES:
            self.refusal = InvalidBufferError(bytes(payload))
        # Copied out of the buffer, which the next frame overwrites; a large one in the two parts that are decrypted.
        if len(payload) < LARGE:
            return bytes(payload)
        return Sealed(bytes(payload[:_KEY_BYTES]), bytes(payload[_KEY_BYTES:]))

    def _put(self, payload: Payload | Exception) -> None:
        self._frames.append(payload)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def eof_received(self) -> bool:
        """Close the connection too."""
        return False  # asyncio then closes the transport

    def connection_lost(self, error: Exception | None) -> None:
        """Wake the receiver and all senders."""
        self._frames.append(
            error if isinstance(error, OSError) else ConnectionResetError("Telegram closed the connection")
        )
        self.transport = None
        self.lost.set()
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        """Make ``send`` wait: the send buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let ``send`` continue."""
        self._writable.set()

    async def receive(self) -> Payload:
        """Return the next payload. Raises OSError if the connection is lost, Telethon's errors for invalid frames."""
        while not self._frames:
            if self.lost.is_set():
                raise ConnectionResetError("Telegram closed the connection")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        it = self._frames.popleft()
        if isinstance(it, Exception):
            raise it
        return it

    async def send(self, payload: Payload) -> None:
        """Send a payload, waiting while the send buffer is full. Raises OSError if the connection is lost."""
        await self._writable.wait()
        if self.transport is None:
            raise ConnectionResetError("Telegram closed the connection")
        pieces = (payload,) if isinstance(payload, bytes) else (payload.key, payload.body)
        head = _HEAD.pack(sum(map(len, pieces)) + _MIN_FRAME_BYTES, self._sent)
        checksum = crc32(head)
        for piece in pieces:
            checksum = crc32(piece, checksum)
        self._sent += 1
        self.transport.write(b"".join((head, *pieces, _CRC.pack(checksum))))

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()


def _typed(error: Exception) -> Exception:
    """Give an exception of Telethon a type, which its untyped modules do not have."""
    return error


class FramedConnection(ConnectionTcpFull):  # type: ignore[misc]
    """Telethon's connection, with its proxy support, over a ``FrameProtocol``. It does not reconnect."""

    _frames: FrameProtocol

    @property
    def refusal(self) -> Exception | None:
        """The transport's error, available as soon as it was received; Telethon reports it later."""
        return self._frames.refusal if hasattr(self, "_frames") else None

    async def connect(self, timeout: float | None = None, ssl: object = None) -> None:  # noqa: ARG002  (Telethon's)
        """Connect within ``timeout`` seconds. Raises OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            if self._proxy:
                made = await self._proxy_connect(timeout=timeout)
                _, self._frames = await loop.create_connection(FrameProtocol, sock=made)
            else:
                _, self._frames = await loop.create_connection(FrameProtocol, self._ip, self._port)
        self._connected = True

    async def disconnect(self) -> None:
        """Close the connection."""
        if self._connected:
            self._connected = False
            self._frames.abort()
            await self._frames.lost.wait()

    async def send(self, data: Payload) -> None:
        """See ``FrameProtocol.send``."""
        if not self._connected:
            raise ConnectionError("not connected")
        await self._frames.send(data)

    async def recv(self) -> Payload:
        """See ``FrameProtocol.receive``."""
        if not self._connected:
            raise ConnectionError("not connected")
        return await self._frames.receive()
