"""Requests and responses as handlers see them: no socket, no WSGI environment. Pure."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import ClassVar, Protocol

Headers = list[tuple[str, str]]


class HttpError(Exception):
    """A request that is answered with an error ``status``, a short text and ``headers``.

    ``close`` ends the connection after the response, because the request's framing cannot be trusted.
    """

    kind: ClassVar[str] = "http"

    def __init__(
        self, status: int, message: str = "", *, headers: tuple[tuple[str, str], ...] = (), close: bool = False
    ) -> None:
        message = message or HTTPStatus(status).phrase
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.close = close


class Body(Protocol):
    """A request's body, read in blocks. Framing errors raise ``HttpError``, a vanished client ``Disconnected``."""

    length: int | None
    """Announced size in bytes; None when chunked."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as the body goes; return the count, 0 only at the body's proper end."""
        ...

    def read(self, limit: int) -> bytes:
        """Return the whole body; raises HttpError 413 when it has more than ``limit`` bytes."""
        ...


class Disconnected(ConnectionError):
    """The client vanished, or stalled beyond its time, in the middle of a message."""


class BodyCutOff(Disconnected):
    """A body that ended, or stalled, before its announced end; the client may still read a response.

    ``status`` is 400 for an early end, 408 for a stall.
    """

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Request:
    """One request whose head has been checked.

    ``target`` is the path as sent (still percent-encoded, without query), ``headers`` has lower-case keys and values as Latin-1
    text, ``peer`` the client's address, ``secure`` whether it uses TLS. ``names`` (the path decoded) and ``user`` are for the
    handler to set. ``verified_credentials`` is the Authorization header last accepted on this connection and its user, or
    two empty strings; a handler that accepts another one replaces it. A handler sets ``authenticated`` once the login is right or
    none is needed.
    """

    __slots__ = (
        "authenticated",
        "body",
        "headers",
        "method",
        "names",
        "peer",
        "query",
        "secure",
        "target",
        "user",
        "verified_credentials",
    )

    def __init__(
        self,
        method: str,
        target: str,
        query: str,
        headers: dict[str, str],
        body: Body,
    ) -> None:
        self.method = method
        self.target = target
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = ""
        self.secure = False
        self.verified_credentials = ("", "")
        self.names: tuple[bytes, ...] = ()
        self.user = ""
        self.authenticated = False

    @property
    def has_body(self) -> bool:
        """Whether the request announces a body that is not empty."""
        return self.body.length != 0


class Response:
    """A response. ``body`` is bytes, or an iterator of blocks whose total ``length`` is given in bytes.

    ``length`` None with bytes means their own length; -1 leaves Content-Length out (HEAD of something unknown).
    ``delay`` (seconds) makes the connection send the response late without keeping a thread for it.
    """

    __slots__ = ("body", "close", "delay", "headers", "length", "status")

    def __init__(
        self,
        status: int,
        headers: Headers | None = None,
        body: bytes | Iterator[bytes] = b"",
        *,
        length: int | None = None,
        close: bool = False,
        delay: float = 0.0,
    ) -> None:
        self.status = status
        self.headers = headers if headers is not None else []
        self.body = body
        self.length = length
        self.close = close
        self.delay = delay


def text_response(
    status: int, message: str, headers: tuple[tuple[str, str], ...] = (), *, close: bool = False
) -> Response:
    """Return a plain text response; statuses that forbid a body get none."""
    if status in (204, 304):
        return Response(status, list(headers), b"", close=close)
    return Response(
        status, [*headers, ("Content-Type", "text/plain; charset=utf-8")], f"{message}\n".encode(), close=close
    )


def error_response(error: HttpError) -> Response:
    """Return the response to a request that ended in ``error``."""
    return text_response(error.status, error.message, error.headers, close=error.close)
