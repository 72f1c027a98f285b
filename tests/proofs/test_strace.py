"""Short runs of the program, killed as they enter a system call, at one call after another: old or new, and sound."""

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proofs.fleet import observe
from tests.proofs.machines import CHEAP, content
from tests.support import strace_kill
from tests.support.raw_client import ConnectionCut
from tests.support.server import CommandFailed, Completed, Home, Server
from tests.support.strace_kill import DURABLE_CALLS, strace_prefix

pytestmark = pytest.mark.skipif(not strace_kill.usable(), reason="strace cannot trace here")

OTHER = "another passphrase"
DURABLE = ",".join(call for call in DURABLE_CALLS if call not in ("write", "openat"))
"""Most opens and writes of a Python program are its own; these are the calls that change the state."""


class Sweep:
    """Copies of a prepared folder, one for each run; counts how the runs ended."""

    def __init__(self, folder: Path, prepare: Callable[[Home], None]) -> None:
        self.folder, self.counts = folder, Counter[str]()
        self.base = folder / "base"
        prepare(self.home(self.base))

    def home(self, folder: Path) -> Home:
        config = "version: 2\nstorage: {backend: directory, directory: {path: ../store}}\n" + CHEAP
        return Home(folder, config=config)

    def runs(self, stride: int, cap: int) -> Iterator[tuple[int, Home, list[str]]]:
        """Yield (number of the call, a fresh home, what to put before the command) until a run ends on its own."""
        number = random.randint(1, stride)
        for _ in range(cap):
            target = self.folder / "run"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self.base, target)
            before = self.counts["killed"]
            yield number, self.home(target), strace_prefix(DURABLE, number, self.folder / "log")
            if self.counts["killed"] == before:
                return
            number += random.randint(1, 2 * stride)

    def ended(self, completed: Completed) -> bool:
        """Count a run; return whether it was killed."""
        killed = completed.code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert killed or completed.code == 0, completed
        self.counts["killed" if killed else "finished"] += 1
        return killed

    def report(self, what: str) -> None:
        print(f"\nkilled at system calls: {what}: {dict(self.counts)}")
        assert self.counts["killed"] > 5


def _init(home: Home) -> None:
    home.run("init")


def _with_a_file(home: Home) -> None:
    home.run("init")
    with home.server() as server, server.client() as client:
        assert client.request("PUT", "/old", body=content(1, 200_000)).status == 201
        server.terminate()


def _old_is_there(home: Home, *, files: int = 1) -> None:
    home.run("check", "--read-data")
    home.run("sync", "--wait")
    with home.server() as server, server.client() as client:
        seen = observe(client, "")
        assert len(seen) == files
        assert client.request("GET", "/old").body == content(1, 200_000)


def test_init(quick_path: Path) -> None:
    sweep = Sweep(quick_path, lambda _home: None)
    for number, home, prefix in sweep.runs(8, 14):
        killed = sweep.ended(home.run("init", prefix=prefix, check=False))
        again = home.run("init", check=False)
        assert again.code in ((0, 2) if killed else (2,)), (number, again)
        home.run("sync", "--wait")
        home.run("check", "--read-data")
        home.beside("other", config=(home.path / "config.yaml").read_text()).run("init", "--join")
    sweep.report("init")


def test_sync(quick_path: Path) -> None:
    sweep = Sweep(quick_path, _with_a_file)
    for _, home, prefix in sweep.runs(5, 12):
        sweep.ended(home.run("sync", "--wait", prefix=prefix, check=False))
        _old_is_there(home)
    sweep.report("sync")


def test_passwd(quick_path: Path) -> None:
    sweep = Sweep(quick_path, _init)
    for number, home, prefix in sweep.runs(4, 12):
        killed = sweep.ended(home.run("passwd", prefix=prefix, check=False, input=f"{OTHER}\n{OTHER}\n"))
        old = home.run("status", check=False).code
        home.passphrase = OTHER if old else home.passphrase
        home.run("sync", "--wait")
        home.run("check", "--read-data")
        assert killed or old == 3, (number, "passwd said done, and the old passphrase opens the vault")
        home.beside("other", config=(home.path / "config.yaml").read_text()).run("init", "--join")
    sweep.report("passwd")


def test_serving_a_put(quick_path: Path) -> None:
    sweep = Sweep(quick_path, _with_a_file)
    for number, home, prefix in sweep.runs(6, 14):
        bodies = {"old": content(1, 200_000), "small": b"small" * 50, "large": content(2, 300_000)}
        answered, killed = _puts(Server(home, prefix=prefix), bodies)
        sweep.counts["killed" if killed else "finished"] += 1
        home.run("check", "--read-data")
        with home.server() as server, server.client() as client:
            seen = observe(client, "")
            assert {"old", *answered} <= set(seen), (number, answered, seen)
            for name in seen:
                assert client.request("GET", "/" + name).body == bodies[name], (number, name)
    sweep.report("serve and PUT")


def _puts(server: Server, bodies: dict[str, bytes]) -> tuple[list[str], bool]:
    """Put two files; return the names of those that were acknowledged, and whether the server was killed."""
    answered = []
    try:
        with server, server.client() as client:
            for name in ("small", "large"):
                if client.request("PUT", "/" + name, body=bodies[name]).status == 201:
                    answered.append(name)
            server.terminate()
    except (CommandFailed, ConnectionCut, OSError):
        return answered, True
    return answered, False
