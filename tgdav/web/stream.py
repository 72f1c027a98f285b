"""A client's socket as a stream: buffered heads, bodies in blocks, time limits that spare slow but living clients."""

import select
import socket
import ssl
import struct
from collections.abc import Callable

import msgspec

from tgdav.web.errors import Refused
from tgdav.web.http_head import LARGEST_HEAD
from tgdav.web.messages import BodyCutOff, Disconnected


class Limits(msgspec.Struct, frozen=True):
    """Times in seconds.

    ``call``: how long a single socket call waits. ``patience``: without a byte, after which a client that sends or
    receives a body is given up. ``short_patience``: the same for one that sends, while threads run short.
    """

    call: float = 10
    patience: float = 120
    short_patience: float = 30


USUAL = Limits()


NOT_YET = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket call raises when its slice is over."""

QUICKACK = getattr(socket, "TCP_QUICKACK", None)

_RECEIVE = 64 * 1024


class SocketStream:
    """Reads and writes one connection.

    The socket blocks; SO_RCVTIMEO and SO_SNDTIMEO bound each call, which costs no poll(2) a call as Python's own
    timeouts do. ``pressed`` tells whether threads run short, ``overdue`` whether the server should long have stopped.
    """

    def __init__(
        self,
        sock: socket.socket,
        pressed: Callable[[], bool],
        overdue: Callable[[], bool],
        limits: Limits = USUAL,
    ) -> None:
        self._socket = sock
        self._pressed = pressed
        self._overdue = overdue
        self._limits = limits
        self._buffer = bytearray()
        self._incomplete = False
        self._poll: select.poll | None = None
        self.closed = False
        self.bytes_read = 0
        self.bytes_written = 0
        sock.settimeout(None)
        seconds, fraction = divmod(limits.call, 1)
        limit = struct.pack("ll", int(seconds), int(fraction * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def hurry(self) -> None:
        """Acknowledge at once what has come: a client that sends head and body apart waits for that (Nagle)."""
        if QUICKACK is not None and not self._buffer:
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def has_data(self) -> bool:
        """Return whether bytes wait in memory, where no selector sees them, and not only for the rest of their head."""
        pending = getattr(self._socket, "pending", None)
        return (bool(self._buffer) and not self._incomplete) or bool(pending and pending())

    def close(self) -> None:
        """Drop what is buffered."""
        self.closed = True
        self._buffer.clear()

    def wait(self, milliseconds: int) -> bool:
        """Return whether something arrives within the time."""
        if self.has_data():
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
        return bool(self._poll.poll(milliseconds))

    # ---- reading -------------------------------------------------------------------------------------------------

    def head(self) -> bytes | None:
        """Return the next request's head; None while it is incomplete. Receives at most once."""
        found = self._take_head()
        if found is not None:
            return found
        data = self._receive_once(_RECEIVE)
        if not data:
            if self._buffer:
                raise Refused(400, "the head ended early", close=True)
            raise Disconnected
        self._buffer += data
        self.bytes_read += len(data)
        return self._take_head()

    def _take_head(self) -> bytes | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", 0, LARGEST_HEAD)
        if end < 0:
            if len(buffer) >= LARGEST_HEAD:
                raise Refused(431 if b"\r\n" in buffer else 414, close=True)
            self._incomplete = bool(buffer)
            return None
        self._incomplete = False
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        return head

    def _receive_once(self, size: int) -> bytes:
        try:
            return self._socket.recv(size)
        except NOT_YET as error:
            raise Disconnected from error

    def read_into(self, view: memoryview) -> int:
        """Receive between 1 and ``len(view)`` bytes of a body. Raises BodyCutOff at the end of the stream."""
        if self._buffer:
            count = min(len(view), len(self._buffer))
            view[:count] = self._buffer[:count]
            del self._buffer[:count]
            return count
        waited = 0.0
        while True:
            try:
                count = self._socket.recv_into(view)
            except NOT_YET as error:
                waited += self._limits.call
                if waited >= (self._limits.short_patience if self._pressed() else self._limits.patience):
                    raise BodyCutOff(408) from error
                continue
            if not count:
                raise BodyCutOff(400)
            self.bytes_read += count
            return count

    def read_line(self, limit: int) -> bytes:
        """Return a line without its CRLF. Raises Refused 400 when it is longer than ``limit`` or ends in a bare LF."""
        while True:
            end = self._buffer.find(b"\n", 0, limit + 2)
            if end >= 0:
                break
            if len(self._buffer) > limit:
                raise Refused(400, "line too long", close=True)
            block = bytearray(4096)
            held, self._buffer = self._buffer, bytearray()
            count = self.read_into(memoryview(block))
            self._buffer = held + block[:count]
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if not line.endswith(b"\r"):
            raise Refused(400, "a line must end in CRLF", close=True)
        return line[:-1]

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send all of ``data``. Raises Disconnected when the client takes none of it within the patience."""
        view = memoryview(data)
        waited = 0.0
        while view:
            try:
                sent = self._socket.send(view)
            except NOT_YET as error:
                waited += self._limits.call
                if waited >= self._limits.patience or self._overdue():
                    raise Disconnected from error
                continue
            waited = 0.0
            self.bytes_written += sent
            view = view[sent:]
