import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.content.read.world import blocks
from tests.support.platform import FailingDisk, ManualClock
from tgdav.content.read.disk_cache import CachedRange, CachedRanges, DiskCache, parse
from tgdav.disk import SystemDisk
from tgdav.ids import BlobName

PACK, OTHER = BlobName(b"p" * 16), BlobName(b"q" * 16)
MIB = 1 << 20


def make_cache(directory: Path, max_bytes: int = 10 * MIB, clock: ManualClock | None = None) -> DiskCache:
    cache = DiskCache(directory, max_bytes, disk=SystemDisk(), clock=clock or ManualClock())
    cache.start()
    cache.wait_for_scan()
    return cache


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(directory: Path) -> Iterator[DiskCache]:
    made = make_cache(directory)
    yield made
    made.close()


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in files(directory))


def test_a_range_and_any_part_of_it_can_be_read(cache: DiskCache) -> None:
    (data,) = blocks(1, [1000])
    cache.put(PACK, 500, data)
    assert cache.get(PACK, 500, 1000) == data
    assert cache.get(PACK, 600, 10) == data[100:110]
    assert cache.get(PACK, 499, 10) is None
    assert cache.get(PACK, 1495, 10) is None
    assert cache.get(OTHER, 500, 1000) is None
    assert cache.statistics().hits == 2
    assert cache.statistics().misses == 3


def test_only_the_owner_has_permissions(cache: DiskCache, directory: Path) -> None:
    cache.put(PACK, 0, b"sealed")
    assert [path.stat().st_mode & 0o777 for path in files(directory)] == [0o600]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o700}


def test_the_least_recently_used_range_is_removed_first(cache: DiskCache) -> None:
    for number in range(10):
        cache.put(PACK, number * MIB, bytes(MIB))
    assert cache.get(PACK, 0, 10) is not None
    cache.put(OTHER, 0, bytes(MIB))
    assert cache.get(PACK, 0, 10) is not None
    assert cache.get(PACK, MIB, 10) is None


def test_a_range_larger_than_the_cache_is_not_cached_and_evicts_nothing(cache: DiskCache) -> None:
    cache.put(PACK, 0, b"small")
    cache.put(OTHER, 0, bytes(11 * MIB))
    assert cache.get(PACK, 0, 5) == b"small"
    assert cache.statistics().bytes == 5


def test_a_cache_of_zero_bytes_removes_what_an_earlier_run_cached(directory: Path) -> None:
    make_cache(directory).put(PACK, 0, b"data")
    cache = make_cache(directory, 0)
    cache.put(PACK, 8, b"data")
    assert cache.get(PACK, 0, 4) is None
    assert files(directory) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pg"), st.integers(0, 30), st.integers(1, 40)), max_size=60))
def test_the_limit_holds_and_nothing_wrong_is_read(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    directory = tmp_path_factory.mktemp("cache")
    cache, pack = make_cache(directory, 100), bytes(range(100))
    for step, offset, length in steps:
        if step == "p":
            cache.put(PACK, offset, pack[offset : offset + length])
        else:
            assert cache.get(PACK, offset, length) in (None, pack[offset : offset + length])
        assert disk_bytes(directory) == cache.statistics().bytes <= 100
    assert len(files(directory)) == cache.statistics().chunks


def test_the_limit_holds_while_many_threads_write(directory: Path) -> None:
    cache = make_cache(directory, 4 * MIB)
    seen = []

    def write(seed: int) -> None:
        for number in range(40):
            cache.put(PACK, (seed * 40 + number) * MIB, bytes(MIB // 2))
            seen.append(disk_bytes_now(directory))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 160
    assert max(seen) <= 4 * MIB
    assert cache.statistics().bytes == disk_bytes(directory) > 2 * MIB


def disk_bytes_now(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def test_a_restart_keeps_the_cache_and_its_order(directory: Path) -> None:
    clock = ManualClock()
    first = make_cache(directory, 3 * MIB, clock)
    for number in range(3):
        clock.advance(1000)
        first.put(PACK, number * MIB, bytes(MIB))
        os.utime(files(directory)[-1], ns=(clock.now_ns(), clock.now_ns()))
    clock.advance(1000)
    first.get(PACK, 0, 10)
    first.close()
    second = make_cache(directory, 3 * MIB, clock)
    assert second.statistics().chunks == 3
    second.put(OTHER, 0, bytes(MIB))
    assert second.get(PACK, 0, 10) is not None
    assert second.get(PACK, MIB, 10) is None


def test_a_restart_removes_torn_and_foreign_files(directory: Path) -> None:
    make_cache(directory).put(PACK, 0, bytes(1000))
    (whole,) = files(directory)
    os.truncate(whole, 999)
    (whole.parent / "notes.txt").write_text("foreign")
    (whole.parent / f"{PACK.hex()}-00-4").write_text("four")
    assert make_cache(directory).statistics().chunks == 0
    assert files(directory) == []


def test_a_smaller_limit_holds_from_the_next_start_on(directory: Path) -> None:
    first = make_cache(directory)
    for number in range(8):
        first.put(PACK, number * MIB, bytes(MIB))
    assert make_cache(directory, 2 * MIB).statistics().bytes == 2 * MIB
    assert disk_bytes(directory) == 2 * MIB


def test_a_range_that_is_not_scanned_yet_is_written_again(directory: Path) -> None:
    make_cache(directory).put(PACK, 0, b"older")
    cache = DiskCache(directory, MIB, disk=SystemDisk(), clock=ManualClock())
    assert cache.get(PACK, 0, 5) is None
    cache.put(PACK, 0, b"newer")
    assert cache.get(PACK, 0, 5) == b"newer"
    cache.start()
    cache.wait_for_scan()
    assert cache.statistics().bytes == 5


def test_an_adopted_pack_replaces_its_ranges(cache: DiskCache, directory: Path, tmp_path: Path) -> None:
    (data,) = blocks(2, [100_000])
    cache.put(PACK, 100, data[100:200])
    staged = tmp_path / "staged"
    staged.write_bytes(data)
    assert cache.adopt(PACK, staged)
    staged.unlink()
    assert cache.get(PACK, 99_000, 1000) == data[99_000:]
    assert len(files(directory)) == cache.statistics().chunks == 1
    assert cache.statistics().bytes == 100_000


def test_a_file_that_cannot_be_adopted_is_not_touched(cache: DiskCache, tmp_path: Path) -> None:
    assert not cache.adopt(PACK, tmp_path / "nothing")
    (tmp_path / "large").write_bytes(bytes(11 * MIB))
    assert not cache.adopt(PACK, tmp_path / "large")
    assert (tmp_path / "large").stat().st_size == 11 * MIB


def test_an_adopted_file_is_never_overwritten(cache: DiskCache, directory: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.write_bytes(b"original")
    cache.adopt(PACK, staged)
    again = DiskCache(directory, MIB, disk=SystemDisk(), clock=ManualClock())
    again.put(PACK, 0, b"changed!")
    assert staged.read_bytes() == b"original"
    assert again.get(PACK, 0, 8) == b"changed!"


def test_a_missing_file_is_a_miss_and_its_range_is_dropped(cache: DiskCache, directory: Path) -> None:
    cache.put(PACK, 0, b"data")
    files(directory)[0].unlink()
    assert cache.get(PACK, 0, 4) is None
    assert cache.statistics().chunks == 0


def test_dropping_removes_all_ranges_with_these_bytes(cache: DiskCache) -> None:
    cache.put(PACK, 0, bytes(100))
    cache.put(PACK, 200, bytes(100))
    cache.drop(PACK, 50, 1)
    assert cache.get(PACK, 0, 100) is None
    assert cache.get(PACK, 200, 100) is not None


def test_evicting_frees_at_least_the_requested_bytes(cache: DiskCache, directory: Path) -> None:
    for number in range(8):
        cache.put(PACK, number * MIB, bytes(MIB))
    assert cache.evict(3 * MIB - 5) == 3 * MIB
    assert disk_bytes(directory) == 5 * MIB
    assert cache.evict(100 * MIB) == 5 * MIB


def test_clearing_removes_the_files_of_an_earlier_run_too(directory: Path) -> None:
    make_cache(directory).put(PACK, 0, b"data")
    cache = DiskCache(directory, MIB, disk=SystemDisk(), clock=ManualClock())
    cache.start()
    cache.put(OTHER, 0, b"data")
    cache.clear()
    assert files(directory) == []
    assert cache.statistics().bytes == 0


def test_a_full_disk_evicts_the_oldest_without_an_error(directory: Path) -> None:
    disk = FailingDisk()
    cache = DiskCache(directory, 10 * MIB, disk=disk, clock=ManualClock())
    cache.put(PACK, 0, bytes(MIB))
    disk.fail("write", errno.ENOSPC)
    cache.put(OTHER, 0, b"next")
    assert cache.get(OTHER, 0, 4) == b"next"
    assert cache.get(PACK, 0, 4) is None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_stays_full_or_fails_leaves_no_file(directory: Path, error: int) -> None:
    disk = FailingDisk()
    cache = DiskCache(directory, 10 * MIB, disk=disk, clock=ManualClock())
    disk.fail("write", error, times=None)
    cache.put(PACK, 0, bytes(1000))
    assert cache.get(PACK, 0, 4) is None
    assert files(directory) == []
    assert cache.statistics().bytes == 0
    disk.heal()
    cache.put(PACK, 0, bytes(1000))
    assert cache.get(PACK, 0, 4) is not None


def test_a_file_that_cannot_be_removed_is_dropped_from_the_index(directory: Path) -> None:
    disk = FailingDisk()
    cache = DiskCache(directory, 10 * MIB, disk=disk, clock=ManualClock())
    cache.put(PACK, 0, bytes(1000))
    disk.fail("unlink", errno.EIO)
    assert cache.evict(1) == 1000
    assert cache.statistics().chunks == 0


def test_file_names_encode_ranges() -> None:
    entry = CachedRange(PACK, 0x1234, 0x56)
    assert entry.file == f"{PACK.hex()}-1234-56"
    assert parse(entry.file) == entry
    for wrong in ("", "a-b-c", f"{PACK.hex()}-01-2", f"{PACK.hex()}-1-0", f"{PACK.hex()}-1", f"{PACK.hex()}--1-2"):
        assert parse(wrong) is None, wrong


def test_ranges_count_each_once() -> None:
    ranges, entry = CachedRanges(), CachedRange(PACK, 0, 10)
    ranges.add(entry, 1)
    ranges.add(entry, 2)
    assert ranges.used == 10
    assert ranges.remove(entry)
    assert not ranges.remove(entry)
    assert ranges.used == 0
    assert entry not in ranges
