"""The servers under comparison, each a subprocess on a loopback port, with a folder of its own for what it keeps.

tgdav runs as a user runs it: with login, sealed, durable, on a fresh home and the embedded store. The others run at their
fastest: without login, and none of them syncs anything.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from benchmarks.http_client import Endpoint, Failed
from tests.support.server import PROGRAM, Home, Server, basic_auth
from tests.support.waiting import wait_for
from tgdav.config import StatePaths
from tgdav.volume.control_client import ControlClient

T = TypeVar("T")

TGDAV = "tgdav"
RCLONE = "rclone crypt"
WSGIDAV = "WsgiDAV"
CHEROOT = "bare cheroot"

_NOWHERE = subprocess.DEVNULL


class Contestant(msgspec.Struct, frozen=True):
    """A running server. ``settle`` returns once it has nothing left to do in the background."""

    name: str
    endpoint: Endpoint
    settle: Callable[[], object]


class RunningTgdav(msgspec.Struct, frozen=True):
    """A running tgdav, with what counting needs beside the contest."""

    home: Home
    server: Server
    endpoint: Endpoint

    @property
    def store(self) -> Path:
        return self.home.path / "store"

    def settle(self) -> None:
        """Return when all is in the store."""
        self.ask("sync", wait=True)

    def ask(self, command: str, **arguments: object) -> None:
        """Have the server do what ``tgdav COMMAND`` would ask of it, without the time that a program takes to start."""
        note = StatePaths.from_environment(self.home.environment()).control_file
        client = ControlClient.connect(note)
        if client is None:
            raise Failed("tgdav does not answer at its control socket")
        with client:
            client.call(command, arguments, lambda _stage, _done, _total: None)


@contextmanager
def tgdav(folder: Path, program: Sequence[str] = ()) -> Iterator[RunningTgdav]:
    """Run ``tgdav serve`` on a fresh home under ``folder``; ``program`` replaces the words that start tgdav."""
    home = Home(folder, program=program or PROGRAM)
    with home.server() as server:
        parts = urlsplit(server.url)
        endpoint = Endpoint(str(parts.hostname), parts.port or 80, basic_auth(*home.auth))
        try:
            yield RunningTgdav(home, server, endpoint)
        except Exception as error:
            error.add_note(f"tgdav said: {server.output}")
            raise
        server.terminate()


@contextmanager
def _tgdav(folder: Path) -> Iterator[Contestant]:
    with tgdav(folder) as running:
        yield Contestant(TGDAV, running.endpoint, running.settle)


@contextmanager
def _rclone(folder: Path) -> Iterator[Contestant]:
    """``rclone serve webdav`` over a crypt remote on a local folder; rclone obscures the passwords it is given."""
    config, port = folder / "rclone.conf", _free_port()
    rclone = ["rclone", "--config", str(config)]
    made = [f"remote={folder / 'sealed'}", "password=correct horse", "password2=battery staple"]
    subprocess.run(
        [*rclone, "config", "create", "vault", "crypt", *made],
        check=True,
        stdin=_NOWHERE,
        stdout=_NOWHERE,
        stderr=_NOWHERE,
    )
    with _running(RCLONE, [*rclone, "serve", "webdav", "vault:", "--addr", f"127.0.0.1:{port}"], port) as contestant:
        yield contestant


@contextmanager
def _wsgidav(folder: Path) -> Iterator[Contestant]:
    """WsgiDAV's own program: its FilesystemProvider on cheroot, with its defaults."""
    root, port = folder / "root", _free_port()
    root.mkdir()
    command = [sys.executable, "-m", "wsgidav.server.server_cli", "--no-config", "--auth", "anonymous", "-q"]
    address = ["--host", "127.0.0.1", "--port", str(port), "--root", str(root)]
    with _running(WSGIDAV, [*command, *address], port) as contestant:
        yield contestant


@contextmanager
def _bare_cheroot(_: Path) -> Iterator[Contestant]:
    port = _free_port()
    with _running(CHEROOT, [sys.executable, "-m", "benchmarks.bare_cheroot", str(port)], port) as contestant:
        yield contestant


@contextmanager
def _running(name: str, command: list[str], port: int) -> Iterator[Contestant]:
    process = subprocess.Popen(command, stdin=_NOWHERE, stdout=_NOWHERE, stderr=_NOWHERE)
    try:
        wait_for(lambda: _listens(port), 30, what=f"{name} to listen")
        yield Contestant(name, Endpoint("127.0.0.1", port), lambda: None)
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


_STARTS = {TGDAV: _tgdav, RCLONE: _rclone, WSGIDAV: _wsgidav, CHEROOT: _bare_cheroot}


@contextmanager
def contest(folder: Path, names: Sequence[str]) -> Iterator[list[Contestant]]:
    """Run the contestants called ``names`` side by side, each in a folder of its own below ``folder``."""
    with side_by_side(folder, names, _STARTS) as started:
        yield started


@contextmanager
def side_by_side(
    folder: Path, names: Sequence[str], starts: Mapping[str, Callable[[Path], AbstractContextManager[T]]]
) -> Iterator[list[T]]:
    """Start what ``names`` says, each in a folder of its own below ``folder``; end all of it in the end."""
    with ExitStack() as running:
        started = []
        for name in names:
            own = folder / name.replace(" ", "-")
            own.mkdir(parents=True)
            started.append(running.enter_context(starts[name](own)))
        yield started


def in_turn(contestants: Sequence[Contestant], rounds: int) -> Iterator[Contestant]:
    """Go through the contestants ``rounds`` times, beginning with another each time; after each the machine is quiet."""
    for number in range(rounds):
        for contestant in rotated(contestants, number):
            yield contestant
            quiet(contestant)


def rotated(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Return the contestants in the order of round ``number``."""
    first = number % len(contestants)
    return [*contestants[first:], *contestants[:first]]


def quiet(contestant: Contestant) -> None:
    """Wait until the contestant has no work left, and the kernel none of its, so that nobody pays for another's."""
    contestant.settle()
    os.sync()
