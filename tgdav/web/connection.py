"""One client connection in cheroot's server, with a request loop of our own.

cheroot's own loop answers ``Expect`` before the application has looked at the login, reads refused bodies into memory,
takes a body cut short for a whole one, and accepts framings that let requests be smuggled. It also parses through
``_pyio``. So only its listener, selector and thread pool are used.
"""

import logging
import socket
from collections.abc import Callable
from typing import Any

from cheroot.server import HTTPConnection

from tgdav import cores
from tgdav.errors import TgdavError
from tgdav.web.answer import CONTINUE, encode_head
from tgdav.web.bodies import ChunkedBody, SizedBody, StreamBody
from tgdav.web.errors import Refused, translate
from tgdav.web.http_head import Head, parse_head
from tgdav.web.messages import BodyCutOff, Disconnected, Request, Response
from tgdav.web.stream import SocketStream

log = logging.getLogger(__name__)

HEAD_TIME = 10.0
"""Seconds from a head's first byte to its last."""

LINGER = 50
"""Milliseconds that a thread stays with a connection for its next request before the selector takes it back."""

DRAIN_LIMIT = 1 << 20
"""A refused body of at most this size is read, so that the connection can be kept; beyond it, the connection ends."""

DRAIN_TIME = 5.0
"""Seconds that the same may take: who was refused, perhaps for want of a login, holds no thread for longer."""

FAREWELL_LIMIT = 16 << 20
"""Bytes that are still taken from a client whose connection ends, so that it sees the answer instead of a reset."""

FAREWELL_TIME = 2
"""Seconds that the same may take, each for silence and in all."""


SMALL_BODY = 64 << 10
"""Requests whose body has no more bytes keep the interpreter busy, and little else."""


def choose_cores(length: int | None) -> None:
    """Choose the cores for a request with a body of ``length`` bytes, None: not known."""
    if length is None or length > SMALL_BODY:
        cores.spread()
    else:
        cores.gather()


class Connection(HTTPConnection):
    """See the module. The server gives ``handle``, ``clock``, ``late`` and ``pressed``."""

    def __init__(self, server: Any, sock: socket.socket, _makefile: object = None) -> None:
        # The base class would wrap the socket into slow file objects; what cheroot needs of it is set here.
        self.server = server
        self.socket = sock
        self.rfile = self.stream = SocketStream(sock, server.pressed, server.overdue)
        self.requests_seen = 0
        self.new = True
        self.parked = False
        self._polite = False
        self._proven = ("", "")
        self._head_deadline: float | None = None
        self._noted = (0, 0)

    # ---- the loop ------------------------------------------------------------------------------------------------

    def communicate(self) -> bool:
        """Serve requests while they come; return whether to wait for more (cheroot calls this when data is there)."""
        try:
            while self._serve_one():
                if self._head_deadline is not None or self.server.pressed() or not self.stream.wait(LINGER):
                    return True
        except (ConnectionError, TimeoutError) as error:
            log.debug("connection ended: %r", error)
        except OSError as error:
            log.debug("connection failed: %r", error)
        return False

    def _serve_one(self) -> bool:
        try:
            data = self.stream.head()
            if data is None:
                return self._wait_for_head()
            self._head_deadline = None
            head = parse_head(data)
        except Refused as refusal:
            self._head_deadline = None
            self._send(translate(refusal), "", keep=False)
            return False
        return self._answer(head)

    def _wait_for_head(self) -> bool:
        now = self.server.clock.monotonic()
        if self._head_deadline is None:
            self._head_deadline = now + HEAD_TIME
        if now < self._head_deadline:
            return True
        self._head_deadline = None
        self._send(translate(Refused(408)), "", keep=False)
        return False

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
        keep = head.keep_alive and not response.close and self.server.can_keep()
        if not body.finished:
            keep = keep and not body.awaits_continue and body.length is not None and body.length <= DRAIN_LIMIT
        if response.delay and keep:
            self._drain(body)
        if response.delay and self._park(response, head.method):
            return False
        self._send(response, head.method, keep=keep)
        return keep and (body.finished or self._drain(body))

    def _drain(self, body: StreamBody) -> bool:
        """Take what is left of a refused body off the line; return whether it came to its end, and soon."""
        deadline = self.server.clock.monotonic() + DRAIN_TIME
        return body.drain(DRAIN_LIMIT, lambda: bool(self.server.clock.monotonic() < deadline))

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
        cores.spread()
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

    def _park(self, response: Response, method: str) -> bool:
        """Leave a late answer to the server's scheduler, which then ends the connection; needs no thread meanwhile."""
        if not isinstance(response.body, bytes):
            return False
        body = b"" if method == "HEAD" else response.body
        data = encode_head(response, self.server.date(), keep=False) + body
        self.parked = self.server.late.put(response.delay, lambda: self._send_late(data))
        if self.parked:
            self.stream.bytes_written += len(data)
            self._note(method, response.status)
        return self.parked

    def _send_late(self, data: bytes) -> None:
        self.parked = False
        try:
            self.socket.setblocking(False)
            self.socket.send(data)
        except OSError as error:
            log.debug("late answer not taken: %r", error)
        self.close()

    def close(self) -> None:
        """End the connection, unless a late answer still has to go out over it."""
        if self.parked:
            return
        self.stream.close()
        try:
            if self._head_deadline is not None:
                self._say_too_slow()
            if self._polite:
                self._say_farewell()
            self.socket.shutdown(socket.SHUT_RDWR)
        except (OSError, Disconnected) as error:
            log.debug("closing: %r", error)
        self.socket.close()

    def _say_too_slow(self) -> None:
        """Answer a head that never became whole; the selector's thread must not wait for its reader."""
        answer = translate(Refused(408))
        assert isinstance(answer.body, bytes), "refusals are short"
        self.socket.setblocking(False)
        self.socket.send(encode_head(answer, self.server.date(), keep=False) + answer.body)

    def _say_farewell(self) -> None:
        """Let the client read the answer: unread bytes at close(2) would make the kernel reset the connection."""
        self.socket.shutdown(socket.SHUT_WR)
        self.socket.settimeout(FAREWELL_TIME)
        deadline = self.server.clock.monotonic() + FAREWELL_TIME
        block = bytearray(64 * 1024)
        taken = 0
        while taken < FAREWELL_LIMIT and self.server.clock.monotonic() < deadline:
            count = self.socket.recv_into(block)
            if not count:
                return
            taken += count
