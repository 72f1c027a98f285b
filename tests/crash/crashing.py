"""Crashes at failpoints: a process dies in the middle of a step, exactly there, and what it leaves behind is examined.

The scenario runs once, in a fork that stops itself (SIGSTOP, all of its threads) at each chosen failpoint. What its folder then
holds is what a process that is killed there leaves behind: the folder is copied, the run goes on, and the copy is opened. It
must show the state after the last finished step or the one after the step at work, and be sound in every other way.
"""

import faulthandler
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
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
STOPS = 8
"""Stops of one run. Each is short, a copy of the folder, and they are far apart: what waits for a few milliseconds, as a lazy
commit does, would else be over before the next."""


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

    def _copy(self, source: Path, name: str) -> Path:
        target = self.workspace / name
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(source, target)
        return target

    def is_rare(self, number: int) -> bool:
        """Whether the run comes by the failpoint ``number`` but a few times."""
        return self._names.count(self._names[number - 1]) <= RARE

    def _rehearse(self) -> tuple[list[Tree], list[str]]:
        """Run without a crash; return what is shown before the steps and after each, and the failpoints in order."""
        run = Run(self._machine(self._copy(self.base, "run"), "run"))
        shown = []
        names: list[str] = []
        with installed(names.append):
            for step in self.scenario.steps:
                step(run)
        run.close()
        run = Run(self._machine(self._copy(self.base, "run"), "run"))
        for step in self.scenario.steps:
            step(run)
            shown.append(tree(run.volume))
        run.close()
        return shown, names

    def crash(self, numbers: Sequence[int], *, joins: Callable[[int], bool]) -> None:
        """Crash at the failpoints ``numbers``, as far as runs come by them, and examine what each crash leaves behind.

        ``joins`` returns for a number whether another machine joins afterwards, too.
        """
        runs = -(-len(numbers) // STOPS)
        for first in range(runs):
            run = self._copy(self.base, "run")
            stopped = stops(self._machine(run, "run"), self.scenario.steps, set(numbers[first::runs]))
            left = [(stop, self._copy(run, f"left-{stop.number}")) for stop in stopped]
            for stop, folder in left:
                self._examine(stop, folder, joins=joins(stop.number))

    def _examine(self, stop: "Stop", folder: Path, *, joins: bool) -> None:
        try:
            self._check(self._machine(folder, "check"), stop.finished, joins=joins)
        except Exception as error:
            where = f"scenario {self.scenario.name}, seed {self.seed}, crash {stop.number} at {stop.name}"
            raise AssertionError(f"{where}, {stop.finished} steps finished: {error!r}") from error
        self.outcome.crashes[stop.name] += 1
        shutil.rmtree(folder)

    def _check(self, machine: Machine, finished: int, *, joins: bool) -> None:
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


@dataclass(frozen=True)
class Stop:
    """A run that stopped at its ``number``-th failpoint, of the given name, with so many steps ``finished``."""

    number: int
    finished: int
    name: str


def stops(machine: Machine, steps: Sequence[Step], numbers: Set[int]) -> Iterator[Stop]:
    """Run the steps in a fork, and yield while it is stopped at each of its failpoints ``numbers``.

    Raises AssertionError when a step fails.
    """
    with _Fork(machine, steps, numbers) as fork:
        yield from fork.stops()
        fork.end(FINISHED)


def run_to_death(machine: Machine, steps: Sequence[Step]) -> int:
    """Run steps, the last of which ends the process with CRASHED, in a fork; return how many finished."""
    with _Fork(machine, steps, set()) as fork:
        assert not list(fork.stops())
        fork.end(CRASHED)
        return fork.finished


class _Fork:
    """A fork of this process that runs the steps, and how far it is."""

    def __init__(self, machine: Machine, steps: Sequence[Step], numbers: Set[int]) -> None:
        wait_for(_is_alone, what="the threads of volumes that were closed to be gone")
        self.finished = 0
        self._stuck = machine.folder / "stuck"
        self._failure = ""
        self._ended = False
        reader, writer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(reader)
            _be_the_child(machine, steps, numbers, writer)
        os.close(writer)
        self._pipe = open(reader, encoding="utf-8")  # noqa: SIM115 - until the run is over

    def __enter__(self) -> "_Fork":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        if not self._ended:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)

    def stops(self) -> Iterator[Stop]:
        """Follow the run to its end."""
        for line in self._pipe:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "finished":
                self.finished += 1
            elif kind == "failed":
                self._failure = rest
            else:
                _, status = os.waitpid(self._child, os.WUNTRACED)
                assert os.WIFSTOPPED(status), (
                    f"the run ended with {os.waitstatus_to_exitcode(status)} where it should stop"
                )
                yield Stop(int(kind), self.finished, rest)
                os.kill(self._child, signal.SIGCONT)

    def end(self, expected: int) -> None:
        """Assert that the run ended with the status ``expected``."""
        _, status = os.waitpid(self._child, 0)
        self._ended = True
        code = os.waitstatus_to_exitcode(status)
        if code != expected:
            raise AssertionError(f"the run ended with {code}: {self._failure}{self._stuck.read_text()}")


def _is_alone() -> bool:
    """Whether this is the only thread, as the kernel counts: one that was joined may still hold locks of OpenSSL."""
    return len(os.listdir("/proc/self/task")) == 1


def _be_the_child(machine: Machine, steps: Sequence[Step], numbers: Set[int], pipe: int) -> None:
    stuck = open(machine.folder / "stuck", "w")  # noqa: SIM115 - until the process ends
    lock, seen = threading.Lock(), 0

    def watch() -> None:
        faulthandler.dump_traceback_later(DEADLINE_SECONDS, exit=True, file=stuck)

    def stop(name: str) -> None:
        nonlocal seen
        with lock:
            seen += 1
            if seen in numbers:
                faulthandler.cancel_dump_traceback_later()  # the time that the process is stopped does not count
                os.write(pipe, f"{seen} {name}\n".encode())
                os.kill(os.getpid(), signal.SIGSTOP)
                watch()

    code = FINISHED
    watch()
    try:
        run = Run(machine)
        with installed(stop):
            for step in steps:
                step(run)
                os.write(pipe, b"finished\n")
            run.close()
    except BaseException as error:
        os.write(pipe, f"failed {' '.join(repr(error).split())}\n".encode())
        code = FAILED
    os._exit(code)
