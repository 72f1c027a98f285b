"""The writer's promises: whole or not at all, synced before committed, nothing acknowledged too early, nobody left waiting."""

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.db.conftest import KEY
from tests.support.platform import CrashAt, FailingDisk, SimulatedCrash
from tests.support.waiting import wait_for
from tgdav.db import Database, Transaction
from tgdav.db.redo_log import SETTING
from tgdav.errors import LocalFailure, NoSpace
from tgdav.failpoints import installed

PUT = "INSERT INTO settings VALUES (:key, x'00')"


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def database(path: Path, disk: FailingDisk) -> Iterator[Database]:
    opened = Database.open(path, KEY, disk=disk)
    disk.calls.clear()
    yield opened
    opened.close()


class File:
    """A staging file: notes its syncs, fails when told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.syncs = 0
        self.error = error

    def sync(self) -> None:
        self.syncs += 1
        if self.error is not None:
            raise self.error


def put(database: Database, key: str, **options: Any) -> None:
    database.writer.run(lambda transaction: transaction.execute(PUT, {"key": key}), **options)


def keys(database: Database) -> set[str]:
    with database.reading() as connection:
        return {row[0] for row in connection.all("SELECT key FROM settings WHERE key != ?", (SETTING,))}


class Batch:
    """Holds the writer at work until all of ``jobs`` wait, so that they become one batch."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.outcomes: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []
        self._open, self._held = threading.Event(), threading.Event()
        self._start("first", lambda: database.writer.run(self._hold))
        assert self._held.wait(10)

    def _hold(self, _: Transaction) -> None:
        self._held.set()
        assert self._open.wait(10)

    def add(self, name: str, call: Callable[[], object]) -> None:
        self._start(name, call)
        wait_for(lambda: len(self.database.writer._waiting) == len(self._threads) - 1)

    def _start(self, name: str, call: Callable[[], object]) -> None:
        def run() -> None:
            try:
                self.outcomes[name] = call()
            except BaseException as error:
                self.outcomes[name] = error

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> dict[str, Any]:
        self._open.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a job hangs"
        return self.outcomes


def test_a_result_and_an_error_reach_their_caller(database: Database) -> None:
    assert database.writer.run(lambda _: 5) == 5
    with pytest.raises(ZeroDivisionError):
        database.writer.run(lambda _: 1 // 0)
    put(database, "after")
    assert keys(database) == {"after"}


def test_only_durable_jobs_sync_the_log_and_only_after_a_commit(database: Database, disk: FailingDisk) -> None:
    put(database, "a")
    assert disk.names("sync") == []
    put(database, "b", durable=True)
    assert disk.names("sync") == ["main.db-wal"]
    database.writer.sync()
    assert disk.names("sync") == ["main.db-wal"]
    put(database, "c")
    database.writer.sync()
    assert disk.names("sync") == ["main.db-wal"] * 2


def test_jobs_that_wait_share_one_transaction_and_one_sync(database: Database, disk: FailingDisk) -> None:
    batch = Batch(database)
    commits = CrashAt()
    for number in range(8):
        batch.add(f"{number}", lambda number=number: put(database, f"{number}", durable=True))
    with installed(commits):
        batch.finish()
    assert commits.reached["writer.before-commit"] == 2
    assert disk.names("sync") == ["main.db-wal"]
    assert keys(database) == {f"{number}" for number in range(8)}


def test_a_failing_job_undoes_itself_alone(database: Database) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.execute(PUT, {"key": "bad"})
        raise ValueError("no")

    batch = Batch(database)
    batch.add("a", lambda: put(database, "a"))
    batch.add("bad", lambda: database.writer.run(fail))
    batch.add("clash", lambda: put(database, "a"))
    batch.add("b", lambda: put(database, "b"))
    outcomes = batch.finish()
    assert isinstance(outcomes["bad"], ValueError)
    assert "UNIQUE" in str(outcomes["clash"])
    assert outcomes["a"] is outcomes["b"] is None
    assert keys(database) == {"a", "b"}


def test_files_are_synced_once_and_before_the_transaction_begins(database: Database) -> None:
    shared, own = File(), File()
    batch = Batch(database)
    seen: list[int] = []
    batch.add("a", lambda: database.writer.run(lambda _: seen.append(shared.syncs + own.syncs), sync=[shared, own]))
    batch.add("b", lambda: put(database, "b", sync=[shared]))
    batch.finish()
    assert (shared.syncs, own.syncs, seen) == (1, 1, [2])


def test_a_failed_sync_of_a_file_fails_the_jobs_that_named_it(database: Database) -> None:
    bad = File(LocalFailure("disk"))
    batch = Batch(database)
    batch.add("a", lambda: put(database, "a", sync=[bad, File()], durable=True))
    batch.add("b", lambda: put(database, "b", sync=[File()], durable=True))
    batch.add("c", lambda: put(database, "c", sync=[bad]))
    outcomes = batch.finish()
    assert isinstance(outcomes["a"], LocalFailure)
    assert isinstance(outcomes["c"], LocalFailure)
    assert outcomes["b"] is None
    assert keys(database) == {"b"}


def test_a_failed_sync_of_the_log_ends_all_writing(database: Database, disk: FailingDisk) -> None:
    disk.fail("sync", errno.EIO, suffix="-wal")
    batch = Batch(database)
    called: list[str] = []
    batch.add("durable", lambda: put(database, "durable", durable=True))
    batch.add("quick", lambda: put(database, "quick"))
    batch.add("called", lambda: database.writer.run(lambda t: t.after_commit(lambda: called.append("x")), durable=True))
    outcomes = batch.finish()
    assert isinstance(outcomes["durable"], LocalFailure)
    assert outcomes["quick"] is None
    assert called == []
    for durable in (False, True):
        with pytest.raises(LocalFailure, match="read-only until restarted"):
            put(database, "later", durable=durable)
    assert "later" not in keys(database)


def test_callbacks_run_after_the_barrier_in_commit_order_and_not_for_failures(
    database: Database, disk: FailingDisk
) -> None:
    order: list[str] = []

    def work(name: str, *, fails: bool = False) -> Callable[[Transaction], None]:
        def run(transaction: Transaction) -> None:
            transaction.after_commit(lambda: order.append(f"{name} {len(disk.names('sync'))} {name in keys(database)}"))
            transaction.execute(PUT, {"key": name})
            if fails:
                raise ValueError

        return run

    batch = Batch(database)
    batch.add("a", lambda: database.writer.run(work("a"), durable=True))
    batch.add("bad", lambda: database.writer.run(work("bad", fails=True)))
    batch.add("b", lambda: database.writer.run(work("b")))
    batch.finish()
    assert order == ["a 1 True", "b 1 True"]


def test_a_failing_callback_is_its_callers_error_and_the_change_stands(database: Database) -> None:
    def work(transaction: Transaction) -> None:
        transaction.execute(PUT, {"key": "a"})
        transaction.after_commit(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        database.writer.run(work)
    put(database, "b")
    assert keys(database) == {"a", "b"}


def test_a_job_or_callback_that_calls_the_writer_is_told_so(database: Database) -> None:
    with pytest.raises(RuntimeError):
        database.writer.run(lambda _: put(database, "inner"))
    with pytest.raises(RuntimeError):
        database.writer.run(lambda t: t.after_commit(lambda: put(database, "inner")))
    put(database, "outer")
    assert keys(database) == {"outer"}


def test_exclusive_actions_run_outside_transactions(database: Database) -> None:
    connection = database._connection
    batch = Batch(database)
    batch.add("a", lambda: put(database, "a"))
    batch.add("alone", lambda: database.writer.exclusively(lambda: (connection.in_transaction, keys(database))))
    assert batch.finish()["alone"] == (False, {"a"})
    with pytest.raises(ZeroDivisionError):
        database.writer.exclusively(lambda: 1 // 0)


def test_a_full_database_fails_the_batch_and_is_whole_afterwards(database: Database) -> None:
    [(pages,)] = database.writer.run(lambda t: t.all("PRAGMA page_count"))
    database.writer.exclusively(lambda: database._connection.all(f"PRAGMA max_page_count = {pages + 2}"))
    generations: list[int] = []

    def grow(transaction: Transaction) -> None:
        generations.append(transaction.generation)
        for number in range(100):
            transaction.execute("INSERT INTO settings VALUES (?, zeroblob(4000))", (f"{number}",))

    with pytest.raises(NoSpace):
        database.writer.run(grow)
    database.writer.exclusively(lambda: database._connection.all("PRAGMA max_page_count = 100000"))
    assert keys(database) == set()
    database.writer.run(grow)
    assert len(keys(database)) == 100


def test_a_transaction_that_sqlite_gives_up_fails_all_its_jobs(database: Database) -> None:
    """As SQLite does by itself on some errors, a job ends the transaction under all others."""
    batch = Batch(database)
    batch.add("a", lambda: put(database, "a"))
    batch.add("end", lambda: database.writer.run(lambda t: [t.execute("ROLLBACK"), 1 // 0]))
    batch.add("b", lambda: put(database, "b"))
    outcomes = batch.finish()
    assert isinstance(outcomes["a"], LocalFailure)
    assert isinstance(outcomes["b"], LocalFailure)
    assert isinstance(outcomes["end"], ZeroDivisionError)
    assert keys(database) == set()
    generation = database.writer.run(lambda t: t.generation)
    assert generation == 1


def test_a_crash_leaves_no_job_hanging_and_no_writing(database: Database) -> None:
    batch = Batch(database)
    for number in range(4):
        batch.add(f"{number}", lambda number=number: put(database, f"{number}", durable=True))
    with installed(CrashAt(2, "writer.before-commit")):
        outcomes = batch.finish()
    crashed = [error for error in outcomes.values() if isinstance(error, SimulatedCrash)]
    failed = [error for error in outcomes.values() if isinstance(error, LocalFailure)]
    assert (len(crashed), len(failed)) == (1, 3)
    with pytest.raises(LocalFailure):
        put(database, "later")
    assert keys(database) == set()


def test_an_interrupted_wait_passes_the_turn_on(database: Database) -> None:
    batch = Batch(database)
    writer = database.writer
    waits = threading.Event()

    class Interrupted:
        """A gate whose wait is broken off, as by Ctrl-C, just when its job was made the next leader."""

        def acquire(self) -> None:
            waits.set()
            wait_for(lambda: writer._next is not None)
            raise KeyboardInterrupt

        def release(self) -> None:
            pass

    def run_interrupted() -> None:
        original = writer._wait

        def wait(job: Any) -> None:
            writer._wait = original  # type: ignore[method-assign]
            job.gate = Interrupted()
            original(job)

        writer._wait = wait  # type: ignore[method-assign]
        put(database, "interrupted")

    batch.add("interrupted", run_interrupted)
    assert waits.wait(10)
    batch.add("next", lambda: put(database, "next"))
    outcomes = batch.finish()
    assert isinstance(outcomes["interrupted"], KeyboardInterrupt)
    assert outcomes["next"] is None
    assert keys(database) == {"next"}


def test_closing_waits_for_the_batch_at_work(database: Database) -> None:
    batch = Batch(database)
    batch._start("close", database.close)
    wait_for(lambda: database.writer.refusal is not None)
    outcomes = batch.finish()
    assert outcomes == {"first": None, "close": None}


def test_many_threads_lose_nothing_and_double_nothing(database: Database, disk: FailingDisk) -> None:
    def write(name: str) -> None:
        for number in range(60):
            put(database, f"{name}.{number}", durable=number % 3 == 0)

    threads = [threading.Thread(target=write, args=(f"{name}",)) for name in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys(database)) == 12 * 60
    assert 0 < len(disk.names("sync")) <= 12 * 20


def test_callers_that_came_together_are_waited_for(database: Database) -> None:
    """Whose jobs were one batch are one batch again, though the first of them comes back before the others."""
    commits = CrashAt()
    rounds, callers = 20, 6

    def call(name: str) -> None:
        for number in range(rounds):
            put(database, f"{name} {number}", durable=True)

    threads = [threading.Thread(target=call, args=(f"{name}",)) for name in range(callers)]
    with installed(commits):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(keys(database)) == rounds * callers
    assert commits.reached["writer.before-commit"] < rounds * callers / 2


def test_a_lone_caller_waits_for_nobody(database: Database) -> None:
    for number in range(3):
        put(database, f"{number}", durable=True)
    with database.writer._mutex:
        assert database.writer._group_size == 1
    assert not database.writer._expects_more()
