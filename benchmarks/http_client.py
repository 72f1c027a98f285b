"""The client of all contestants: bare sockets and as little work as can be, so that it never is what limits."""

import hashlib
import os
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

_BLOCK = 1024 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"


class Failed(Exception):
    """A server did not do what it was asked, so there is nothing to measure."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where a contestant listens; ``authorization`` is the header's value, or empty."""

    host: str
    port: int
    authorization: str = ""

    def head(self, method: str, path: str, **headers: str | int) -> bytes:
        """Return a request's head; underscores in header names stand for hyphens."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        if self.authorization:
            lines.append(f"Authorization: {self.authorization}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def connect(self) -> socket.socket:
        """Return a connection that waits at most ten minutes for anything."""
        made = socket.create_connection((self.host, self.port), timeout=600)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class Answer(msgspec.Struct):
    """An answer being read: its head once it is whole, and how many bytes of body are still to come."""

    data: bytearray = msgspec.field(default_factory=bytearray)
    head: bytes = b""
    body_start: int = 0
    length: int | None = None

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    def take(self, more: bytes) -> bool:
        """Add what came; return whether the answer is whole."""
        self.data += more
        if not self.head and not self._take_head():
            return False
        if self.length is None:
            return self.data.endswith(_LAST_CHUNK)
        return len(self.data) >= self.body_start + self.length

    def _take_head(self) -> bool:
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.head, self.body_start = bytes(self.data[:end]), end + 4
        length = _LENGTH.search(self.head)
        self.length = None if _CHUNKED.search(self.head) else int(length[1]) if length else 0
        return True

    def body(self) -> bytes:
        """Return the body, without the framing of chunks."""
        rest = bytes(self.data[self.body_start :])
        return rest if self.length is not None else b"".join(_chunks(rest))


def _chunks(data: bytes) -> Iterator[bytes]:
    position = 0
    while True:
        end = data.index(b"\r\n", position)
        size = int(data[position:end].partition(b";")[0], 16)
        if not size:
            return
        yield data[end + 2 : end + 2 + size]
        position = end + 4 + size


def _require(answer: Answer, what: str) -> None:
    if not 200 <= answer.status < 300:
        raise Failed(f"{what}: {answer.head.decode('latin-1')}")


def _read_answer(connection: socket.socket, what: str) -> Answer:
    answer = Answer()
    while not answer.take(_some(connection)):
        pass
    _require(answer, what)
    return answer


def _some(connection: socket.socket) -> bytes:
    more = connection.recv(_BLOCK)
    if not more:
        raise Failed("the connection was closed within an answer")
    return more


def request(
    endpoint: Endpoint, method: str, path: str, body: bytes = b"", **headers: str | int
) -> tuple[float, Answer]:
    """Send one request over a new connection; return the seconds from its first byte to its answer's last."""
    with endpoint.connect() as connection:
        start = time.perf_counter()
        connection.sendall(endpoint.head(method, path, Content_Length=len(body), **headers) + body)
        answer = _read_answer(connection, f"{method} {path}")
        return time.perf_counter() - start, answer


def put_file(endpoint: Endpoint, path: str, source: Path) -> float:
    """PUT a file straight from the page cache (sendfile); return the seconds until the answer is there."""
    size = source.stat().st_size
    with endpoint.connect() as connection, source.open("rb") as file:
        start = time.perf_counter()
        connection.sendall(endpoint.head("PUT", path, Content_Length=size))
        connection.sendfile(file)
        _read_answer(connection, f"PUT {path}")
        return time.perf_counter() - start


def get_file(endpoint: Endpoint, path: str, size: int, *, digest: str = "") -> float:
    """GET ``size`` bytes and drop them; return the seconds. With ``digest`` (hex SHA-256) they are checked too."""
    found = hashlib.sha256()
    with endpoint.connect() as connection:
        start = time.perf_counter()
        connection.sendall(endpoint.head("GET", path))
        answer = Answer()
        while not answer.head:
            answer.take(_some(connection))
        _require(answer, f"GET {path}")
        if answer.length != size:
            raise Failed(f"GET {path}: {answer.length} bytes announced instead of {size}")
        first = answer.data[answer.body_start :]
        found.update(first)
        _drain(connection, size - len(first), found.update if digest else None)
        seconds = time.perf_counter() - start
    if digest and found.hexdigest() != digest:
        raise Failed(f"GET {path}: not the bytes that were put")
    return seconds


def _drain(connection: socket.socket, count: int, see: Callable[[memoryview], None] | None) -> None:
    buffer = memoryview(bytearray(_BLOCK))
    while count:
        taken = connection.recv_into(buffer, min(count, _BLOCK))
        if not taken:
            raise Failed("the connection was closed within a body")
        if see is not None:
            see(buffer[:taken])
        count -= taken


class _Lane:
    """One keep-alive connection that sends its next request when its answer is there."""

    def __init__(self, endpoint: Endpoint, selector: selectors.BaseSelector, requests: Iterator[bytes]) -> None:
        self._endpoint, self._selector, self._requests = endpoint, selector, requests
        self._connection = endpoint.connect()
        self._selector.register(self._connection, selectors.EVENT_READ, self)
        self._answer = Answer()
        self._sent = b""

    def send_next(self) -> bool:
        """Send the next request; False when there is none."""
        self._sent = next(self._requests, b"")
        if self._sent:
            self._answer = Answer()
            self._connection.sendall(self._sent)
        return bool(self._sent)

    def receive(self) -> bool:
        """Take what is there; return whether the answer is whole. A connection that ends between answers is renewed."""
        more = self._connection.recv(65536)
        if not more:
            if self._answer.data:
                raise Failed("a connection was closed within an answer")
            self._reconnect()
            self._connection.sendall(self._sent)
            return False
        if not self._answer.take(more):
            return False
        _require(self._answer, self._sent[:60].decode("latin-1"))
        if _CLOSE.search(self._answer.head):
            self._reconnect()
        return True

    def _reconnect(self) -> None:
        self.close()
        self._connection = self._endpoint.connect()
        self._selector.register(self._connection, selectors.EVENT_READ, self)

    def close(self) -> None:
        self._selector.unregister(self._connection)
        self._connection.close()


def run_load(endpoint: Endpoint, requests: Sequence[bytes], clients: int) -> float:
    """Send all requests over ``clients`` connections, each one request at a time; return the seconds it took."""
    waiting = iter(requests)
    with selectors.DefaultSelector() as selector:
        lanes = [_Lane(endpoint, selector, waiting) for _ in range(clients)]
        start = time.perf_counter()
        busy = sum(lane.send_next() for lane in lanes)
        while busy:
            for key, _ in selector.select():
                lane: _Lane = key.data
                if lane.receive() and not lane.send_next():
                    busy -= 1
        seconds = time.perf_counter() - start
        for lane in lanes:
            lane.close()
    return seconds


def small_puts(endpoint: Endpoint, folder: str, files: int, size: int) -> list[bytes]:
    """Return PUT requests for ``files`` files under ``folder``, each with content of its own."""
    return [
        endpoint.head("PUT", f"{folder}/{number:06d}", Content_Length=size) + os.urandom(size)
        for number in range(files)
    ]


def small_gets(endpoint: Endpoint, folder: str, files: int) -> list[bytes]:
    """Return a GET request for each file that ``small_puts`` makes, in an order that jumps about."""
    step = next(step for step in (7919, 7907, 1) if files % step)
    return [endpoint.head("GET", f"{folder}/{number * step % files:06d}") for number in range(files)]
