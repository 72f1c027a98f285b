"""What holds for every test."""

import logging
import os
import random
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from tgdav_fuse import mount_table

SLOWEST = (
    "crash/test_failpoints.py",
    "fuse/test_exerciser.py",
    "acceptance/",
    "telegram/test_storm.py",
    "crash/test_kill.py",
    "crash/test_power_cut.py",
    "crash/test_damage.py",
    "crash/test_mutants.py",
    "crash/test_strace.py",
    "fs/test_state_machine.py",
    "fuse/test_kill.py",
    "fuse/test_power_cut.py",
    "test_documents.py",
    "benchmarks/",
)
"""The modules whose single tests take longest. They run first: a long test that starts last leaves one core idle."""

MARK = "TESTS_FOLDER"
"""The variable that names the run's folder to every program that a test starts."""

TORTURE_SEED = "TGDAV_TORTURE_SEED"
"""The variable with the seed of a long test."""

# Hypothesis, too, draws the same in each run; a test that is to draw anew says so.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Some images forbid Python to keep bytecode. Each of the thousands of programs that the tests start would compile all of
# tgdav anew, which is a third of what starting one costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Whoever starts the tests in the background may have ignored these, and every program that they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest modules first."""
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(tests).as_posix() if item.path.is_relative_to(tests) else ""
        return next((number for number, slow in enumerate(SLOWEST) if path.startswith(slow)), len(SLOWEST))

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """When the workers of a run with several are gone, end what they left: one that died had no time to."""
    yield
    if session.config.pluginmanager.has_plugin("dsession"):
        folder = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        _end_processes(folder)
        _unmount_below(folder)


def _end_processes(folder: Path) -> None:
    _, left = psutil.wait_procs([each for each in psutil.process_iter() if _belongs_to(each, folder)], 3)
    for process in left:
        print(f"\nleft behind by a test, ended: process {process.pid}")
        process.kill()
    psutil.wait_procs(left, 10)


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a test of this run started it: it inherited the mark, or was given a home of the test's own."""
    try:
        known = process.environ()
    except psutil.Error:
        return False
    return known.get(MARK) == str(folder) or known.get("HOME", "").startswith(f"{folder}/")


def _unmount_below(folder: Path) -> None:
    for point in [Path(each.mountpoint) for each in psutil.disk_partitions(all=True)]:
        if point.is_relative_to(folder):
            print(f"left behind by a test, unmounted: {point}")
            mount_table.unmount(point, lazily=True)


def _root(folder: Path) -> Path:
    """The folder of the whole run: workers have one each below it."""
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(autouse=True, scope="session")
def _marked(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ[MARK] = str(_root(tmp_path_factory.getbasetemp()))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what a command that ran in this process set up, in a fixture of a whole module too: it hides the log of others."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    handlers = list(root.handlers)
    yield
    root.handlers[:] = [each for each in root.handlers if each in handlers]
    logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Seed what a test draws: with its name, so that a failure repeats.

    A long test draws new numbers each time. It prints the seed, which the variable TORTURE_SEED gives it again.
    """
    seed = request.node.nodeid
    if request.node.get_closest_marker("torture"):
        number = os.environ.get(TORTURE_SEED) or str(secrets.randbelow(1 << 32))
        print(f"\n{seed}: {TORTURE_SEED}={number}")
        seed += number
    random.seed(seed)
