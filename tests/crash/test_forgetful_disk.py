"""The forgetful disk keeps synced data, loses other data at random, and fails on request."""

import errno
import fcntl
import mmap
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlcipher3

from tests.support.forgetful_disk import ForgetfulDisk, usable

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")

SEEDS = range(8)
Mount = Callable[[int], ForgetfulDisk]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a fresh disk with the given seed; all are unmounted at the end."""
    disks: list[ForgetfulDisk] = []

    def start(seed: int) -> ForgetfulDisk:
        disk = ForgetfulDisk(tmp_path / f"backing-{len(disks)}", tmp_path / f"disk-{len(disks)}", seed)
        disks.append(disk)
        disk.start()
        return disk

    yield start
    for disk in disks:
        disk.close()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_unsynced_bytes_are_lost_for_some_seeds_and_synced_ones_never(mount: Mount) -> None:
    synced, unsynced = random.randbytes(50_000), random.randbytes(50_000)
    after = set()
    for seed in SEEDS:
        disk = mount(seed)
        (disk.path / "synced").write_bytes(synced)
        (disk.path / "rewritten").write_bytes(synced)
        for path in (disk.path / "synced", disk.path / "rewritten", disk.path):
            sync(path)
        (disk.path / "rewritten").write_bytes(unsynced)
        report = disk.power_cut()
        assert (disk.backing / "synced").read_bytes() == synced
        found = (disk.backing / "rewritten").read_bytes()
        after.add(found)
        assert report.pages_kept + report.pages_lost > 0
        for at in range(0, len(found), 4096):
            page = found[at : at + 4096]
            assert synced[at:].startswith(page) or unsynced[at:].startswith(page) or not any(page.strip(b"\0"))
    assert synced in after
    assert len(after) > 2


def test_the_same_seed_gives_the_same_cut(mount: Mount) -> None:
    left = []
    for _ in range(2):
        disk = mount(5)
        for index in range(20):
            (disk.path / f"{index}").write_bytes(bytes([index]) * 9000)
        disk.power_cut()
        left.append({path.name: path.read_bytes() for path in disk.backing.iterdir()})
    assert left[0] == left[1]
    assert 0 < len(left[0]) <= 20


def test_names_are_durable_by_the_sync_of_their_folder_only(mount: Mount) -> None:
    outcomes = set()
    for seed in range(16):
        disk = mount(seed)
        (disk.path / "old").write_bytes(b"content")
        (disk.path / "replaced").write_bytes(b"before")
        for path in (disk.path / "old", disk.path / "replaced", disk.path):
            sync(path)
        os.replace(disk.path / "old", disk.path / "replaced")
        os.link(disk.path / "replaced", disk.path / "linked")
        os.unlink(disk.path / "replaced")
        assert sorted(os.listdir(disk.path)) == ["linked"]
        if seed % 2:
            sync(disk.path)
        disk.power_cut()
        left = {path.name: path.read_bytes() for path in disk.backing.iterdir()}
        assert left in (
            {"old": b"content", "replaced": b"before"},
            {"replaced": b"content"},
            {"replaced": b"content", "linked": b"content"},
            {"linked": b"content"},
        )
        if seed % 2:
            assert list(left) == ["linked"]
        outcomes.add(tuple(sorted(left)))
    assert ("old", "replaced") in outcomes


def test_a_synced_link_survives_the_loss_of_its_first_name(mount: Mount) -> None:
    for seed in SEEDS:
        disk = mount(seed)
        for folder in ("staging", "store"):
            (disk.path / folder).mkdir()
        sync(disk.path)
        (disk.path / "staging" / "pack").write_bytes(b"sealed" * 5000)
        sync(disk.path / "staging" / "pack")
        os.link(disk.path / "staging" / "pack", disk.path / "store" / "1")
        one, other = os.stat(disk.path / "staging" / "pack"), os.stat(disk.path / "store" / "1")
        assert (one.st_ino, one.st_nlink) == (other.st_ino, 2)
        sync(disk.path / "store")
        os.unlink(disk.path / "staging" / "pack")
        disk.power_cut()
        assert (disk.backing / "store" / "1").read_bytes() == b"sealed" * 5000


def test_a_folder_that_was_not_synced_into_its_parent_goes_with_all_in_it(mount: Mount) -> None:
    there = set()
    for seed in SEEDS:
        disk = mount(seed)
        (disk.path / "folder").mkdir()
        (disk.path / "folder" / "file").write_bytes(b"x")
        sync(disk.path / "folder" / "file")
        sync(disk.path / "folder")
        disk.power_cut()
        there.add((disk.backing / "folder" / "file").exists())
        assert not (disk.backing / "folder").exists() or (disk.backing / "folder" / "file").read_bytes() == b"x"
    assert there == {True, False}


def test_what_was_done_in_a_folder_that_is_gone_for_good_is_not_undone(mount: Mount) -> None:
    for seed in SEEDS:
        disk = mount(seed)
        (disk.path / "folder" / "below").mkdir(parents=True)
        (disk.path / "folder" / "file").write_bytes(b"content")
        (disk.path / "folder" / "file").unlink()
        (disk.path / "folder" / "below").rmdir()
        (disk.path / "folder").rmdir()
        sync(disk.path)
        disk.power_cut()
        assert list(disk.backing.iterdir()) == []


def test_what_programs_expect_of_a_file_system(mount: Mount) -> None:
    disk = mount(0)
    path = disk.path / "file"
    with open(path, "w+b") as file:
        file.truncate(8192)
        with mmap.mmap(file.fileno(), 8192) as shared, open(path, "r+b") as second:
            shared[5000:5005] = b"hello"
            with mmap.mmap(second.fileno(), 8192) as other:
                assert other[5000:5005] == b"hello"
        fcntl.flock(file, fcntl.LOCK_EX)
        with open(path, "rb") as second, pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.unlink(path)
        file.seek(0)
        file.write(b"still here")
        file.flush()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), 10, 0) == b"still here"
    with open(path, "ab") as file:
        file.write(b"one")
        file.write(b"two")
    assert path.read_bytes() == b"onetwo"
    os.utime(path, ns=(1_000, 2_000))
    path.chmod(0o640)
    assert (path.stat().st_mtime_ns, path.stat().st_mode & 0o777) == (2_000, 0o640)
    os.makedirs(disk.path / "a" / "b")
    with pytest.raises(OSError, match="not empty"):
        (disk.path / "a").rmdir()
    for index in range(300):
        (disk.path / "a" / f"{index}").touch()
    assert len(os.listdir(disk.path / "a")) == 301


def commit_until_cut(disk: ForgetfulDisk, synchronous: str, commits: int) -> int:
    """Commit rows 0…commits - 1, one a transaction, cut the power, and return the number of rows found after it."""
    with closing(sqlcipher3.connect(str(disk.path / "database"), isolation_level=None)) as database:
        database.execute("PRAGMA key = \"x'" + "ab" * 32 + "'\"")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
        database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, filler BLOB)")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(commits):
            database.execute("INSERT INTO rows VALUES (?, randomblob(3000))", (number,))
        disk.power_cut()
    with closing(sqlcipher3.connect(str(disk.backing / "database"))) as database:
        database.execute("PRAGMA key = \"x'" + "ab" * 32 + "'\"")
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(database.execute("SELECT count(*) FROM rows").fetchone()[0])


def test_a_database_that_syncs_each_commit_survives_twenty_cuts(mount: Mount) -> None:
    for seed in range(20):
        assert commit_until_cut(mount(seed), "FULL", 30) == 30


def test_a_database_that_does_not_sync_loses_commits(mount: Mount) -> None:
    lost = 0
    for seed in SEEDS:
        try:
            lost += commit_until_cut(mount(seed), "OFF", 30) < 30
        except (sqlcipher3.DatabaseError, AssertionError):
            lost += 1
    assert lost > 0


def test_the_nth_matching_call_fails_and_the_others_do_not(mount: Mount) -> None:
    disk = mount(0)
    (disk.path / "staging").mkdir()
    disk.fail("ENOSPC", after=2, ops="write", suffix="-wal")
    disk.fail("EIO", ops="fsync", under="staging")
    (disk.path / "x-wal").write_bytes(b"first")
    with pytest.raises(OSError, match="No space") as refused:
        (disk.path / "x-wal").write_bytes(b"second")
    assert refused.value.errno == errno.ENOSPC
    (disk.path / "x-wal").write_bytes(b"third")
    (disk.path / "staging" / "pack").write_bytes(b"bytes")
    sync(disk.path / "x-wal")
    with pytest.raises(OSError) as refused:
        sync(disk.path / "staging" / "pack")
    assert refused.value.errno == errno.EIO
    counts = disk.counts()
    assert (counts["failed"], counts["write"], counts["fsync"]) == (2, 4, 2)
    disk.fail("EIO", ops="mkdir", times=None)
    for _ in range(2):
        with pytest.raises(OSError):
            (disk.path / "folder").mkdir()
    disk.heal()
    (disk.path / "folder").mkdir()
    with pytest.raises(ValueError, match="no such operations"):
        disk.fail("EIO", ops="wirte")


def test_a_failed_sync_gives_its_pages_up_for_good(mount: Mount) -> None:
    survived = set()
    for seed in SEEDS:
        disk = mount(seed)
        with open(disk.path / "file", "wb", buffering=0) as file:
            sync(disk.path)
            disk.fail("EIO", ops="fsync")
            file.write(b"given up")
            with pytest.raises(OSError):
                os.fsync(file.fileno())
            os.fsync(file.fileno())
        disk.power_cut()
        survived.add((disk.backing / "file").read_bytes())
    assert survived == {b"given up", bytes(8)}


def test_a_full_disk_refuses_writes_until_room_is_made(mount: Mount) -> None:
    disk = mount(0)
    (disk.path / "old").write_bytes(b"x" * 50_000)
    disk.limit(10_000)
    assert os.statvfs(disk.path).f_bavail * os.statvfs(disk.path).f_frsize <= 10_000
    with pytest.raises(OSError, match="No space"):
        (disk.path / "new").write_bytes(b"y" * 20_000)
    assert os.stat(disk.path / "new").st_size == 10_000
    os.unlink(disk.path / "old")
    (disk.path / "new").write_bytes(b"y" * 20_000)
    disk.heal()
    (disk.path / "new").write_bytes(b"y" * 200_000)


def test_the_power_goes_at_a_chosen_call(mount: Mount) -> None:
    disk = mount(0)
    disk.cut_when(after=2, ops="fsync")
    (disk.path / "file").write_bytes(b"1")
    sync(disk.path / "file")
    assert not disk.is_cut()
    with pytest.raises(OSError):
        sync(disk.path / "file")
    assert disk.is_cut()
    with pytest.raises(OSError):
        (disk.path / "other").touch()
    disk.power_cut()
    assert not (disk.backing / "other").exists()
    disk.start()
    (disk.path / "other").touch()


def test_an_orderly_end_keeps_everything_and_leaves_nothing_mounted(tmp_path: Path) -> None:
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk") as disk:
        (disk.path / "file").write_bytes(b"kept")
        (disk.path / "gone").touch()
        (disk.path / "gone").unlink()
        with closing(sqlite3.connect(disk.path / "plain")) as database:
            database.execute("CREATE TABLE t (a)")
    assert sorted(os.listdir(tmp_path)) == ["backing", "disk"]
    assert sorted(os.listdir(tmp_path / "backing")) == ["file", "plain"]
    assert os.listdir(tmp_path / "disk") == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
