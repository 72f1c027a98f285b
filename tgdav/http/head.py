"""Heads of messages: requests parsed, strictly where leniency allows request smuggling (RFC 9112 §3, §5, §6), and
responses encoded. Pure: no socket."""

import re
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec

from tgdav.http.messages import HttpError, Response

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of request line and headers together."""

# Possessive throughout, so that a mismatch costs linear time, whatever a client sends.
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]{0,31}+) ([^\x00-\x20\x7f#]++) HTTP/(\d)\.(\d)\Z")
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+(?:\r\n|\Z))*+\Z")
_HOST = re.compile(r"[0-9A-Za-z\-._~!$&'()*+,;=%:@\[\]]*+\Z")
_SINGLE = frozenset(
    [
        "host",
        "content-length",
        "transfer-encoding",
        "authorization",
        "destination",
        "depth",
        "overwrite",
        "if",
        "lock-token",
        "timeout",
        "range",
        "if-range",
        "if-modified-since",
        "if-unmodified-since",
        "content-type",
        "content-range",
        "expect",
        "origin",
        "x-oc-mtime",
        "oc-checksum",
    ]
)

MAX_HEADERS = 256
"""Header lines in a request."""

MAX_HEADER_BYTES = {
    "authorization": 16 * 1024,
    "connection": 1024,
    "content-length": 64,
    "content-range": 256,
    "content-type": 1024,
    "depth": 64,
    "expect": 64,
    "host": 512,
    "if": 16 * 1024,
    "if-match": 8 * 1024,
    "if-modified-since": 128,
    "if-none-match": 8 * 1024,
    "if-range": 1024,
    "if-unmodified-since": 128,
    "lock-token": 1024,
    "oc-checksum": 256,
    "origin": 1024,
    "overwrite": 64,
    "range": 4096,
    "sec-fetch-site": 64,
    "timeout": 1024,
    "transfer-encoding": 256,
    "x-forwarded-for": 4096,
    "x-oc-mtime": 64,
}
"""Bytes of each header that is parsed, generously; longer ones are refused unparsed. Destination is bounded as a path."""

_MAX_CACHED_BYTES = 4096
"""Bytes of headers that are cached as parsed: usual ones are short, and an attacker's would fill the memory."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """A validated head. ``length`` is the body's size, None when it is chunked."""

    method: str
    target: str
    query: str
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    expects_continue: bool


class _Fields(msgspec.Struct, frozen=True, gc=False):
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    expects_continue: bool


def parse_head(data: bytes) -> Head:
    """Parse a head (without its final empty line). Raises HttpError: 400, 414, 417, 431, 501 or 505, all of them closing."""
    line, _, fields = data.partition(b"\r\n")
    match = _REQUEST_LINE.match(line)
    if not match:
        raise _bad("malformed request line")
    if match[3] != b"1":
        raise HttpError(505, close=True)
    minor = 0 if match[4] == b"0" else 1
    known = (
        _parse_fields(fields, minor) if len(fields) <= _MAX_CACHED_BYTES else _parse_fields.__wrapped__(fields, minor)
    )
    headers = known.headers.copy()
    target, query = _split_target(match[2].decode("latin-1"), headers)
    if minor and "host" not in headers:
        raise _bad("Host is missing")
    if not _HOST.match(headers.get("host", "")):
        raise _bad("malformed Host")
    return Head(match[1].decode(), target, query, headers, known.length, known.keep_alive, known.expects_continue)


def _bad(message: str) -> HttpError:
    return HttpError(400, message, close=True)


@lru_cache(maxsize=64)
def _parse_fields(fields: bytes, minor: int) -> _Fields:
    """Return the parsed headers, which must not be changed. Cached: thousands of a client's requests have the same ones."""
    headers = _split_fields(fields)
    return _Fields(headers, _body_length(headers, minor), _keeps_alive(headers, minor), _expectation(headers, minor))


def _split_fields(fields: bytes) -> dict[str, str]:
    if fields.count(b"\r\n") >= MAX_HEADERS:
        raise HttpError(431, "too many headers", close=True)
    if not _FIELDS.match(fields):
        raise _bad("malformed header")
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for line in fields.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        name = name.lower()
        if name in headers:
            if name in _SINGLE:  # joined by a comma, two values would mean a third one
                raise _bad(f"more than one {name}")
            repeated.setdefault(name, [headers[name]]).append(value.strip(" \t"))
        elif name:
            headers[name] = value.strip(" \t")
    headers |= {name: ", ".join(values) for name, values in repeated.items()}
    for name, most in MAX_HEADER_BYTES.items():
        if len(headers.get(name, "")) > most:
            raise HttpError(431, f"{name} is too long", close=True)
    return headers


def _split_target(target: str, headers: dict[str, str]) -> tuple[str, str]:
    """Return path and query. The absolute form is accepted and its authority counts as Host (RFC 9112 §3.2.2)."""
    if target == "*":
        return target, ""
    if not target.startswith("/"):
        try:
            parts = urlsplit(target)
        except ValueError as error:
            raise _bad("malformed request target") from error
        if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
            raise _bad("malformed request target")
        headers["host"] = parts.netloc.rpartition("@")[2]
        return parts.path or "/", parts.query
    path, _, query = target.partition("?")
    return path, query


def _body_length(headers: dict[str, str], minor: int) -> int | None:
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        # Two servers that disagree on which of the two counts see different requests: that is how requests are smuggled.
        if length is not None or not minor:
            raise _bad("Transfer-Encoding does not go with Content-Length or HTTP/1.0")
        if coding.lower() != "chunked":
            raise HttpError(501, "only the chunked transfer coding is known", close=True)
        return None
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise _bad("malformed Content-Length")
    return int(length)


def _keeps_alive(headers: dict[str, str], minor: int) -> bool:
    if not minor:
        return False
    connection = headers.get("connection")
    return connection is None or "close" not in [option.strip() for option in connection.lower().split(",")]


def _expectation(headers: dict[str, str], minor: int) -> bool:
    expect = headers.get("expect")
    if expect is None or not minor:
        return False
    if expect.lower() != "100-continue":
        raise HttpError(417, close=True)
    return True


# ---- responses -----------------------------------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

PHRASES = {int(status): status.phrase for status in HTTPStatus} | {207: "Multi-Status", 507: "Insufficient Storage"}
"""Reason phrases by status."""
ALWAYS_SENT = (
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)
"""Headers of every response: they keep other sites from embedding it, and browsers from guessing its type."""

_ALWAYS = "Server: tgdav\r\n" + "".join(f"{name}: {value}\r\n" for name, value in ALWAYS_SENT)
_STATUS_LINES = {code: f"HTTP/1.1 {code} {phrase}\r\n{_ALWAYS}Date: " for code, phrase in PHRASES.items()}
_BODILESS = (204, 304)
_POLICY = "Content-Security-Policy"
STRICTEST_POLICY = (_POLICY, "default-src 'none'; frame-ancestors 'none'")
"""Sent with every body that brings no policy of its own."""

_STRICTEST = "{}: {}\r\n".format(*STRICTEST_POLICY)


def status_line(status: int) -> str:
    """Return ``HTTP/1.1 404 Not Found`` and the like."""
    return f"HTTP/1.1 {status} {PHRASES[status]}"


def encode_head(response: Response, date: str, *, keep: bool) -> bytes:
    """Return status line and headers; ``date`` is the value of Date.

    A response with a body and without a Content-Security-Policy gets the strictest.
    """
    parts = [_STATUS_LINES[response.status], date, "\r\n"]
    has_policy = response.status in _BODILESS
    for name, value in response.headers:
        parts += (name, ": ", value, "\r\n")
        has_policy = has_policy or name == _POLICY
    if not has_policy:
        parts.append(_STRICTEST)
    if response.status not in _BODILESS:
        length = response.length
        if length is None:
            length = len(response.body) if isinstance(response.body, bytes) else -1
        if length >= 0:
            parts.append(f"Content-Length: {length}\r\n")
    parts.append("\r\n" if keep else "Connection: close\r\n\r\n")
    return "".join(parts).encode("latin-1")
