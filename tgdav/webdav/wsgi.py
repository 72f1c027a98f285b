"""Between WSGI (PEP 3333) and our messages: an environment becomes a request, an error the start of a response."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tgdav.http import HttpError, Request, Response
from tgdav.http.head import ALWAYS_SENT, STRICTEST_POLICY, status_line
from tgdav.webdav.urls import names_of

StartResponse = Callable[..., Any]


class WsgiBody:
    """The body of a WSGI request; ``length`` None where the server gives none."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._input = environ["wsgi.input"]
        announced = str(environ.get("CONTENT_LENGTH") or "").strip()
        chunked = "HTTP_TRANSFER_ENCODING" in environ or bool(environ.get("wsgi.input_terminated"))
        if announced and not (announced.isascii() and announced.isdigit()):
            raise HttpError(400, "malformed Content-Length")
        self.length: int | None = int(announced) if announced else None if chunked else 0

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as the body goes; return the count."""
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, limit: int) -> bytes:
        """Return the whole body. Raises HttpError 413 for more than ``limit`` bytes, 400 for one that is cut off."""
        if self.length is not None and self.length > limit:
            raise HttpError(413)
        data = self._read(limit + 1 if self.length is None else self.length)
        if len(data) > limit:
            raise HttpError(413)
        if self.length is not None and len(data) < self.length:
            raise HttpError(400, "the body is incomplete")
        return data

    def _read(self, count: int) -> bytes:
        # A server may return less than was asked for before the end, and blocks when asked for more than was announced.
        parts = []
        while count and (part := self._input.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class BoundedInput:
    """``wsgi.input`` that ends where the body does: WSGI servers need not end it there, and reading on would block."""

    def __init__(self, source: Any, length: int) -> None:
        self._source, self._left = source, length

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes; none at the body's end."""
        data: bytes = self._source.read(min(count, self._left)) if self._left else b""
        self._left -= len(data)
        return data


class MemoryBody:
    """A body that has been read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length: int | None = len(data)

    def read_into(self, buffer: memoryview) -> int:  # noqa: ARG002
        """Return 0: nobody reads it in blocks."""
        return 0

    def read(self, limit: int) -> bytes:
        """Return the body."""
        return self._data[:limit]


def request_of(environ: Mapping[str, Any]) -> Request:
    """Return the request of an environment whose PATH_INFO is already decoded as UTF-8. Raises HttpError 400."""
    headers = {
        key[5:].lower().replace("_", "-"): str(value) for key, value in environ.items() if key.startswith("HTTP_")
    }
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = environ["CONTENT_TYPE"]
    request = Request(
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"],
        environ.get("QUERY_STRING", ""),
        headers,
        WsgiBody(environ),
    )
    request.peer = environ.get("REMOTE_ADDR", "")
    request.secure = environ.get("wsgi.url_scheme") == "https"
    request.names = names_of(environ["PATH_INFO"])
    request.authenticated = True
    return request


def start_line(status: int) -> str:
    """Return ``404 Not Found`` and the like."""
    return status_line(status).removeprefix("HTTP/1.1 ")


def protected(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return headers with those that our own server adds to every response."""
    held = list(headers)
    names = {name for name, _ in held}
    return [*held, *(each for each in (*ALWAYS_SENT, STRICTEST_POLICY) if each[0] not in names)]


def send(response: Response, method: str, start_response: StartResponse) -> Iterable[bytes]:
    """Start a short response; return its body."""
    assert isinstance(response.body, bytes), "short responses only"
    headers = protected(response.headers)
    if response.status not in (204, 304):
        headers.append(("Content-Length", str(len(response.body))))
    start_response(start_line(response.status), headers)
    return [b"" if method == "HEAD" else response.body]
