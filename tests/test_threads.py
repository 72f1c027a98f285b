"""Threads survive exceptions: every thread is started as a ``Worker``, and failures are reported."""

import ast
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tgdav
from tests.support.waiting import wait_for
from tgdav import threads
from tgdav.blobs.retry import RetryPolicy, next_wait
from tgdav.errors import LocalFailure
from tgdav.threads import Guard, Worker, failure_counts, last_failure

ROOT = Path(tgdav.__file__).parent.parent
STARTERS = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread", "start_new_system_thread", "to_thread"}
EXCEPTIONS = {
    "tgdav/threads.py": "the one way itself",
    "tgdav/cli/output.py": "a timer that shows a progress bar once, of a command that a person watches",
    "tgdav/content/upload/uploader.py": "a pool whose one task, _send_one, catches and notes every failure",
    "tgdav/content/read/reader.py": "a pool whose one task, _run, goes through a guard",
}


def _starts(path: Path) -> bool:
    """Whether a module calls anything that starts a thread."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in calls}
    return bool(names & STARTERS)


def test_every_thread_is_a_worker() -> None:
    files = [path for package in ("tgdav", "tgdav_fuse") for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    assert {str(path.relative_to(ROOT)) for path in files if _starts(path)} == set(EXCEPTIONS)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE", 0.001)


class Items:
    """A loop over a list whose items are taken off before they are worked on."""

    def __init__(self, *items: object) -> None:
        self.waiting, self.done = list(items), list[object]()

    def run(self) -> None:
        while self.waiting:
            item = self.waiting.pop(0)
            if isinstance(item, BaseException):
                raise item
            self.done.append(item)


@pytest.fixture
def names() -> str:
    """A name of its own for each test's thread: counts are the process's."""
    return f"test-{next(_numbers)}"


_numbers = iter(range(1000))


@pytest.mark.usefixtures("quick")
def test_a_bad_item_is_counted_and_skipped(names: str, caplog: pytest.LogCaptureFixture) -> None:
    items = Items(1, OverflowError("secret.txt"), 2, KeyError("secret.txt"), 3)
    worker = Worker(names, items.run)
    worker.start()
    wait_for(lambda: not worker.is_alive())
    assert items.done == [1, 2, 3]
    assert failure_counts()[names] == 2
    assert "secret" not in caplog.text
    assert f"thread {names}: OverflowError" in caplog.text


def test_the_last_failure_is_reported_while_the_thread_lives(names: str) -> None:
    ended = threading.Event()

    def work() -> None:
        if not ended.is_set():
            raise LocalFailure("the disk is tired")

    worker = Worker(names, work)
    worker.start()
    wait_for(lambda: worker.failure)
    assert last_failure() == f"thread {names}: LocalFailure: the disk is tired"
    ended.set()
    worker.join(10)
    assert not worker.is_alive()
    assert worker.failure is None
    assert names not in (last_failure() or "")


def test_join_interrupts_the_pause(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE", 3600.0)
    worker = Worker(names, Items(OverflowError()).run)
    worker.start()
    wait_for(lambda: worker.failure)
    worker.join(10)
    assert not worker.is_alive()


def test_pauses_grow_with_failures_in_a_row(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    items = Items(*(OverflowError() for _ in range(12)))
    worker, pauses = Worker(names, items.run), list[float]()

    def note(pause: float) -> bool:
        pauses.append(pause)
        return False

    monkeypatch.setattr(worker._stopping, "wait", note)
    worker.start()
    wait_for(lambda: not worker.is_alive())
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-3:] == [threads.MAX_PAUSE] * 3


def test_a_thread_that_never_ends_keeps_no_process_alive() -> None:
    program = """
import subprocess
import sys
import threading
from tgdav.threads import exit_within
threading.Thread(target=threading.Event().wait, name="a library's").start()
exit_within(3, seconds=0.1)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "a library's" in ended.stderr


def test_an_interrupt_is_not_a_failure(names: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        Guard(names).run(Items(KeyboardInterrupt()).run)
    assert names not in failure_counts()


def test_the_position_in_the_project_is_reported(names: str) -> None:
    guard = Guard(names)
    assert not guard.run(lambda: next_wait(RetryPolicy(), "many", None, 0.0))  # type: ignore[arg-type]
    assert guard.failure is not None
    assert guard.failure.startswith(f"thread {names}: TypeError (tgdav/blobs/retry.py:")
