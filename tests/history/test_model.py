"""Random walks of a vault beside the model: after each step everything, present and past, is as the model says.

Processes are killed at failpoints, the power is cut, and another machine goes on with nothing but the store.
"""

import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.history.walk import shrink, walk
from tests.support.forgetful_disk import usable

STEPS = 70
needs_fuse = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")


def report(kind: str, seed: int, counts: dict[str, int]) -> None:
    print(f"\n{kind}, seed {seed}: {sum(counts.values())} steps, {dict(sorted(counts.items()))}")


def walk_apart(seed: int, steps: int, *, has_power_cuts: bool = False) -> dict[str, int]:
    """Walk in a process of its own: it forks, so it must not have threads that other tests left behind."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(walk, seed, steps, has_power_cuts=has_power_cuts).result()


@pytest.mark.parametrize("seed", [1000, 1001, 1002])
def test_a_walk(seed: int) -> None:
    report("walk", seed, walk_apart(seed, STEPS))


@needs_fuse
def test_a_walk_with_power_cuts() -> None:
    seed = 1950
    report("walk with power cuts", seed, walk_apart(seed, STEPS // 2, has_power_cuts=True))


@pytest.mark.torture
@pytest.mark.parametrize("has_power_cuts", [False, pytest.param(True, marks=needs_fuse)], ids=["kills", "power cuts"])
def test_many_walks(has_power_cuts: bool) -> None:
    minutes = float(os.environ.get("TGDAV_TORTURE_MINUTES", "10"))
    until, walks, counts, first = time.monotonic() + 60 * minutes, 0, Counter[str](), random.randrange(1 << 31)
    while time.monotonic() < until:
        counts.update(
            walk_apart(
                first + walks, random.Random(first + walks).choice((40, 100, 300)), has_power_cuts=has_power_cuts
            )
        )
        walks += 1
    report(f"{walks} walks, power cuts: {has_power_cuts}", first, dict(counts))


def test_a_walk_that_fails_is_made_shorter() -> None:
    def go(steps: object) -> None:
        assert not {3, 11} <= set(steps), "promise: three and eleven"  # type: ignore[call-overload]

    steps, error = shrink(list(range(20)), AssertionError("promise: three and eleven"), go)  # type: ignore[arg-type]
    assert steps == [3, 11]
    assert "three" in str(error)
