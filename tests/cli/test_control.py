"""The control socket: what it answers, whom, and what it survives."""

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.platform import ManualClock
from tests.support.waiting import wait_for
from tgdav.errors import AccessError, DamageError, TgdavError, UsageError, VaultInUse
from tgdav.volume import control
from tgdav.volume.control import MAX_CONNECTIONS, MAX_REQUEST_BYTES, Command, ControlServer, read_pointer
from tgdav.volume.control_client import ControlClient


def describe(error: Exception) -> dict[str, Any]:
    if isinstance(error, TgdavError):
        return {"kind": error.kind, "message": error.message, "hint": error.hint, "exit": 7}
    return {"kind": "failure", "message": type(error).__name__, "hint": "", "exit": 1}


def silent(_stage: str, _done: int, _total: int) -> None:
    return


def broken(_arguments: Any, _progress: Any) -> dict[str, Any]:
    raise RuntimeError("secret words")


def denied(_arguments: Any, _progress: Any) -> dict[str, Any]:
    raise AccessError("wrong passphrase", hint="try another")


COMMANDS: dict[str, Command] = {
    "echo": lambda arguments, _progress: {"echo": dict(arguments)},
    "broken": broken,
    "denied": denied,
}


@contextmanager
def serving(folder: Path, commands: dict[str, Command], clock: ManualClock | None = None) -> Iterator[ControlServer]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = ControlServer(folder / "control", [Path("/tmp")], commands, describe, clock or ManualClock())
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def connect(folder: Path) -> ControlClient:
    client = ControlClient.connect(folder / "control")
    assert client is not None
    return client


def raw(folder: Path, data: bytes, *, end: bool = True) -> bytes:
    """Send bytes as they are and return all that comes back until the server ends the connection."""
    path = read_pointer(folder / "control")
    assert path is not None
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(10)
        plain.connect(str(path))
        try:
            plain.sendall(data)
            if end:
                plain.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused already
        found = b""
        try:
            while block := plain.recv(65536):
                found += block
        except ConnectionResetError:
            pass
        return found


def test_a_command_gets_its_arguments_and_answers(folder: Path) -> None:
    with serving(folder, COMMANDS), connect(folder) as client:
        assert client.call("echo", {"a": [1, "ü", None]}, silent) == {"echo": {"a": [1, "ü", None]}}
        assert client.call("echo", {}, silent) == {"echo": {}}


def test_socket_control_file_and_directory_are_private(folder: Path) -> None:
    with serving(folder, COMMANDS):
        path = read_pointer(folder / "control")
        assert path is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "control").stat().st_mode) == 0o600


def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    with serving(folder, COMMANDS):
        path = read_pointer(folder / "control")
        assert path is not None
        assert len(os.fsencode(path)) < 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with connect(folder) as client:
            assert client.call("echo", {}, silent) == {"echo": {}}
    assert not path.parent.exists()


def test_nothing_is_left_after_stop(folder: Path) -> None:
    with serving(folder, COMMANDS):
        pass
    assert list(folder.iterdir()) == []
    assert ControlClient.connect(folder / "control") is None


def test_leftovers_of_a_crash_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir(parents=True)
    left = Path("/tmp", f"tgdav-test-{os.getpid()}")
    left.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left / "s"))
    (folder / "control").write_text(f"{left}/s\n")
    assert ControlClient.connect(folder / "control") is None
    with serving(folder, COMMANDS):
        assert not left.exists()
        with connect(folder) as client:
            assert client.call("echo", {}, silent) == {"echo": {}}


def test_a_control_file_never_makes_us_remove_anything_but_a_socket(tmp_path: Path, folder: Path) -> None:
    precious = tmp_path / "tgdav-precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    folder.mkdir()
    (folder / "control").write_text(f"{precious}/file\n")
    with serving(folder, COMMANDS):
        assert (precious / "file").read_text() == "keep"


@pytest.mark.parametrize(
    "note", [b"", b"\n", b"relative\n", b"/with\0nul\n", b"/nowhere/at/all\n", b"\xff" * 5000, b"/" * 5000]
)
def test_a_malformed_control_file_means_that_no_process_runs(folder: Path, note: bytes) -> None:
    folder.mkdir()
    (folder / "control").write_bytes(note)
    assert ControlClient.connect(folder / "control") is None


def test_an_error_arrives_as_itself(folder: Path) -> None:
    with serving(folder, COMMANDS), connect(folder) as client, pytest.raises(AccessError) as caught:
        client.call("denied", {}, silent)
    assert str(caught.value) == "wrong passphrase; try another"


@pytest.mark.parametrize("error", [UsageError, DamageError, VaultInUse])
def test_each_error_keeps_its_class(folder: Path, error: type[TgdavError]) -> None:
    def fails(_arguments: Any, _progress: Any) -> dict[str, Any]:
        raise error("why")

    with serving(folder, {"fails": fails}), connect(folder) as client, pytest.raises(error, match="why"):
        client.call("fails", {}, silent)


def test_an_unexpected_error_is_reported_and_the_server_continues(folder: Path) -> None:
    with serving(folder, COMMANDS):
        with connect(folder) as client, pytest.raises(TgdavError) as caught:
            client.call("broken", {}, silent)
        assert "secret words" not in str(caught.value)
        with connect(folder) as client:
            assert client.call("echo", {}, silent) == {"echo": {}}


def test_unknown_commands_are_refused(folder: Path) -> None:
    with serving(folder, COMMANDS), connect(folder) as client, pytest.raises(UsageError):
        client.call("format-disk", {}, silent)


HOSTILE = [
    b"\n",
    b"{}\n",
    b"[]\n",
    b"null\n",
    b'"status"\n',
    b"\xff\xfe\n",
    b'{"command": 3}\n',
    b'{"command": "echo", "arguments": []}\n',
    b'{"command": "echo", "more": 1}\n',
    b'{"command": "echo", "arguments": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}\n",
    b'{"command": "' + b"\\ud800" + b'"}\n',
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("data", HOSTILE)
def test_a_malformed_request_gets_one_error_and_is_closed(folder: Path, data: bytes) -> None:
    with serving(folder, COMMANDS):
        answers = [json.loads(line) for line in raw(folder, data).splitlines()]
        assert [list(answer) for answer in answers] == [["error"]]
        assert answers[0]["error"]["kind"] == "usage"


@pytest.mark.parametrize("data", [b"", b"{", b'{"command": "echo"}', b"x" * (MAX_REQUEST_BYTES + 1), b"x" * 3_000_000])
def test_truncated_and_oversized_requests_get_no_response(folder: Path, data: bytes) -> None:
    with serving(folder, COMMANDS):
        assert raw(folder, data) == b""
        with connect(folder) as client:
            assert client.call("echo", {}, silent) == {"echo": {}}


def test_another_user_gets_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder, COMMANDS):
        user = os.geteuid() + 1
        monkeypatch.setattr(control, "peer_user", lambda _peer: user)
        assert raw(folder, b'{"command": "echo"}\n') == b""


def test_a_socket_of_another_user_gets_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder, COMMANDS):
        monkeypatch.setattr("tgdav.volume.control_client.peer_user", lambda _peer: os.geteuid() + 1)
        assert ControlClient.connect(folder / "control") is None


def test_progress_arrives_at_most_ten_times_a_second(folder: Path) -> None:
    clock = ManualClock()

    def work(_arguments: Any, progress: control.Progress) -> dict[str, Any]:
        for done in range(100):
            progress("reading", done, 100)
            clock.advance(0.01)
        return {}

    seen: list[tuple[str, int, int]] = []
    with serving(folder, {"work": work}, clock), connect(folder) as client:
        client.call("work", {}, lambda *report: seen.append(report))
    assert seen[0] == ("reading", 0, 100)
    assert 5 <= len(seen) <= 12


def test_work_ends_when_the_client_disconnects(folder: Path) -> None:
    clock, ended, asked = ManualClock(), threading.Event(), threading.Event()

    def work(_arguments: Any, progress: control.Progress) -> dict[str, Any]:
        asked.set()
        try:
            while True:
                clock.advance(1)
                progress("reading", 1, 2)
        finally:
            ended.set()

    with serving(folder, {"work": work}, clock):
        path = read_pointer(folder / "control")
        assert path is not None
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(path))
            plain.sendall(b'{"command": "work"}\n')
            assert asked.wait(10)
        assert ended.wait(10)


def test_stop_interrupts_waiting_clients_with_an_error(folder: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def work(_arguments: Any, _progress: Any) -> dict[str, Any]:
        asked.set()
        go_on.wait(10)
        return {}

    with serving(folder, {"work": work}) as server, connect(folder) as client:
        stopping = threading.Thread(target=lambda: (asked.wait(10), server.stop()))
        stopping.start()
        with pytest.raises(VaultInUse, match="stopped before it responded"):
            client.call("work", {}, silent)
        go_on.set()
        stopping.join()


def test_silent_connections_are_limited_and_closed(folder: Path) -> None:
    with serving(folder, COMMANDS):
        silent_ones = [ControlClient.connect(folder / "control") for _ in range(MAX_CONNECTIONS + 3)]
        late = silent_ones[-1]
        assert late is not None
        with late, pytest.raises(VaultInUse):
            late.call("echo", {}, silent)
        for client in silent_ones[:-1]:
            assert client is not None
            client.__exit__()

        def answered() -> bool:
            with connect(folder) as client:
                try:
                    return client.call("echo", {}, silent) == {"echo": {}}
                except VaultInUse:
                    return False

        wait_for(answered, what="a free place")


@pytest.mark.parametrize(
    "reply", [b"nonsense\n", b"[]\n", b'{"result": 3}\n', b'{"progress": {"stage": 3}}\n', b"{}\n", b"", b"x"]
)
def test_the_client_survives_malformed_responses(folder: Path, reply: bytes) -> None:
    folder.mkdir()
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        (folder / "control").write_text(f"{path}\n")

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with connect(folder) as client, pytest.raises(TgdavError):
            client.call("echo", {}, silent)
        thread.join()
