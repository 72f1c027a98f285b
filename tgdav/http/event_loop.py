"""One thread that waits for all connections: it accepts them, does TLS handshakes, reads heads, and closes connections.

Nothing here blocks, so a client that is silent, slow, or stops in the middle of a handshake holds a socket and no thread. A
worker gets a connection with a complete head, and returns it when the response is out. While sockets are scarce, connections
without a login are closed, the longest waiting first; one with a login only if most of all sockets have one.
"""

import heapq
import logging
import selectors
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Protocol

from tgdav.clock import Clock
from tgdav.http.connection import Connection, Next

log = logging.getLogger(__name__)

SHORT_SILENCE = 3.0
"""Seconds that a connection without a login may wait while sockets are scarce."""

ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before the loop serves others again."""

HANDSHAKES_AT_ONCE = 16
"""Handshakes that are continued before the loop serves other connections again: each costs a signature."""

ACCEPTED_FOR_TLS = HANDSHAKES_AT_ONCE // 2
"""With TLS fewer are accepted than handshakes continue, or new connections would evict those still waiting for theirs."""

_EVENTS = {Next.READ: selectors.EVENT_READ, Next.WRITE: selectors.EVENT_WRITE}
_LISTENER, _WAKE = "listener", "wake"


class Host(Protocol):
    """What the event loop needs of the server."""

    clock: Clock
    limited_peer: Callable[[str], str]

    @property
    def secure(self) -> bool:
        """Whether connections use TLS."""
        ...

    def connection(self, sock: socket.socket, address: str, port: int) -> Connection:
        """Return the connection for an accepted socket. Raises OSError when its client is gone."""
        ...

    def dispatch(self, connection: Connection) -> None:
        """Give a connection with a complete head to a worker."""
        ...

    def grow_if_starved(self) -> None:
        """Start more threads when connections wait and slow clients hold all threads."""
        ...


class EventLoop:
    """Every open connection, and the selector that the waiting ones are in.

    ``limit`` connections may be open; of those without a login an eighth may come from one peer (``limited_peer``).
    """

    def __init__(self, server: Host, listener: socket.socket, limit: int) -> None:
        self._server = server
        self._listener = listener
        self._limit = limit
        self._max_per_peer = max(8, limit // 8)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self._anonymous: OrderedDict[Connection, None] = OrderedDict()
        self._authenticated: OrderedDict[Connection, None] = OrderedDict()
        self._by_peer: Counter[str] = Counter()
        self._delayed: list[tuple[float, int, Connection]] = []
        self._order = count()
        self._accepting = False
        self._pending: tuple[socket.socket, str, int] | None = None
        self._stopping = False
        self._ended = threading.Event()
        self._ended.set()
        self._expired_at = 0.0
        # select(2) does not see that another thread added a delayed response; a byte on this pair wakes it.
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, _WAKE)
        self._accept_again()

    # ---- called by the server ------------------------------------------------------------------------------------

    def is_crowded(self) -> bool:
        """Return whether three quarters of the sockets are in use, so that clients without a login get less time."""
        return len(self._open) * 4 >= self._limit * 3

    def put(self, connection: Connection) -> None:
        """Accept a connection back from a worker."""
        needed = Next.END if self._stopping else connection.resume()
        if needed in (Next.WORKER, Next.END):
            self._finish(connection, needed)
        elif not self._add(connection, needed):
            connection.close()

    def record_login(self, connection: Connection) -> None:
        """Count a connection as logged in."""
        with self._lock:
            self._uncount(connection)

    def forget(self, connection: Connection) -> None:
        """Remove a connection that was closed."""
        with self._lock:
            self._open.discard(connection)
            self._uncount(connection)

    def _uncount(self, connection: Connection) -> None:
        peer, connection.counted_as = connection.counted_as, ""
        if peer:
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]

    # ---- the loop ------------------------------------------------------------------------------------------------

    def run(self, interval: float) -> None:
        """Serve until ``stop``; deadlines are checked at least every ``interval`` seconds."""
        self._ended.clear()
        try:
            while not self._stopping:
                self._run_once(interval)
        finally:
            self._ended.set()

    def stop(self) -> None:
        """End the loop and wait until it has ended."""
        self._stopping = True
        self._wake()
        self._ended.wait()

    def close(self) -> None:
        """Close all waiting connections."""
        with self._lock:
            waiting = [*self._anonymous, *self._authenticated]
            self._anonymous.clear()
            self._authenticated.clear()
            self._delayed.clear()
            self._selector.close()
        for connection in waiting:
            connection.close()
        if self._pending is not None:
            self._pending[0].close()
        self._wake_in.close()
        self._wake_out.close()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except OSError as error:
            log.debug("the loop is awake already, or has ended: %r", error)

    def _run_once(self, interval: float) -> None:
        ready = self._selector.select(self._select_timeout(interval))
        # Handshakes cost a signature each: a flood of them must not delay clients that have logged in.
        handshakes = HANDSHAKES_AT_ONCE
        for data, connection in _ordered(ready):
            if connection is None:
                self._accept() if data is _LISTENER else self._wake_out.recv(4096)
            elif connection.waits_for is not None and (handshakes or not connection.in_handshake):
                handshakes -= connection.in_handshake
                self._advance(connection)
        self._send_delayed()
        now = self._server.clock.monotonic()
        if not 0 <= now - self._expired_at < interval:
            self._expired_at = now
            self._expire(now)

    def _select_timeout(self, interval: float) -> float:
        with self._lock:
            if not self._delayed:
                return interval
            return min(interval, max(0.0, self._delayed[0][0] - self._server.clock.monotonic()))

    def _advance(self, connection: Connection) -> None:
        before, needed = connection.waits_for, connection.advance()
        if needed is before:
            return
        if needed in _EVENTS:
            connection.waits_for = needed
            with self._lock:
                self._selector.modify(connection.descriptor, _EVENTS[needed], connection)
            return
        self._remove(connection)
        self._finish(connection, needed)

    def _finish(self, connection: Connection, needed: Next) -> None:
        if needed is Next.WORKER:
            self._server.dispatch(connection)
        else:
            connection.close()

    # ---- waiting connections ------------------------------------------------------------------------------------------

    def _add(self, connection: Connection, needed: Next) -> bool:
        """Add a waiting connection; return False when the loop has ended."""
        with self._lock:
            if self._stopping:
                return False
            connection.waits_for = needed
            connection.waits_since = self._server.clock.monotonic()
            waiting = self._authenticated if connection.is_kept else self._anonymous
            waiting[connection] = None
            if needed is Next.DELAY:
                heapq.heappush(self._delayed, (connection.deadline, next(self._order), connection))
            else:
                self._selector.register(connection.descriptor, _EVENTS[needed], connection)
        if needed is Next.DELAY:
            self._wake()
        return True

    def _remove(self, connection: Connection) -> None:
        with self._lock:
            self._anonymous.pop(connection, None)
            self._authenticated.pop(connection, None)
            if connection.waits_for in _EVENTS:
                self._selector.unregister(connection.descriptor)
            connection.waits_for = None

    def _drop(self, connection: Connection) -> None:
        self._remove(connection)
        connection.close()

    def _send_delayed(self) -> None:
        while connection := self._next_delayed():
            self._remove(connection)
            needed = connection.send_delayed()
            if needed is Next.END or not self._add(connection, needed):
                connection.close()

    def _next_delayed(self) -> Connection | None:
        with self._lock:
            while self._delayed and self._delayed[0][0] <= self._server.clock.monotonic():
                connection = heapq.heappop(self._delayed)[2]
                if connection.waits_for is Next.DELAY:
                    return connection
        return None

    def _expire(self, now: float) -> None:
        crowded = self.is_crowded()
        with self._lock:
            over = [each for each in self._authenticated if each.deadline <= now]
            for each in self._anonymous:
                shortened = crowded and now - each.waits_since >= SHORT_SILENCE
                if each.waits_for is not Next.DELAY and (shortened or each.deadline <= now):
                    over.append(each)
        for connection in over:
            self._remove(connection)
            needed = connection.expire()
            if needed is Next.END or not self._add(connection, needed):
                connection.close()
        if not self._accepting:
            self._accept_again()
        self._server.grow_if_starved()

    # ---- new connections --------------------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None or self._admit(*pending):
            self._selector.register(self._listener, selectors.EVENT_READ, _LISTENER)
            self._accepting = True

    def _pause(self) -> None:
        """Leave new connections in the kernel's queue until the next check; the listener is readable, and the loop would spin."""
        if self._accepting:
            self._selector.unregister(self._listener)
            self._accepting = False

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE if not self._server.secure else ACCEPTED_FOR_TLS):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                log.debug("accept failed: %r", error)
                if self._make_room():
                    continue
                self._pause()
                return
            if not self._admit(sock, str(address[0]), int(address[1])):
                return

    def _admit(self, sock: socket.socket, address: str, port: int) -> bool:
        """Accept a connection or close it; return False when it and those after it have to wait."""
        if len(self._open) >= self._limit and not self._make_room():
            # Already accepted, so it cannot be left in the kernel's queue: kept until there is room.
            self._pending = sock, address, port
            self._pause()
            return False
        peer = self._server.limited_peer(address)
        if self._has_room_for(peer):
            self._open_connection(sock, address, port, peer)
        else:
            sock.close()
        return True

    def _open_connection(self, sock: socket.socket, address: str, port: int, peer: str) -> None:
        try:
            connection = self._server.connection(sock, address, port)
        except OSError as error:
            log.debug("the client was gone before it was accepted: %r", error)
            sock.close()
            return
        with self._lock:
            self._open.add(connection)
            connection.counted_as = peer
            if peer:
                self._by_peer[peer] += 1
        if not self._add(connection, Next.READ):
            connection.close()

    def _has_room_for(self, peer: str) -> bool:
        if not peer or self._by_peer[peer] < self._max_per_peer:
            return True
        with self._lock:
            oldest = next((each for each in self._anonymous if each.counted_as == peer), None)
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None

    def _make_room(self) -> bool:
        """Close the connection without a login that waits longest; return False when there is none.

        If most of all connections have logged in, close the one of them that is idle longest instead.
        """
        with self._lock:
            oldest = next(iter(self._anonymous), None)
            if oldest is None and len(self._authenticated) * 2 > self._limit:
                oldest = next(iter(self._authenticated))
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None


def _ordered(ready: list[tuple[selectors.SelectorKey, int]]) -> Iterator[tuple[Any, Connection | None]]:
    """Yield what is ready: connections that logged in first, then those that read heads, then new ones, handshakes last."""
    found = [(key.data, key.data if isinstance(key.data, Connection) else None) for key, _ in ready]
    return iter(sorted(found, key=_rank) if len(found) > 1 else found)


def _rank(found: tuple[Any, Connection | None]) -> int:
    connection = found[1]
    if connection is None:
        return 2
    if connection.in_handshake:
        return 3
    return 0 if connection.is_kept else 1
