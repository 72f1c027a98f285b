"""All that is used of cheroot, and all that is overridden of it: the listening socket, the serve loop, the thread pool, TLS.

cheroot's own request loop is not used. It answers ``Expect`` before the login was checked, reads refused bodies into memory,
takes a body that was cut off for a complete one, accepts framings that allow request smuggling, and waits for TLS handshakes
and heads in a thread each.

``RELIED_ON`` names what is not cheroot's documented interface. A test compares it with the installed cheroot, so that a
release that changes any of it is noticed before it is used.
"""

import logging
import socket
from typing import Any, Protocol

from cheroot.server import HTTPServer
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.workers.threadpool import ThreadPool

log = logging.getLogger(__name__)

RELIED_ON = {
    "ThreadPool._threads": "the list of worker threads; Workers.grow extends it",
    "ThreadPool._spawn_worker": "starts one worker thread and returns it",
    "ThreadPool._queue": "what put() fills, without a bound: put() never waits",
    "WorkerThread._process_connections_until_interrupted": (
        "calls connection.communicate(), then server.put_conn(connection) or connection.close(); reads remote_addr and "
        "remote_port of a connection for its log; rfile, wfile and requests_seen only where statistics are enabled"
    ),
    "ThreadPool._force_close": "of a connection that outlasts the shutdown: reads rfile.closed, shuts its socket down",
    "HTTPServer.serve": "calls self._connections.run(expiration_interval) while self.ready, and self._serve_unservicable",
    "HTTPServer.stop": "clears self.ready, calls self._connections.stop(), closes self.socket, then self._connections.close() "
    "and self.requests.stop(self.shutdown_timeout)",
    "HTTPServer._connections": "set by prepare(), which is overridden here",
    "HTTPServer.prepare_socket": "makes a socket with the options of the class; binds nothing",
    "HTTPServer._serve_unservicable": "a thread of cheroot's that waits for connections we never hand it; ends with stop()",
}


class Connections(Protocol):
    """What cheroot's serve loop calls instead of its own connection manager."""

    def run(self, interval: float) -> None:
        """Serve until ``stop``."""
        ...

    def stop(self) -> None:
        """End ``run``."""
        ...

    def put(self, connection: Any) -> None:
        """Accept a connection back from a worker that goes on."""
        ...

    def close(self) -> None:
        """Close all waiting connections."""
        ...


class LazyHandshake(BuiltinSSLAdapter):
    """TLS whose handshake is done by the event loop: cheroot's waits for the client in the accepting thread."""

    def wrap(self, sock: Any) -> tuple[Any, dict[str, str]]:
        """Wrap a new client socket; nothing is sent or received yet."""
        sock.setblocking(False)
        wrapped = self.context.wrap_socket(sock, do_handshake_on_connect=False, server_side=True)
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}


class Workers(ThreadPool):
    """cheroot's thread pool. ``grow`` does not wait until each new thread runs: the event loop calls it."""

    def grow(self, amount: int) -> None:
        """Start up to ``amount`` threads, at most ``max`` in all."""
        threads: list[Any] = self._threads  # type: ignore[attr-defined]
        more = min(amount, self.max - len(threads))
        threads.extend(self._spawn_worker() for _ in range(more))  # type: ignore[attr-defined]


class Listener(HTTPServer):
    """cheroot's server without its connection manager: binds, listens, and runs what ``start_listening`` is given.

    ``threads`` workers are started, at most ``max_threads`` later. Times are in seconds, ``backlog`` is listen(2)'s.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        threads: int,
        max_threads: int,
        backlog: int,
        shutdown_timeout: int,
    ) -> None:
        super().__init__(address, None, minthreads=threads, maxthreads=max_threads, server_name="tgdav")
        self.request_queue_size = backlog
        self.shutdown_timeout = shutdown_timeout
        self.requests = Workers(self, min=threads, max=max_threads)

    def connections(self, listening: socket.socket) -> Connections:
        """Return what serves the connections of a listening socket."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Bind and listen; raise OSError when no address of the host can be bound."""
        # cheroot's own takes descriptor 3 for a listening socket as soon as LISTEN_PID is in the environment.
        host, port = self.bind_addr
        self.socket = self._bind_first(host, port)
        self.socket.setblocking(False)
        self.socket.listen(self.request_queue_size)
        self._connections = self.connections(self.socket)
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

    def put_conn(self, conn: Any) -> None:
        """Accept a connection back from a worker."""
        # cheroot's closes it while the server stops; ours may still have to send what it owes.
        self._connections.put(conn)

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Log cheroot's messages; they may quote requests, so below the level that users see."""
        log.debug("cheroot at level %d: %s", level, msg, exc_info=traceback)
