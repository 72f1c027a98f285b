"""The fakes for time, randomness, disk calls and failpoints work as the tests assume."""

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.support.platform import (
    CrashAt,
    DiskCall,
    FailingDisk,
    ManualClock,
    RecordingDisk,
    SeededEntropy,
    SimulatedCrash,
)
from tgdav.failpoints import failpoint, installed


def test_the_clock_moves_only_when_moved() -> None:
    clock = ManualClock(5_000_000_000, 1.0)
    clock.advance(2.5)
    assert (clock.now_ns(), clock.monotonic()) == (7_500_000_000, 3.5)
    clock.set_wall(1)
    assert (clock.now_ns(), clock.monotonic()) == (1, 3.5)


def test_entropy_repeats_for_its_seed_only() -> None:
    drawn = [SeededEntropy(seed).bytes(16) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    entropy = SeededEntropy(1)
    assert entropy.bytes(16) != entropy.bytes(16)


def test_a_crash_comes_at_the_chosen_reach_and_lasts() -> None:
    crash = CrashAt(2, only="journal.")
    raised: list[BaseException] = []

    def other_thread() -> None:
        try:
            failpoint("disk.sync")
        except SimulatedCrash as error:
            raised.append(error)

    with installed(crash):
        failpoint("journal.before")
        failpoint("disk.sync")
        with pytest.raises(SimulatedCrash, match=r"journal\.after"):
            failpoint("journal.after")
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert (crash.crashed_at, crash.total, len(raised)) == ("journal.after", 2, 1)
    assert crash.reached == {"journal.before": 1, "disk.sync": 1, "journal.after": 1}
    assert not isinstance(SimulatedCrash(), Exception)


def test_the_recording_disk_does_and_notes_each_call(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with open(tmp_path / "a", "w+b") as file:
        disk.write(file.fileno(), b"content", 0)
        disk.truncate(file.fileno(), 4)
        disk.sync(file.fileno())
    disk.link(tmp_path / "a", tmp_path / "b")
    disk.rename(tmp_path / "a", tmp_path / "c")
    disk.unlink(tmp_path / "b")
    disk.sync_directory(tmp_path)
    with pytest.raises(FileNotFoundError):
        disk.unlink(tmp_path / "b")
    assert os.listdir(tmp_path) == ["c"]
    assert (tmp_path / "c").read_bytes() == b"cont"
    assert [one.call for one in disk.calls] == [
        "write",
        "truncate",
        "sync",
        "link",
        "rename",
        "unlink",
        "sync_directory",
    ]
    assert disk.calls[4] == DiskCall("rename", ("a", "c"))
    assert disk.names("sync") == ["a"]


def test_the_failing_disk_fails_the_chosen_calls_only(tmp_path: Path) -> None:
    disk = FailingDisk()
    disk.fail("sync", errno.EIO, number=2, suffix="-wal")
    with open(tmp_path / "x-wal", "wb") as wal, open(tmp_path / "pack", "wb") as pack:
        disk.sync(wal.fileno())
        disk.sync(pack.fileno())
        with pytest.raises(OSError) as refused:
            disk.sync(wal.fileno())
        disk.sync(wal.fileno())
        assert refused.value.errno == errno.EIO
        disk.fail("write", errno.ENOSPC, times=None)
        for _ in range(2):
            with pytest.raises(OSError):
                disk.write(pack.fileno(), b"x", 0)
        disk.heal()
        disk.write(pack.fileno(), b"x", 0)
    assert disk.failed == [DiskCall("sync", ("x-wal",)), *[DiskCall("write", ("pack",))] * 2]
    with pytest.raises(ValueError, match="no such call"):
        disk.fail("fsync", errno.EIO)
