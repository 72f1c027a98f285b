"""Streams on the control socket: blocks both ways, whoever ends within one, and little memory."""

import json
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_control import describe, raw
from tests.support.platform import ManualClock
from tests.support.waiting import wait_for
from tgdav.errors import DamageError, NoSpace, TgdavError, UsageError, VaultInUse
from tgdav.volume.control import ControlServer, StreamCommand, read_pointer
from tgdav.volume.control_client import ControlClient
from tgdav.volume.control_messages import MAX_BLOCK_BYTES, Stream

BIG = 256 << 20


class Commands:
    """Stream commands, and what became of them."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended: list[str] = []

    def table(self) -> dict[str, StreamCommand]:
        return {"sum": self.sum, "take": self.take, "zeros": self.zeros, "breaks": self.breaks, "refuse": self.refuse}

    def take(self, _arguments: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
        """Receive everything."""
        try:
            for block in stream.receive():
                self.received += block
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("done")
        return {"count": len(self.received)}

    def sum(self, _arguments: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
        """Receive everything and keep nothing."""
        return {"count": sum(map(len, stream.receive()))}

    def zeros(self, arguments: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
        """Send so many zeros."""
        try:
            for _ in range(0, arguments["count"], 1 << 20):
                stream.send(bytes(1 << 20))
        except ConnectionError:
            self.ended.append("gone")
            raise
        return {"sent": arguments["count"]}

    def breaks(self, _arguments: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
        """Send something, and fail."""
        stream.send(b"half")
        raise DamageError("the other half is damaged")

    def refuse(self, _arguments: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
        """Fail after the first block of many."""
        next(stream.receive())
        raise NoSpace


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def server(tmp_path: Path, commands: Commands) -> Iterator[ControlServer]:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    echo = {"echo": lambda arguments, _progress: dict(arguments)}
    made = ControlServer(folder / "control", [Path("/tmp")], echo, _describe, ManualClock(), commands.table())
    made.start()
    yield made
    made.stop()


def _describe(error: Exception) -> dict[str, Any]:
    return {**describe(error), "errno": getattr(error, "errno", 0)}


@pytest.fixture
def client(server: ControlServer, tmp_path: Path) -> Iterator[ControlClient]:
    with connected(tmp_path) as found:
        yield found


@contextmanager
def connected(tmp_path: Path) -> Iterator[ControlClient]:
    found = ControlClient.connect(tmp_path / "state" / "control")
    assert found is not None
    with found:
        yield found


def received(client: ControlClient, command: str, **arguments: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes and the result of a command that sends a stream."""
    data = b""
    blocks = client.receive(command, arguments)
    while True:
        try:
            data += next(blocks)
        except StopIteration as end:
            return data, end.value


def silent(_stage: str, _done: int, _total: int) -> None:
    return


def test_several_streams_on_one_connection(client: ControlClient, commands: Commands) -> None:
    for _ in range(2):
        assert received(client, "zeros", count=3 << 20) == (bytes(3 << 20), {"sent": 3 << 20})
        assert received(client, "zeros", count=0) == (b"", {"sent": 0})
        assert client.send("take", {}, [b"one\n", b'{"end": {}}\n', os.urandom(MAX_BLOCK_BYTES * 2 + 1)])["count"] > 0
        assert client.send("sum", {}, []) == {"count": 0}
        assert client.call("echo", {"still": "there"}, silent) == {"still": "there"}
    assert commands.received.startswith(b'one\n{"end": {}}\n')


def test_streams_need_little_memory(client: ControlClient) -> None:
    block = bytes(1 << 20)
    tracemalloc.start()
    try:
        assert client.send("sum", {}, (block for _ in range(0, BIG, 1 << 20))) == {"count": BIG}
        assert sum(map(len, client.receive("zeros", {"count": BIG}))) == BIG
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 << 20


def test_an_error_in_the_middle_arrives_as_itself(server: ControlServer, tmp_path: Path) -> None:
    with connected(tmp_path) as client, pytest.raises(DamageError, match="the other half"):
        received(client, "breaks")
    with connected(tmp_path) as client, pytest.raises(NoSpace):
        client.send("refuse", {}, (bytes(1 << 20) for _ in range(100)))


def test_a_client_that_ends_within_its_stream_is_noticed(
    tmp_path: Path, server: ControlServer, commands: Commands
) -> None:
    def breaks_off() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the disk is broken")

    with pytest.raises(RuntimeError, match="the disk is broken"), connected(tmp_path) as client:
        client.send("take", {}, breaks_off())
    wait_for(lambda: commands.ended, what="the end of the command")
    assert commands.ended == ["ConnectionAbortedError"]


def test_a_client_that_stops_reading_ends_the_command(
    tmp_path: Path, server: ControlServer, commands: Commands
) -> None:
    with connected(tmp_path) as client, closing(client.receive("zeros", {"count": BIG})) as blocks:
        assert next(blocks)
    wait_for(lambda: commands.ended, what="the end of the command")
    assert commands.ended == ["gone"]


def test_stop_ends_streams_that_wait(tmp_path: Path, server: ControlServer, commands: Commands) -> None:
    stop = threading.Event()

    def waits() -> Iterator[bytes]:
        yield b"half"
        wait_for(lambda: commands.received, what="the first block")
        server.stop()
        stop.set()
        yield b"the other half"

    with connected(tmp_path) as client, pytest.raises(VaultInUse, match="stopped before it responded"):
        client.send("take", {}, waits())
    assert stop.is_set()
    assert commands.ended == ["ConnectionAbortedError"]
    assert commands.received == b"half"


@pytest.mark.parametrize(
    "data",
    [
        b'{"block": 0}\n',
        b'{"block": -1}\n',
        b'{"block": %d}\n' % (MAX_BLOCK_BYTES + 1),
        b'{"block": 1, "end": {}}\n',
        b'{"block": "1"}\n',
        b'{"end": 1}\n',
        b"{}\n",
        b"nonsense\n",
        b'{"command": "take"}\n',
    ],
)
def test_malformed_blocks_get_one_error(tmp_path: Path, server: ControlServer, commands: Commands, data: bytes) -> None:
    answer = json.loads(raw(tmp_path / "state", b'{"command": "take"}\n' + data))
    assert answer["error"]["kind"] == UsageError.kind
    assert commands.ended == ["UsageError"]


@pytest.mark.parametrize("data", [b'{"block": 4}\nhal', b'{"block": 4}', b"", b"x" * 1000])
def test_streams_that_are_cut_off_get_no_answer(
    tmp_path: Path, server: ControlServer, commands: Commands, data: bytes
) -> None:
    assert raw(tmp_path / "state", b'{"command": "take"}\n' + data) == b""
    assert commands.ended == ["ConnectionAbortedError"]


@pytest.mark.parametrize(
    "reply",
    [b'{"block": 5}\nhalf', b'{"block": 0}\n', b'{"block": null}\n', b'{"block": 99999999}\n', b'{"result": 1}\n'],
)
def test_the_client_survives_malformed_blocks(tmp_path: Path, reply: bytes) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "control").write_text(f"{path}\n")

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with connected(tmp_path) as client, pytest.raises(TgdavError):
            received(client, "zeros", count=1)
        thread.join()


def test_an_idle_connection_is_seen_to_be_closed(tmp_path: Path, server: ControlServer) -> None:
    assert read_pointer(tmp_path / "state" / "control") is not None
    with connected(tmp_path) as client:
        assert client.is_open
        assert client.call("echo", {}, silent) == {}
        assert client.is_open
        server.stop()
        assert not client.is_open
