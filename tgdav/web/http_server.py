"""cheroot's server with our connections and our event loop: sizes, time limits, threads that grow when clients stall."""

import logging
import resource
import socket
import threading
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.workers.threadpool import ThreadPool
from cheroot.wsgi import Server

from tgdav.clock import Clock
from tgdav.web.connection import Connection
from tgdav.web.event_loop import EventLoop
from tgdav.web.messages import Request, Response
from tgdav.web.rate_limits import limited_peer
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
    """TLS whose handshake is left to the event loop: cheroot's waits for its client in the accepting thread."""

    def wrap(self, sock: Any) -> tuple[Any, dict[str, str]]:
        """Wrap a fresh client socket, without a byte sent or read."""
        sock.setblocking(False)
        wrapped = self.context.wrap_socket(sock, do_handshake_on_connect=False, server_side=True)
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}


class Workers(ThreadPool):
    """cheroot's threads, started without waiting for each: the event loop starts more of them when they run short."""

    def grow(self, amount: int) -> None:
        """Start up to ``amount`` threads, not above the most."""
        threads: list[Any] = self._threads  # type: ignore[attr-defined]
        more = min(amount, self.max - len(threads))
        threads.extend(self._spawn_worker() for _ in range(more))  # type: ignore[attr-defined]


class HttpServer(Server):
    """A listener whose connections hand their requests to ``handle``.

    ``limited_peer`` maps an address to what the bound of connections without a login counts, empty: no bound.
    """

    def __init__(
        self, address: tuple[str, int], handle: Callable[[Request], Response], clock: Clock, most_connections: int = 0
    ) -> None:
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
        self.traffic = Traffic()
        self.limited_peer: Callable[[str], str] = limited_peer
        self.most_connections = most_connections or _connection_limit()
        self.requests = Workers(self, min=THREADS, max=MOST_THREADS)
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

    def can_keep(self, *, authenticated: bool) -> bool:
        """Return whether a connection may be kept; those without a login may not while sockets run short."""
        return bool(self.ready and (authenticated or not self._connections.is_crowded()))

    def note_login(self, connection: Connection) -> None:
        """Count a connection as logged in."""
        self._connections.note_login(connection)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
        self._connections.forget(connection)

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
        self.socket.setblocking(False)
        self.socket.listen(self.request_queue_size)
        self._connections = EventLoop(self, self.socket, self.most_connections)
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

    # ---- what the event loop and cheroot call ------------------------------------------------------------------------

    def connection(self, sock: socket.socket, address: str, port: int) -> Connection:
        """Return the connection for a socket that was accepted. Raises OSError when its client is gone."""
        if self.ssl_adapter is not None:
            sock, _ = self.ssl_adapter.wrap(sock)
        connection = Connection(self, sock)
        connection.remote_addr, connection.remote_port = address, port
        return connection

    def work(self, connection: Connection) -> None:
        """Give a connection with a whole head to a worker."""
        self.requests.put(connection)
        self.relieve()

    def put_conn(self, conn: Connection) -> None:
        """Take a connection back from a worker."""
        self._connections.put(conn)

    def relieve(self) -> None:
        """Start more threads when connections wait and all threads are held up by slow clients."""
        if self.requests.qsize and self.requests.qsize > self.requests.idle:
            self._grow()

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
