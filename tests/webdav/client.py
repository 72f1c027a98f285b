"""A WebDAV client over a bare socket, so that every byte is the test's own."""

import base64
import select
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from lxml import etree

from tgdav.clock import SystemClock

DAV = "{DAV:}"
FINDER_PROPFIND = (
    '<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop><D:getlastmodified/>'
    "<D:getcontentlength/><D:creationdate/><D:resourcetype/></D:prop></D:propfind>"
)


class ShiftedClock(SystemClock):
    """The machine's clock, put forward by ``shift`` seconds."""

    shift = 0.0

    def now_ns(self) -> int:
        return super().now_ns() + int(self.shift * 1_000_000_000)

    def file_time_ns(self) -> int:
        return super().file_time_ns() + int(self.shift * 1_000_000_000)

    def monotonic(self) -> float:
        return super().monotonic() + self.shift


class Reply:
    """An answer: status, headers (lower-case names, a list each), body."""

    def __init__(self, status: int, headers: dict[str, list[str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __getitem__(self, name: str) -> str:
        return self.headers[name.lower()][0]

    def get(self, name: str) -> str | None:
        return self.headers.get(name.lower(), [None])[0]

    @property
    def xml(self) -> etree._Element:
        return etree.fromstring(self.body)

    @property
    def hrefs(self) -> list[str]:
        return [element.text or "" for element in self.xml.findall(f"{DAV}response/{DAV}href")]

    def properties(self, href: str = "", status: int = 200) -> dict[str, etree._Element]:
        """Return the properties listed for an href (none: the first) with that status."""
        for response in self.xml.findall(f"{DAV}response"):
            if href and response.findtext(f"{DAV}href") != href:
                continue
            found = {}
            for propstat in response.findall(f"{DAV}propstat"):
                if f" {status} " in (propstat.findtext(f"{DAV}status") or ""):
                    found.update({child.tag: child for child in propstat.find(f"{DAV}prop")})
            return found
        raise AssertionError(f"{href} is not listed")

    def error(self) -> str:
        """Return the local name of the DAV:error condition."""
        assert self.xml.tag == DAV + "error"
        return self.xml[0].tag.removeprefix(DAV)


class Client:
    """One connection, kept alive; opened again when the server has ended it after an answer that said so."""

    def __init__(self, port: int, login: tuple[str, str] | None = None, host: str = "") -> None:
        self.port = port
        self.host = host or f"127.0.0.1:{port}"
        self.login = login
        self._socket: socket.socket | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- whole requests ------------------------------------------------------------------------------------------

    def __call__(
        self, method: str, path: str, body: bytes | str = b"", *, chunked: bool = False, **headers: str
    ) -> Reply:
        """Send a request; header names as keywords with ``_`` for ``-``."""
        data = body.encode() if isinstance(body, str) else body
        self.send_head(method, path, None if chunked else len(data), **headers)
        # A server may refuse a body, and close the connection, before it has read all of it: its reply is there.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send_body(data, chunked=chunked)
        return self.reply(method)

    def _send_body(self, data: bytes, *, chunked: bool) -> None:
        if not chunked:
            self.send(data)
            return
        half = len(data) // 2
        for part in filter(None, (data[:half], data[half:])):
            self.send(b"%x\r\n%s\r\n" % (len(part), part))
        self.send(b"0\r\n\r\n")

    def send_head(self, method: str, path: str, length: int | None = 0, **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}"]
        if self.login is not None and "Authorization" not in headers:
            pair = base64.b64encode(":".join(self.login).encode()).decode()
            lines.append(f"Authorization: Basic {pair}")
        lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    # ---- bytes ---------------------------------------------------------------------------------------------------

    @property
    def socket(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return self._socket

    def send(self, data: bytes) -> None:
        if data:
            self.socket.sendall(data)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reply(self, method: str = "GET") -> Reply:
        """Read one answer; ``Connection: close`` in it closes this side too."""
        status, headers = self._head()
        length = int(headers.get("content-length", ["0"])[0])
        bodiless = method == "HEAD" or status in (100, 204, 304)
        body = b"" if bodiless else self._take(length)
        if headers.get("connection") == ["close"]:
            self.close()
        return Reply(status, headers, body)

    def _head(self) -> tuple[int, dict[str, list[str]]]:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for field in fields:
            name, _, value = field.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        return int(line.split()[1]), headers

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._receive()
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return data

    @property
    def buffered(self) -> bytes:
        """What arrived and was not taken."""
        return self._buffer

    def _receive(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server ended the connection")
        self._buffer += data

    def has_answer(self) -> bool:
        """Return whether an answer has begun to arrive."""
        return bool(self._buffer) or bool(select.select([self.socket], [], [], 0)[0])

    def is_ended(self) -> bool:
        """Return whether the server ends the connection without another byte."""
        if self._socket is None:
            return True
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True
