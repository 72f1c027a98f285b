import os
import threading
from pathlib import Path

import pytest

from tests.content.world import ManualClock
from tests.support.waiting import wait_for
from tgdav.content.staging.quota import DEFAULT_LIMIT, StagingQuota
from tgdav.errors import LocalFailure, NoSpace

MIB = 1024 * 1024


def test_without_a_setting_the_limit_is_half_of_the_free_disk(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    quota = StagingQuota(tmp_path, None, ManualClock())
    assert 0 < quota.limit() <= min(DEFAULT_LIMIT, disk.f_blocks * disk.f_frsize // 2)


def test_writers_cannot_use_the_reserve(tmp_path: Path) -> None:
    quota = StagingQuota(tmp_path, 1000 * MIB, ManualClock(), reserve=64 * MIB)
    quota.charge(930 * MIB)
    assert quota.fits(6 * MIB)
    assert not quota.fits(7 * MIB)
    quota.charge(60 * MIB)
    assert quota.used == 990 * MIB


def test_staging_is_nearly_full_at_four_fifths(tmp_path: Path) -> None:
    quota = StagingQuota(tmp_path, 100 * MIB, ManualClock(), reserve=0)
    quota.charge(79 * MIB)
    assert not quota.is_nearly_full
    quota.charge(MIB)
    assert quota.is_nearly_full


def test_a_full_disk_refuses_writers_below_the_limit(tmp_path: Path) -> None:
    clock = ManualClock()
    quota = StagingQuota(tmp_path, 1 << 60, clock)
    quota.on_shortage = lambda: clock.move(30)
    with pytest.raises(NoSpace):
        quota.admit(1 << 58)


def test_a_waiting_writer_continues_when_space_is_freed(tmp_path: Path) -> None:
    quota, waited = StagingQuota(tmp_path, 10 * MIB, ManualClock(), reserve=0), threading.Event()
    quota.on_shortage = waited.set
    quota.charge(10 * MIB)
    writer = threading.Thread(target=quota.admit, args=(MIB,))
    writer.start()
    wait_for(waited.is_set, what="the writer to wait")
    assert writer.is_alive()
    quota.charge(-MIB)
    writer.join(10)
    assert not writer.is_alive()


def test_a_missing_directory_is_a_local_failure(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure):
        StagingQuota(tmp_path / "gone", None, ManualClock()).limit()


def test_a_writer_waits_only_briefly_if_uploading_frees_nothing(tmp_path: Path) -> None:
    """Nothing is staged, so uploading frees nothing; the message names the disk's reserve."""
    clock, calls = ManualClock(), 0
    quota = StagingQuota(tmp_path, 1 << 60, clock)

    def on_shortage() -> None:
        nonlocal calls
        calls += 1
        clock.move(1)

    quota.on_shortage = on_shortage
    with pytest.raises(NoSpace, match="are reserved") as refused:
        quota.admit(1 << 58)
    assert calls == 2
    assert str(tmp_path) in str(refused.value)


def test_the_error_names_the_limit(tmp_path: Path) -> None:
    clock = ManualClock()
    quota = StagingQuota(tmp_path, 10 * MIB, clock, reserve=0)
    quota.on_shortage = lambda: clock.move(30)
    quota.charge(10 * MIB)
    with pytest.raises(NoSpace, match="10 MiB wait to be stored, and the limit is 10 MiB"):
        quota.admit(MIB)


def test_waiting_writers_fail_when_the_process_stops(tmp_path: Path) -> None:
    quota, waited = StagingQuota(tmp_path, 10 * MIB, ManualClock(), reserve=0), threading.Event()
    quota.on_shortage = waited.set
    quota.charge(10 * MIB)
    refused: list[NoSpace] = []

    def write() -> None:
        try:
            quota.admit(MIB)
        except NoSpace as error:
            refused.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(waited.is_set, what="the writer to wait")
    quota.stop_waiting()
    writer.join(10)
    assert refused
