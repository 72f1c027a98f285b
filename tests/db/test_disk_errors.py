"""The local disk fills up or fails under SQLite itself."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.db.conftest import KEY
from tests.db.test_crashes import found, put_pair
from tests.support import forgetful_disk
from tests.support.forgetful_disk import ForgetfulDisk
from tgdav.db import Database
from tgdav.disk import SystemDisk
from tgdav.errors import LocalFailure, NoSpace, TgdavError

pytestmark = pytest.mark.skipif(not forgetful_disk.usable(), reason="FUSE cannot be used here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ForgetfulDisk]:
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def database(disk: ForgetfulDisk) -> Iterator[Database]:
    opened = Database.open(disk.path / "main.db", KEY, disk=SystemDisk())
    yield opened
    with suppress(TgdavError):
        opened.close()


def put(database: Database, name: str, *, durable: bool = False, size: int = 1000) -> None:
    database.writer.run(lambda t: put_pair(t, name, size), durable=durable)


def test_a_full_disk_refuses_and_takes_changes_again_once_there_is_room(
    database: Database, disk: ForgetfulDisk
) -> None:
    put(database, "before", durable=True)
    disk.limit(20_000)
    with pytest.raises((NoSpace, LocalFailure)) as caught:
        put(database, "big", size=2_000_000)
    assert isinstance(caught.value, NoSpace)
    disk.heal()
    put(database, "after", durable=True)
    disk.power_cut()
    assert found(disk.backing / "main.db") == {"before", "after"}


def test_no_room_to_grow_ahead_is_no_failure(database: Database, disk: ForgetfulDisk) -> None:
    put(database, "longer than the room ahead", size=2_000_000)
    disk.limit(100_000)
    put(database, "after", durable=True)
    assert disk.counts()["full"] > 0
    disk.heal()
    disk.power_cut()
    assert found(disk.backing / "main.db") == {"longer than the room ahead", "after"}


def test_a_failed_write_of_the_log_fails_its_job_alone(database: Database, disk: ForgetfulDisk) -> None:
    disk.fail("EIO", ops="write", suffix="-wal")
    with pytest.raises(LocalFailure):
        put(database, "failed")
    put(database, "after", durable=True)
    disk.power_cut()
    assert found(disk.backing / "main.db") == {"after"}


@pytest.mark.parametrize("file", ["-wal", "main.db"])
def test_a_checkpoint_whose_sync_fails_ends_writing(database: Database, disk: ForgetfulDisk, file: str) -> None:
    put(database, "before", durable=True)
    put(database, "committed")
    disk.fail("EIO", ops="fsync", suffix=file)
    with pytest.raises(LocalFailure):
        database.checkpoint(pages=1)
    with pytest.raises(LocalFailure, match="read-only until restarted"):
        put(database, "later")
    with database.reading() as connection:
        assert connection.one("SELECT count(*) FROM settings") == (4,)
    disk.power_cut()
    assert "before" in found(disk.backing / "main.db")


def test_a_checkpoint_on_a_full_disk_ends_nothing(database: Database, disk: ForgetfulDisk) -> None:
    put(database, "before", durable=True, size=50_000)
    disk.limit(0)
    with pytest.raises(NoSpace):
        database.checkpoint(pages=1)
    disk.heal()
    put(database, "after", durable=True)
    assert database.checkpoint(pages=1) > 0
    disk.power_cut()
    assert found(disk.backing / "main.db") == {"before", "after"}
