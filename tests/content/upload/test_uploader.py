import errno
from pathlib import Path

import pytest

from tests.content.world import KIB, SMALL, World, noise
from tests.crypto.seeded import SeededEntropy
from tests.support.faulty_store import AwayStore
from tests.support.waiting import wait_for
from tgdav.blobs.directory import DirectoryStore
from tgdav.blobs.memory import MemoryStore
from tgdav.clock import SystemClock
from tgdav.content.pack_table import PackState
from tgdav.content.staging.context import ContentSettings
from tgdav.content.staging.stream import ContentStream
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.disk import SystemDisk
from tgdav.errors import NoSpace


def test_many_small_files_become_few_blobs(world: World) -> None:
    for seed in range(300):
        world.save(noise(4 * KIB, seed=seed))
    world.upload()
    assert world.number("SELECT count(*) FROM blobs") == 2
    world.check_all()


def test_a_blob_has_its_label_and_matches_its_row(world: World) -> None:
    world.save(noise(100_000))
    world.upload()
    (info,) = world.blobs.list()
    label = decode_label(info.label, world.identity.vault_keys, info.name)
    assert label is not None
    assert (label.kind, label.size, label.machine) == (BlobKind.PACK, info.size, world.identity.machine)
    with world.database.reading() as connection:
        assert connection.one("SELECT kind, size, hash, gone FROM blobs") == (1, info.size, label.body_hash, 0)
        assert connection.one("SELECT state, file, hash FROM packs") == (PackState.STORED, None, label.body_hash)


def test_idle_packs_close_after_five_seconds_then_later_and_later(world: World) -> None:
    uploader = world.content.uploader
    for seed, interval in enumerate((5, 10, 20, 40, 80, 160, 300, 300)):
        world.save(noise(1000, seed=seed))
        assert 0 < uploader.step() <= interval
        world.clock.move(interval - 1)
        uploader.step()
        assert world.number("SELECT count(*) FROM packs WHERE state = 0") == 0
        world.clock.move(1)
        uploader.step()
        assert world.number("SELECT count(*) FROM packs WHERE state = 1") == 1
        uploader.send_waiting()


def test_the_interval_is_short_again_after_much_was_closed(world: World) -> None:
    uploader = world.content.uploader
    world.save(b"little")
    world.clock.move(5)
    uploader.step()
    world.save(noise(700_000))
    world.clock.move(9)
    uploader.step()
    assert world.number("SELECT count(*) FROM packs WHERE state = 0") == 1
    world.clock.move(1)
    uploader.step()
    assert world.number("SELECT count(*) FROM packs WHERE state = 0") == 0
    world.save(b"more")
    assert uploader.step() == 5.0


def test_a_pack_that_is_never_idle_is_closed_after_five_minutes(world: World) -> None:
    for second in range(0, 300, 4):
        world.save(noise(100, seed=second))
        world.content.uploader.step()
        world.clock.move(4)
    assert world.number("SELECT count(*) FROM packs") == 0
    world.content.uploader.step()
    assert world.number("SELECT count(*) FROM packs WHERE state = 1") == 1


def test_rows_for_a_whole_pack_are_packed_at_once(world: World) -> None:
    for seed in range(40):
        world.save(noise(32 * KIB, seed=seed))
    world.content.uploader.step()
    assert world.number("SELECT count(*) FROM packs WHERE state = 1") == 1
    assert world.number("SELECT count(*) FROM chunks WHERE data IS NOT NULL") == 0


def test_a_pack_without_chunks_is_deleted_unsent(world: World) -> None:
    world.save(noise(100_000))
    world.database.writer.run(lambda transaction: transaction.execute("DELETE FROM chunks"))
    world.saved.clear()
    world.upload()
    assert world.number("SELECT count(*) FROM packs") == 0
    assert list(world.blobs.list()) == []
    assert world.files() == []


def test_an_unavailable_store_loses_nothing_and_the_queue_drains_later(tmp_path: Path) -> None:
    away = AwayStore(MemoryStore())
    away.away = True
    world = World(tmp_path, blobs=away)
    for seed in range(3):
        world.save(noise(300_000, seed=seed))
    assert not world.content.flush(60.0)
    assert world.content.uploader.last_error
    assert world.content.pending() > 900_000
    world.check_all()
    world.reopen()
    assert not world.content.flush(60.0)
    away.away = False
    world.upload()
    assert world.content.uploader.last_error is None
    world.check_all()
    world.close()


def test_the_file_of_a_stored_pack_is_passed_to_the_callback(world: World) -> None:
    kept = []
    world.content.uploader.sender.on_stored = lambda row, path: kept.append((row.name, path.stat().st_size, path))
    world.save(noise(100_000))
    world.upload()
    (info,) = world.blobs.list()
    assert [(name, size) for name, size, _ in kept] == [(info.name, info.size)]
    assert kept[0][2].exists()
    assert world.content._context.quota.used == 0
    world.reopen()
    assert not kept[0][2].exists()


def test_a_directory_store_takes_packs_too(tmp_path: Path) -> None:
    place = tmp_path / "store"
    blobs = DirectoryStore.create(place, disk=SystemDisk(), clock=SystemClock(), entropy=SeededEntropy(1))
    world = World(tmp_path, blobs=blobs)
    world.save(noise(2_000_000))
    world.upload()
    world.check_all()
    world.close()
    blobs.close()


def test_threads_upload_by_themselves(world: World) -> None:
    world.content.start()
    data = noise(3_000_000)
    world.save(data)
    world.save(b"small")
    wait_for(lambda: world.number("SELECT count(*) FROM blobs") >= 1, what="a full pack to be sent at once")
    world.clock.move(1)
    wait_for(lambda: world.number("SELECT count(*) FROM blobs") >= 2, what="the others to be sent when nobody writes")
    assert world.content.flush(3600.0)
    assert world.content.pending() == 0
    world.check_all()


def test_threads_continue_when_the_store_is_available_again(tmp_path: Path) -> None:
    away = AwayStore(MemoryStore())
    away.away = True
    world = World(tmp_path, blobs=away)
    world.content.start()
    world.save(noise(3_000_000))
    wait_for(lambda: world.content.uploader.last_error, what="an upload to fail")
    away.away = False
    world.clock.move(100)
    assert world.content.flush(3600.0)
    world.check_all()
    world.close()


def closed(world: World) -> int:
    return world.number("SELECT count(*) FROM packs WHERE state = 1")


def test_uploads_pause_for_a_writer(world: World) -> None:
    """While it writes, one full pack is closed each second; all of them when it pauses, for a flush, or when space is low."""
    uploader, stream = world.content.uploader, world.content.open_stream()
    for seed in range(40):
        stream.write(noise(200_000, seed=seed))
    for expected in (1, 1):
        assert 0 < uploader.step() <= 0.5
        assert closed(world) == expected
    world.clock.move(1)
    stream.write(noise(400_000, seed=50))
    uploader.step()
    assert closed(world) == 2
    uploader.make_space()
    uploader.step()
    assert not world.content._context.open_packs.has_full()
    count = closed(world)
    for seed in range(60, 80):
        stream.write(noise(200_000, seed=seed))
    uploader.step()
    assert closed(world) == count
    world.clock.move(0.6)
    uploader.step()
    assert closed(world) > count + 1
    world.commit(stream.finish())
    world.upload()
    world.check_all()


def fill(stream: ContentStream) -> None:
    for seed in range(100):
        stream.write(noise(200_000, seed=seed))


def test_staging_is_bounded_and_a_writer_gives_up_after_a_minute(tmp_path: Path) -> None:
    settings = ContentSettings(chunk_size=SMALL.chunk_size, average_size=SMALL.average_size, staging_bytes=3_000_000)
    away = AwayStore(MemoryStore())
    away.away = True
    world = World(tmp_path, settings, away)
    world.content._context.quota.on_shortage = lambda: world.clock.move(10)
    began = world.clock.time
    stream = world.content.open_stream()
    with pytest.raises(NoSpace):
        fill(stream)
    assert 60 <= world.clock.time - began < 80
    stream.abort()
    used = world.content._context.quota.used
    assert 2_000_000 < used <= 3_200_000
    again = world.content.open_stream()
    with pytest.raises(NoSpace):
        fill(again)
    again.abort()
    away.away = False
    world.upload()
    world.save(noise(1_000_000, seed=3))
    world.check_all()
    world.close()


def test_a_waiting_writer_continues_when_packs_are_stored(tmp_path: Path) -> None:
    settings = ContentSettings(chunk_size=SMALL.chunk_size, average_size=SMALL.average_size, staging_bytes=3_000_000)
    world = World(tmp_path, settings)
    world.content.start()
    world.save(noise(12_000_000))
    assert world.content.flush(3600.0)
    wait_for(lambda: world.content._context.quota.used == 0, what="the last files to go")
    world.check_all()
    world.close()


def test_idle_packs_are_sent_at_once_when_space_is_low(tmp_path: Path) -> None:
    settings = ContentSettings(chunk_size=SMALL.chunk_size, average_size=SMALL.average_size, staging_bytes=500_000)
    world = World(tmp_path, settings)
    world.save(noise(300_000))
    world.content.uploader.step()
    assert world.number("SELECT count(*) FROM packs WHERE state = 0") == 1
    world.save(noise(70_000, seed=2))
    world.save(noise(32_000, seed=3))
    world.content.uploader.step()
    assert world.number("SELECT count(*) FROM packs WHERE state = 0") == 0
    world.close()


def test_a_full_disk_delays_closing_and_loses_nothing(world: World) -> None:
    world.save(noise(300_000))
    world.disk.errors["write"] = errno.ENOSPC
    assert not world.content.flush(60.0)
    assert "full" in (world.content.uploader.last_error or "")
    world.check_all()
    world.disk.errors.clear()
    world.upload()
    world.check_all()


def test_a_full_disk_is_logged_once_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Writers that wait for space wake the uploader 20 times a second."""

    def lines() -> int:
        return sum("cannot be packed now" in record.getMessage() for record in caplog.records)

    uploader = world.content.uploader
    world.save(noise(300_000))
    world.disk.errors["write"] = errno.ENOSPC
    world.content.start()
    for seconds in (6.0, 2.0, 2.0, 2.0):
        world.clock.move(seconds)
        uploader.make_space()
        wait_for(lambda: not uploader._woken, what="the uploader to run")
    wait_for(lambda: lines() > 0, what="the failure to be said")
    assert lines() == 1
    world.clock.move(60.0)
    wait_for(lambda: lines() == 2, what="the failure to be said again")
    world.disk.errors.clear()


def test_a_failed_sync_while_closing_moves_the_chunks_to_a_new_file(world: World) -> None:
    world.save(noise(300_000))
    world.disk.errors["sync"] = errno.EIO
    assert not world.content.flush(60.0)
    world.disk.errors.clear()
    old = world.files()
    world.upload()
    world.check_all()
    assert world.files() == []
    (info,) = world.blobs.list()
    assert info.name.hex() + ".pack" not in old
