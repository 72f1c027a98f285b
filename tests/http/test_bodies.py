"""Bodies over bytes in memory: sized, chunked, malformed. Sections are RFC 9112's."""

import pytest

from tgdav.http import BodyCutOff, HttpError
from tgdav.http.bodies import ChunkedBody, SizedBody
from tgdav.http.framing import ReceiveBuffer


class Memory:
    """A source that has received ``data``, and gives at most ``step`` bytes a call."""

    def __init__(self, data: bytes, step: int = 1 << 20) -> None:
        self.buffer = ReceiveBuffer()
        self.buffer.feed(data)
        self.step = step
        self.skipped = 0

    def read_into(self, view: memoryview) -> int:
        count = self.buffer.take(view[: self.step])
        if not count:
            raise BodyCutOff(400)
        return count

    def read_line(self, limit: int) -> bytes:
        line = self.buffer.next_line(limit)
        if line is None:
            raise BodyCutOff(400)
        return line

    def acknowledge(self) -> None:
        pass

    def skip(self, count: int) -> None:
        self.skipped = count


CHUNKED = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Trailer: y\r\n\r\nnext"


@pytest.mark.parametrize("step", [1, 4, 1 << 20])
def test_a_chunked_body(step: int) -> None:
    """§7.1: chunks are joined, extensions and trailers ignored; the next message is left."""
    source = Memory(CHUNKED, step)
    body = ChunkedBody(source)
    assert body.read(100) == b"hello world"
    assert body.finished
    assert len(source.buffer) == len(b"next")


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_sized_body(step: int) -> None:
    """§6.2: not a byte more than announced is read."""
    source = Memory(b"hello next", step)
    body = SizedBody(source, 5)
    assert body.read(5) == b"hello"
    assert body.finished
    assert len(source.buffer) == len(b" next")


def test_a_body_that_ends_early_is_no_short_body() -> None:
    for body in (SizedBody(Memory(b"hel"), 5), ChunkedBody(Memory(b"5\r\nhel"))):
        with pytest.raises(BodyCutOff):
            body.read(100)


def test_more_than_the_limit_is_refused() -> None:
    for body in (
        SizedBody(Memory(b""), 11),
        ChunkedBody(Memory(b"b\r\n")),
        ChunkedBody(Memory(b"6\r\nhello \r\n5\r\nworld")),
    ):
        with pytest.raises(HttpError) as error:
            body.read(10)
        assert error.value.status == 413


@pytest.mark.parametrize(
    "data",
    [
        b"0x5\r\nhello",
        b"+5\r\nhello",
        b" 5\r\nhello",
        b"5 \r\nhello",
        b"1_0\r\nhello",
        b"-1\r\nhello",
        b"\r\nhello",
        b"5\nhello",
        b"5\r\nhelloXX\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\n" + (b"x" * 4000 + b"\r\n") * 5,
    ],
)
def test_malformed_chunks(data: bytes) -> None:
    """§7.1: sizes are bare hexadecimal, chunks end in CRLF, trailers have a bound."""
    with pytest.raises(HttpError) as error:
        ChunkedBody(Memory(data)).read(100)
    assert (error.value.status, error.value.close) == (400, True)


def test_continue_is_sent_with_the_first_read() -> None:
    """RFC 9110 §10.1.1: and once; a body that is never read is never asked for."""
    sent: list[str] = []
    body = SizedBody(Memory(b"hello"), 5, lambda: sent.append("100"))
    assert body.awaits_continue
    assert not sent
    body.read(5)
    assert sent == ["100"]
    assert not body.awaits_continue


def test_the_rest_of_a_body_can_be_skipped() -> None:
    source = Memory(b"hello")
    body = SizedBody(source, 5)
    body.read_into(memoryview(bytearray(2)))
    body.skip()
    assert source.skipped == 3
