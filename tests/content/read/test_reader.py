import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.content.read.world import ReadingWorld, RemoteStore, WatchedStore, blocks
from tests.support.damage import flip_bit
from tests.support.faulty_store import AwayStore, First, SlowStore, always
from tests.support.waiting import wait_for
from tgdav.content import chunk_table
from tgdav.content.format.manifest import EMPTY, Extent, Manifest
from tgdav.content.read.chunk_loader import WINDOW
from tgdav.content.read.reader import ReadSettings
from tgdav.db import lazy_batch
from tgdav.errors import StoreUnavailable
from tgdav.ids import BlobId

SIZES = [300_000, 500_000, 100_000, 250_000, 400_000, 7]
AHEAD = ReadSettings(prefetch_count=2)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ReadingWorld]:
    made = ReadingWorld(tmp_path)
    yield made
    made.close()


def whole(world: ReadingWorld, manifest: Manifest) -> bytes:
    return world.reader.read(manifest, 0, manifest.size)


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_random_ranges_equal_the_plain_bytes_wherever_the_chunks_are(world: ReadingWorld) -> None:
    contents = [*blocks(1, SIZES), b"a" * 200_000, b"small", *blocks(2, [20_000, 3_000])]
    holes = Manifest((Extent(70_000, None),))
    parts = [world.store_pack(contents[:4]), holes, world.stage_rows(contents[6:8]), holes]
    parts += [world.stage_pack(contents[4:6])[0], world.store_pack(contents[8:]), world.store_pack(contents[:1])]
    manifest = Manifest(tuple(extent for part in parts for extent in part.extents))
    zeros = bytes(70_000)
    plain = b"".join([*contents[:4], zeros, *contents[6:8], zeros, *contents[4:6], *contents[8:], contents[0]])

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(plain) + 10), st.integers(0, 2_000_000), st.booleans())
    def ranges(offset: int, length: int, clear: bool) -> None:
        if clear:
            world.reader.clear()
        assert world.reader.read(manifest, offset, length) == plain[offset : offset + length]

    ranges()
    assert not world.damage


def test_empty_ranges_and_ranges_after_the_end_are_empty(world: ReadingWorld) -> None:
    manifest = world.stage_rows([b"abc"])
    assert world.reader.read(EMPTY, 0, 10) == b""
    assert world.reader.read(manifest, 3, 10) == b""
    assert world.reader.read(manifest, 1, 0) == b""
    assert world.reader.read(manifest, 1, -1) == b""


def test_the_memory_stays_within_its_bound_and_serves_again(tmp_path: Path) -> None:
    world = ReadingWorld(tmp_path, settings=ReadSettings(memory_bytes=1_000_000), cache_bytes=0)
    contents = blocks(3, [400_000] * 6)
    manifest = world.store_pack(contents)
    assert whole(world, manifest) == b"".join(contents)
    before = world.fetched
    assert world.reader.read(manifest, 5 * 400_000, 10) == contents[5][:10]
    assert world.fetched == before
    assert world.reader._chunks.used == 800_000
    world.close()


# ---- what is fetched -------------------------------------------------------------------------------------------------


def test_a_small_read_of_a_cold_file_fetches_the_chunks_it_touches_and_no_more(world: ReadingWorld) -> None:
    choose = random.Random(4)
    contents = blocks(4, [choose.randrange(256 << 10, (2 << 20) - (64 << 10)) for _ in range(24)])
    manifest = world.store_pack(contents)
    plain = b"".join(contents)
    fetched = []
    for _ in range(100):
        world.reader.clear()
        before, offset = world.fetched, choose.randrange(len(plain) - 1024)
        reader = world.reader.open(manifest)
        assert reader.read(offset, 1024) == plain[offset : offset + 1024]
        touched = manifest.slice(offset, 1024)
        fetched.append(world.fetched - before)
        assert fetched[-1] == sum(manifest.extents[number].length + 29 for number, _, _ in touched)
        assert len(touched) <= 2
        reader.close()
    assert sorted(fetched)[50] <= 2 << 20


def test_adjacent_chunks_are_fetched_in_one_request(world: ReadingWorld) -> None:
    contents = blocks(5, SIZES[:5])
    manifest = world.store_pack(contents)
    assert whole(world, manifest) == b"".join(contents)
    assert world.reads == 1


def test_a_cached_chunk_in_the_middle_splits_the_request(world: ReadingWorld) -> None:
    contents = blocks(6, [100_000] * 5)
    manifest = world.store_pack(contents)
    world.reader.read(manifest, 250_000, 1)
    assert whole(world, manifest) == b"".join(contents)
    assert world.fetched == sum(len(one) + 29 for one in contents)


def test_small_chunks_are_fetched_by_windows(world: ReadingWorld) -> None:
    contents = blocks(7, [4096] * 200)
    manifest = world.store_pack(contents)
    files = [Manifest((extent,)) for extent in manifest.extents]
    assert [whole(world, file) for file in files] == contents
    windows = -(-200 * (4096 + 29) // WINDOW)
    assert world.reads == windows
    assert world.fetched <= windows * (WINDOW + (32 << 10) + 29)
    assert world.cache.statistics().chunks == windows


def test_without_a_cache_a_small_chunk_is_fetched_alone(tmp_path: Path) -> None:
    world = ReadingWorld(tmp_path, cache_bytes=0)
    contents = blocks(8, [4096] * 3)
    manifest = world.store_pack(contents)
    assert world.reader.read(manifest, 5000, 10) == b"".join(contents)[5000:5010]
    assert world.fetched == 4096 + 29
    world.close()


def test_a_local_store_is_neither_copied_nor_read_ahead(tmp_path: Path) -> None:
    world = ReadingWorld(tmp_path, is_remote=False, settings=AHEAD)
    contents = blocks(9, [100_000] * 4 + [500])
    manifest = world.store_pack(contents)
    reader = world.reader.open(manifest)
    for offset in range(0, 200_000, 50_000):
        reader.read(offset, 50_000)
    reader.close()
    world.reader.close()
    assert world.fetched == 2 * 100_029
    assert not world.files()
    world.close()


@pytest.mark.parametrize("size", [1000, 300_000])
def test_threads_that_want_one_chunk_fetch_it_once(world: ReadingWorld, size: int) -> None:
    contents = blocks(10, [size] * 3)
    manifest = world.store_pack(contents)
    watched = WatchedStore(world.counting)
    slow = SlowStore(watched, First(1, "read"))
    world.open_reader(RemoteStore(slow))
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(whole(world, manifest))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert slow.waiting.acquire(timeout=10)
    slow.gate.set()
    for thread in threads:
        thread.join()
    assert results == [b"".join(contents)] * 8
    assert sum(watched.asked.values()) == 1


def test_threads_that_want_neighbours_in_one_window_fetch_it_once(world: ReadingWorld) -> None:
    contents = blocks(11, [1000] * 8)
    manifest = world.store_pack(contents)
    slow = SlowStore(world.counting, First(1, "read"))
    world.open_reader(RemoteStore(slow))
    results: dict[int, bytes] = {}

    def read(number: int) -> None:
        results[number] = world.reader.read(manifest, number * 1000, 1000)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert slow.waiting.acquire(timeout=10)
    slow.gate.set()
    for thread in threads:
        thread.join()
    assert [results[number] for number in range(8)] == contents
    assert world.reads == 1


# ---- ahead -----------------------------------------------------------------------------------------------------------


def test_the_second_read_in_sequence_begins_to_fetch_ahead(tmp_path: Path) -> None:
    world = ReadingWorld(tmp_path, settings=AHEAD)
    contents = blocks(12, [100_000] * 8)
    manifest = world.store_pack(contents)
    reader = world.reader.open(manifest)
    assert reader.read(0, 1000) == contents[0][:1000]
    assert world.fetched == 100_029
    assert reader.read(1000, 1000) == contents[0][1000:2000]
    wait_for(lambda: world.fetched == 3 * 100_029)
    assert reader.read(2000, 1000) == contents[0][2000:3000]
    assert reader.read(3000, 100_000) == b"".join(contents)[3000:103_000]
    wait_for(lambda: world.fetched == 4 * 100_029)
    rest = b"".join(reader.read(offset, 100_000) for offset in range(103_000, 900_000, 100_000))
    assert rest == b"".join(contents)[103_000:]
    assert world.fetched == 8 * 100_029
    reader.close()
    world.close()


@pytest.mark.parametrize("jump", [0, 1, 50_000, 500_000])
def test_random_reads_fetch_nothing_ahead(tmp_path: Path, jump: int) -> None:
    world = ReadingWorld(tmp_path, settings=AHEAD)
    manifest = world.store_pack(blocks(13, [100_000] * 8))
    reader = world.reader.open(manifest)
    reader.read(20_000, 1000)
    reader.read(jump, 1000)
    world.reader.close()
    touched = {0} | {jump // 100_000}
    assert world.fetched == len(touched) * 100_029
    world.close()


def test_holes_are_skipped_and_the_cache_limits_what_is_fetched_ahead(tmp_path: Path) -> None:
    settings = ReadSettings(memory_bytes=1_600_000, prefetch_count=1000)
    world = ReadingWorld(tmp_path, settings=settings)
    extents = world.store_pack(blocks(14, [100_000] * 12)).extents
    hole = Extent(10_000, None)
    manifest = Manifest((extents[0], hole, *extents[1:]))
    assert list(world.reader._read_ahead.window(manifest, 1)) == [1, 2, 3, 4, 5]
    reader = world.reader.open(manifest)
    reader.read(0, 10)
    reader.read(10, 10)
    wait_for(lambda: world.fetched == 5 * 100_029)
    world.close()
    assert world.fetched == 5 * 100_029


def test_closing_cancels_what_has_not_begun(tmp_path: Path) -> None:
    world = ReadingWorld(tmp_path, settings=ReadSettings(prefetch_count=10))
    manifest = world.store_pack(blocks(15, [100_000] * 12))
    slow = SlowStore(world.counting, always)
    reader = world.open_reader(RemoteStore(slow)).open(manifest)
    first = threading.Thread(target=lambda: (reader.read(0, 10), reader.read(10, 10)))
    slow.gate.set()
    reader.read(0, 10)
    slow.gate.clear()
    world.reader.clear()
    first = threading.Thread(target=reader.read, args=(10, 10))
    first.start()
    wait_for(lambda: slow.faults["read"] >= 6)
    reader.close()
    slow.gate.set()
    first.join()
    world.close()
    assert world.reads == 1 + 5


def test_what_is_on_this_machine_is_not_fetched_ahead(tmp_path: Path) -> None:
    world = ReadingWorld(tmp_path, settings=AHEAD)
    contents = blocks(33, [100_000] * 4)
    extents = world.stage_pack(contents[:2])[0].extents + world.store_pack(contents[2:]).extents
    whole(world, Manifest(extents[2:3]))
    reader = world.open_reader(world.store).open(Manifest(extents))
    before = world.fetched
    assert [reader.read(offset, 10) for offset in (0, 10, 20)] == [contents[0][o : o + 10] for o in (0, 10, 20)]
    world.reader.close()
    assert world.fetched == before
    assert len(world.reader._chunks._kept) == 1
    world.close()


def test_an_error_of_a_prefetch_is_raised_only_when_the_chunk_is_read(tmp_path: Path) -> None:
    world = ReadingWorld(tmp_path, settings=AHEAD)
    contents = blocks(16, [100_000] * 4)
    manifest = world.store_pack(contents)
    away = AwayStore(world.counting)
    reader = world.open_reader(RemoteStore(away)).open(manifest)
    reader.read(0, 10)
    away.away = True
    assert reader.read(10, 99_990) == contents[0][10:]
    with pytest.raises(StoreUnavailable):
        reader.read(100_000, 10)
    away.away = False
    assert reader.read(100_000, 100_000) == contents[1]
    world.close()


def test_reads_force_no_pending_lazy_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_batch, "COMMIT_DELAY_SECONDS", 60)
    world = ReadingWorld(tmp_path, settings=AHEAD)
    contents = blocks(34, [100_000] * 4)
    manifest, _ = world.stage_pack(contents)
    writer = world.database.writer
    writer.run(lambda t: t.execute("DELETE FROM settings WHERE key = 'nothing'"), lazy=True)  # begins the redo log
    writer.run(lambda t: t.execute("INSERT INTO settings VALUES ('lazy', x'00')"), lazy=True)
    reader = world.reader.open(manifest)
    assert b"".join(reader.read(offset, 50_000) for offset in range(0, 400_000, 50_000)) == b"".join(contents)
    with world.database.autocommit_reader(committed=True) as connection:
        assert connection.all("SELECT key FROM settings WHERE key = 'lazy'") == []
    world.close()


def test_a_chunk_of_a_pending_lazy_commit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_batch, "COMMIT_DELAY_SECONDS", 60)
    world = ReadingWorld(tmp_path)
    writer = world.database.writer
    writer.run(lambda t: t.execute("DELETE FROM settings WHERE key = 'nothing'"), lazy=True)  # begins the redo log
    chunk = world.seal(b"content of a file that was just created")
    writer.run(lambda t: chunk_table.put_row(t, chunk, local=False, replace=False), lazy=True)
    assert world.reader.chunk(chunk.id) == b"content of a file that was just created"
    world.close()


# ---- the disk cache --------------------------------------------------------------------------------------------------


def test_ranges_that_were_read_are_cached_across_a_restart(world: ReadingWorld) -> None:
    contents = blocks(17, [300_000, 1000, 2000])
    manifest = world.store_pack(contents)
    other = world.store_pack(blocks(18, [100_000]))
    whole(world, manifest)
    away = AwayStore(world.counting)
    away.away = True
    world.open_reader(RemoteStore(away))
    assert whole(world, manifest) == b"".join(contents)
    assert world.cache.statistics().hits == 3
    with pytest.raises(StoreUnavailable):
        whole(world, other)
    assert not world.damage


def test_a_damaged_cache_file_is_dropped_and_fetched_again(world: ReadingWorld) -> None:
    contents = blocks(19, [300_000, 1000])
    manifest = world.store_pack(contents)
    whole(world, manifest)
    for path in world.files():
        flip_bit(path, 8 * 500)
    world.open_reader(world.store)
    before = world.fetched
    assert whole(world, manifest) == b"".join(contents)
    assert world.fetched > before
    assert not world.damage
    world.open_reader(world.store)
    before = world.fetched
    assert whole(world, manifest) == b"".join(contents)
    assert world.fetched == before


def test_bytes_of_another_range_in_the_cache_are_rejected(world: ReadingWorld) -> None:
    contents = blocks(20, [300_000, 300_000])
    manifest = world.store_pack(contents)
    whole(world, manifest)
    one, other = world.files()
    swapped = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(swapped)
    world.open_reader(world.store)
    assert whole(world, manifest) == b"".join(contents)


def test_a_stored_pack_is_kept_and_read_from(world: ReadingWorld, tmp_path: Path) -> None:
    contents = blocks(21, [300_000, 1000])
    manifest = world.store_pack(contents)
    ((name, number),) = world.names().items()
    staged = tmp_path / "staged.pack"
    staged.write_bytes(world.counting.read(BlobId(number), 0, world.counting.size(BlobId(number))))
    assert world.cache.adopt(name, staged)  # type: ignore[arg-type]
    before = world.fetched
    assert whole(world, manifest) == b"".join(contents)
    assert world.fetched == before


def test_clearing_and_evicting_do_not_disturb_readers(world: ReadingWorld) -> None:
    contents = blocks(22, [50_000] * 10 + [1000] * 10)
    manifest = world.store_pack(contents)
    plain, wrong, stop = b"".join(contents), [], threading.Event()

    def read(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(150):
            offset = choose.randrange(len(plain))
            if world.reader.read(manifest, offset, 60_000) != plain[offset : offset + 60_000]:
                wrong.append(offset)
        stop.set()

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    while not stop.is_set():
        world.reader.clear()
        world.cache.evict(100_000)
    for thread in threads:
        thread.join()
    assert not wrong
    assert not world.damage
