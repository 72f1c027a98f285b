"""Time limits on a socket: who stalls is given up, who is slow is not."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tgdav.http import BodyCutOff, Disconnected, HttpError
from tgdav.http.stream import Limits, SocketStream

LIMITS = Limits(call=0.02, stall=0.4, short_stall=0.1)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def stream(sock: socket.socket, has_queued: Callable[[], bool] = lambda: False) -> SocketStream:
    return SocketStream(sock, has_queued, lambda: False, LIMITS)


@pytest.mark.parametrize("queued", [False, True])
def test_a_body_that_stalls(pair: tuple[socket.socket, socket.socket], queued: bool) -> None:
    """Nothing more comes: given up, sooner when threads run short."""
    asked: list[bool] = []

    def has_queued() -> bool:
        asked.append(True)
        return queued

    ours, theirs = pair
    theirs.send(b"half")
    reader = stream(ours, has_queued)
    view = memoryview(bytearray(10))
    assert reader.read_into(view) == 4
    with pytest.raises(Disconnected):
        reader.read_into(view)
    assert len(asked) == (5 if queued else 20)


def test_a_slow_body_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    """A byte now and then, each later than a call waits, is enough."""
    ours, theirs = pair
    reader = stream(ours, lambda: bool(theirs.send(b"x")))
    view = memoryview(bytearray(1))
    assert [reader.read_into(view) for _ in range(30)] == [1] * 30


def test_an_answer_that_nobody_takes(pair: tuple[socket.socket, socket.socket]) -> None:
    """A client that stops reading is given up; one that reads slowly gets all."""
    ours, theirs = pair
    with pytest.raises(Disconnected):
        stream(ours).write(bytes(8 << 20))
    ours, theirs = socket.socketpair()
    taken = 0

    def take() -> None:
        nonlocal taken
        while data := theirs.recv(10_000):
            taken += len(data)

    reader = threading.Thread(target=take)
    reader.start()
    stream(ours).write(bytes(8 << 20))
    ours.close()
    reader.join()
    theirs.close()
    assert taken == 8 << 20


def test_an_answer_when_the_server_should_be_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    """A stop does not wait for a reader that sleeps."""
    with pytest.raises(Disconnected):
        SocketStream(pair[0], lambda: False, lambda: True, Limits(call=0.02, stall=3600)).write(bytes(8 << 20))


def test_lines(pair: tuple[socket.socket, socket.socket]) -> None:
    """Lines are bounded, and end in CRLF."""
    ours, theirs = pair
    reader = stream(ours)
    theirs.send(b"first\r\nsecond\r\nbare\nrest")
    assert [reader.read_line(100), reader.read_line(100)] == [b"first", b"second"]
    with pytest.raises(HttpError):
        reader.read_line(100)
    theirs.send(b"x" * 200)
    with pytest.raises(HttpError):
        reader.read_line(100)


def test_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    """The end of the stream within a message is never an empty read."""
    ours, theirs = pair
    theirs.send(b"GET / HT")
    reader = stream(ours)
    assert reader.head() is None
    theirs.close()
    with pytest.raises(HttpError) as refusal:
        reader.head()
    assert (refusal.value.status, refusal.value.close) == (400, True)
    reader.close()
    with pytest.raises(BodyCutOff) as cut:
        reader.read_into(memoryview(bytearray(100)))
    assert cut.value.status == 400


def test_a_head_is_never_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    """Reading a head returns at once, with nothing while there is nothing or half a head; what is behind it is kept."""
    ours, theirs = pair
    reader = stream(ours)
    assert reader.head() is None
    assert not reader.buffer.head_has_begun
    theirs.send(b"GET / HT")
    assert reader.head() is None
    assert reader.head() is None
    assert reader.buffer.head_has_begun
    theirs.send(b"TP/1.1\r\n\r\nGET /next")
    assert reader.head() == b"GET / HTTP/1.1"
    assert reader.has_data()


def test_the_end_between_messages(pair: tuple[socket.socket, socket.socket]) -> None:
    """Who leaves without having begun a request is told nothing."""
    ours, theirs = pair
    theirs.close()
    with pytest.raises(Disconnected):
        stream(ours).head()
