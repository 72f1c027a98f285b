"""``get``, ``put`` and ``cat`` when data is damaged, the store is away, or a process ends in the middle."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Machine, raw
from tests.support.damage import flip_bit
from tests.support.server import PROGRAM, Server
from tests.support.waiting import wait_for

# ---- damage, and a store that is away --------------------------------------------------------------------------------


@pytest.fixture
def stored(drive: Machine, tmp_path: Path) -> Machine:
    """A machine whose files are in the store only, each in a blob of its own."""
    for name in ("damaged", "large", "small"):
        folder = tmp_path / "source" / "tree" / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(os.urandom(2000 if name == "small" else 400_000))
        drive.run("put", str(tmp_path / "source" / "tree"), "/")
        drive.run("sync", "--wait")
        shutil.rmtree(folder)
    drive.run("cache", "clear")
    return drive


def test_a_damaged_file_is_reported_and_the_rest_fetched(stored: Machine, tmp_path: Path) -> None:
    blobs = sorted((tmp_path / "store").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damaged = next(path for path in blobs if path.stat().st_size > 400_000)
    flip_bit(damaged, 8 * 200_000)
    done = stored.run("--json", "get", "/tree", str(tmp_path / "out"), check=False)
    assert done.code == 4
    assert [(failed["path"], failed["kind"]) for failed in done.json()["failed"]] == [("/tree/damaged/file", "damage")]
    assert "tgdav: /tree/damaged/file: " in done.stderr
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert found == ["damaged", "large", "large/file", "small", "small/file"]
    printed = raw(stored, "cat", "/tree/damaged/file", "/tree/small/file")
    assert printed.returncode == 4
    assert printed.stdout[-2000:] == (tmp_path / "out" / "small" / "file").read_bytes()


def test_a_store_that_is_away(stored: Machine, tmp_path: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "away")
    done = stored.run("--json", "get", "/tree", str(tmp_path / "out"), check=False)
    assert done.code == 5
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert "small" in stored.run("ls", "/tree").stdout


# ---- processes that end, and those that end in the middle --------------------------------------------------------

HALF = 6_000_000


def test_what_was_put_survives_the_end_of_the_server(copied_vault: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for number in range(50):
        (source / "sub" / str(number)).write_bytes(os.urandom(number * 3000))
    (source / "link").symlink_to("sub")
    with Server(copied_vault) as server:
        assert copied_vault.run("--json", "put", str(source), "/").json()["files"] == 50
        server.kill()
    copied_vault.run("get", "/source", str(tmp_path / "back"))
    assert subprocess.run(["diff", "-r", source, tmp_path / "back"], check=False).returncode == 0
    assert (tmp_path / "back" / "sub").stat().st_mtime_ns == (source / "sub").stat().st_mtime_ns


@contextmanager
def putting(home: Machine, path: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A ``put`` that has sent some megabytes, and waits for more."""
    with subprocess.Popen([*PROGRAM, "put", "-", path], env=home.environment(), stdin=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(os.urandom(HALF))  # far more than pipe and socket hold, so the server has most of it
            process.stdin.flush()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("path", ["/new", "/old"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_put_that_is_killed_leaves_nothing(copied_vault: Machine, path: str, number: signal.Signals) -> None:
    with Server(copied_vault) as server:
        assert raw(copied_vault, "put", "-", "/old", input=b"as before").returncode == 0
        with putting(copied_vault, path) as process:
            process.send_signal(number)
            process.wait(30)
        wait_for(lambda: is_alone(server), what="the end of the command in the server")
        assert copied_vault.run("ls").stdout == "old\n"
        assert raw(copied_vault, "cat", "/old").stdout == b"as before"
        assert server.code is None


def is_alone(server: Server) -> bool:
    """Return whether the server has no connection on its control socket: each command has ended there, too."""
    sockets = psutil.Process(server.pid).net_connections("unix")
    return sum(bool(each.laddr) for each in sockets) == 1


@pytest.mark.parametrize("path", ["/new", "/old"])
def test_a_put_whose_server_is_killed_fails(copied_vault: Machine, path: str) -> None:
    with Server(copied_vault) as server:
        assert raw(copied_vault, "put", "-", "/old", input=b"as before").returncode == 0
        with putting(copied_vault, path) as process:
            server.kill()
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) == 6
    assert copied_vault.run("ls").stdout == "old\n"
    assert raw(copied_vault, "cat", "/old").stdout == b"as before"
    assert copied_vault.run("check", "--read-data").code == 0


@contextmanager
def getting(home: Machine, out: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A ``get`` of a large file that has begun to write, a moment ago."""
    with subprocess.Popen([*PROGRAM, "get", "/large", str(out)], env=home.environment()) as process:
        try:
            wait_for(lambda: list(out.glob(".tgdav-*.part")), 30, interval=0.001, what="the temporary file")
            yield process
        finally:
            process.kill()


@pytest.fixture
def large(copied_vault: Machine, tmp_path: Path) -> Machine:
    """A machine with a large file, which takes little space."""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(300 << 20)
    copied_vault.run("put", str(tmp_path / "large"), "/")
    return copied_vault


Ending = Callable[[Server, "subprocess.Popen[bytes]"], None]
ENDINGS: dict[str, tuple[Ending, int]] = {
    "the server is killed": (lambda server, _process: server.kill(), 6),
    "the client is interrupted": (lambda _server, process: process.send_signal(signal.SIGINT), 130),
    "the client is terminated": (lambda _server, process: process.send_signal(signal.SIGTERM), 130),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_get_that_ends_in_the_middle_leaves_no_file(large: Machine, tmp_path: Path, ending: str) -> None:
    out, (end, code) = tmp_path / "out", ENDINGS[ending]
    out.mkdir()
    (out / "large").write_text("as before")
    with Server(large) as server, getting(large, out) as process:
        end(server, process)
        assert process.wait(30) == code
    assert [path.name for path in out.iterdir()] == ["large"]
    assert (out / "large").read_text() == "as before"


def test_a_get_that_is_killed_leaves_no_file_of_that_name(large: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with Server(large) as server:
        with getting(large, out) as process:
            process.kill()
            process.wait(30)
        assert not (out / "large").exists()
        assert server.code is None
        large.run("get", "/large", str(out))
        assert (out / "large").stat().st_size == 300 << 20


def test_a_server_that_stops_waits_for_no_stream(copied_vault: Machine) -> None:
    with Server(copied_vault) as server, putting(copied_vault, "/new") as process:
        server.terminate()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 6
    assert json.loads(copied_vault.run("--json", "ls").stdout) == {"entries": []}
