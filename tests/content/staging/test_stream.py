import errno

import pytest

from tests.content.world import KIB, SMALL, World, noise
from tgdav.content.format.chunk import SMALL_CHUNK
from tgdav.content.format.manifest import EMPTY, encode
from tgdav.content.staging.context import ContentSettings
from tgdav.content.store import UploadState
from tgdav.errors import BadHandle, LocalFailure, NoSpace, UsageError


@pytest.mark.parametrize("length", [0, 1, 100, SMALL_CHUNK - 1, SMALL_CHUNK, SMALL_CHUNK + 1, 192 * KIB, 3_000_000])
def test_content_is_readable_at_every_stage(world: World, length: int) -> None:
    data = noise(length)
    manifest = world.save(data)
    assert manifest.size == length
    world.check_all()
    world.upload()
    world.check_all()
    world.reopen()
    world.check_all()
    assert world.files() == []


def test_empty_content_stages_nothing(world: World) -> None:
    staged = world.stage(b"")
    assert staged.manifest == EMPTY
    assert world.commit(staged) == EMPTY
    assert world.content.state_of([]) == UploadState.STORED


def test_ranges_are_read_correctly(world: World) -> None:
    data = noise(700_000)
    manifest = world.save(data)
    for offset, length in [(0, 1), (65_535, 2), (250_000, 300_000), (699_999, 10), (700_000, 5), (0, 700_000)]:
        assert world.content.reader.read(manifest, offset, length) == data[offset : offset + length]


def test_small_content_is_a_row_and_large_content_a_pack(world: World) -> None:
    world.save(noise(SMALL_CHUNK))
    assert world.files() == []
    world.save(noise(SMALL_CHUNK + 1, seed=2))
    assert len(world.files()) == 1


def test_the_tag_is_that_of_the_manifest(world: World) -> None:
    staged = world.stage(b"some text")
    assert staged.tag == world.identity.keys.content_tag(encode(staged.manifest))
    assert staged.size == 9
    world.commit(staged)
    again = world.stage(b"some text")
    assert again.tag == staged.tag
    again.release()


def test_equal_content_is_stored_once(world: World) -> None:
    data = noise(900_000)
    first = world.save(data)
    before = world.content.pending()
    assert world.save(data) == first
    assert world.content.pending() == before
    world.upload()
    assert world.save(data) == first
    assert world.content.pending() == 0


def test_repeated_content_within_a_stream_is_stored_once(world: World) -> None:
    world.save(bytes(5_000_000))
    assert world.number("SELECT count(*) FROM chunks") <= 3
    world.check_all()


def test_without_dedup_content_is_stored_again_and_read_from_the_new_pack(world: World) -> None:
    world.settings = ContentSettings(chunk_size=1 << 20, average_size=128 * KIB, dedup_enabled=False)
    world.reopen()
    small, large = noise(5000), noise(400_000)
    for data in (small, large):
        world.save(data)
    world.upload()
    blobs = world.number("SELECT count(*) FROM blobs")
    for data in (small, large):
        world.save(data)
    assert world.content.pending() > 405_000
    world.upload()
    assert world.number("SELECT count(*) FROM blobs") > blobs
    world.check_all()


@pytest.mark.parametrize("compression", [True, False])
def test_compression_is_as_configured(world: World, compression: bool) -> None:
    world.settings = ContentSettings(
        chunk_size=1 << 20, average_size=128 * KIB, compression_enabled=compression, staging_bytes=1 << 30
    )
    world.reopen()
    world.save(b"the same words again and again; " * 100)
    stored = world.number("SELECT stored FROM chunks")
    assert (stored < 1000) is compression
    world.check_all()


def test_a_long_stream_fills_several_packs(world: World) -> None:
    data = noise(5_000_000)
    staged = world.stage(data)
    assert world.number("SELECT count(*) FROM packs") >= 4
    world.saved[data] = world.commit(staged)
    world.check_all()
    world.upload()
    world.check_all()
    assert world.number("SELECT max(size) FROM packs") <= SMALL.chunk_size
    assert world.number("SELECT count(*) FROM blobs") == world.number("SELECT count(*) FROM packs")


def test_an_aborted_stream_leaves_nothing(world: World) -> None:
    world.save(noise(100_000, seed=5))
    before = (world.files(), world.content._context.quota.used, world.content.pending())
    stream = world.content.open_stream()
    stream.write(noise(600_000))
    stream.abort()
    stream.abort()
    assert (world.files(), world.content._context.quota.used, world.content.pending()) == before
    assert world.content._context.pins._pinned == {}
    with pytest.raises(BadHandle):
        stream.write(b"x")
    world.upload()
    world.check_all()


def test_staged_content_that_is_never_committed_leaves_nothing(world: World) -> None:
    staged = world.stage(noise(600_000))
    staged.release()
    staged.release()
    assert world.files() == []
    assert world.number("SELECT count(*) FROM chunks") == 0


def test_a_failed_transaction_leaves_at_most_unreferenced_bytes(world: World) -> None:
    first = noise(200_000, seed=1)
    staged = world.stage(first)

    def fail(transaction: object) -> None:
        staged.record(transaction)  # type: ignore[arg-type]
        raise NoSpace

    with pytest.raises(NoSpace):
        world.database.writer.run(fail, sync=staged.sync)
    staged.release()
    world.save(noise(200_000, seed=2))
    world.save(first)
    world.check_all()
    world.upload()
    world.check_all()


def test_two_streams_with_the_same_new_content_both_succeed(world: World) -> None:
    for data in (noise(300_000), noise(1000)):
        one, two = world.stage(data), world.stage(data)
        world.saved[data] = world.commit(two)
        assert world.commit(one) == world.saved[data]
        world.check_all()
    world.upload()
    world.check_all()


def test_concurrent_streams_use_separate_packs(world: World) -> None:
    streams = [world.content.open_stream() for _ in range(3)]
    contents = [noise(500_000, seed=seed) for seed in range(3)]
    for at in range(0, 500_000, 50_000):
        for stream, data in zip(streams, contents, strict=True):
            stream.write(data[at : at + 50_000])
    for stream, data in zip(streams, contents, strict=True):
        world.saved[data] = world.commit(stream.finish())
    assert len(world.files()) == 3
    world.upload()
    world.check_all()


def test_a_later_stream_appends_to_an_open_pack(world: World) -> None:
    for seed in range(4):
        world.save(noise(100_000, seed=seed))
    assert len(world.files()) == 1
    world.upload()
    world.check_all()


def test_local_content_stays_here_until_it_is_published(world: World) -> None:
    junk = noise(300_000)
    world.save(junk, local=True)
    world.save(b"finder", local=True)
    assert world.content.pending() == 0
    world.upload()
    assert world.number("SELECT count(*) FROM blobs") == 0
    world.check_all()
    world.save(junk)
    assert world.content.pending() > 300_000
    world.upload()
    assert world.number("SELECT count(*) FROM chunks WHERE local = 1") == 1
    world.check_all()


def test_states_go_from_local_to_stored(world: World) -> None:
    small, large = world.save(b"small"), world.save(noise(100_000))
    ids = small.chunk_ids() + large.chunk_ids()
    assert world.content.state_of(ids) == UploadState.LOCAL
    world.content.uploader.step(flush=True)
    assert world.content.state_of(ids) == UploadState.UPLOADING
    world.upload()
    assert world.content.state_of(ids) == UploadState.STORED


def test_a_full_disk_refuses_and_loses_nothing(world: World) -> None:
    world.save(noise(100_000, seed=1))
    world.disk.errors["write"] = errno.ENOSPC
    stream = world.content.open_stream()
    with pytest.raises(NoSpace):
        stream.write(noise(600_000, seed=2))
    stream.abort()
    world.disk.errors.clear()
    world.save(noise(600_000, seed=2))
    assert len(world.files()) == 1
    world.upload()
    world.check_all()


@pytest.mark.parametrize("call", ["sync", "sync_directory"])
def test_a_failed_sync_poisons_its_file_for_good(world: World, call: str) -> None:
    if call == "sync":
        world.save(noise(100_000, seed=1))
    world.disk.errors[call] = errno.EIO
    stream = world.content.open_stream()
    stream.write(noise(300_000, seed=2))
    with pytest.raises(LocalFailure):
        stream.finish()
    world.disk.errors.clear()
    with pytest.raises(LocalFailure):
        stream.finish()
    stream.abort()
    poisoned = world.files()
    world.save(noise(300_000, seed=3))
    assert [file for file in world.files() if file not in poisoned]
    world.check_all()
    world.upload()
    world.check_all()
    assert world.files() == []


def test_a_failed_write_poisons_its_file_and_staging_continues_in_another(world: World) -> None:
    world.save(noise(100_000, seed=1))
    world.disk.errors["write"] = errno.EIO
    stream = world.content.open_stream()
    with pytest.raises(LocalFailure):
        stream.write(noise(600_000, seed=2))
    stream.abort()
    world.disk.errors.clear()
    world.save(noise(600_000, seed=3))
    world.upload()
    world.check_all()


def test_chunks_of_a_damaged_pack_are_stored_again(world: World) -> None:
    data = noise(300_000)
    world.save(data)
    world.upload()
    world.database.writer.run(lambda transaction: transaction.execute("UPDATE packs SET damaged = 1"))
    assert world.save(data) == world.saved[data]
    assert world.content.pending() > 300_000
    world.upload()
    assert world.number("SELECT count(*) FROM chunks c JOIN packs p ON p.no = c.pack WHERE p.damaged = 1") == 0
    world.check_all()


def test_pinned_chunks_are_not_removed_and_removed_ones_not_pinned(world: World) -> None:
    pins = world.content._context.pins
    manifest = world.save(b"text")
    (chunk,) = manifest.chunk_ids()
    staged = world.stage(b"text")
    assert pins.start_removal([chunk]) == set()
    staged.release()
    assert pins.start_removal([chunk]) == {chunk}
    again = world.stage(b"text")
    pins.end_removal([chunk])
    assert world.commit(again) == manifest


def test_settings_with_chunks_larger_than_a_pack_are_refused(world: World) -> None:
    world.settings = ContentSettings(chunk_size=1 << 20, average_size=1 << 20)
    with pytest.raises(UsageError):
        world.reopen()
    world.settings = SMALL
    world.database.close()
    world._open()


def test_a_commit_whose_barrier_failed_keeps_its_bytes(world: World) -> None:
    data = noise(300_000)
    staged = world.stage(data)
    world.database_disk.errors["sync"] = errno.EIO
    with pytest.raises(LocalFailure):
        world.commit(staged)
    world.database_disk.errors.clear()
    world.reopen()
    assert world.load(staged.manifest) == data
    world.upload()
    assert world.load(staged.manifest) == data


def test_staging_has_private_permissions_and_no_plaintext(world: World) -> None:
    text = b"a line that nobody else may read\n" * 9000
    world.save(text)
    world.save(b"a line that nobody else may read, in a row")
    (path,) = world.staging.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert world.staging.stat().st_mode & 0o777 == 0o700
    for file in world.directory.rglob("*"):
        assert file.is_dir() or b"nobody else" not in file.read_bytes()
