"""Short runs of the program, killed as they enter a system call, at one call after another: old or new, and sound."""

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.machines import CHEAP, PASSPHRASE, Machine, clean, content, put, read, tree
from tests.support import strace_kill
from tests.support.raw_client import ConnectionCut
from tests.support.server import CommandFailed, Completed, Home, Server
from tests.support.strace_kill import DURABLE_CALLS, strace_prefix
from tgdav.crypto.passphrase import Passphrase
from tgdav.errors import AccessError
from tgdav.vault.state_dir import vault_exists

pytestmark = pytest.mark.skipif(not strace_kill.usable(), reason="strace cannot trace here")

OTHER = "another passphrase"
EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.torture)])
"""Kill at every call there is, or at RUNS of them."""
RUNS = 3
DURABLE = ",".join(call for call in DURABLE_CALLS if call not in ("write", "openat"))
"""Most opens and writes of a Python program are its own; these are the calls that change the state."""


class Sweep:
    """Copies of a prepared folder, one for each run; counts how the runs ended."""

    def __init__(self, folder: Path, prepare: Callable[[Home], None], *, every: bool) -> None:
        self.folder, self.counts, self.every = folder, Counter[str](), every
        self.seed = random.randrange(1 << 32)
        self.choose = random.Random(self.seed)
        self.base = folder / "base"
        prepare(self.home(self.base))

    def home(self, folder: Path) -> Home:
        config = "version: 2\nstorage: {backend: directory, directory: {path: ../store}}\n" + CHEAP
        return Home(folder, config=config)

    def runs(self, distance: int) -> Iterator[tuple[int, Home, list[str]]]:
        """Yield (number of the call, a fresh home, the command's prefix) until a run ends on its own.

        Unless ``every``: at most RUNS runs, ``distance`` calls apart on average.
        """
        number = 1 if self.every else self.choose.randint(1, distance)
        for _ in range(10_000 if self.every else RUNS):
            target = self.folder / "run"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self.base, target)
            before = self.counts["killed"]
            yield number, self.home(target), strace_prefix(DURABLE, number, self.folder / "log")
            if self.counts["killed"] == before:
                return
            number += 1 if self.every else self.choose.randint(1, 2 * distance)

    def ended(self, completed: Completed) -> bool:
        """Count a run; return whether it was killed."""
        killed = completed.code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert killed or completed.code == 0, completed
        self.counts["killed" if killed else "finished"] += 1
        return killed

    def report(self, what: str) -> None:
        print(f"\nkilled at system calls: {what}: seed {self.seed}, {dict(self.counts)}")
        assert self.counts["killed"] > 1


def _with_a_file(home: Home) -> None:
    machine = _machine(home)
    machine.create()
    with machine.opened() as volume:
        put(volume, "old", content(1, 200_000))


def _machine(home: Home) -> Machine:
    """The same machine, opened by the test itself; each time with random numbers of its own."""
    return Machine(home.folder, seed=random.randrange(1 << 32))


def _sound(home: Home, right: dict[str, bytes], *, at_least: set[str], secret: str = PASSPHRASE) -> None:
    """Assert that the vault opens, shows some of the right files whole, is clean, drains, and can be joined."""
    machine = _machine(home)
    with machine.opened(Passphrase(secret)) as volume:
        names = {path.decode() for path in tree(volume)}
        assert at_least <= names <= set(right)
        assert {name: read(volume, name) for name in names} == {name: right[name] for name in names}
        clean(volume)
        volume.sync(wait=True)
        clean(volume)
    assert not Machine(home.folder, "other", seed=random.randrange(1 << 32)).join(Passphrase(secret)).damage


@EVERY
def test_init(quick_path: Path, every: bool) -> None:
    sweep = Sweep(quick_path, lambda _home: None, every=every)
    for number, home, prefix in sweep.runs(20):
        killed = sweep.ended(home.run("init", prefix=prefix, check=False))
        if not vault_exists(home.path / "state"):
            assert killed, number
            _machine(home).create()
        _sound(home, {}, at_least=set())
    sweep.report("init")


@EVERY
def test_sync(quick_path: Path, every: bool) -> None:
    sweep = Sweep(quick_path, _with_a_file, every=every)
    for _, home, prefix in sweep.runs(6):
        sweep.ended(home.run("sync", "--wait", prefix=prefix, check=False))
        _sound(home, {"old": content(1, 200_000)}, at_least={"old"})
    sweep.report("sync")


@EVERY
def test_passwd(quick_path: Path, every: bool) -> None:
    sweep = Sweep(quick_path, _with_a_file, every=every)
    for number, home, prefix in sweep.runs(4):
        killed = sweep.ended(home.run("passwd", prefix=prefix, check=False, input=f"{OTHER}\n{OTHER}\n"))
        opens = [secret for secret in (PASSPHRASE, OTHER) if _opens(home, secret)]
        assert opens if killed else opens == [OTHER], (number, opens)
        _sound(home, {"old": content(1, 200_000)}, at_least={"old"}, secret=opens[-1])  # the later one, if both open
    sweep.report("passwd")


def _opens(home: Home, secret: str) -> bool:
    try:
        _machine(home).open(Passphrase(secret)).close()
    except AccessError:
        return False
    return True


@EVERY
def test_serving_a_put(quick_path: Path, every: bool) -> None:
    sweep = Sweep(quick_path, _with_a_file, every=every)
    right = {"old": content(1, 200_000), "small": b"small" * 50, "large": content(2, 300_000)}
    for _, home, prefix in sweep.runs(7):
        answered, killed = _puts(home.server(prefix=prefix), right)
        sweep.counts["killed" if killed else "finished"] += 1
        sweep.counts["answered"] += len(answered)
        _sound(home, right, at_least={"old", *answered})
    sweep.report("serve and PUT")


def _puts(server: Server, bodies: dict[str, bytes]) -> tuple[set[str], bool]:
    """Put two files; return the names of those that were acknowledged, and whether the server was killed."""
    answered: set[str] = set()
    try:
        with server, server.client(timeout=30) as client:
            for name in ("small", "large"):
                if client.request("PUT", "/" + name, body=bodies[name]).status == 201:
                    answered.add(name)
            server.terminate()
    except (CommandFailed, ConnectionCut, OSError):
        return answered, True
    return answered, False
