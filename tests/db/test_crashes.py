"""What stands after the process dies at each step, and after the power goes."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.db.conftest import KEY
from tests.support import forgetful_disk
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.platform import CrashAt, SimulatedCrash
from tgdav.db import Database, Transaction
from tgdav.db.connection import connect
from tgdav.db.redo_log import SETTING
from tgdav.disk import SystemDisk
from tgdav.errors import LocalFailure, TgdavError
from tgdav.failpoints import installed

PUT = "INSERT INTO settings VALUES (:key, zeroblob(:size))"


def put_pair(transaction: Transaction, name: str, size: int = 1000) -> None:
    for part in ("a", "b"):
        transaction.execute(PUT, {"key": f"{name}.{part}", "size": size})


def found(path: Path) -> set[str]:
    """Return the jobs whose rows are there, after checking that none is there by half and no page is bad."""
    database = Database.open(path, KEY, disk=SystemDisk())
    with database.reading() as connection:
        assert connection.all("PRAGMA integrity_check") == [("ok",)]
        rows = [row[0] for row in connection.all("SELECT key FROM settings WHERE key != ?", (SETTING,))]
    database.checkpoint(pages=1)  # a page torn in the database is no damage while the log holds it
    with database.reading() as connection:
        assert connection.all("PRAGMA cipher_integrity_check") == []
    database.close()
    names = {row.removesuffix(".a").removesuffix(".b") for row in rows}
    assert len(rows) == 2 * len(names), "a job is there by half"
    return names


def left_behind(path: Path, target: Path) -> Path:
    """Copy what a killed process leaves: the database and its logs as they are, the memory-mapped index gone."""
    target.mkdir()
    for file in path.parent.glob(path.name + "*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, target / file.name)
    return target / path.name


def write_jobs(database: Database, acknowledged: list[str]) -> None:
    for number in range(6):
        name = f"{number}"
        database.writer.run(lambda t, name=name: put_pair(t, name), durable=number % 2 == 0)
        acknowledged.append(name)
        if number == 3:
            database.checkpoint(pages=1)


def test_whoever_was_answered_is_there_after_a_crash_at_any_step(tmp_path: Path) -> None:
    counter = CrashAt()
    database = Database.open(tmp_path / "count.db", KEY, disk=SystemDisk())
    with installed(counter):
        write_jobs(database, [])
    database.close()
    assert {name for name in counter.reached if name.startswith("writer.")} == {
        f"writer.{when}-{step}" for when in ("before", "after") for step in ("sync", "commit", "wal-sync")
    }
    for number in range(1, counter.total + 1):
        _crash_at(number, tmp_path / f"{number}")


def _crash_at(number: int, folder: Path) -> None:
    folder.mkdir()
    database = Database.open(folder / "main.db", KEY, disk=SystemDisk())
    acknowledged: list[str] = []
    crash = CrashAt(number)
    with installed(crash), pytest.raises(SimulatedCrash):
        write_jobs(database, acknowledged)
    left = left_behind(folder / "main.db", folder / "left")
    with pytest.raises(LocalFailure):
        database.writer.run(lambda t: put_pair(t, "later"))
    database.close()
    names = found(left)
    assert set(acknowledged) <= names
    beyond = {f"{len(acknowledged)}"} if crash.crashed_at != "writer.before-commit" else set()
    assert names - set(acknowledged) <= beyond


def test_a_crash_while_the_database_is_made_leaves_one_that_opens(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4, 5, 6):
        path = tmp_path / f"{number}.db"
        with installed(CrashAt(number)), suppress(SimulatedCrash):
            Database.open(path, KEY, disk=SystemDisk()).close()
        assert found(path) == set()
    connect(tmp_path / "empty.db", KEY, cache_kib=1000).close()
    assert found(tmp_path / "empty.db") == set()


@pytest.mark.skipif(not forgetful_disk.usable(), reason="FUSE cannot be used here")
def test_a_power_cut_takes_nothing_that_was_durable(tmp_path: Path) -> None:
    """Also where the log is folded back and starts anew; and the disk does lose what was only committed."""
    lost = 0
    for seed in range(6):
        with ForgetfulDisk(tmp_path / f"backing{seed}", tmp_path / f"disk{seed}", seed) as disk:
            disk.cut_when(after=120 + 97 * seed, ops=["write", "fsync"], suffix="")
            committed, durable = _write_until_the_power_goes(disk.path / "main.db")
            disk.power_cut()
        names = found(disk.backing / "main.db")
        assert durable <= names, f"seed {seed}"
        lost += len(committed - names)
    assert lost > 0, "the disk forgot nothing: this proves nothing"


def _write_until_the_power_goes(path: Path) -> tuple[set[str], set[str]]:
    committed: set[str] = set()
    durable: set[str] = set()
    try:
        database = Database.open(path, KEY, disk=SystemDisk())
    except (TgdavError, OSError):
        return committed, durable

    def write(thread: int) -> None:
        for number in range(60):
            name = f"{thread}.{number}"
            asks = number % 5 == 4
            with suppress(TgdavError):
                database.writer.run(lambda t, name=name: put_pair(t, name), durable=asks)
                (durable if asks else committed).add(name)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with suppress(TgdavError):
            database.checkpoint(pages=30)
    for thread in threads:
        thread.join()
    with suppress(TgdavError, OSError):
        database.close()
    return committed, durable
