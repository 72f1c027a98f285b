"""Requests and answers as the handlers see them: no socket, no environ dictionary."""

from collections.abc import Iterator
from typing import Protocol

Headers = list[tuple[str, str]]


class Body(Protocol):
    """A request's body, read in blocks. Framing errors raise ``Refused``, a vanished client ``Disconnected``."""

    length: int | None
    """Announced size in bytes; None when chunked."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as the body goes; return the count, 0 only at the body's proper end."""
        ...

    def read(self, limit: int) -> bytes:
        """Return the whole body; raises Refused 413 when it has more than ``limit`` bytes."""
        ...


class Disconnected(ConnectionError):
    """The client vanished, or stalled beyond its time, in the middle of a message."""


class BodyCutOff(Disconnected):
    """A body that came to an end, or to a standstill, before its announced end; the client may still listen.

    ``status`` says which: 400 for the one, 408 for the other.
    """

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Request:
    """One request, its head already checked.

    ``target`` is the path as sent (still percent-encoded, without query), ``names`` the same decoded into names;
    ``headers`` has lower-case keys, values as Latin-1 text. ``user`` is set once the login was checked. ``proven`` is the
    Authorization that was found right on this connection before, or by this request, and whose it is; or two empty strings.
    ``authenticated`` once the login was found right, or none is asked for.
    """

    __slots__ = (
        "authenticated",
        "body",
        "headers",
        "method",
        "names",
        "peer",
        "proven",
        "query",
        "secure",
        "target",
        "user",
    )

    def __init__(
        self,
        method: str,
        target: str,
        query: str,
        headers: dict[str, str],
        body: Body,
        *,
        peer: str = "",
        secure: bool = False,
        proven: tuple[str, str] = ("", ""),
    ) -> None:
        self.method = method
        self.target = target
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = peer
        self.secure = secure
        self.proven = proven
        self.names: tuple[bytes, ...] = ()
        self.user = ""
        self.authenticated = False

    @property
    def has_body(self) -> bool:
        """Whether the request announces a body of more than nothing."""
        return self.body.length != 0


class Response:
    """An answer. ``body`` is bytes, or an iterator of blocks whose total ``length`` is given in bytes.

    ``length`` None with bytes means their own length; -1 leaves Content-Length out (HEAD of something unknown).
    ``delay`` (seconds) asks the connection to send the answer late without keeping a thread for it.
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
