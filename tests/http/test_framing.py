"""What received bytes mean, whole or byte by byte; no socket is needed to ask."""

from collections.abc import Callable

import pytest

from tgdav.http import HttpError
from tgdav.http.framing import MAX_EMPTY_LINES, ReceiveBuffer
from tgdav.http.head import MAX_HEAD_BYTES


def filled(data: bytes) -> ReceiveBuffer:
    buffer = ReceiveBuffer()
    buffer.feed(data)
    return buffer


def refusal(call: Callable[[], object]) -> tuple[int, bool]:
    with pytest.raises(HttpError) as error:
        call()
    return error.value.status, error.value.close


def test_a_head_is_complete_with_its_empty_line() -> None:
    """None until then; what follows is kept."""
    buffer = ReceiveBuffer()
    assert buffer.next_head() is None
    assert not buffer.head_has_begun
    for byte in b"GET / HTTP/1.1\r\nHost: x\r\n\r":
        buffer.feed(bytes([byte]))
        assert buffer.next_head() is None
        assert buffer.head_has_begun
    buffer.feed(b"\nGET /next")
    assert buffer.next_head() == b"GET / HTTP/1.1\r\nHost: x"
    assert len(buffer) == len(b"GET /next")


@pytest.mark.parametrize(
    ("data", "status"), [(b"x" * MAX_HEAD_BYTES, 414), (b"GET /\r\n" + b"x" * MAX_HEAD_BYTES, 431)]
)
def test_a_head_has_a_bound(data: bytes, status: int) -> None:
    buffer = filled(data[: MAX_HEAD_BYTES - 1])
    assert buffer.next_head() is None
    buffer.feed(data[MAX_HEAD_BYTES - 1 :])
    assert refusal(buffer.next_head) == (status, True)


def test_empty_lines_before_a_head_have_a_bound() -> None:
    assert filled(b"\r\n" * MAX_EMPTY_LINES + b"GET / HTTP/1.1\r\n\r\n").next_head() == b"GET / HTTP/1.1"
    assert refusal(filled(b"\r\n" * (MAX_EMPTY_LINES + 1)).next_head) == (400, True)


def test_a_refused_body_is_dropped_before_the_next_head() -> None:
    buffer = filled(b"GET / HTTP/1.1\r\n\r\nrefu")
    assert buffer.next_head() == b"GET / HTTP/1.1"
    buffer.skip(7)
    assert buffer.is_skipping
    assert buffer.next_head() is None
    assert not buffer.head_has_begun
    buffer.feed(b"sedGET /next HTTP/1.1\r\n\r\n")
    assert buffer.next_head() == b"GET /next HTTP/1.1"
    assert not buffer.is_skipping


def test_a_stream_may_end_between_requests_only() -> None:
    ReceiveBuffer().end_of_stream()
    assert refusal(filled(b"GET / HT").end_of_stream) == (400, True)


def test_lines_are_bounded_and_end_in_crlf() -> None:
    buffer = filled(b"first\r\nsecond\r\nbare\nrest")
    assert [buffer.next_line(100), buffer.next_line(100)] == [b"first", b"second"]
    assert refusal(lambda: buffer.next_line(100)) == (400, True)
    assert buffer.next_line(100) is None
    buffer.feed(b"x" * 200)
    assert refusal(lambda: buffer.next_line(100)) == (400, True)


def test_a_body_is_taken_in_parts() -> None:
    """As much as there is room for; nothing when nothing has arrived."""
    buffer = filled(b"hello")
    view = memoryview(bytearray(3))
    assert (buffer.take(view), bytes(view)) == (3, b"hel")
    assert (buffer.take(view), bytes(view[:2])) == (2, b"lo")
    assert buffer.take(view) == 0


class Counted(bytearray):
    """A buffer that counts the bytes searched."""

    searched = 0

    def find(self, sub: bytes, start: int = 0, end: int = 1 << 60) -> int:  # type: ignore[override]
        type(self).searched += max(0, min(end, len(self)) - start)
        return super().find(sub, start, end)


@pytest.mark.parametrize("ask", [ReceiveBuffer.next_head, lambda buffer: buffer.next_line(10_000)])
def test_bytes_that_dribble_are_searched_once(ask: Callable[[ReceiveBuffer], object]) -> None:
    """Each is searched a few times, not once for each that follows."""
    buffer = ReceiveBuffer()
    buffer._data = Counted()
    Counted.searched = 0
    length = 8000
    for _ in range(length):
        buffer.feed(b"x")
        assert ask(buffer) is None
    assert length <= Counted.searched <= length * 8
