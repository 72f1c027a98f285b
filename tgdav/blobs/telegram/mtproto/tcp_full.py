"""The "full" transport without Telethon's copies: bytes from the socket into one buffer, and out of it frame by frame.

Frames are ``length, sequence, payload, crc32``, little endian, the length counting all of it; a payload of four bytes
is an error of the transport (https://core.telegram.org/mtproto/mtproto-transports#full).
"""

import asyncio
import struct
from collections import deque
from zlib import crc32

import msgspec
from telethon.errors import InvalidBufferError, InvalidChecksumError
from telethon.network import ConnectionTcpFull

LARGE = 64 * 1024
"""Payloads of this many bytes and more hold file contents, and are worth the trouble of not copying them."""
LARGEST_FRAME = 16 * 1024 * 1024
_FIRST_BUFFER = 4 * 1024 * 1024
_ROOM = 256 * 1024
_KEY_BYTES = 24
_HEAD = struct.Struct("<ii")
_CRC = struct.Struct("<I")
_SHORTEST = 12
_CODE_BYTES = 4


class Sealed(msgspec.Struct, frozen=True):
    """An encrypted message: the key's id and the message key (24 bytes), and the ciphertext."""

    key: bytes
    body: bytes


Payload = bytes | Sealed


class FrameProtocol(asyncio.BufferedProtocol):
    """Cuts frames out of a stream. ``take`` waits for the next payload; large ones come as ``Sealed``.

    ``refusal`` is what the transport said instead of a payload, None while it said nothing.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(_FIRST_BUFFER)
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
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  (asyncio's)
        """Give room for what comes: at least the rest of the frame that has begun, or a good piece of it."""
        if len(self._buffer) - self._end < _ROOM:
            self._make_room()
        return self._view[self._end :]

    def _make_room(self) -> None:
        """Move the begun frame to the buffer's front, or all of it to a larger buffer if that is full of one frame."""
        begun = self._view[self._start : self._end]
        if self._start < _ROOM:
            larger = bytearray(2 * len(self._buffer))
            larger[: len(begun)] = begun
            self._buffer, self._view = larger, memoryview(larger)
        else:
            self._view[: len(begun)] = bytes(begun)
        self._start, self._end = 0, self._end - self._start

    def buffer_updated(self, nbytes: int) -> None:
        """Cut the frames that are whole."""
        self._end += nbytes
        while self._end - self._start >= _HEAD.size:
            length, sequence = _HEAD.unpack_from(self._buffer, self._start)
            if length < 0 and sequence < 0:
                length = _SHORTEST
            if not _SHORTEST <= length <= LARGEST_FRAME:
                self._put(InvalidBufferError(bytes(self._view[self._start : self._start + _HEAD.size])))
                self.abort()
                return
            if self._end - self._start < length:
                return
            self._put(self._cut(self._view[self._start : self._start + length]))
            self._start += length
        if self._start == self._end:
            self._start = self._end = 0

    def _cut(self, frame: memoryview) -> Payload | Exception:
        end = len(frame) - _CRC.size
        (announced,) = _HEAD.unpack_from(frame)[:1]
        if announced < 0:
            self.refusal = _error(InvalidBufferError(bytes(frame[_HEAD.size :])))
            return self.refusal
        (checksum,) = _CRC.unpack_from(frame, end)
        found = crc32(frame[:end])
        if found != checksum:
            return _error(InvalidChecksumError(checksum, found))
        payload = frame[_HEAD.size : end]
        if len(payload) == _CODE_BYTES:
            self.refusal = InvalidBufferError(bytes(payload))
        if len(payload) < LARGE:
            return bytes(payload)
        return Sealed(bytes(payload[:_KEY_BYTES]), bytes(payload[_KEY_BYTES:]))

    def _put(self, it: Payload | Exception) -> None:
        self._frames.append(it)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def eof_received(self) -> bool:
        """Hang up too."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        self._frames.append(error if isinstance(error, OSError) else ConnectionResetError("Telegram hung up"))
        self.transport = None
        self.lost.set()
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        """Too much is waiting to go out."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It went out."""
        self._writable.set()

    async def take(self) -> Payload:
        """Return the next payload. Raises OSError when the connection is gone, Telethon's errors for bad frames."""
        while not self._frames:
            if self.lost.is_set():
                raise ConnectionResetError("Telegram hung up")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        it = self._frames.popleft()
        if isinstance(it, Exception):
            raise it
        return it

    async def send(self, payload: Payload) -> None:
        """Frame a payload and send it, waiting while the line is full. Raises OSError when it is gone."""
        await self._writable.wait()
        if self.transport is None:
            raise ConnectionResetError("Telegram hung up")
        pieces = (payload,) if isinstance(payload, bytes) else (payload.key, payload.body)
        head = _HEAD.pack(sum(map(len, pieces)) + _SHORTEST, self._sent)
        checksum = crc32(head)
        for piece in pieces:
            checksum = crc32(piece, checksum)
        self._sent += 1
        self.transport.write(b"".join((head, *pieces, _CRC.pack(checksum))))

    def abort(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abort()


def _error(error: Exception) -> Exception:
    """Telethon's classes are of no known type."""
    return error


class FramedConnection(ConnectionTcpFull):  # type: ignore[misc]
    """Telethon's connection (its proxies too) over a ``FrameProtocol``; it does not reconnect."""

    _frames: FrameProtocol

    @property
    def refusal(self) -> Exception | None:
        """What the transport ended the connection with, from the moment at which it came in."""
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
        """Hang up."""
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
        """See ``FrameProtocol.take``."""
        if not self._connected:
            raise ConnectionError("not connected")
        return await self._frames.take()
