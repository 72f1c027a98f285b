"""A crash at every failpoint of every scenario: finished steps are kept, the step at work shows old or new, all is sound."""

import multiprocessing
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import tgdav
from tests.crash.crashing import Outcome, Sweep
from tests.crash.machines import MINUTES
from tests.crash.scenarios import SCENARIOS

SEED = 20261201
"""The seed of the short form, so that a failure repeats; the long form draws seeds and prints them."""
JOIN_EVERY = 10
PARTS = 4
LONG = 280


@pytest.fixture(scope="session")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process with one thread, which may fork; a pytest-xdist worker has several threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def planned(each: Sweep, part: int, join_every: int) -> list[int]:
    """Return the numbers of the failpoints to crash at: every PARTS-th, less some that a long scenario repeats."""
    thins = join_every > 1 and each.total > LONG
    numbers = range(1 + part, each.total + 1, PARTS)
    return [number for number in numbers if not thins or (number // PARTS + each.seed) % 3 != 0 or each.is_rare(number)]


def sweep(scenario: int, part: int, folder: str, seed: int, join_every: int) -> tuple[Outcome, int]:
    """Crash at the planned failpoints of a part of a scenario; return what was seen, and how many were planned."""
    workspace = Path(folder) / f"{scenario}-{part}-{seed}"
    workspace.mkdir()
    each = Sweep(SCENARIOS[scenario], workspace, seed)
    numbers = planned(each, part, join_every)
    each.crash(numbers, joins=lambda number: number % join_every == seed % join_every)
    return each.outcome, len(numbers)


def rehearse(folder: str, seed: int) -> tuple[set[str], int]:
    """Run each scenario without a crash; return the failpoints it reaches, and how many crashes the short form plans."""
    names: set[str] = set()
    crashes = 0
    for number, scenario in enumerate(SCENARIOS):
        workspace = Path(folder) / f"rehearsal-{number}"
        workspace.mkdir()
        each = Sweep(scenario, workspace, seed)
        names |= each.names
        crashes += sum(len(planned(each, part, JOIN_EVERY)) for part in range(PARTS))
    return names, crashes


def failpoints() -> set[str]:
    """The names of all failpoints in the program's source."""
    files = [path for path in Path(tgdav.__file__).parent.rglob("*.py") if path.name != "failpoints.py"]
    sources = [path.read_text() for path in files]
    return {name for source in sources for name in re.findall(r'failpoint\("([a-z.-]+\.[a-z-]+)"\)', source)}


def _report(what: str, seed: int, outcome: Outcome) -> None:
    print(f"\nfailpoints: {what}: seed {seed}, {outcome.crashes.total()} crashes at {len(outcome.crashes)} failpoints")
    print(f"  {dict(outcome.shown)}, {outcome.joins} joins afterwards")


def test_the_scenarios_reach_every_failpoint(process: ProcessPoolExecutor, quick_path: Path) -> None:
    names, crashes = process.submit(rehearse, str(quick_path), SEED).result()
    assert failpoints() - names == set()
    assert crashes >= 2000


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scenario", range(len(SCENARIOS)), ids=[each.name for each in SCENARIOS])
def test_a_crash_at_every_failpoint(process: ProcessPoolExecutor, quick_path: Path, scenario: int, part: int) -> None:
    outcome, wanted = process.submit(sweep, scenario, part, str(quick_path), SEED, JOIN_EVERY).result()
    _report(SCENARIOS[scenario].name, SEED, outcome)
    # Background threads reach a few failpoints more or fewer in each run, so the last planned ones may not come.
    assert outcome.crashes.total() >= wanted * 0.9


@pytest.mark.torture
def test_crashes_at_failpoints_over_and_over(quick_path: Path) -> None:
    end, total = time.monotonic() + MINUTES * 60 / 3, 0
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        while time.monotonic() < end:
            seed = random.randrange(1 << 32)
            folder = quick_path / str(seed)
            folder.mkdir()
            jobs = [
                pool.submit(sweep, scenario, part, str(folder), seed, 1)
                for scenario in range(len(SCENARIOS))
                for part in range(PARTS)
            ]
            outcome = Outcome()
            for job in jobs:
                outcome.add(job.result()[0])
            _report("all scenarios", seed, outcome)
            total += outcome.crashes.total()
    print(f"\nfailpoints: {total} crashes in all")
