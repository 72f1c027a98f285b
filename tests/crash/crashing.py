"""Crashes at failpoints: a child of this process dies in the middle of a step, exactly there, and the rest is looked at.

The child is a fork that ends with ``os._exit`` at the n-th failpoint it reaches, in whatever thread: no ``finally`` runs,
nothing is flushed, as with SIGKILL. It tells of each finished step through a pipe. Then the state is opened again and must
show what stood after the last finished step, or after the one at work; and be sound in every other way.
"""

import faulthandler
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.machines import Machine, Tree, clean, contents, tree
from tests.support.waiting import wait_for
from tgdav.failpoints import installed
from tgdav.volume.volume import Volume

CRASHED, FINISHED, FAILED = 9, 0, 1
DEADLINE_SECONDS = 30


class Run:
    """A scenario at work on a machine; ``volume`` is opened when first asked for."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._volume: Volume | None = None

    @property
    def volume(self) -> Volume:
        if self._volume is None:
            self._volume = self.machine.open()
        return self._volume

    def use(self, volume: Volume) -> None:
        """Work on a volume that is open."""
        self._volume = volume

    def close(self) -> None:
        if self._volume is not None:
            self._volume.close()
            self._volume = None


Step = Callable[[Run], None]


def reopen(machine: Machine, _finished: int) -> Volume:
    """Open after a crash, where nothing special is to be done."""
    return machine.open()


@dataclass(frozen=True)
class Scenario:
    """``prepare`` makes the state that each run begins with. ``reopen`` is given how many steps had finished."""

    name: str
    prepare: Callable[[Machine], None]
    steps: Sequence[Step]
    reopen: Callable[[Machine, int], Volume] = reopen
    home: str = "home"


@dataclass
class Outcome:
    """What one sweep did: crashes by failpoint, and how often the step at work showed."""

    crashes: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    joins: int = 0

    def add(self, other: "Outcome") -> None:
        self.crashes += other.crashes
        self.shown += other.shown
        self.joins += other.joins


RARE = 8


class Sweep:
    """Crashes at the failpoints of one scenario, in a workspace of its own."""

    def __init__(self, scenario: Scenario, workspace: Path, seed: int) -> None:
        self.scenario, self.workspace, self.seed = scenario, workspace, seed
        self.base = workspace / "base"
        self.outcome = Outcome()
        scenario.prepare(self._machine(self.base, "base"))
        self.expected, self._names = self._rehearse()
        self.total = len(self._names)

    @property
    def names(self) -> set[str]:
        """The failpoints that a run without a crash reaches."""
        return set(self._names)

    def _machine(self, folder: Path, life: str) -> Machine:
        return Machine(folder, self.scenario.home, seed=self.seed, life=life)

    def _copy(self) -> Path:
        target = self.workspace / "run"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.base, target)
        return target

    def is_rare(self, number: int) -> bool:
        """Whether the run comes by the failpoint ``number`` but a few times."""
        return self._names.count(self._names[number - 1]) <= RARE

    def _rehearse(self) -> tuple[list[Tree], list[str]]:
        """Run without a crash; return what is shown before the steps and after each, and the failpoints in order."""
        folder = self._copy()
        run = Run(self._machine(folder, "run"))
        shown = []
        names: list[str] = []
        with installed(names.append):
            for step in self.scenario.steps:
                step(run)
        run.close()
        run = Run(self._machine(self._copy(), "run"))
        for step in self.scenario.steps:
            step(run)
            shown.append(tree(run.volume))
        run.close()
        return shown, names

    def crash(self, number: int, *, joins: bool) -> str:
        """Crash at failpoint ``number`` and look; return its name, or nothing if the run ended before."""
        folder = self._copy()
        where = f"scenario {self.scenario.name}, seed {self.seed}, crash {number}"
        finished = 0
        try:
            finished, name = run_and_die(self._machine(folder, "run"), self.scenario.steps, number)
            where += f" at {name or 'the end'}"
            self._look(self._machine(folder, "look"), finished, joins=joins)
        except Exception as error:
            raise AssertionError(f"{where}, {finished} steps finished: {error!r}") from error
        if name:
            self.outcome.crashes[name] += 1
        return name

    def _look(self, machine: Machine, finished: int, *, joins: bool) -> None:
        volume = self.scenario.reopen(machine, finished)
        try:
            shown = contents(tree(volume))
            self._judge(shown, finished)
            clean(volume)
            if joins:
                volume.sync(wait=True)
                clean(volume)
                assert contents(tree(volume)) == shown, "syncing changed what is shown"
        finally:
            volume.close()
        if joins:
            self._join(machine.folder, shown)

    def _judge(self, shown: object, finished: int) -> None:
        states = [contents(each) for each in self.expected]
        before = states[finished - 1] if finished else None
        after = states[finished] if finished < len(states) else None
        if shown == before:
            self.outcome.shown["before"] += 1
        elif shown == after:
            self.outcome.shown["after"] += 1
        else:
            assert finished == 0, f"shows neither state: {shown}\nbefore {before}\nafter {after}"
            self.outcome.shown["before"] += 1

    def _join(self, folder: Path, shown: object) -> None:
        other = Machine(folder, "joined", seed=self.seed)
        joined = other.join()
        assert not joined.damage, joined.damage
        with other.opened() as volume:
            assert contents(tree(volume)) == shown, "a machine that joins sees something else"
            clean(volume)
        self.outcome.joins += 1


def run_and_die(machine: Machine, steps: Sequence[Step], number: int) -> tuple[int, str]:
    """Run the steps in a fork that dies at failpoint ``number``; return (steps finished, the failpoint's name)."""
    wait_for(_is_alone, what="the threads of volumes that were closed to be gone")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_the_child(machine, steps, number, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    finished, _, rest = told.partition(b"!")
    if code not in (CRASHED, FINISHED):
        stuck = (machine.folder / "stuck").read_text()
        raise AssertionError(f"the run ended with {code}: {rest.decode(errors='replace')}{stuck}")
    return len(finished), rest.decode() if code == CRASHED else ""


def _is_alone() -> bool:
    """Whether this is the only thread, as the kernel counts: one that was joined may still hold locks of OpenSSL."""
    return len(os.listdir("/proc/self/task")) == 1


def _be_the_child(machine: Machine, steps: Sequence[Step], number: int, pipe: int) -> None:
    stuck = open(machine.folder / "stuck", "w")  # noqa: SIM115 - until the process ends
    faulthandler.dump_traceback_later(DEADLINE_SECONDS, exit=True, file=stuck)
    lock, seen = threading.Lock(), 0

    def die(name: str) -> None:
        nonlocal seen
        with lock:
            seen += 1
            if seen == number:
                os.write(pipe, b"!" + name.encode())
                os._exit(CRASHED)

    code = FINISHED
    try:
        run = Run(machine)
        with installed(die):
            for step in steps:
                step(run)
                os.write(pipe, b".")
            run.close()
    except BaseException as error:
        os.write(pipe, b"!" + repr(error).encode())
        code = FAILED
    os._exit(code)
