"""Damaged bytes are found wherever they are, reported, and never returned."""

from pathlib import Path

import pytest
from blake3 import blake3

from tests.content.format.packs import TEXTS, make_pack, make_seal
from tests.content.world import World, noise
from tgdav.blobs.interface import BytesSource
from tgdav.blobs.memory import MemoryStore
from tgdav.content.format.manifest import Extent, Manifest
from tgdav.content.format.pack import TRAILER_BYTES, CheckedData, PackSizes, check_data, plan
from tgdav.content.format.sealer import ChunkSealer
from tgdav.crypto.chunk_seal import ScratchBuffer
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.errors import DamageError
from tgdav.ids import ChunkId

from .identities import make_identity

SEALER = ChunkSealer(make_identity(), SystemEntropy(), compresses=True)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def staged_file(world: World) -> Path:
    (path,) = world.staging.iterdir()
    return path


def checked(pack: bytes | bytearray, sizes: PackSizes, room: int) -> CheckedData:
    def read_into(offset: int, view: memoryview) -> int:
        found = pack[offset : offset + len(view)]
        view[: len(found)] = found
        return len(found)

    return check_data(read_into, sizes, make_seal(), SEALER, ScratchBuffer(room))


@pytest.mark.parametrize("room", [10, 100_000])
def test_a_whole_pack_passes_and_any_flipped_bit_fails(room: int) -> None:
    seal, pack, entries = make_pack()
    data_end = entries[-1].offset + entries[-1].stored
    sizes = plan(data_end, len(entries))
    found = checked(pack, sizes, room)
    assert found.entries == entries
    assert len(entries) == len(TEXTS)
    assert found.hasher.digest() == blake3(pack[:-TRAILER_BYTES]).digest()
    for at in [0, 1, 30, 200, data_end - 1, data_end, 5000, len(pack) - TRAILER_BYTES - 1]:
        bad = bytearray(pack)
        bad[at] ^= 4
        with pytest.raises(DamageError) as caught:
            checked(bad, sizes, room)
        assert caught.value.blob == seal.name.hex()
    dead = bytearray(pack)
    dead[entries[0].stored + 3] ^= 4
    assert checked(dead, sizes, room).hasher.digest() == blake3(dead[:-TRAILER_BYTES]).digest()


@pytest.mark.parametrize("length", [0, 10, 5000, 65_000])
def test_a_cut_pack_fails(length: int) -> None:
    _, pack, entries = make_pack()
    sizes = plan(entries[-1].offset + entries[-1].stored, len(entries))
    with pytest.raises(DamageError):
        checked(pack[:length], sizes, 100_000)


class _Liar(SystemDisk):
    """Changes the last byte of writes of a certain length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        wrong = bytes(data[:-1]) + bytes([data[-1] ^ 1]) if len(data) == self._length else data
        super().write(descriptor, wrong, offset)


def test_a_trailer_that_the_disk_changed_is_never_sent(world: World) -> None:
    manifest = world.save(noise(300_000))
    sound = world.content._context.staging.disk
    world.content._context.staging.disk = _Liar(TRAILER_BYTES)
    world.content.flush(1.0)
    assert not [*world.blobs.list()]
    world.content._context.staging.disk = sound
    world.upload()
    assert world.load(manifest) == noise(300_000)
    world.check_all()


def test_a_flipped_bit_in_staging_is_reported_and_the_rest_is_read_and_uploaded(world: World) -> None:
    manifest = world.save(noise(600_000, seed=1))
    good = world.save(noise(100_000, seed=2))
    path = staged_file(world)
    flip(path, 1000)
    with pytest.raises(DamageError) as caught:
        world.load(manifest)
    assert caught.value.blob == path.stem
    assert world.load(good) == noise(100_000, seed=2)
    assert world.content.flush(60.0)
    assert world.number("SELECT count(*) FROM damage") == 1
    assert world.load(good) == noise(100_000, seed=2)
    with pytest.raises(DamageError):
        world.load(manifest)
    assert world.save(noise(600_000, seed=1)) == manifest
    world.upload()
    world.check_all()


def test_a_staging_file_missing_at_start_is_damage_until_stored_again(world: World) -> None:
    for name, length in (("gone", None), ("cut", 1000)):
        data = noise(300_000, seed=len(name))
        manifest = world.save(data)
        path = staged_file(world)
        world.close()
        if length is None:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:length])
        world._open()
        with pytest.raises(DamageError):
            world.load(manifest)
        assert world.save(data) == manifest
        world.check_all()
        world.upload()
        world.check_all()
        for left in world.staging.iterdir():
            left.unlink()
    assert world.number("SELECT count(*) FROM damage") == 2


def test_a_missing_closed_file_is_damage_unless_the_store_has_the_pack(world: World) -> None:
    data = noise(300_000)
    manifest = world.save(data)
    world.content.uploader.step(flush=True)
    path = staged_file(world)
    kept = path.read_bytes()
    path.unlink()
    world.content.uploader.send_waiting()
    assert world.number("SELECT count(*) FROM damage WHERE kind = 'pack'") == 1
    with pytest.raises(DamageError):
        world.load(manifest)
    world.save(data)
    world.content.uploader.step(flush=True)
    (path,) = world.staging.iterdir()
    assert path.stem.encode() not in kept
    with world.database.reading() as connection:
        row = connection.one("SELECT name, label FROM packs WHERE state = 1 AND damaged = 0")
    assert row is not None
    world.blobs.append(row[0], BytesSource(path.read_bytes()), row[1])
    path.unlink()
    world.upload()
    world.check_all()


def test_a_stored_pack_of_another_size_is_damage(world: World) -> None:
    world.save(noise(300_000))
    world.content.uploader.step(flush=True)
    with world.database.reading() as connection:
        row = connection.one("SELECT name, label FROM packs")
    assert row is not None
    world.blobs.append(row[0], BytesSource(b"short"), row[1])
    world.content.uploader.send_waiting()
    assert world.number("SELECT damaged FROM packs") == 1
    world.check_all()


def test_a_flipped_bit_in_a_row_is_found(world: World) -> None:
    manifest = world.save(b"a small text")
    flipped = "UPDATE chunks SET data = CAST(substr(data, 1, 20) || x'00' || substr(data, 22) AS BLOB)"
    world.database.writer.run(lambda transaction: transaction.execute(flipped))
    with pytest.raises(DamageError) as caught:
        world.load(manifest)
    assert caught.value.blob == "database"
    other = world.save(noise(5000))
    assert world.content.flush(60.0)
    assert world.load(other) == noise(5000)
    with pytest.raises(DamageError):
        world.load(manifest)
    assert world.save(b"a small text") == manifest
    world.upload()
    world.check_all()


def test_a_pack_that_the_store_lost_or_changed_is_named_in_the_error(world: World) -> None:
    manifest = world.save(noise(300_000))
    world.upload()
    (info,) = world.blobs.list()
    data = bytearray(world.blobs.read(info.id, 0, info.size))
    world.blobs.delete([info.id])
    with pytest.raises(DamageError) as caught:
        world.load(manifest)
    assert caught.value.blob == info.name.hex()
    data[5000] ^= 1
    assert isinstance(world.blobs, MemoryStore)
    new = world.blobs.append(info.name, BytesSource(bytes(data)), info.label)
    world.database.writer.run(lambda transaction: transaction.execute("UPDATE packs SET blob = ?", (new.id,)))
    with pytest.raises(DamageError) as caught:
        world.load(manifest)
    assert caught.value.blob == info.name.hex()


def test_swapped_chunks_are_damage(world: World) -> None:
    one, two = world.save(b"first text"), world.save(b"other text")
    with world.database.reading() as connection:
        rows = connection.all("SELECT no, data FROM chunks ORDER BY no")
    swapped = [(rows[1][1], rows[0][0]), (rows[0][1], rows[1][0])]
    world.database.writer.run(lambda t: t.executemany("UPDATE chunks SET data = ? WHERE no = ?", swapped))
    for manifest in (one, two):
        with pytest.raises(DamageError):
            world.load(manifest)


def test_an_unknown_chunk_is_damage(world: World) -> None:
    with pytest.raises(DamageError):
        world.load(Manifest((Extent(5, ChunkId(b"?" * 32)),)))


def test_a_bit_that_flips_before_sealing_is_caught(world: World) -> None:
    sealer = world.content._context.sealer
    data = bytearray(noise(50_000))
    chunk = sealer.chunk_id(data)
    data[777] ^= 1
    for room in (None, ScratchBuffer(50_000), ScratchBuffer(10)):
        with pytest.raises(DamageError):
            sealer.seal(chunk, data, room)
    data[777] ^= 1
    assert sealer.seal(chunk, data, ScratchBuffer(50_000)).length == len(data)
