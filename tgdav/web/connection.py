"""One client connection in cheroot's server, with a request loop of our own.

cheroot's own loop answers ``Expect`` before the application has looked at the login, reads refused bodies into memory,
takes a body cut short for a whole one, and accepts framings that let requests be smuggled. It also parses through
``_pyio``. So only its listener and thread pool are used.
"""

import enum
import logging
import socket
from collections.abc import Callable
from typing import Any

from cheroot.server import HTTPConnection

from tgdav import cpu_affinity
from tgdav.errors import TgdavError
from tgdav.web.answer import CONTINUE, encode_head
from tgdav.web.bodies import ChunkedBody, SizedBody, StreamBody
from tgdav.web.errors import Refused, translate
from tgdav.web.http_head import Head, parse_head
from tgdav.web.messages import BodyCutOff, Disconnected, Request, Response
from tgdav.web.stream import DONT_WAIT, NOT_YET, SocketStream, Waits

log = logging.getLogger(__name__)

HEAD_TIME = 10.0
"""Seconds for a head from its first byte to its last; of a new connection, for the TLS handshake and the first head."""

LINGER = 50
"""Milliseconds that a thread stays with a connection for its next request before the event loop takes it back."""

DRAIN_LIMIT = 1 << 20
"""A refused body of at most this size is read, so that the connection can be kept; beyond it, the connection ends."""

DRAIN_TIME = 5.0
"""Seconds that the same may take."""

FAREWELL_LIMIT = 16 << 20
"""Bytes that are still taken from a client whose connection ends, so that it sees the answer instead of a reset."""

FAREWELL_TIME = 2.0
"""Seconds that the same may take."""

_FAREWELL_BLOCK = 64 * 1024


class Turn(enum.Enum):
    """What a connection needs next: bytes that arrive, room to send, its time to answer, a worker; or nothing more."""

    READ = enum.auto()
    WRITE = enum.auto()
    LATER = enum.auto()
    WORK = enum.auto()
    END = enum.auto()


class State(enum.Enum):
    """Where a connection is while the event loop has it."""

    HANDSHAKE = enum.auto()
    HEAD = enum.auto()
    LATE = enum.auto()
    FAREWELL = enum.auto()


SMALL_BODY = 64 << 10
"""Requests whose body has no more bytes keep the interpreter busy, and little else."""


def choose_cores(length: int | None) -> None:
    """Choose the cores for a request with a body of ``length`` bytes, None: not known."""
    if length is None or length > SMALL_BODY:
        cpu_affinity.use_all_cores()
    else:
        cpu_affinity.share_one_core()


class Connection(HTTPConnection):
    """See the module. The server gives ``handle``, ``clock``, ``note_login``, ``forget``, ``pressed`` and their like.

    Either the event loop has it, which calls ``advance``, ``expire`` and ``send_late``, none of which waits; or a worker,
    which calls ``communicate``. ``authenticated`` once a login was right on it. ``waits_for``, ``waits_since``, ``deadline``,
    ``counted_as`` are the event loop's notes.
    """

    def __init__(self, server: Any, sock: socket.socket) -> None:
        # The base class would wrap the socket into slow file objects; what cheroot needs of it is set here.
        self.server = server
        self.socket = sock
        self.descriptor = sock.fileno()
        self.rfile = self.stream = SocketStream(sock, server.pressed, server.overdue)
        self.stream.patient = False
        self.requests_seen = 0
        self.authenticated = False
        self.counted_as = ""
        self.waits_for: Turn | None = None
        self.waits_since = 0.0
        self.deadline = server.clock.monotonic() + HEAD_TIME
        self._state = State.HEAD if server.ssl_adapter is None else State.HANDSHAKE
        self._begun = True
        self._head = b""
        self._late = b""
        self._late_note = ("", 0)
        self._polite = False
        self._taken = 0
        self._proven = ("", "")
        self._noted = (0, 0)

    # ---- in the event loop -----------------------------------------------------------------------------------------

    @property
    def shaking_hands(self) -> bool:
        """Whether the TLS handshake is not over."""
        return self._state is State.HANDSHAKE

    @property
    def is_kept(self) -> bool:
        """Whether a login was right on it and it may ask again."""
        return self.authenticated and self._state is State.HEAD

    def advance(self) -> Turn:
        """Go on as far as that is possible without waiting; return what is needed next."""
        try:
            if self._state is State.HANDSHAKE:
                return self._shake_hands()
            return self._read_head() if self._state is State.HEAD else self._take_farewell()
        except Refused as refusal:
            return self._refuse(refusal)
        except OSError as error:
            log.debug("connection ended: %r", error)
        except Exception as error:
            # Whatever is wrong with one connection must not end the loop that all others wait in.
            log.debug("connection failed: %r", error, exc_info=True)
        return Turn.END

    def resume(self) -> Turn:
        """Return what is needed next after a worker's answer, which may be a head that is here already."""
        if self._state is State.LATE:
            return Turn.LATER
        if self._state is State.FAREWELL:
            return Turn.READ
        self._begun = False
        skipping = self.stream.is_skipping
        self.deadline = self.server.clock.monotonic() + (DRAIN_TIME if skipping else self.server.timeout)
        return self.advance() if self.stream.has_data() else Turn.READ

    def expire(self) -> Turn:
        """Do what is due at the deadline; return what is needed next."""
        if self._state is State.HEAD and self.stream.has_begun:
            return self._refuse(Refused(408))
        return Turn.END

    def send_late(self) -> Turn:
        """Send the answer that waited for its time; return what is needed next."""
        try:
            return self._send_at_once(self._late)
        finally:
            self._note(*self._late_note)

    def _shake_hands(self) -> Turn:
        wanted = self.stream.shake_hands()
        if wanted is not None:
            return Turn.WRITE if wanted is Waits.WRITABLE else Turn.READ
        self._state = State.HEAD
        return self._read_head()

    def _read_head(self) -> Turn:
        head = self.stream.head()
        if head is not None:
            self._head = head
            return Turn.WORK
        if not self._begun and self.stream.has_begun:
            self._begun = True
            self.deadline = self.server.clock.monotonic() + HEAD_TIME
        return Turn.READ

    def _take_farewell(self) -> Turn:
        """Drop what the client still sends: unread bytes at close(2) would make the kernel reset the connection."""
        try:
            count = len(self.socket.recv(_FAREWELL_BLOCK, DONT_WAIT))
        except NOT_YET:
            return Turn.READ
        self._taken += count
        return Turn.READ if count and self._taken < FAREWELL_LIMIT else Turn.END

    def _refuse(self, refusal: Refused) -> Turn:
        answer = translate(refusal)
        assert isinstance(answer.body, bytes), "refusals are short"
        data = encode_head(answer, self.server.date(), keep=False) + answer.body
        try:
            return self._send_at_once(data)
        finally:
            self._note("", answer.status)

    def _send_at_once(self, data: bytes) -> Turn:
        self.stream.patient = False
        try:
            self.stream.write(data)
            return self._begin_farewell()
        except OSError as error:
            log.debug("answer not taken: %r", error)
            return Turn.END

    def _begin_farewell(self) -> Turn:
        self._state = State.FAREWELL
        self.stream.drop()
        self.deadline = self.server.clock.monotonic() + FAREWELL_TIME
        self.socket.shutdown(socket.SHUT_WR)
        return Turn.READ

    # ---- in a worker -----------------------------------------------------------------------------------------------

    def communicate(self) -> bool:
        """Serve the request whose head is here, and those that follow at once; return whether the connection goes on."""
        try:
            if self._serve():
                return True
            return self._state is State.LATE or (self._polite and self._begin_farewell() is Turn.READ)
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
        except Refused as refusal:
            self._send(translate(refusal), "", keep=False)
        return False

    def _take_head(self) -> bytes:
        head, self._head = self._head, b""
        return head

    def _next_is_here(self) -> bool:
        """Return whether a whole head is here, or comes within a moment from a client that logged in."""
        if not self.authenticated or self.server.pressed() or self.stream.is_skipping or not self.stream.wait(LINGER):
            return False
        head = self.stream.head()
        self._head = head or b""
        return head is not None

    def _answer(self, head: Head) -> bool:
        choose_cores(head.length)
        body = self._body(head)
        request = Request(
            head.method,
            head.target,
            head.query,
            head.headers,
            body,
            peer=self.remote_addr or "",
            secure=self.server.ssl_adapter is not None,
            proven=self._proven,
        )
        try:
            response: Response = self.server.handle(request)
        except BodyCutOff as end:
            self._send(translate(Refused(end.status, "the body is not whole")), head.method, keep=False)
            return False
        self._proven = request.proven
        if request.authenticated and not self.authenticated:
            self.authenticated = True
            self.server.note_login(self)
        # Who has not logged in and lets answers pile up must hold no thread.
        self.stream.patient = self.authenticated
        if response.delay:
            self._put_off(response, head.method)
            return False
        keep = head.keep_alive and not response.close and self.server.can_keep(authenticated=self.authenticated)
        keep = keep and self._can_skip(body)
        self._send(response, head.method, keep=keep)
        if keep and isinstance(body, SizedBody):
            body.skip()
        return keep

    @staticmethod
    def _can_skip(body: StreamBody) -> bool:
        """Return whether what is left of a body is known and small enough to be dropped as it comes."""
        if body.finished:
            return True
        return not body.awaits_continue and body.length is not None and body.length <= DRAIN_LIMIT

    def _body(self, head: Head) -> StreamBody:
        announce: Callable[[], None] | None = self._send_continue if head.expects_continue else None
        if head.length is None:
            return ChunkedBody(self.stream, announce)
        return SizedBody(self.stream, head.length, announce)

    def _send_continue(self) -> None:
        self.stream.write(CONTINUE)

    # ---- answers -------------------------------------------------------------------------------------------------

    def _send(self, response: Response, method: str, *, keep: bool) -> None:
        self._polite = not keep
        try:
            self._write(response, method, keep=keep)
        finally:
            self._note(method, response.status)

    def _note(self, method: str, status: int) -> None:
        """Count an answer and what moved since the last one."""
        read, written = self.stream.bytes_read, self.stream.bytes_written
        self.server.traffic.note(method, status, read - self._noted[0], written - self._noted[1])
        self._noted = read, written

    def _write(self, response: Response, method: str, *, keep: bool) -> None:
        head = encode_head(response, self.server.date(), keep=keep)
        if isinstance(response.body, bytes):
            self.stream.write(head if method == "HEAD" else head + response.body)
            return
        blocks = response.body
        cpu_affinity.use_all_cores()
        try:
            self.stream.write(head)
            if method != "HEAD":
                for block in blocks:
                    self.stream.write(block)
                    if self.server.overdue():
                        raise Disconnected
        except TgdavError as error:
            # The head is out: cutting the connection is the one way left to say that these are not all the bytes.
            log.warning("an answer was cut off: %s", error.kind)
            raise Disconnected from error
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    def _put_off(self, response: Response, method: str) -> None:
        """Leave a late answer to the event loop, which then ends the connection; needs no thread meanwhile."""
        assert isinstance(response.body, bytes), "what is sent late is short"
        body = b"" if method == "HEAD" else response.body
        self._late = encode_head(response, self.server.date(), keep=False) + body
        self._state = State.LATE
        self._late_note = method, response.status
        self.deadline = self.server.clock.monotonic() + response.delay

    # ---- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection at once. Waits for nothing; called by whoever has the connection."""
        if self.stream.closed:
            return
        self.stream.close()
        self.server.forget(self)
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("closing: %r", error)
        self.socket.close()
