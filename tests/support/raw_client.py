"""A small HTTP/1.1 client on a bare socket: keep-alive, fast, exact, and able to misbehave in the middle of a body."""

import base64
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, cast
from urllib.parse import urlsplit

Body = bytes | Iterable[bytes] | None
BODILESS = (204, 304)


class ConnectionCut(Exception):
    """The server closed the connection before the answer was whole; ``partial`` is the body so far."""

    def __init__(self, partial: bytes = b"") -> None:
        super().__init__(f"connection cut after {len(partial)} bytes of body")
        self.partial = partial


@dataclass(frozen=True)
class Response:
    """An answer; header names are lower case, in the order sent."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[int, ...] = ()

    def header(self, name: str, default: str = "") -> str:
        """Return the first header of this name."""
        return next((value for key, value in self.headers if key == name.lower()), default)


def basic_auth(user: str, password: str) -> str:
    """Return the value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class RawClient:
    """One connection to ``url``, opened when needed. ``auth`` is (user, password); ``timeout`` in seconds."""

    def __init__(self, url: str, auth: tuple[str, str] | None = None, timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port, self.timeout = parts.hostname, parts.port or 80, timeout
        self._authorization = basic_auth(*auth) if auth else ""
        self._socket: socket.socket | None = None
        self._reader: IO[bytes] | None = None

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Body = None, *,
        chunked: bool = False,
    ) -> Response:  # fmt: skip
        """Send a request and return the whole answer.

        ``path`` goes out as given (already quoted). A body that is not bytes needs ``chunked`` or a Content-Length
        in ``headers``. Raises ConnectionCut, or OSError from the socket.
        """
        sent = dict(headers or {})
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
        elif isinstance(body, bytes):
            sent.setdefault("Content-Length", str(len(body)))
        head = self.head(method, path, sent)
        if isinstance(body, bytes) and not chunked:
            self.send(head + body if len(body) < 65536 else head)
            if len(body) >= 65536:
                self.send(body)
        else:
            self.send(head)
            self._send_parts([body] if isinstance(body, bytes) else body or (), chunked)
        return self.read_response(method)

    def head(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """Return a request's head, with Host and Authorization unless ``headers`` has them."""
        given = {"Host": f"{self.host}:{self.port}"}
        if self._authorization:
            given["Authorization"] = self._authorization
        given |= headers or {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def send(self, data: bytes) -> None:
        """Send raw bytes, connecting first if need be."""
        if self._socket is None:
            self._socket = socket.create_connection((self.host, self.port), timeout=self.timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = cast(IO[bytes], self._socket.makefile("rb", buffering=1 << 18))
        self._socket.sendall(data)

    def cut_off(self) -> None:
        """Shut down sending, and wait until the server has noticed: it answers or closes."""
        assert self._socket is not None
        assert self._reader is not None
        self._socket.shutdown(socket.SHUT_WR)
        self._reader.read()
        self.close()

    def _send_parts(self, parts: Iterable[bytes], chunked: bool) -> None:
        for part in parts:
            if part:
                self.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked:
            self.send(b"0\r\n\r\n")

    def read_response(self, method: str = "GET") -> Response:
        """Read the next answer, passing over 1xx ones. Raises ConnectionCut."""
        interim: list[int] = []
        status, reason, headers = self._read_head()
        while 100 <= status < 200:
            interim.append(status)
            status, reason, headers = self._read_head()
        fields = dict(headers)
        body = b"" if method == "HEAD" or status in BODILESS else self._read_body(fields)
        if fields.get("connection", "").lower() == "close":
            self.close()
        return Response(status, reason, tuple(headers), body, tuple(interim))

    def _read_head(self) -> tuple[int, str, list[tuple[str, str]]]:
        parts = self._line().split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise ValueError(f"not an HTTP answer: {parts}")
        headers: list[tuple[str, str]] = []
        while line := self._line():
            name, _, value = line.partition(":")
            headers.append((name.strip().lower(), value.strip()))
        return int(parts[1]), parts[2] if len(parts) > 2 else "", headers

    def _line(self) -> str:
        assert self._reader is not None, "nothing was sent"
        line = self._reader.readline(65536)
        if not line.endswith(b"\n"):
            self.close()
            raise ConnectionCut
        return line.rstrip(b"\r\n").decode("latin-1")

    def _read_body(self, fields: Mapping[str, str]) -> bytes:
        assert self._reader is not None
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return self._read_chunked()
        if "content-length" in fields:
            return self._exactly(int(fields["content-length"]), b"")
        body = self._reader.read()
        self.close()
        return body

    def _read_chunked(self) -> bytes:
        body = b""
        while size := int(self._line().partition(";")[0], 16):
            body += self._exactly(size, body)
            self._line()
        while self._line():
            pass
        return body

    def _exactly(self, count: int, before: bytes) -> bytes:
        assert self._reader is not None
        data = self._reader.read(count)
        if len(data) < count:
            self.close()
            raise ConnectionCut(before + data)
        return data

    def abort(self) -> None:
        """Cut the connection with a reset, as a crashed client does."""
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._reader is not None:
            self._reader.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._reader = None
