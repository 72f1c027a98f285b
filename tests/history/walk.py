"""A random walk: steps drawn from a seed, done to a vault and to the model, judged after each; and the shortest that fails.

A step is a tuple of plain values, its numbers taken modulo what there is, so that any part of a walk is a walk again.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path as Directory
from typing import Any

from tests.history.judging import judge
from tests.history.model import Model, Path
from tests.history.showing import observe
from tests.history.subject import Action, Subject
from tests.support.forgetful_disk import ForgetfulDisk
from tgdav.volume.volume import Volume

Step = tuple[Any, ...]
NAMES = (b"a", b"b", b"c", b"text.txt", b"d", "\u00e9".encode())
SIZES = (0, 1, 100, 5000, 5000, 40_000, 200_000)
MODES = (0o600, 0o644, 0o4755, 0o700)
SECONDS = (1, 2, 10, 10, 90, 90, 4000, 100_000)
MOST_NODES = 40
HAS_GC = hasattr(Volume, "gc")

WEIGHTS = {
    "put": 14, "write": 6, "rewrite": 6, "save": 6, "create": 2, "mkdir": 5, "symlink": 1, "rename": 7, "replace": 6,
    "exchange": 3, "remove": 8, "link": 3, "chmod": 3, "utime": 2, "xattr": 3, "property": 2,
    "snapshot": 8, "unsnapshot": 3, "restore": 7, "empty": 3, "upkeep": 2, "policy": 2,
    "sync": 5, "checkpoint": 4, "gc": 6 if HAS_GC else 0, "restart": 2, "join": 2, "check": 1,
}  # fmt: skip
FURNISHING: tuple[Step, ...] = (
    ("mkdir", (0, 0, 0, 0), 1, 0),
    ("mkdir", (1, 1, 0, 0), 1, 0),
    *(("put", (number, number, number, 1), 1, 0) for number in range(1, 6)),
    ("put", (2, 3, 4, 1), 90, 0),
)
"""The first steps of every walk: some directories and files."""
MOST_AT_ONCE = 5000
"""Bytes that are written at once through a handle. Of more, a crash may leave a beginning."""
CRASHES, POWER_CUTS = 0.12, 0.3
"""Part of the steps that are done in a process which is killed at a failpoint, or whose machine loses its power there."""
UNCHANGED = frozenset({"sync", "checkpoint", "gc", "upkeep", "restart", "join", "check", "policy", "clock", "nothing"})
IN_THIS_PROCESS = frozenset({"restart", "join", "policy", "clock", "check", "nothing"})


def draw(chance: random.Random, crashes: float) -> Step:
    """Draw a step: its kind, numbers, how much time passes before it, and at which failpoint it is killed (0: it is not)."""
    kind = chance.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
    numbers = tuple(chance.randrange(1 << 16) for _ in range(4))
    seconds = chance.choice(SECONDS) if chance.random() < 0.7 else 0
    crash = chance.randrange(1, chance.choice((15, 30, 60, 400))) if chance.random() < crashes else 0
    return kind, numbers, seconds, crash


def data(number: int, other: int) -> bytes:
    """Content of a number; few numbers, so that equal contents come about."""
    size = SIZES[other % len(SIZES)]
    return random.Random(number % 7 * 1000 + size).randbytes(size)


def _is_spared(action: Action) -> bool:
    """Whether an action is never interrupted: it is none of the vault's, or may leave a beginning of what it writes."""
    name, *arguments = action
    return name in IN_THIS_PROCESS or (name in ("write", "rewrite") and len(arguments[-1]) > MOST_AT_ONCE)


# ---- what a step does to the present state ---------------------------------------------------------------------------


class Plan:
    """Chooses what a step does."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes = model.walk()
        self.files = [path for path, node in self.nodes if node.is_file]
        self.directories = [path for path, node in self.nodes if node.is_directory]
        self.named = [path for path, _ in self.nodes if path]

    def actions(self, step: Step) -> list[Action]:
        """Return what the step does, none where it can do nothing."""
        kind, numbers, *_ = step
        if kind in ("gc", "sync", "checkpoint", "upkeep", "restart", "join", "check"):
            return [(kind,)]
        return getattr(self, f"_{kind}")(*numbers) or []

    def _free(self, number: int, other: int) -> Path | None:
        """A path that names nothing, in a directory that is not too deep."""
        above = self.directories[number % len(self.directories)]
        name = NAMES[other % len(NAMES)]
        if len(above) > 3 or name in self.model.at(above).children or len(self.nodes) > MOST_NODES:
            return None
        return (*above, name)

    def _file(self, number: int) -> Path | None:
        return self.files[number % len(self.files)] if self.files else None

    def _any(self, number: int) -> Path | None:
        return self.named[number % len(self.named)] if self.named else None

    def _put(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._free(a, b) if d % 2 else self._file(a)
        return [("put", path, data(b, c))] if path else None

    def _write(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._file(a)
        return [("write", path, (0, 0, 50, 100_000)[d % 4], data(b, c) or b"x")] if path else None

    def _rewrite(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._file(a)
        return [("rewrite", path, data(b, c) or b"x")] if path else None

    def _save(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        """As most editors save: a new file, renamed over the old one."""
        path = self._file(a)
        if path is None:
            return None
        temporary = (*path[:-1], b".save~")
        return [("put", temporary, data(b, c)), ("rename", temporary, path)]

    def _create(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._free(a, b)
        return [("create", path)] if path else None

    def _mkdir(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._free(a, b)
        return [("mkdir", path)] if path else None

    def _symlink(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._free(a, b)
        return [("symlink", path, b"target")] if path else None

    def _rename(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        source, target = self._any(a), self._free(b, c)
        if source is None or target is None or target[: len(source)] == source:
            return None
        return [("rename", source, target)]

    def _replace(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        source, target = self._any(a), self._any(b)
        if source is None or target is None or source[: len(target)] == target or target[: len(source)] == source:
            return None
        one, two = self.model.at(source), self.model.at(target)
        if one.is_directory != two.is_directory or two.children or one is two:
            return None
        return [("rename", source, target)]

    def _exchange(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        one, two = self._any(a), self._any(b)
        if one is None or two is None or one[: len(two)] == two or two[: len(one)] == one:
            return None
        return [("exchange", one, two)]

    def _remove(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._any(a)
        return [("remove", path)] if path else None

    def _link(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        source, target = self._file(a), self._free(b, c)
        return [("link", source, target)] if source and target else None

    def _chmod(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._any(a)
        return [("chmod", path, MODES[b % len(MODES)])] if path and not self._is_symlink(path) else None

    def _is_symlink(self, path: Path) -> bool:
        node = self.model.at(path)
        return not node.is_file and not node.is_directory

    def _utime(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path = self._any(a)
        return [("utime", path, b * 1_000_000_007)] if path else None

    def _xattr(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path, value = self._any(a), (None, b"one", b"two")[c % 3]
        return [("xattr", path, (b"user.a", b"user.b")[b % 2], value)] if path and not self._is_symlink(path) else None

    def _property(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        path, value = self._any(a), (None, b"<p/>", b"<q/>")[c % 3]
        return [("property", path, b"{urn:x}p", value)] if path else None

    def _snapshot(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        name = f"s{self.model.made_snapshots + 1}"
        return [("snapshot", name)] if len(self.model.pins) < 4 else self._unsnapshot(a, b, c, d)

    def _unsnapshot(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        pins = self.model.pins
        return [("unsnapshot", pins[a % len(pins)].name)] if pins else None

    def _restore(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        trash = self.model.trash
        if not trash or len(self.nodes) > MOST_NODES:
            return None
        return [("restore", a % len(trash))]

    def _empty(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        return [("empty", None if a % 2 else self.model.now - 60_000_000_000)]

    def _policy(self, a: int, b: int, c: int, d: int) -> list[Action] | None:
        return [("policy", (2, 3, 10)[a % 3])]


# ---- the walk --------------------------------------------------------------------------------------------------------


@dataclass
class Walk:
    """A walk below ``directory``. ``steps_done`` counts by kind; ``crashes`` where processes were killed."""

    directory: Directory
    disk: ForgetfulDisk | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = self.disk.path if self.disk else self.directory
        self.model = Model(max_versions=10)
        self.subject = Subject(place, 10, self.disk)
        self.model.now = self.subject.clock.now_ns()
        self.model.root.mtime = self.subject.volume.fs.attributes(self.subject.volume.fs.root).mtime
        self._judge(unchanged=True)

    def close(self) -> None:
        self.subject.close()

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def do(self, step: Step) -> None:
        """Do a step and judge what the vault shows then."""
        kind, _, seconds, crash = step
        self._do("clock", seconds)
        actions = Plan(self.model).actions(step)
        self.count(kind if actions else "nothing to do")
        if crash and not any(_is_spared(action) for action in actions):
            self._crash(actions, crash)
            return
        for action in actions:
            self._do(*action)
            self._judge(unchanged=action[0] in UNCHANGED, joined=action[0] == "join")
        if kind in ("gc", "checkpoint", "join"):
            self._do("check", None, True)

    def _do(self, action: str, *arguments: Any) -> None:
        self.subject.do(action, *arguments)
        self.model.do(action, *arguments)

    def _judge(self, *, unchanged: bool, joined: bool = False) -> None:
        self.subject.check_structure()
        judge(self.model, observe(self.subject.volume.fs), unchanged=unchanged, joined=joined)

    def _crash(self, actions: Sequence[Action], number: int) -> None:
        """Kill the process that does the actions; it must have done all that it answered, and nothing by halves."""
        states = [deepcopy(self.model)]
        for action in actions:
            states.append(deepcopy(states[-1]))
            states[-1].do(*action)
        answered, where = self.subject.crash(actions, number)
        self.count("killed " + where)
        self.subject.check_structure()
        seen, wrong = observe(self.subject.volume.fs), []
        for done in range(answered, min(answered + 2, len(states))):
            unchanged = all(name in UNCHANGED for name, *_ in actions[:done])
            try:
                judge(states[done], seen, unchanged=unchanged)
            except AssertionError as error:
                wrong.append(f"with {done} actions done: {error}")
            else:
                self.model = states[done]
                return
        raise AssertionError(f"killed {where} in {actions}, {answered} answered: " + " / ".join(wrong))

    def finish(self) -> None:
        """Check everything, also on a machine that has nothing but the store."""
        self._do("sync")
        self._do("check", 100.0, True)
        self._do("join")
        self._judge(unchanged=True, joined=True)
        self._do("check", 100.0, True)


def run(steps: Sequence[Step], *, has_power_cuts: bool = False, seed: int = 0) -> dict[str, int]:
    """Walk; return how often each step was done. Raises AssertionError, whose message begins with the promise broken."""
    with ExitStack() as stack:
        directory = Directory(tempfile.mkdtemp(prefix="tgdav-walk-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        disk = ForgetfulDisk(directory / "backing", directory / "disk", seed) if has_power_cuts else None
        if disk is not None:
            stack.callback(disk.close)
        walk = Walk(directory, disk)
        stack.callback(walk.close)
        for number, step in enumerate(steps):
            try:
                walk.do(step)
            except AssertionError as error:
                raise AssertionError(f"{error}\nat step {number}: {step}") from error
        walk.finish()
        return walk.counts


def walk(seed: int, length: int, *, has_power_cuts: bool = False) -> dict[str, int]:
    """Walk ``length`` random steps; if that fails, find fewer steps that fail and name them."""
    chance = random.Random(seed)
    steps = [*FURNISHING, *(draw(chance, POWER_CUTS if has_power_cuts else CRASHES) for _ in range(length))]

    def go(some: Sequence[Step]) -> dict[str, int]:
        return run(some, has_power_cuts=has_power_cuts, seed=seed)

    try:
        return go(steps)
    except Exception as error:
        shortest, last = shrink(steps, error, go)
        listed = "\n".join(f"    {step!r}," for step in shortest)
        raise AssertionError(f"{last}\nseed {seed}, {len(shortest)} of {length} steps:\n{listed}") from last


def promise(error: Exception) -> str:
    """Return which promise an error says to be broken."""
    return type(error).__name__ + str(error).partition(":")[0]


def shrink(
    steps: Sequence[Step], error: Exception, go: Callable[[Sequence[Step]], object], seconds: float = 90.0
) -> tuple[list[Step], Exception]:
    """Leave out steps while the walk still breaks the same promise."""
    current, size, until = [*steps], max(len(steps) // 2, 1), time.monotonic() + seconds
    while size and time.monotonic() < until:
        start = 0
        while start < len(current) and time.monotonic() < until:
            some = current[:start] + current[start + size :]
            try:
                go(some)
            except Exception as found:
                if promise(found) == promise(error):
                    current, error = some, found
                    continue
            start += size
        size //= 2
    return current, error
