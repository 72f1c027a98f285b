"""A client's socket as a stream: buffered heads, bodies in blocks, time limits that spare slow but living clients."""

import enum
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

DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)

MOST_EMPTY_LINES = 8
"""Empty lines that may precede a request line (RFC 9112 §2.2 asks for one)."""

_RECEIVE = 64 * 1024


class Waits(enum.Enum):
    """What a socket waits for."""

    READABLE = enum.auto()
    WRITABLE = enum.auto()


class SocketStream:
    """Reads and writes one connection.

    ``head`` never waits, so any thread may call it; bodies and answers may wait, within the limits. A plain socket blocks,
    and SO_RCVTIMEO and SO_SNDTIMEO bound each call, which costs no poll(2) a call as Python's own timeouts do. A TLS socket
    never blocks, because a readable one may hold less than a record; where waiting is allowed, poll(2) does it.
    ``pressed`` tells whether threads run short, ``overdue`` whether the server should long have stopped.
    """

    def __init__(
        self,
        sock: socket.socket,
        pressed: Callable[[], bool],
        overdue: Callable[[], bool],
        limits: Limits = USUAL,
    ) -> None:
        self._socket = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._pressed = pressed
        self._overdue = overdue
        self._limits = limits
        self._buffer = bytearray()
        self._searched = 0
        self._empty_lines = 0
        self._skip = 0
        self._poll: select.poll | None = None
        self._polled_for = 0
        self.closed = False
        self.patient = True
        self.bytes_read = 0
        self.bytes_written = 0
        self._prepare()

    def _prepare(self) -> None:
        if self._tls:
            self._socket.setblocking(False)
            return
        self._socket.settimeout(None)
        seconds, fraction = divmod(self._limits.call, 1)
        limit = struct.pack("ll", int(seconds), int(fraction * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def hurry(self) -> None:
        """Acknowledge at once what has come: a client that sends head and body apart waits for that (Nagle)."""
        if QUICKACK is not None and not self._buffer:
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def has_data(self) -> bool:
        """Return whether bytes are in memory, where no selector sees them."""
        return bool(self._buffer) or (self._tls and bool(self._socket.pending()))  # type: ignore[attr-defined]

    @property
    def has_begun(self) -> bool:
        """Whether something of the next head is here."""
        return bool(self._buffer) and not self._skip

    @property
    def is_skipping(self) -> bool:
        """Whether the rest of a refused body comes before the next head."""
        return bool(self._skip)

    def close(self) -> None:
        """Drop what is buffered, and note that the connection is closed (cheroot looks at ``closed``)."""
        self.closed = True
        self.drop()

    def drop(self) -> None:
        """Drop what is buffered."""
        self._buffer = bytearray()

    def shake_hands(self) -> "Waits | None":
        """Take the TLS handshake as far as it goes without waiting; return what it waits for, None when it is over."""
        try:
            self._socket.do_handshake()  # type: ignore[attr-defined]
        except NOT_YET as error:
            return Waits.WRITABLE if isinstance(error, ssl.SSLWantWriteError) else Waits.READABLE
        return None

    def wait(self, milliseconds: int) -> bool:
        """Return whether something arrives within the time."""
        return self.has_data() or self._polled(select.POLLIN, milliseconds)

    def _polled(self, events: int, milliseconds: int) -> bool:
        if self._poll is None:
            self._poll = select.poll()
        if events != self._polled_for:
            self._poll.register(self._socket, events)
            self._polled_for = events
        return bool(self._poll.poll(milliseconds))

    # ---- reading -------------------------------------------------------------------------------------------------

    def skip(self, count: int) -> None:
        """Have the next ``count`` bytes, the rest of a refused body, dropped as they arrive."""
        self._skip = count

    def head(self) -> bytes | None:
        """Return the next request's head; None while it is incomplete. Receives at most once, and never waits.

        Raises Refused for a head that ends early or is too large, Disconnected at the end of the stream.
        """
        found = self._take_head()
        if found is not None:
            return found
        data = self._receive_at_once()
        if data is None:
            return None
        if not data:
            if self.has_begun:
                raise Refused(400, "the head ended early", close=True)
            raise Disconnected
        self._buffer += data
        self.bytes_read += len(data)
        return self._take_head()

    def _take_head(self) -> bytes | None:
        if self._skip:
            self._drop_refused()
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            self._empty_lines += 1
            if self._empty_lines > MOST_EMPTY_LINES:
                raise Refused(400, "too many empty lines", close=True)
            del buffer[:2]
            self._searched = 0
        # What was searched before is not searched again, else a head that comes byte by byte costs its length squared.
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3), LARGEST_HEAD)
        self._searched = len(buffer)
        if end < 0:
            if len(buffer) >= LARGEST_HEAD:
                raise Refused(431 if b"\r\n" in buffer else 414, close=True)
            return None
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        self._searched = self._empty_lines = 0
        return head

    def _drop_refused(self) -> None:
        count = min(self._skip, len(self._buffer))
        del self._buffer[:count]
        self._skip -= count

    def _receive_at_once(self) -> bytes | None:
        try:
            return self._socket.recv(_RECEIVE) if self._tls else self._socket.recv(_RECEIVE, DONT_WAIT)
        except NOT_YET:
            return None

    def _is_ready(self, error: OSError) -> bool:
        """Return whether a TLS socket that could not go on can do so within a call's time; a plain one has waited."""
        if not self._tls:
            return False
        events = select.POLLOUT if isinstance(error, ssl.SSLWantWriteError) else select.POLLIN
        return self._polled(events, int(self._limits.call * 1000))

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
                if self._is_ready(error):
                    continue
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
        searched = 0
        while (end := self._buffer.find(b"\n", searched, limit + 2)) < 0:
            searched = len(self._buffer)
            if searched > limit:
                raise Refused(400, "line too long", close=True)
            block = bytearray(4096)
            held, self._buffer = self._buffer, bytearray()
            count = self.read_into(memoryview(block))
            held += block[:count]
            self._buffer = held
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if not line.endswith(b"\r"):
            raise Refused(400, "a line must end in CRLF", close=True)
        return line[:-1]

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send all of ``data``.

        Raises Disconnected when the client takes none of it within the patience; at once where ``patient`` is False.
        """
        view = memoryview(data)
        waited = 0.0
        while view:
            try:
                sent = self._send(view)
            except NOT_YET as error:
                if self.patient and self._is_ready(error) and not self._overdue():
                    waited = 0.0
                    continue
                waited += self._limits.call
                if not self.patient or waited >= self._limits.patience or self._overdue():
                    raise Disconnected from error
                continue
            waited = 0.0
            self.bytes_written += sent
            view = view[sent:]

    def _send(self, view: memoryview) -> int:
        if self.patient or self._tls:
            return self._socket.send(view)
        return self._socket.send(view, DONT_WAIT)
