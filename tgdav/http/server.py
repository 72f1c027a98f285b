"""The HTTP server: limits, threads that grow when clients stall, and what connections and the event loop share."""

import resource
import socket
import threading
from collections.abc import Callable
from email.utils import formatdate

from tgdav.clock import Clock
from tgdav.http.cheroot_adapter import Listener
from tgdav.http.connection import Connection
from tgdav.http.event_loop import EventLoop
from tgdav.http.messages import Request, Response
from tgdav.http.traffic import Traffic

THREADS = 24
MAX_THREADS = 320
SHUTDOWN_GRACE = 10
"""Seconds that requests in progress may still take when the server stops."""

_GROWTH = 24
_IDLE_TIME = 10.0
_BACKLOG = 512


class HttpServer(Listener):
    """A listener whose connections hand their requests to ``handle``.

    ``limited_peer`` maps a client's address to the key under which its connections without a login are counted; the empty
    string means no limit. ``max_connections`` 0: half as many as the process may open files, at most 1000.
    """

    _connections: EventLoop

    def __init__(
        self, address: tuple[str, int], handle: Callable[[Request], Response], clock: Clock, max_connections: int = 0
    ) -> None:
        super().__init__(
            address,
            threads=THREADS,
            max_threads=MAX_THREADS,
            backlog=_BACKLOG,
            shutdown_timeout=SHUTDOWN_GRACE,
        )
        self.idle_timeout = _IDLE_TIME
        self.handle = handle
        self.clock = clock
        self.traffic = Traffic()
        self.limited_peer: Callable[[str], str] = str
        self.max_connections = max_connections or _connection_limit()
        self._growing = threading.Lock()
        self._date = (0, "")
        self._shutdown_deadline = 0.0

    @property
    def secure(self) -> bool:
        """Whether connections use TLS."""
        return self.ssl_adapter is not None

    # ---- called by connections ------------------------------------------------------------------------------------

    def has_queued(self) -> bool:
        """Return whether a connection waits for a thread."""
        return bool(self.requests.qsize)

    def shutdown_expired(self) -> bool:
        """Return whether the server is stopping and its grace time is over."""
        return not self.ready and self.clock.monotonic() > self._shutdown_deadline

    def stop(self) -> None:
        """Stop accepting and wait for the requests in progress, at most ``SHUTDOWN_GRACE`` seconds."""
        self._shutdown_deadline = self.clock.monotonic() + SHUTDOWN_GRACE
        super().stop()

    def may_keep_alive(self, *, authenticated: bool) -> bool:
        """Return whether a connection may be kept; those without a login may not while sockets are scarce."""
        return bool(self.ready and (authenticated or not self._connections.is_crowded()))

    def record_login(self, connection: Connection) -> None:
        """Count a connection as logged in."""
        self._connections.record_login(connection)

    def forget(self, connection: Connection) -> None:
        """Remove a connection that was closed."""
        self._connections.forget(connection)

    def date(self) -> str:
        """Return the value of Date, formatted once a second."""
        second = self.clock.now_ns() // 1_000_000_000
        held = self._date
        if held[0] != second:
            held = self._date = (second, formatdate(second, usegmt=True))
        return held[1]

    # ---- called by the event loop -----------------------------------------------------------------------------------

    def connections(self, listening: socket.socket) -> EventLoop:
        """Return the event loop for a listening socket."""
        return EventLoop(self, listening, self.max_connections)

    def connection(self, sock: socket.socket, address: str, port: int) -> Connection:
        """Return the connection for an accepted socket. Raises OSError when its client is gone."""
        if self.ssl_adapter is not None:
            sock, _ = self.ssl_adapter.wrap(sock)
        return Connection(self, sock, address, port)

    def dispatch(self, connection: Connection) -> None:
        """Give a connection with a complete head to a worker."""
        self.requests.put(connection)
        self.grow_if_starved()

    def grow_if_starved(self) -> None:
        """Start more threads when connections wait and slow clients hold all threads."""
        if self.requests.qsize and self.requests.qsize > self.requests.idle:
            self._grow()

    def _grow(self) -> None:
        if self._growing.acquire(blocking=False):
            try:
                self.requests.grow(_GROWTH)
            finally:
                self._growing.release()


def _connection_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1000 if soft == resource.RLIM_INFINITY else max(16, min(1000, soft // 2))
