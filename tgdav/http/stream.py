"""A client's socket as a stream: heads, bodies in blocks, and time limits that drop stalled clients but not slow ones."""

import enum
import select
import socket
import ssl
import struct
from collections.abc import Callable

import msgspec

from tgdav.http.framing import ReceiveBuffer
from tgdav.http.messages import BodyCutOff, Disconnected


class Limits(msgspec.Struct, frozen=True):
    """Times in seconds.

    ``call``: how long a single socket call waits. ``stall``: without a byte, after which a client that sends or receives a
    body is dropped. ``short_stall``: the same for one that sends, while connections wait for a thread.
    """

    call: float = 10
    stall: float = 120
    short_stall: float = 30


USUAL = Limits()


NOT_YET = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket call raises when it would have to wait (longer than ``Limits.call``)."""

QUICKACK = getattr(socket, "TCP_QUICKACK", None)

DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)

_RECEIVE = 64 * 1024


class Waits(enum.Enum):
    """What a socket waits for."""

    READABLE = enum.auto()
    WRITABLE = enum.auto()


class SocketStream:
    """Reads and writes one connection.

    ``head`` never waits, so any thread may call it; bodies and responses may wait, within the limits. ``has_queued`` returns
    whether connections wait for a thread, ``shutdown_expired`` whether the server's time to stop is over. ``may_wait`` False
    makes ``write`` fail where it would wait.
    """

    # A plain socket blocks, and SO_RCVTIMEO and SO_SNDTIMEO bound each call: this saves the poll(2) per call that Python's own
    # timeouts make. A TLS socket never blocks, because a readable one may hold less than a record; where waiting is allowed,
    # poll(2) waits.

    def __init__(
        self,
        sock: socket.socket,
        has_queued: Callable[[], bool],
        shutdown_expired: Callable[[], bool],
        limits: Limits = USUAL,
    ) -> None:
        self._socket = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._has_queued = has_queued
        self._shutdown_expired = shutdown_expired
        self._limits = limits
        self.buffer = ReceiveBuffer()
        self._poll: select.poll | None = None
        self._polled_for = 0
        self.closed = False
        self.may_wait = True
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

    def acknowledge(self) -> None:
        """Acknowledge what has arrived: a client that sends head and body separately may wait for that (Nagle)."""
        if QUICKACK is not None and not len(self.buffer):
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def has_data(self) -> bool:
        """Return whether received bytes are in memory, where a selector does not see them."""
        return bool(len(self.buffer)) or (self._tls and bool(self._socket.pending()))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Drop what is buffered and set ``closed``."""
        self.closed = True
        self.buffer.clear()

    def do_handshake(self) -> "Waits | None":
        """Continue the TLS handshake without waiting; return what it waits for, None when it is finished."""
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
        """Drop the next ``count`` bytes, the rest of a refused body, as they arrive."""
        self.buffer.skip(count)

    def head(self) -> bytes | None:
        """Return the next request's head; None while it is incomplete. Receives at most once, and never waits.

        Raises HttpError for a head that ends early or is too large, Disconnected at the end of the stream.
        """
        found = self.buffer.next_head()
        if found is not None:
            return found
        data = self._receive_nowait()
        if data is None:
            return None
        if not data:
            self.buffer.end_of_stream()
            raise Disconnected
        self.buffer.feed(data)
        self.bytes_read += len(data)
        return self.buffer.next_head()

    def _receive_nowait(self) -> bytes | None:
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
        return self.buffer.take(view) or self._receive_into(view)

    def _receive_into(self, view: memoryview) -> int:
        waited = 0.0
        while True:
            try:
                count = self._socket.recv_into(view)
            except NOT_YET as error:
                if self._is_ready(error):
                    continue
                waited += self._limits.call
                if waited >= (self._limits.short_stall if self._has_queued() else self._limits.stall):
                    raise BodyCutOff(408) from error
                continue
            if not count:
                raise BodyCutOff(400)
            self.bytes_read += count
            return count

    def read_line(self, limit: int) -> bytes:
        """Return a line without its CRLF. Raises HttpError 400 when it is longer than ``limit`` or ends in a bare LF."""
        while (line := self.buffer.next_line(limit)) is None:
            # Not into the buffer of a chunk: what follows the line belongs to the chunk and stays in ``buffer``.
            block = memoryview(bytearray(4096))
            self.buffer.feed(block[: self._receive_into(block)])
        return line

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send all of ``data``.

        Raises Disconnected when the client takes none of it within the stall time; at once where ``may_wait`` is False.
        """
        view = memoryview(data)
        waited = 0.0
        while view:
            try:
                sent = self._send(view)
            except NOT_YET as error:
                if self.may_wait and self._is_ready(error) and not self._shutdown_expired():
                    # A TLS socket became writable: the client is reading, however slowly.
                    waited = 0.0
                    continue
                waited += self._limits.call
                if not self.may_wait or waited >= self._limits.stall or self._shutdown_expired():
                    raise Disconnected from error
                continue
            waited = 0.0
            self.bytes_written += sent
            view = view[sent:]

    def _send(self, view: memoryview) -> int:
        if self.may_wait or self._tls:
            return self._socket.send(view)
        return self._socket.send(view, DONT_WAIT)
