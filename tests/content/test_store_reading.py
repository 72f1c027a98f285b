"""The content store as a whole: uploaded content is read from the disk cache, and damage is recorded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.content.identities import make_identity
from tests.content.read.world import KEY, RemoteStore
from tests.content.world import noise
from tests.support.faulty_store import AwayStore, CorruptingStore, only
from tgdav.blobs.memory import MemoryStore
from tgdav.clock import SystemClock
from tgdav.content.format.manifest import Manifest
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.staging.context import ContentSettings
from tgdav.content.store import ContentStore
from tgdav.db.database import Database
from tgdav.disk import SystemDisk
from tgdav.errors import DamageError
from tgdav.platform import Platform


class Machine:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.corrupting = CorruptingStore(MemoryStore(), lambda _: False)
        self.store = AwayStore(self.corrupting)
        self.open()

    def open(self) -> None:
        self.database = Database.open(self.directory / "main.db", KEY, disk=SystemDisk())
        self.cache = DiskCache(self.directory / "cache", 1 << 30, disk=SystemDisk(), clock=SystemClock())
        self.content = ContentStore.open(
            self.database,
            RemoteStore(self.store),
            self.directory / "staging",
            make_identity(),
            ContentSettings(),
            Platform.system(),
            cache=self.cache,
        )

    def close(self) -> None:
        self.content.stop()
        self.database.close()

    def save(self, data: bytes) -> Manifest:
        stream = self.content.open_stream()
        stream.write(data)
        staged = stream.finish()
        self.database.writer.run(staged.record, durable=True, sync=staged.sync)
        staged.release()
        assert self.content.flush(60)
        return staged.manifest

    def damage(self) -> list[tuple[object, ...]]:
        with self.database.reading() as connection:
            return connection.all("SELECT blob, kind FROM damage")

    def bad_packs(self) -> list[tuple[object, ...]]:
        with self.database.reading() as connection:
            return connection.all("SELECT lower(hex(name)) FROM packs WHERE damaged = 1")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def test_a_stored_pack_moves_from_staging_to_the_cache(machine: Machine) -> None:
    data = noise(3_000_000)
    manifest = machine.save(data)
    assert list((machine.directory / "staging").iterdir()) == []
    assert machine.content._context.quota.used == 0
    machine.store.away = True
    assert machine.content.reader.read(manifest, 0, len(data)) == data
    assert machine.cache.statistics().chunks == 1
    machine.store.away = False
    machine.close()
    machine.open()
    machine.content.start()
    machine.cache.wait_for_scan()
    machine.store.away = True
    assert machine.content.reader.open(manifest).read(0, len(data)) == data
    machine.store.away = False


def test_the_cache_shrinks_for_a_writer_that_waits_for_disk_space(machine: Machine) -> None:
    machine.save(noise(1_000_000))
    quota = machine.content._context.quota
    quota._limits = lambda: (0, 0)  # type: ignore[method-assign]
    assert machine.cache.statistics().bytes > 1_000_000
    quota.on_shortage()
    assert machine.cache.statistics().bytes == 0


def test_damage_is_recorded_until_a_read_succeeds(machine: Machine) -> None:
    data = noise(400_000)
    manifest = machine.save(data)
    machine.content.reader.clear()
    machine.corrupting.schedule = only("read")
    for _ in range(2):
        with pytest.raises(DamageError) as caught:
            machine.content.reader.read(manifest, 0, 10)
        assert machine.damage() == [(caught.value.blob, "pack")]
        assert machine.bad_packs() == [(caught.value.blob,)]
    machine.corrupting.schedule = lambda _: False
    assert machine.content.reader.read(manifest, 0, len(data)) == data
    assert machine.damage() == machine.bad_packs() == []


def test_damage_recorded_by_an_earlier_run_stays_until_a_check(machine: Machine) -> None:
    data = noise(400_000)
    manifest = machine.save(data)
    machine.content.reader.clear()
    machine.corrupting.schedule = only("read")
    with pytest.raises(DamageError):
        machine.content.reader.read(manifest, 0, 10)
    machine.close()
    machine.open()
    with pytest.raises(DamageError):
        machine.content.reader.read(manifest, 0, 10)
    machine.corrupting.schedule = lambda _: False
    assert machine.content.reader.read(manifest, 0, len(data)) == data
    assert len(machine.damage()) == len(machine.bad_packs()) == 1


def test_damaged_content_is_readable_after_it_is_saved_again(machine: Machine) -> None:
    data = noise(400_000)
    manifest = machine.save(data)
    machine.content.reader.clear()
    machine.corrupting.schedule = lambda operation: operation == "read"
    with pytest.raises(DamageError):
        machine.content.reader.read(manifest, 0, len(data))
    machine.corrupting.schedule = lambda _: False
    assert machine.save(data) == manifest
    machine.content.reader.clear()
    assert machine.content.reader.read(manifest, 0, len(data)) == data


def test_damage_that_cannot_be_recorded_is_raised_all_the_same(machine: Machine) -> None:
    manifest = machine.save(noise(400_000))
    machine.content.reader.clear()
    machine.database.writer.poison("for the test")
    machine.corrupting.schedule = only("read")
    with pytest.raises(DamageError):
        machine.content.reader.read(manifest, 0, 10)
