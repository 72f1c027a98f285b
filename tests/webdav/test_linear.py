"""Whatever a client sends, the work grows as its length does: twice the header, twice the work.

Each parser is given each of many fillings in two lengths, sixteen times apart, and the processor time of this thread is
compared: 16 times as much is linear, 256 times quadratic. The bounds on lengths are left aside here, so that what lies behind
them is measured.
"""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.support.platform import SeededEntropy
from tests.webdav.client import ShiftedClock
from tests.webdav.conftest import LOGIN
from tgdav.fs.api import Owner
from tgdav.http.bodies import ChunkedBody
from tgdav.http.head import MAX_HEAD_BYTES, MAX_HEADER_BYTES, parse_head
from tgdav.http.messages import HttpError, Request
from tgdav.metadata.types import Kind
from tgdav.webdav import Probes, WebOptions
from tgdav.webdav.auth import Authenticator, Credentials, digest_fields
from tgdav.webdav.conditions import State, check_conditions, entity_tags, parse_if
from tgdav.webdav.context import WebContext
from tgdav.webdav.dispatch import Dispatcher
from tgdav.webdav.locks import LockTable
from tgdav.webdav.rate_limits import client_address, loggable

SHORT, TIMES = 1000, 16
ALLOWED = 64
"""How many times as long the longer filling may take: four times as much as linear work does."""

FILLINGS = (
    *(
        "a",
        "1",
        "-",
        " ",
        "\t",
        "\xa0",
        ",",
        "=",
        '"',
        "\\",
        "(",
        ")",
        "<",
        ">",
        "[",
        "]",
        "%",
        "/",
        ".",
        ":",
        ";",
        "*",
        "@",
    ),
    *(
        "a=",
        "a,",
        "a=b,",
        'a="b",',
        '"a"',
        '"a",',
        'W/"a",',
        "(<a>)",
        "<a>",
        "Not ",
        '["',
        "%41",
        "bytes=",
        "1-2,",
        "=1 ",
    ),
    *("Second-1,", "a ", " a", '\\"', "http://", "[::1]", "\xe9"),
)
"""What is repeated; each also behind a quotation mark and behind a bracket."""

HEADERS = sorted(
    {*MAX_HEADER_BYTES, "accept-encoding", "content-encoding", "cookie", "destination", "user-agent", "x-forwarded-for"}
)
METHODS = ("GET", "HEAD", "PUT", "LOCK", "MOVE", "PROPFIND", "PROPPATCH", "MKCOL", "DELETE")


class NoBody:
    """A request's body of nothing."""

    length = 0

    def read_into(self, _buffer: memoryview) -> int:
        return 0

    def read(self, _limit: int) -> bytes:
        return b""


def fillings(length: int) -> Iterator[str]:
    for unit in FILLINGS:
        repeated = (unit * (length // len(unit) + 1))[:length]
        yield from (repeated, '"' + repeated, "(<" + repeated, repeated + "\x01")


def seconds(call: Callable[[str], object], value: str) -> float:
    """Return the processor time that one call takes; a refusal is an answer like any other."""
    start = time.thread_time()
    with suppress(HttpError):
        call(value)
    return time.thread_time() - start


def assert_linear(call: Callable[[str], object]) -> None:
    for short, long in zip(fillings(SHORT), fillings(SHORT * TIMES), strict=True):
        least = max(min(seconds(call, short) for _ in range(2)), 50e-6)
        # One run may be disturbed, so only a filling that is slow each time has failed.
        taken = 0.0
        for _ in range(4):
            taken = seconds(call, long)
            if taken < least * ALLOWED:
                break
        assert taken < least * ALLOWED, (long[:12], taken, least)


def request(method: str = "GET", **headers: str) -> Request:
    return Request(method, "/f", "", {name.replace("_", "-"): value for name, value in headers.items()}, NoBody())


@pytest.fixture(scope="module")
def authenticator() -> Authenticator:
    return Authenticator(Credentials({LOGIN[0]: LOGIN[1]}, SeededEntropy(1)), ShiftedClock(), SeededEntropy(2))


@pytest.mark.parametrize(
    "scheme", ["Basic ", "Digest ", "", 'Digest username="tgdav", uri="', "Digest nc=00000001, uri="]
)
def test_logins(authenticator: Authenticator, scheme: str) -> None:
    assert_linear(lambda value: authenticator.check(request(authorization=scheme + value)))


def test_a_login_in_base64(authenticator: Authenticator) -> None:
    def call(value: str) -> None:
        authenticator.check(request(authorization="Basic " + base64.b64encode(value.encode()).decode()))

    assert_linear(call)


@pytest.mark.parametrize(
    "call",
    [
        digest_fields,
        parse_if,
        lambda value: list(entity_tags(value)),
        *(
            partial(lambda name, value: check_conditions("GET", {name: value}, State('"x"', 0)), name)
            for name in ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
        ),
        lambda value: parse_head(b"GET /" + value.encode("latin-1") + b" HTTP/1.1\r\nHost: x"),
        lambda value: parse_head(value.encode("latin-1")),
        lambda value: parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nX-Other: " + value.encode("latin-1")),
        lambda value: parse_head(b"GET / HTTP/1.1\r\n" + value.encode("latin-1") + b": y\r\nHost: x"),
        lambda value: parse_head(b"GET / HTTP/1.1\r\nHost: x" + b"\r\nX: y" * (len(value) // 6) + value[:1].encode()),
        lambda value: parse_head(b"GET / HTTP/1.1\r\nHost: x\r\n" + b":\r\n".join(value.encode("latin-1").split(b"a"))),
        lambda value: client_address("127.0.0.1", value, ()),
        loggable,
    ],
)
def test_parsers(call: Callable[[str], object]) -> None:
    assert_linear(call)


@pytest.fixture(scope="module")
def dispatcher() -> Dispatcher:
    """A dispatcher for whoever asks from this machine, over a file system with one file, /f."""
    fs = ModelFileSystem()
    clock, entropy = ShiftedClock(), SeededEntropy(3)
    fs.create(fs.root, b"f", Kind.FILE, 0o644, Owner())
    site = WebContext(fs, LockTable(fs, clock, entropy), WebOptions(port=80), Probes(), clock, entropy)
    return Dispatcher(site, None, 80)


@pytest.mark.parametrize("header", HEADERS)
def test_headers(dispatcher: Dispatcher, header: str) -> None:
    """Every header that any method looks at."""
    for method in METHODS:

        def call(value: str, method: str = method) -> None:
            asked = Request(method, "/f", "", {"host": "127.0.0.1", header: value}, NoBody())
            with suppress(ConnectionError):
                dispatcher.handle(asked)

        for unit in ("a", " ", "\xa0", '"', ",", "<", "(", "%", "1", "=", "(<a>)", "</a>(<b>)", '(["a"])'):
            count = SHORT // len(unit)
            short = max(min(seconds(call, unit * count) for _ in range(2)), 50e-6)
            taken = min(seconds(call, unit * count * TIMES) for _ in range(2))
            assert taken < short * ALLOWED, (method, unit, taken, short)


@pytest.mark.parametrize("filling", ["\t", " ", ";", "a", "\xa0"])
def test_chunk_lines(filling: str) -> None:
    class Line:
        """A stream that has one line."""

        def __init__(self, line: bytes) -> None:
            self.line = line

        def read_line(self, _limit: int) -> bytes:
            return self.line

    def call(value: str) -> None:
        ChunkedBody(Line(b"5" + value.encode("latin-1")))._next_chunk()  # type: ignore[arg-type]

    least = max(min(seconds(call, filling * SHORT) for _ in range(2)), 50e-6)
    assert min(seconds(call, filling * SHORT * TIMES) for _ in range(3)) < least * ALLOWED


@pytest.mark.parametrize("header", sorted(MAX_HEADER_BYTES))
def test_a_header_that_is_too_long_is_not_parsed(header: str) -> None:
    """Each has a bound of its own; a head as large as any can be is refused for it."""
    room = MAX_HEAD_BYTES - 100
    with pytest.raises(HttpError) as refusal:
        parse_head(f"GET / HTTP/1.1\r\nHost: x\r\n{header}: ".encode() + b"1" * room)
    assert refusal.value.status in (400, 431)
    assert refusal.value.close


def test_many_headers_are_kept_for_nobody() -> None:
    """What is remembered of parsed headers is small: large ones are parsed and forgotten."""
    from tgdav.http.head import _parse_fields

    _parse_fields.cache_clear()
    for number in range(100):
        parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"%d" % number * 20_000)
    assert _parse_fields.cache_info().currsize == 0
