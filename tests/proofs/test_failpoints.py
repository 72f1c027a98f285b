"""A crash at every failpoint of every scenario: what was done is there, the rest is old or new, and all of it is sound."""

import multiprocessing
import random
import re
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import tgdav
from tests.proofs.crashing import Outcome, Sweep
from tests.proofs.machines import MINUTES
from tests.proofs.scenarios import SCENARIOS

PARTS = 4
LONG = 280


def sweep(scenario: int, part: int, parts: int, folder: str, seed: int, join_every: int) -> tuple[Outcome, int]:
    """Crash at every ``parts``-th failpoint of a scenario, from ``part`` on; return what was seen, and how many there are."""
    workspace = Path(folder) / f"{scenario}-{part}-{seed}"
    workspace.mkdir()
    each = Sweep(SCENARIOS[scenario], workspace, seed)
    for number in range(1 + part, each.total + 1, parts):
        thinned = join_every > 1 and each.total > LONG and (number // parts + seed) % 3 == 0
        if thinned and not each.is_rare(number):
            continue  # the long scenarios come by the same failpoints again and again
        each.crash(number, joins=number % join_every == seed % join_every)
    return each.outcome, each.total


def run_all(folder: Path, seed: int, join_every: int) -> tuple[Outcome, list[int]]:
    """Sweep all scenarios on two cores."""
    outcome, totals = Outcome(), [0] * len(SCENARIOS)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        jobs = [
            (scenario, pool.submit(sweep, scenario, part, PARTS, str(folder), seed, join_every))
            for scenario in range(len(SCENARIOS))
            for part in range(PARTS)
        ]
        for scenario, job in jobs:
            found, totals[scenario] = job.result()
            outcome.add(found)
    return outcome, totals


def failpoints() -> set[str]:
    """The names of all failpoints in the program's source."""
    files = [path for path in Path(tgdav.__file__).parent.rglob("*.py") if path.name != "failpoints.py"]
    sources = [path.read_text() for path in files]
    return {name for source in sources for name in re.findall(r'reach\("([a-z.-]+\.[a-z-]+)"\)', source)}


def _report(seed: int, outcome: Outcome, totals: list[int]) -> None:
    print(f"\nfailpoints: seed {seed}, {outcome.crashes.total()} crashes at {len(outcome.crashes)} failpoints")
    print(f"  {dict(outcome.shown)}, {outcome.joins} joins afterwards, failpoints reached a scenario: {totals}")


@pytest.mark.timeout(600)
def test_a_crash_at_every_failpoint(quick_path: Path) -> None:
    seed = random.randrange(1 << 16)
    outcome, totals = run_all(quick_path, seed, join_every=10)
    _report(seed, outcome, totals)
    assert outcome.crashes.total() >= 2000
    assert failpoints() - set(outcome.crashes) == set()


@pytest.mark.torture
def test_crashes_at_failpoints_over_and_over(quick_path: Path) -> None:
    end, total = time.monotonic() + MINUTES * 60 / 3, 0
    while time.monotonic() < end:
        seed = random.randrange(1 << 32)
        folder = quick_path / str(seed)
        folder.mkdir()
        outcome, totals = run_all(folder, seed, join_every=1)
        _report(seed, outcome, totals)
        total += outcome.crashes.total()
    print(f"\nfailpoints: {total} crashes in all")
