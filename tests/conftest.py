"""What holds for every test."""

import logging
import os
import random
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from tests.support.long_first import arranged, read_durations, write_durations
from tgdav_fuse import mount_table

MARK = "TESTS_FOLDER"
"""The variable that names the run's folder to every program that a test starts."""

TORTURE_SEED = "TGDAV_TORTURE_SEED"
"""The variable with the seed of a long test."""

# Hypothesis must draw the same examples in each run; long tests override this.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Some images forbid Python to keep bytecode. Each of the thousands of programs that the tests start would compile all of
# tgdav anew, which is a third of what starting one costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell that runs the tests in the background may ignore these signals, and every child process would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store-durations", action="store_true", help="write the seconds of long tests to tests/durations.txt"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long tests first."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = arranged({item.nodeid: item for item in items}, read_durations(), workers)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--store-durations"):
        seconds: Counter[str] = Counter()
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports(""):
            seconds[report.nodeid] += report.duration
        write_durations(seconds)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """After a run with several workers, clean up what a worker that died has left running or mounted."""
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
    """The directory of the whole run; each worker has its own below it."""
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(autouse=True, scope="session")
def _marked(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ[MARK] = str(_root(tmp_path_factory.getbasetemp()))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo the logging set-up of a command that ran in this process: it would hide the log records of later tests."""
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
