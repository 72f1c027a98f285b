"""One thread that waits for all connections: it accepts them, does TLS handshakes, reads heads, and closes in good order.

Nothing here blocks, so a client that is silent, slow, or stops in the middle of a handshake holds a socket and no thread. A
worker gets a connection with a whole head, and gives it back when the answer is out. Where sockets run short, connections
without a login are closed, the longest waiting first; one with a login only where most of all sockets have one.
"""

import heapq
import logging
import selectors
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from tgdav.web.connection import Connection, Turn

if TYPE_CHECKING:
    from tgdav.web.http_server import HttpServer

log = logging.getLogger(__name__)

SHORT_SILENCE = 3.0
"""Seconds that a connection without a login may wait for while sockets run short."""

ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before the loop looks at others again."""

HANDSHAKES_AT_ONCE = 16
"""Handshakes that are taken a step further before the loop looks at other connections again: each costs a signature."""

ACCEPTED_FOR_TLS = HANDSHAKES_AT_ONCE // 2
"""With TLS fewer are accepted than handshakes go on, or newcomers would push out those whose turn has not come."""

_EVENTS = {Turn.READ: selectors.EVENT_READ, Turn.WRITE: selectors.EVENT_WRITE}
_LISTENER, _WAKE = "listener", "wake"


class EventLoop:
    """Every open connection, and the selector that the waiting ones are in.

    ``limit`` connections may be open, and of those without a login an eighth may come from one peer, as the server's
    ``limited_peer`` tells them apart.
    """

    def __init__(self, server: "HttpServer", listener: socket.socket, limit: int) -> None:
        self._server = server
        self._listener = listener
        self._limit = limit
        self._most_per_peer = max(8, limit // 8)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self._anonymous: OrderedDict[Connection, None] = OrderedDict()
        self._authenticated: OrderedDict[Connection, None] = OrderedDict()
        self._by_peer: Counter[str] = Counter()
        self._late: list[tuple[float, int, Connection]] = []
        self._order = count()
        self._accepting = False
        self._held: tuple[socket.socket, str, int] | None = None
        self._stopping = False
        self._ended = threading.Event()
        self._ended.set()
        self._looked = 0.0
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, _WAKE)
        self._accept_again()

    # ---- what others ask -----------------------------------------------------------------------------------------

    def is_crowded(self) -> bool:
        """Return whether three quarters of the sockets are taken, so that clients without a login get less time."""
        return len(self._open) * 4 >= self._limit * 3

    def put(self, connection: Connection) -> None:
        """Take a connection back from a worker."""
        turn = Turn.END if self._stopping else connection.resume()
        if turn in (Turn.WORK, Turn.END):
            self._leave(connection, turn)
        elif not self._enter(connection, turn):
            connection.close()

    def note_login(self, connection: Connection) -> None:
        """Count a connection as logged in."""
        with self._lock:
            self._uncount(connection)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
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
        """Serve until ``stop``; at least every ``interval`` seconds waiting connections are looked after."""
        self._ended.clear()
        try:
            while not self._stopping:
                self._turn(interval)
        finally:
            self._ended.set()

    def stop(self) -> None:
        """End the loop; it has ended when this returns."""
        self._stopping = True
        self._wake()
        self._ended.wait()

    def close(self) -> None:
        """Close all waiting connections."""
        with self._lock:
            waiting = [*self._anonymous, *self._authenticated]
            self._anonymous.clear()
            self._authenticated.clear()
            self._late.clear()
            self._selector.close()
        for connection in waiting:
            connection.close()
        if self._held is not None:
            self._held[0].close()
        self._wake_in.close()
        self._wake_out.close()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except OSError as error:
            log.debug("the loop is awake, or gone: %r", error)

    def _turn(self, interval: float) -> None:
        ready = self._selector.select(self._patience(interval))
        handshakes = HANDSHAKES_AT_ONCE
        for data, connection in _ordered(ready):
            if connection is None:
                self._accept() if data is _LISTENER else self._wake_out.recv(4096)
            elif connection.waits_for is not None and (handshakes or not connection.shaking_hands):
                handshakes -= connection.shaking_hands
                self._advance(connection)
        self._send_late()
        now = self._server.clock.monotonic()
        if not 0 <= now - self._looked < interval:
            self._looked = now
            self._expire(now)

    def _patience(self, interval: float) -> float:
        with self._lock:
            if not self._late:
                return interval
            return min(interval, max(0.0, self._late[0][0] - self._server.clock.monotonic()))

    def _advance(self, connection: Connection) -> None:
        before, turn = connection.waits_for, connection.advance()
        if turn is before:
            return
        if turn in _EVENTS:
            connection.waits_for = turn
            with self._lock:
                self._selector.modify(connection.descriptor, _EVENTS[turn], connection)
            return
        self._withdraw(connection)
        self._leave(connection, turn)

    def _leave(self, connection: Connection, turn: Turn) -> None:
        if turn is Turn.WORK:
            self._server.work(connection)
        else:
            connection.close()

    # ---- who waits -----------------------------------------------------------------------------------------------

    def _enter(self, connection: Connection, turn: Turn) -> bool:
        """Have a connection wait; return False when the loop has ended."""
        with self._lock:
            if self._stopping:
                return False
            connection.waits_for = turn
            connection.waits_since = self._server.clock.monotonic()
            waiting = self._authenticated if connection.is_kept else self._anonymous
            waiting[connection] = None
            if turn is Turn.LATER:
                heapq.heappush(self._late, (connection.deadline, next(self._order), connection))
            else:
                self._selector.register(connection.descriptor, _EVENTS[turn], connection)
        if turn is Turn.LATER:
            self._wake()
        return True

    def _withdraw(self, connection: Connection) -> None:
        with self._lock:
            self._anonymous.pop(connection, None)
            self._authenticated.pop(connection, None)
            if connection.waits_for in _EVENTS:
                self._selector.unregister(connection.descriptor)
            connection.waits_for = None

    def _drop(self, connection: Connection) -> None:
        self._withdraw(connection)
        connection.close()

    def _send_late(self) -> None:
        while connection := self._next_late():
            self._withdraw(connection)
            turn = connection.send_late()
            if turn is Turn.END or not self._enter(connection, turn):
                connection.close()

    def _next_late(self) -> Connection | None:
        with self._lock:
            while self._late and self._late[0][0] <= self._server.clock.monotonic():
                connection = heapq.heappop(self._late)[2]
                if connection.waits_for is Turn.LATER:
                    return connection
        return None

    def _expire(self, now: float) -> None:
        crowded = self.is_crowded()
        with self._lock:
            over = [each for each in self._authenticated if each.deadline <= now]
            for each in self._anonymous:
                hurried = crowded and now - each.waits_since >= SHORT_SILENCE
                if each.waits_for is not Turn.LATER and (hurried or each.deadline <= now):
                    over.append(each)
        for connection in over:
            self._withdraw(connection)
            turn = connection.expire()
            if turn is Turn.END or not self._enter(connection, turn):
                connection.close()
        if not self._accepting:
            self._accept_again()
        self._server.relieve()

    # ---- who comes -----------------------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        held, self._held = self._held, None
        if held is None or self._admit(*held):
            self._selector.register(self._listener, selectors.EVENT_READ, _LISTENER)
            self._accepting = True

    def _pause(self) -> None:
        """Leave newcomers in the kernel's queue until the next look: the listener stays readable, and the loop would spin."""
        if self._accepting:
            self._selector.unregister(self._listener)
            self._accepting = False

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE if self._server.ssl_adapter is None else ACCEPTED_FOR_TLS):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                log.debug("nothing can be accepted: %r", error)
                if self._make_room():
                    continue
                self._pause()
                return
            if not self._admit(sock, str(address[0]), int(address[1])):
                return

    def _admit(self, sock: socket.socket, address: str, port: int) -> bool:
        """Take a connection in, or refuse it; return False when it has to wait, and others with it."""
        if len(self._open) >= self._limit and not self._make_room():
            self._held = sock, address, port
            self._pause()
            return False
        peer = self._server.limited_peer(address)
        if self._has_room_for(peer):
            self._begin(sock, address, port, peer)
        else:
            sock.close()
        return True

    def _begin(self, sock: socket.socket, address: str, port: int, peer: str) -> None:
        try:
            connection = self._server.connection(sock, address, port)
        except OSError as error:
            log.debug("gone before it was accepted: %r", error)
            sock.close()
            return
        with self._lock:
            self._open.add(connection)
            connection.counted_as = peer
            if peer:
                self._by_peer[peer] += 1
        if not self._enter(connection, Turn.READ):
            connection.close()

    def _has_room_for(self, peer: str) -> bool:
        if not peer or self._by_peer[peer] < self._most_per_peer:
            return True
        with self._lock:
            oldest = next((each for each in self._anonymous if each.counted_as == peer), None)
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None

    def _make_room(self) -> bool:
        """Close the connection without a login that waits longest; return False when there is none.

        Where most of all connections have logged in, the one of them that is idle longest stands in.
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
    if connection.shaking_hands:
        return 3
    return 0 if connection.is_kept else 1
