"""cheroot's server with our connections: sizes, time limits, and threads that grow when clients stall."""

import logging
import resource
import socket
import threading
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from cheroot.connections import ConnectionManager
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server

from tgdav.clock import Clock
from tgdav.web.connection import Connection
from tgdav.web.late_answers import LateAnswers
from tgdav.web.messages import Request, Response
from tgdav.web.traffic import Traffic

log = logging.getLogger(__name__)

THREADS = 24
MOST_THREADS = 320
GRACE = 10
"""Seconds that requests under way are given when the server stops."""

_GROWTH = 24
_IDLE_TIME = 10
_BACKLOG = 512


class LazyHandshake(BuiltinSSLAdapter):
    """TLS whose handshake runs in a worker: cheroot's runs in the accepting thread, where one silent client stops all."""

    def wrap(self, sock: Any) -> tuple[Any, dict[str, str]]:
        """Wrap a fresh client socket; the handshake happens with its first read."""
        wrapped = self.context.wrap_socket(sock, do_handshake_on_connect=False, server_side=True)
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}


class Connections(ConnectionManager):
    """The selector's loop, which also looks after waiting connections each half second."""

    def _expire(self, threshold: float) -> None:
        super()._expire(threshold)  # type: ignore[misc]
        self.server.relieve()


class HttpServer(Server):
    """A listener whose connections hand their requests to ``handle``."""

    ConnectionClass = Connection

    def __init__(self, address: tuple[str, int], handle: Callable[[Request], Response], clock: Clock) -> None:
        super().__init__(
            address,
            None,
            numthreads=THREADS,
            max=MOST_THREADS,
            server_name="tgdav",
            request_queue_size=_BACKLOG,
            timeout=_IDLE_TIME,
            shutdown_timeout=GRACE,
        )
        self.handle = handle
        self.clock = clock
        self.late = LateAnswers(clock)
        self.traffic = Traffic()
        self.keep_alive_conn_limit = self._most_connections = _connection_limit()
        self._growing = threading.Lock()
        self._date = (0, "")
        self._grace_ends = 0.0

    # ---- what connections ask ------------------------------------------------------------------------------------

    def pressed(self) -> bool:
        """Return whether a connection waits for a thread."""
        return bool(self.requests.qsize)

    def overdue(self) -> bool:
        """Return whether the server is stopping and its grace for answers under way is over."""
        return not self.ready and self.clock.monotonic() > self._grace_ends

    def stop(self) -> None:
        """Stop accepting and wait for the requests under way, as long as the grace lasts."""
        self._grace_ends = self.clock.monotonic() + GRACE
        super().stop()

    def can_keep(self) -> bool:
        """Return whether another idle connection may be kept."""
        return bool(self.ready and self.can_add_keepalive_connection)

    def date(self) -> str:
        """Return the value of Date, made once a second."""
        second = self.clock.now_ns() // 1_000_000_000
        held = self._date
        if held[0] != second:
            held = self._date = (second, formatdate(second, usegmt=True))
        return held[1]

    def prepare(self) -> None:
        """Bind and listen; raise OSError when no address of the host can be had.

        cheroot's own would take descriptor 3 for a listening socket as soon as LISTEN_PID is in the environment.
        """
        host, port = self.bind_addr
        self.socket = self._bind_first(host, port)
        self.socket.settimeout(1)
        self.socket.listen(self.request_queue_size)
        self._connections = Connections(self)
        self.requests.start()
        self.ready = True

    def _bind_first(self, host: str, port: int) -> Any:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for position, (family, kind, protocol, _, _) in enumerate(infos):
            try:
                return self._bind(family, kind, protocol)
            except OSError:
                if position == len(infos) - 1:
                    raise
        raise OSError(f"no address for {host}")

    def _bind(self, family: int, kind: int, protocol: int) -> socket.socket:
        sock: socket.socket = self.prepare_socket(
            self.bind_addr, family, kind, protocol, self.nodelay, self.ssl_adapter, self.reuse_port
        )
        try:
            sock.bind(self.bind_addr)
        except OSError:
            sock.close()
            raise
        self.bind_addr = sock.getsockname()[:2]
        return sock

    # ---- what cheroot calls --------------------------------------------------------------------------------------

    def process_conn(self, conn: Any) -> None:
        """Give a connection to a worker; a new one first waits in the selector until it says something."""
        if conn.new:
            conn.new = False
            self._admit(conn)
            return
        super().process_conn(conn)
        self.relieve()

    def relieve(self) -> None:
        """Start more threads when connections wait and all threads are held up by slow clients."""
        if self.requests.qsize and self.requests.qsize > self.requests.idle:
            self._grow()

    def _admit(self, conn: Any) -> None:
        if self.can_add_keepalive_connection:
            self.put_conn(conn)
        else:
            conn.close()

    def _grow(self) -> None:
        if self._growing.acquire(blocking=False):
            try:
                self.requests.grow(_GROWTH)
            finally:
                self._growing.release()

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Log what cheroot has to say; it may quote requests, so below the level that users see."""
        log.debug("cheroot at level %d: %s", level, msg, exc_info=traceback)


def _connection_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1000 if soft == resource.RLIM_INFINITY else max(16, min(1000, soft // 2))
