"""One client connection: its states, its request loop, its responses.

A connection alternates between the event loop, where it waits without a thread, and a worker, which serves a complete head:

    HANDSHAKE -> HEAD -> (worker) -> HEAD -> (worker) ... -> closed
                   |         |-> DELAYED -> DRAIN -> closed      a response that is sent late, then the end
                   |         |-> DRAIN -> closed                 the last response is out; the client reads it
                   |-> DRAIN -> closed                           a head that is refused
"""

import enum
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from tgdav import cpu_affinity
from tgdav.clock import Clock
from tgdav.http.bodies import ChunkedBody, SizedBody, StreamBody
from tgdav.http.head import CONTINUE, Head, encode_head, parse_head
from tgdav.http.messages import BodyCutOff, Disconnected, HttpError, Request, Response, error_response
from tgdav.http.stream import DONT_WAIT, NOT_YET, SocketStream, Waits
from tgdav.http.traffic import Traffic

log = logging.getLogger(__name__)

HEAD_TIME = 10.0
"""Seconds for a head from its first byte to its last; of a new connection, for the TLS handshake and the first head."""

NEXT_REQUEST_WAIT = 50
"""Milliseconds that a thread waits on a connection for its next request before the event loop gets it back."""

SKIP_LIMIT = 1 << 20
"""A refused body of at most this size is skipped, so that the connection can be kept; beyond it, the connection ends."""

SKIP_TIME = 5.0
"""Seconds that skipping may take."""

DRAIN_LIMIT = 16 << 20
"""Bytes that are still received from a client whose connection ends, so that it reads the response instead of a reset."""

DRAIN_TIME = 2.0
"""Seconds that draining may take."""

_DRAIN_BLOCK = 64 * 1024


class Next(enum.Enum):
    """What a connection needs next: received bytes, room to send, its deadline, a worker; or nothing, for it ended."""

    READ = enum.auto()
    WRITE = enum.auto()
    DELAY = enum.auto()
    WORKER = enum.auto()
    END = enum.auto()


class State(enum.Enum):
    """Where a connection is while the event loop has it."""

    HANDSHAKE = enum.auto()
    HEAD = enum.auto()
    DELAYED = enum.auto()
    DRAIN = enum.auto()


SMALL_BODY = 64 << 10
"""Requests with a body of up to this many bytes keep the interpreter busy, and little else."""


def choose_cores(length: int | None) -> None:
    """Choose the cores for a request with a body of ``length`` bytes (None: unknown)."""
    if length is None or length > SMALL_BODY:
        cpu_affinity.use_all_cores()
    else:
        cpu_affinity.share_one_core()


class Host(Protocol):
    """What a connection needs of its server."""

    clock: Clock
    traffic: Traffic
    handle: Callable[[Request], Response]
    idle_timeout: float

    @property
    def secure(self) -> bool:
        """Whether connections use TLS."""
        ...

    def has_queued(self) -> bool:
        """Return whether a connection waits for a thread."""
        ...

    def shutdown_expired(self) -> bool:
        """Return whether the server's time to stop is over."""
        ...

    def may_keep_alive(self, *, authenticated: bool) -> bool:
        """Return whether a connection may be kept."""
        ...

    def record_login(self, connection: "Connection") -> None:
        """Count a connection as logged in."""
        ...

    def forget(self, connection: "Connection") -> None:
        """Remove a closed connection."""
        ...

    def date(self) -> str:
        """Return the value of Date."""
        ...


class Connection:
    """See the module. ``remote_addr``, ``remote_port``, ``rfile`` and ``requests_seen`` are read by cheroot.

    Either the event loop has it, which calls ``advance``, ``expire`` and ``send_delayed``, none of which waits; or a worker,
    which calls ``communicate``. ``authenticated`` is set by the first accepted login. ``waits_for``, ``waits_since``,
    ``deadline``, ``counted_as`` belong to the event loop.
    """

    def __init__(self, server: Host, sock: socket.socket, address: str = "", port: int = 0) -> None:
        self.server = server
        self.socket = sock
        self.remote_addr, self.remote_port = address, port
        self.descriptor = sock.fileno()
        self.rfile = self.stream = SocketStream(sock, server.has_queued, server.shutdown_expired)
        self.stream.may_wait = False
        self.requests_seen = 0
        self.authenticated = False
        self.counted_as = ""
        self.waits_for: Next | None = None
        self.waits_since = 0.0
        self.deadline = server.clock.monotonic() + HEAD_TIME
        self._state = State.HANDSHAKE if server.secure else State.HEAD
        self._head_timed = True
        self._head = b""
        self._delayed = b""
        self._delayed_record = ("", 0)
        self._lingering_close = False
        self._drained = 0
        self._verified_credentials = ("", "")
        self._recorded = (0, 0)

    # ---- in the event loop -----------------------------------------------------------------------------------------

    @property
    def in_handshake(self) -> bool:
        """Whether the TLS handshake is not finished."""
        return self._state is State.HANDSHAKE

    @property
    def is_kept(self) -> bool:
        """Whether a login was accepted on it and its next request may come."""
        return self.authenticated and self._state is State.HEAD

    def advance(self) -> Next:
        """Go on as far as that is possible without waiting; return what is needed next."""
        try:
            if self._state is State.HANDSHAKE:
                return self._handshake()
            return self._read_head() if self._state is State.HEAD else self._drain_before_close()
        except HttpError as error:
            return self._refuse(error)
        except OSError as error:
            log.debug("connection ended: %r", error)
        except Exception as error:
            # An error of one connection must not end the loop that all others wait in.
            log.debug("connection failed: %r", error, exc_info=True)
        return Next.END

    def resume(self) -> Next:
        """Return what is needed next after a worker's response; a worker, if the next head has arrived already."""
        if self._state is State.DELAYED:
            return Next.DELAY
        if self._state is State.DRAIN:
            return Next.READ
        # A kept connection may be idle for longer than a head may take: HEAD_TIME starts with the head's first byte.
        self._head_timed = False
        skipping = self.stream.buffer.is_skipping
        self.deadline = self.server.clock.monotonic() + (SKIP_TIME if skipping else self.server.idle_timeout)
        return self.advance() if self.stream.has_data() else Next.READ

    def expire(self) -> Next:
        """Act on the deadline; return what is needed next."""
        if self._state is State.HEAD and self.stream.buffer.head_has_begun:
            return self._refuse(HttpError(408))
        return Next.END

    def send_delayed(self) -> Next:
        """Send the response that was put off; return what is needed next."""
        try:
            return self._send_last(self._delayed)
        finally:
            self._record(*self._delayed_record)

    def _handshake(self) -> Next:
        wanted = self.stream.do_handshake()
        if wanted is not None:
            return Next.WRITE if wanted is Waits.WRITABLE else Next.READ
        self._state = State.HEAD
        return self._read_head()

    def _read_head(self) -> Next:
        head = self.stream.head()
        if head is not None:
            self._head = head
            return Next.WORKER
        if not self._head_timed and self.stream.buffer.head_has_begun:
            self._head_timed = True
            self.deadline = self.server.clock.monotonic() + HEAD_TIME
        return Next.READ

    def _drain_before_close(self) -> Next:
        """Drop what the client still sends: close(2) with unread bytes makes the kernel reset the connection."""
        try:
            count = len(self.socket.recv(_DRAIN_BLOCK, DONT_WAIT))
        except NOT_YET:
            return Next.READ
        self._drained += count
        return Next.READ if count and self._drained < DRAIN_LIMIT else Next.END

    def _refuse(self, error: HttpError) -> Next:
        response = error_response(error)
        assert isinstance(response.body, bytes), "error responses are short"
        data = encode_head(response, self.server.date(), keep=False) + response.body
        try:
            return self._send_last(data)
        finally:
            self._record("", response.status)

    def _send_last(self, data: bytes) -> Next:
        self.stream.may_wait = False
        try:
            self.stream.write(data)
            return self._begin_drain()
        except OSError as error:
            log.debug("the client did not read the response: %r", error)
            return Next.END

    def _begin_drain(self) -> Next:
        self._state = State.DRAIN
        self.stream.buffer.clear()
        self.deadline = self.server.clock.monotonic() + DRAIN_TIME
        # The client sees the end of the stream and closes; until then ``_drain_before_close`` reads.
        self.socket.shutdown(socket.SHUT_WR)
        return Next.READ

    # ---- in a worker -----------------------------------------------------------------------------------------------

    def communicate(self) -> bool:
        """Serve the request whose head is here, and those that follow at once; return whether the connection goes on."""
        try:
            if self._serve():
                return True
            return self._state is State.DELAYED or (self._lingering_close and self._begin_drain() is Next.READ)
        except (ConnectionError, TimeoutError) as error:
            log.debug("connection ended: %r", error)
        except OSError as error:
            log.debug("connection failed: %r", error)
        return False

    def _serve(self) -> bool:
        try:
            while self._answer(parse_head(self._take_head())):
                if not self._next_is_here():
                    return True
        except HttpError as error:
            self._send(error_response(error), "", keep=False)
        return False

    def _take_head(self) -> bytes:
        head, self._head = self._head, b""
        return head

    def _next_is_here(self) -> bool:
        """Return whether a complete head is here, or arrives within a moment from a client that logged in."""
        # Most clients send their next request at once. Waiting for it here saves two thread switches, but would starve others
        # while connections wait for a thread, and would let clients without a login hold one.
        if not self.authenticated or self.server.has_queued() or self.stream.buffer.is_skipping:
            return False
        if not self.stream.wait(NEXT_REQUEST_WAIT):
            return False
        head = self.stream.head()
        self._head = head or b""
        return head is not None

    def _answer(self, head: Head) -> bool:
        choose_cores(head.length)
        body = self._body(head)
        request = Request(head.method, head.target, head.query, head.headers, body)
        request.peer = self.remote_addr
        request.secure = self.server.secure
        # Checking a login costs more than a small request: one that was accepted on this connection is compared as a string.
        request.verified_credentials = self._verified_credentials
        try:
            response: Response = self.server.handle(request)
        except BodyCutOff as end:
            self._send(error_response(HttpError(end.status, "the body is incomplete")), head.method, keep=False)
            return False
        self._verified_credentials = request.verified_credentials
        if request.authenticated and not self.authenticated:
            self.authenticated = True
            self.server.record_login(self)
        # A client without a login that does not read its responses must hold no thread.
        self.stream.may_wait = self.authenticated
        if response.delay:
            self._put_off(response, head.method)
            return False
        keep = head.keep_alive and not response.close and self.server.may_keep_alive(authenticated=self.authenticated)
        keep = keep and self._can_skip(body)
        self._send(response, head.method, keep=keep)
        if keep and isinstance(body, SizedBody):
            # Skipped by the event loop as it arrives: reading it here would hold this thread.
            body.skip()
        return keep

    @staticmethod
    def _can_skip(body: StreamBody) -> bool:
        """Return whether the rest of a body has a known size and is small enough to be skipped."""
        if body.finished:
            return True
        return not body.awaits_continue and body.length is not None and body.length <= SKIP_LIMIT

    def _body(self, head: Head) -> StreamBody:
        announce: Callable[[], None] | None = self._send_continue if head.expects_continue else None
        if head.length is None:
            return ChunkedBody(self.stream, announce)
        return SizedBody(self.stream, head.length, announce)

    def _send_continue(self) -> None:
        self.stream.write(CONTINUE)

    # ---- responses -----------------------------------------------------------------------------------------------

    def _send(self, response: Response, method: str, *, keep: bool) -> None:
        self._lingering_close = not keep
        try:
            self._write(response, method, keep=keep)
        finally:
            self._record(method, response.status)

    def _record(self, method: str, status: int) -> None:
        """Count a response and the bytes moved since the last one."""
        read, written = self.stream.bytes_read, self.stream.bytes_written
        self.server.traffic.record(method, status, read - self._recorded[0], written - self._recorded[1])
        self._recorded = read, written

    def _write(self, response: Response, method: str, *, keep: bool) -> None:
        head = encode_head(response, self.server.date(), keep=keep)
        if isinstance(response.body, bytes):
            # One write, so that head and body leave in one segment.
            self.stream.write(head if method == "HEAD" else head + response.body)
            return
        blocks = response.body
        cpu_affinity.use_all_cores()
        try:
            self.stream.write(head)
            if method != "HEAD":
                for block in blocks:
                    self.stream.write(block)
                    if self.server.shutdown_expired():
                        raise Disconnected
        except OSError:
            raise
        except Exception as error:
            # The head is out: closing the connection is the only way left to report that bytes are missing.
            log.warning("a response was cut off: %s", getattr(error, "kind", type(error).__name__))
            raise Disconnected from error
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    def _put_off(self, response: Response, method: str) -> None:
        """Leave a delayed response to the event loop, which then ends the connection; no thread is held meanwhile."""
        assert isinstance(response.body, bytes), "delayed responses are short"
        body = b"" if method == "HEAD" else response.body
        self._delayed = encode_head(response, self.server.date(), keep=False) + body
        self._state = State.DELAYED
        self._delayed_record = method, response.status
        self.deadline = self.server.clock.monotonic() + response.delay

    # ---- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection without waiting. Called by the event loop or the worker, whichever has it."""
        if self.stream.closed:
            return
        self.stream.close()
        self.server.forget(self)
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("closing: %r", error)
        self.socket.close()
