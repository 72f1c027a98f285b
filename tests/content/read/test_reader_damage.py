"""How readers treat bytes that differ from what was sealed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.content.read.world import ReadingWorld, RemoteStore, blocks
from tests.support.damage import flip_bit, truncate
from tests.support.faulty_store import CorruptingStore, First
from tgdav.blobs.memory import MemoryBlobs
from tgdav.content.format.manifest import Extent, Manifest
from tgdav.content.read.reader import ReadSettings
from tgdav.errors import DamageError, LocalFailure
from tgdav.ids import BlobId, ChunkId

SIZES = [300_000, 500_000, 100_000, 250_000, 400_000, 7]
AHEAD = ReadSettings(prefetch_count=2)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ReadingWorld]:
    made = ReadingWorld(tmp_path)
    yield made
    made.close()


def whole(world: ReadingWorld, manifest: Manifest) -> bytes:
    return world.reader.read(manifest, 0, manifest.size)


@pytest.mark.parametrize("how", ["flip", "truncate", "swap"])
@pytest.mark.parametrize("size", [1000, 300_000])
def test_wrong_bytes_from_the_store_are_damage_of_the_pack_until_a_read_succeeds(
    tmp_path: Path, how: str, size: int
) -> None:
    world = ReadingWorld(tmp_path, cache_bytes=0)
    world.store_pack(blocks(23, [size * 2]))
    contents = blocks(24, [size])
    manifest = world.store_pack(contents)
    name = list(world.names())[1].hex()
    corrupting = CorruptingStore(world.counting, First(10, "read"), how=how, seed=3)
    world.open_reader(RemoteStore(corrupting))
    for _ in range(10):
        with pytest.raises(DamageError) as caught:
            whole(world, manifest)
        assert caught.value.blob == name
    assert corrupting.faults["read"] == 10
    assert [what[:2] for what in world.damage] == [(name, "pack")] * 10
    assert world.healed == []
    assert whole(world, manifest) == contents[0]
    assert world.healed == [name]
    world.close()


def test_bytes_that_failed_a_check_are_not_cached(world: ReadingWorld) -> None:
    contents = blocks(30, [300_000, 1000, 1500])
    manifest = world.store_pack(contents)
    world.open_reader(RemoteStore(CorruptingStore(world.counting, First(1, "read"), how="swap")))
    world.store_pack(blocks(31, [400_000]))
    with pytest.raises(DamageError):
        world.reader.read(manifest, 0, 300_000)
    assert not world.files()


def test_a_lost_pack_is_damage_and_a_restored_one_heals(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    world = ReadingWorld(tmp_path, blobs=blobs)
    contents = blocks(25, [100_000, 200_000])
    manifest = world.store_pack(contents)
    ((name, number),) = world.names().items()
    kept = blobs.blobs.pop(BlobId(number))
    for _ in range(2):
        with pytest.raises(DamageError) as caught:
            whole(world, manifest)
        assert caught.value.blob == name.hex()
    assert set(world.damage) == {(name.hex(), "pack", "the store has lost a pack")}
    blobs.blobs[BlobId(number)] = kept
    assert world.reader.read(manifest, 0, 10) == contents[0][:10]
    assert world.healed == [name.hex()]
    world.close()


def test_a_bad_chunk_does_not_affect_its_neighbours_nor_do_they_clear_it(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    world = ReadingWorld(tmp_path, blobs=blobs)
    contents = blocks(26, [100_000, 200_000, 1000, 1500])
    manifest = world.store_pack(contents)
    ((name, number),) = world.names().items()
    info, data = blobs.blobs[BlobId(number)]
    bad = bytearray(data)
    bad[50_000] ^= 1
    blobs.blobs[BlobId(number)] = (info, bytes(bad))
    with pytest.raises(DamageError):
        whole(world, manifest)
    world.reader.clear()
    assert world.reader.read(manifest, 100_000, 202_500) == b"".join(contents[1:])
    assert world.healed == []
    blobs.blobs[BlobId(number)] = (info, data)
    assert whole(world, manifest) == b"".join(contents)
    assert world.healed == [name.hex()]
    world.close()


def test_a_truncated_pack_still_returns_its_remaining_chunks(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    world = ReadingWorld(tmp_path, blobs=blobs)
    contents = blocks(27, [1000] * 5 + [100_000, 100_000])
    manifest = world.store_pack(contents)
    ((name, number),) = world.names().items()
    info, data = blobs.blobs[BlobId(number)]
    blobs.blobs[BlobId(number)] = (info, data[:120_000])
    assert world.reader.read(manifest, 0, 105_000) == b"".join(contents[:6])
    with pytest.raises(DamageError) as caught:
        world.reader.read(manifest, 105_000, 1)
    assert caught.value.blob == name.hex()
    assert {what[:2] for what in world.damage} == {(name.hex(), "pack")}
    world.close()


def test_a_flipped_or_cut_staging_file_is_damage_of_its_pack(world: ReadingWorld) -> None:
    contents = blocks(28, [100_000, 100_000])
    manifest, path = world.stage_pack(contents)
    flip_bit(path, 8 * 5000)
    assert world.reader.read(manifest, 100_000, 100_000) == contents[1]
    with pytest.raises(DamageError) as caught:
        world.reader.read(manifest, 0, 1)
    assert caught.value.blob == path.stem
    flip_bit(path, 8 * 5000)
    assert world.reader.read(manifest, 0, 100_000) == contents[0]
    assert [what[:2] for what in world.damage] == [(path.stem, "staging")]
    assert world.healed == [path.stem]
    world.reader.clear()
    truncate(path, 150_000)
    with pytest.raises(DamageError):
        world.reader.read(manifest, 150_000, 1)
    path.unlink()
    with pytest.raises(DamageError):
        world.reader.read(manifest, 0, 1)


def test_a_failing_disk_is_a_local_failure_not_damage(world: ReadingWorld) -> None:
    manifest, path = world.stage_pack(blocks(32, [100_000]))
    path.unlink()
    path.mkdir()
    with pytest.raises(LocalFailure):
        whole(world, manifest)
    assert not world.damage


def test_a_damaged_row_is_damage_of_the_database(world: ReadingWorld) -> None:
    manifest = world.stage_rows([b"content"])
    world.database.writer.run(lambda transaction: transaction.execute("UPDATE chunks SET data = zeroblob(36)"))
    with pytest.raises(DamageError) as caught:
        whole(world, manifest)
    assert caught.value.blob == "database"
    assert [what[:2] for what in world.damage] == [("database", "database")]


def test_an_unknown_chunk_is_damage(world: ReadingWorld) -> None:
    chunk = ChunkId(b"c" * 32)
    with pytest.raises(DamageError) as caught:
        whole(world, Manifest((Extent(10, chunk),)))
    assert caught.value.blob == f"chunk {chunk.hex()}"
    assert len(world.damage) == 1


def test_a_manifest_with_another_length_is_damage(world: ReadingWorld) -> None:
    (extent,) = world.stage_rows([b"content"]).extents
    assert extent.chunk is not None
    for length in (6, 8):
        with pytest.raises(DamageError):
            world.reader.read(Manifest((Extent(length, extent.chunk),)), 0, 5)


def test_a_chunk_that_moves_from_staging_to_the_store_while_it_is_read_is_found(world: ReadingWorld) -> None:
    contents = blocks(29, [100_000])
    manifest, path = world.stage_pack(contents)
    sealed = path.read_bytes()
    reading = world.staging.read

    def moved(file: str, offset: int, length: int) -> bytes | None:
        if path.exists():
            path.unlink()
            world.move_to_store(manifest, sealed)
        return reading(file, offset, length)

    world.staging.read = moved  # type: ignore[method-assign]
    assert whole(world, manifest) == contents[0]
    assert not world.damage
