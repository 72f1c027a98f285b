"""Lazy jobs: answered at once, committed together a moment later, seen by all; a kill loses none, a power cut only the last."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.db.conftest import KEY
from tests.db.test_crashes import found, left_behind, put_pair
from tests.db.test_writer import PUT, Batch, File, keys, put
from tests.support import forgetful_disk
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.platform import CrashAt, FailingDisk, SimulatedCrash
from tests.support.waiting import wait_for
from tgdav.db import Database, Transaction, lazy_batch
from tgdav.db import database as database_module
from tgdav.disk import SystemDisk
from tgdav.errors import LocalFailure, NoSpace, TgdavError, WouldBlock
from tgdav.failpoints import installed


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def database(path: Path, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """One that does not commit by itself before a test is over."""
    monkeypatch.setattr(lazy_batch, "COMMIT_DELAY_SECONDS", 60)
    opened = Database.open(path, KEY, disk=disk)
    begin_redo_log(opened)
    disk.calls.clear()
    yield opened
    opened.close()


def begin_redo_log(database: Database) -> None:
    """Do what the first lazy job of a process does, which is committed at once."""
    database.writer.run(lambda t: t.execute("DELETE FROM settings WHERE key = 'nothing'"), lazy=True)


def committed(path: Path, folder: Path) -> set[str]:
    """Return what is committed."""
    left = left_behind(path, folder)
    for log in folder.glob("*-redo-*"):
        log.unlink()
    return shown(left)


def answered(path: Path, folder: Path) -> set[str]:
    """Return what a process killed now leaves."""
    return shown(left_behind(path, folder))


def shown(path: Path) -> set[str]:
    opened = Database.open(path, KEY, disk=SystemDisk())
    try:
        return keys(opened)
    finally:
        opened.close()


def test_they_share_a_commit_that_comes_by_itself(path: Path) -> None:
    database = Database.open(path, KEY, disk=SystemDisk())
    begin_redo_log(database)
    commits = CrashAt()
    with installed(commits):
        for number in range(5):
            put(database, f"{number}", lazy=True)
        wait_for(lambda: database.writer._lazy_batch is None, what="the commit")
    assert commits.reached["writer.before-commit"] == 1
    assert commits.reached["writer.before-wal-sync"] == 0
    assert keys(database) == set("01234")
    put(database, "again", lazy=True)
    wait_for(lambda: database.writer._lazy_batch is None, what="the next commit")
    database.close()


def test_whoever_reads_sees_them(database: Database, path: Path, tmp_path: Path) -> None:
    put(database, "a", lazy=True)
    assert committed(path, tmp_path / "before") == set()
    assert keys(database) == {"a"}
    put(database, "b", lazy=True)
    count = "SELECT count(*) FROM settings WHERE length(key) = 1"
    with database.autocommit_reader() as connection:
        assert connection.one(count) == (2,)
    put(database, "c", lazy=True)
    with database.autocommit_reader(committed=True) as connection:
        assert connection.one(count) == (2,)
    assert committed(path, tmp_path / "after") == {"a", "b"}


@pytest.mark.parametrize("how", ["durable", "plain", "sync", "exclusively", "full", "file"])
def test_what_comes_after_them_takes_them_along(
    database: Database, disk: FailingDisk, path: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, "a", lazy=True)
    put(database, "b", lazy=True)
    match how:
        case "sync":
            database.writer.sync()
        case "exclusively":
            assert not database.writer.exclusively(lambda: database._connection.in_transaction)
        case "full":
            monkeypatch.setattr(lazy_batch, "MAX_JOBS", 3)
            put(database, "c", lazy=True)
        case "file":
            put(database, "c", sync=[File()])
        case _:
            put(database, "c", durable=how == "durable")
    assert committed(path, tmp_path / "left") >= {"a", "b"}
    assert bool(disk.names("sync")) == (how in ("durable", "sync"))


def test_who_only_looks_does_not_wait_for_files(database: Database) -> None:
    seen: list[set[str]] = []

    class Slow:
        def sync(self) -> None:
            looking = threading.Thread(target=lambda: seen.append(keys(database)))
            looking.start()
            looking.join(20)

    put(database, "a", lazy=True)
    put(database, "b", sync=[Slow()])
    assert seen == [{"a"}]


def test_a_kill_loses_nothing(database: Database, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_batch, "MAX_JOBS", 3)
    for number in range(8):
        put(database, f"{number}", lazy=True)
        left = committed(path, tmp_path / f"committed{number}")
        assert left == {f"{each}" for each in range(len(left))}
        assert len(left) == (number + 1) // 3 * 3
        assert answered(path, tmp_path / f"left{number}") == {f"{each}" for each in range(number + 1)}


def test_a_crash_at_any_step_leaves_all_that_was_answered(tmp_path: Path) -> None:
    counter, done = CrashAt(), 0
    while not done or counter.crashed_at:
        done += 1
        folder = tmp_path / f"{done}"
        folder.mkdir()
        counter, acknowledged = CrashAt(done), [0]
        database = Database.open(folder / "main.db", KEY, disk=SystemDisk())
        with installed(counter), suppress(SimulatedCrash):
            _write_some(database, acknowledged)
        left = found(left_behind(folder / "main.db", folder / "left"))
        assert left == {f"{number}" for number in range(len(left))}
        assert acknowledged[-1] <= len(left) <= acknowledged[-1] + 1
        if counter.crashed_at:
            with pytest.raises(LocalFailure):
                put(database, "later", lazy=True)
        database.close()
    assert done > 30


def _write_some(database: Database, acknowledged: list[int]) -> None:
    for number in range(12):
        asks = number % 4 == 3
        database.writer.run(lambda t, name=f"{number}": put_pair(t, name), durable=asks, lazy=True)
        acknowledged.append(number + 1)


def test_a_failing_one_undoes_itself_alone(database: Database) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.execute("INSERT INTO settings VALUES ('bad', x'00')")
        raise ValueError("no")

    for name in ("a", "b"):
        with pytest.raises(ValueError, match="no"):
            database.writer.run(fail, lazy=True)
        put(database, name, lazy=True)
    assert keys(database) == {"a", "b"}


def test_callbacks_that_need_the_commit_wait_for_it(database: Database) -> None:
    order: list[str] = []

    def work(transaction: Transaction, name: str) -> None:
        transaction.after_commit(lambda: order.append(f"{name} committed {database._connection.in_transaction}"))
        transaction.when_done(lambda: order.append(f"{name} done"))

    database.writer.run(lambda t: work(t, "a"), lazy=True)
    database.writer.run(lambda t: work(t, "b"), lazy=True)
    assert order == ["a done", "b done"]
    database.writer.run(lambda t: work(t, "c"))
    assert order[2:] == ["a committed False", "b committed False", "c committed False", "c done"]


@pytest.mark.parametrize("gathers", [True, False])
def test_what_a_job_would_see_too_little_by_is_refused(database: Database, gathers: bool) -> None:
    """Always, not only when something happens to be gathered."""
    if gathers:
        put(database, "a", lazy=True)

    def glance(_: Transaction) -> None:
        with database.autocommit_reader():
            raise AssertionError

    def read_when_done(transaction: Transaction) -> None:
        transaction.execute(PUT, {"key": "b"})
        transaction.when_done(lambda: keys(database) and None)

    with pytest.raises(RuntimeError, match="own transaction"):
        database.writer.run(glance)
    with pytest.raises(RuntimeError, match="own transaction"):
        database.writer.run(read_when_done, lazy=True)
    assert keys(database) == ({"a", "b"} if gathers else {"b"})


def test_what_cannot_be_committed_ends_all_writing_and_is_there_at_the_next_start(
    database: Database, path: Path, tmp_path: Path
) -> None:
    lost: list[str] = []
    database.writer.on_loss(lambda: lost.append("lost"))
    put(database, "before")
    [(pages,)] = database.writer.run(lambda t: t.all("PRAGMA page_count"))
    database.writer.exclusively(lambda: database._connection.all(f"PRAGMA max_page_count = {pages + 2}"))
    put(database, "answered", lazy=True)
    with pytest.raises(NoSpace):
        database.writer.run(lambda t: t.execute("INSERT INTO settings VALUES ('big', zeroblob(400000))"), lazy=True)
    assert lost == ["lost"]
    with pytest.raises(LocalFailure, match="read-only until restarted"):
        database.writer.sync()
    assert keys(database) == {"before"}
    database.close()
    assert answered(path, tmp_path / "left") == {"before", "answered"}


def test_what_waits_when_writing_ends_is_seen_by_nobody_until_the_next_start(
    database: Database, path: Path, tmp_path: Path
) -> None:
    lost: list[str] = []
    database.writer.on_loss(lambda: lost.append("lost"))
    put(database, "a", lazy=True)
    database.writer.poison("the disk is gone")
    assert keys(database) == set()
    assert lost == ["lost"]
    database.close()
    assert answered(path, tmp_path / "left") == {"a"}


def test_nothing_is_gathered_on_a_disk_that_is_nearly_full(
    database: Database, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "ROOM_BYTES", 1 << 62)
    put(database, "a", lazy=True)
    assert committed(path, tmp_path / "left") == {"a"}


def test_what_is_to_be_done_at_once_is_done_or_refused(
    database: Database, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_batch, "MAX_JOBS", 3)
    put(database, "a", lazy=True, nowait=True)
    put(database, "b", lazy=True, nowait=True)
    refused = [{"lazy": True}, {"lazy": True, "durable": True}, {}]
    for options in refused:  # the first would make the transaction full
        with pytest.raises(WouldBlock):
            put(database, "c", nowait=True, **options)
    assert committed(path, tmp_path / "left") == set()
    assert keys(database) == {"a", "b"}
    batch = Batch(database)
    with pytest.raises(WouldBlock):
        put(database, "c", lazy=True, nowait=True)
    batch.finish()
    put(database, "c", lazy=True, nowait=True)
    with pytest.raises(ZeroDivisionError):
        database.writer.run(lambda _: 1 // 0, lazy=True, nowait=True)
    monkeypatch.setattr(database_module, "ROOM_BYTES", 1 << 62)
    assert keys(database) == {"a", "b", "c"}
    with pytest.raises(WouldBlock):
        put(database, "d", lazy=True, nowait=True)


def test_closing_keeps_them(path: Path) -> None:
    database = Database.open(path, KEY, disk=SystemDisk())
    put(database, "a", lazy=True)
    database.close()
    database = Database.open(path, KEY, disk=SystemDisk())
    assert keys(database) == {"a"}
    database.close()


def test_many_threads_lose_nothing_and_see_their_own(path: Path) -> None:
    database = Database.open(path, KEY, disk=SystemDisk())
    missed: list[str] = []

    def write(name: str) -> None:
        for number in range(60):
            put(database, f"{name}.{number}", durable=number % 7 == 0, lazy=number % 3 != 0)
            if number % 5 == 0 and f"{name}.{number}" not in keys(database):
                missed.append(f"{name}.{number}")

    threads = [threading.Thread(target=write, args=(f"{name}",)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert missed == []
    assert len(keys(database)) == 8 * 60
    database.close()


@pytest.mark.skipif(not forgetful_disk.usable(), reason="FUSE cannot be used here")
def test_a_power_cut_leaves_a_beginning_with_all_that_was_durable(tmp_path: Path) -> None:
    for seed in range(4):
        durable = [0]
        with ForgetfulDisk(tmp_path / f"backing{seed}", tmp_path / f"disk{seed}", seed) as disk:
            disk.cut_when(after=60 + 31 * seed, ops=["write", "fsync"], suffix="")
            with suppress(TgdavError, OSError):
                database = Database.open(disk.path / "main.db", KEY, disk=SystemDisk())
                with suppress(TgdavError, OSError):
                    for _ in range(20):
                        _write_numbered(database, durable)
                with suppress(TgdavError, OSError):
                    database.close()
            disk.power_cut()
        left = found(disk.backing / "main.db")
        assert left == {f"{number}" for number in range(len(left))}
        assert len(left) >= durable[-1]


def _write_numbered(database: Database, durable: list[int]) -> None:
    first = durable[-1]
    for number in range(first, first + 9):
        asks = number == first + 8
        database.writer.run(lambda t, name=f"{number}": put_pair(t, name), durable=asks, lazy=True)
    durable.append(first + 9)


def test_the_end_is_heard_whenever_it_comes() -> None:
    """Also between the moment a transaction was given and the next wait."""
    timer = lazy_batch.CommitTimer(lambda: None)

    class EndsJustThen(threading.Event):
        def clear(self) -> None:
            timer._stopped.set()
            self.set()
            super().clear()

    timer._started = EndsJustThen()
    timer.start()
    thread = timer._thread
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()


def test_a_job_reads_its_own_transaction(database: Database) -> None:
    """What was done in it before, and what is gathered, is there; another connection would show neither."""
    put(database, "a", lazy=True)

    def job(transaction: Transaction) -> set[str]:
        transaction.execute(PUT, {"key": "b"})
        return keys(database)

    assert database.writer.run(job) == {"a", "b"}
