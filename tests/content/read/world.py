"""A reader, and content that is cut, sealed and put where a test needs it."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.content.identities import make_identity
from tests.crypto.seeded import SeededEntropy
from tgdav.blobs.counting import CountingStore
from tgdav.blobs.interface import BlobStore, BytesSource, StoreTraits
from tgdav.blobs.memory import MemoryBlobs, MemoryStore
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.clock import Clock, SystemClock
from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import IndexEntry, SealedChunk
from tgdav.content.format.manifest import Extent, Manifest
from tgdav.content.format.sealer import ChunkSealer
from tgdav.content.read.chunk_loader import ChunkLoader
from tgdav.content.read.damage_log import DamageLog
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.read.reader import ContentReader, ReadSettings
from tgdav.content.staging.pack_file import StagingDirectory
from tgdav.content.staging.quota import StagingQuota
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.disk import Disk, SystemDisk
from tgdav.ids import BlobName

KEY = bytes(range(32))
TAIL = 64 * 1024
"""Bytes after the chunks of a pack, in place of index and trailer, which readers do not use."""


STILL = ReadSettings(prefetch_enabled=False)


class RemoteStore(StoreWrapper):
    """A store that is not local, so that reads are cached and fetched ahead."""

    @property
    def traits(self) -> StoreTraits:
        traits = self.inner.traits
        return StoreTraits(traits.backend, traits.max_blob_bytes, traits.max_label_characters, False, 1)


class ListedDamage(DamageLog):
    """Lists what is recorded and cleared, in place of rows."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock)
        self.recorded: list[tuple[str, str, str]] = []
        self.cleared: list[str] = []

    def record(self, blob: str, kind: str, reason: str) -> None:
        self.recorded.append((blob, kind, reason))

    def clear(self, blob: str) -> None:
        self.cleared.append(blob)


class ReadingWorld:
    """One namespace's database, staging directory, cache and store, and a log of the damage that reads find."""

    def __init__(
        self,
        directory: Path,
        *,
        blobs: MemoryBlobs | None = None,
        cache_bytes: int = 1 << 30,
        settings: ReadSettings = STILL,
        is_remote: bool = True,
        disk: Disk | None = None,
    ) -> None:
        self.directory = directory
        self.entropy = SeededEntropy(5)
        self.identity = make_identity()
        self.database = Database.open(directory / "main.db", KEY, disk=SystemDisk())
        (directory / "staging").mkdir(exist_ok=True)
        quota = StagingQuota(directory / "staging", None, SystemClock())
        self.staging = StagingDirectory(
            directory / "staging", quota, disk=SystemDisk(), clock=SystemClock(), entropy=SeededEntropy(6)
        )
        self.sealer = ChunkSealer(self.identity, self.entropy, compresses=True)
        self.counting = CountingStore(MemoryStore(blobs or MemoryBlobs()))
        self.store: BlobStore = RemoteStore(self.counting) if is_remote else self.counting
        self.cache_disk = disk or SystemDisk()
        self.cache_bytes = cache_bytes
        self.settings = settings
        self.damage_log = ListedDamage(self.database, SystemClock())
        self.open_reader(self.store)

    def open_reader(self, store: BlobStore, settings: ReadSettings | None = None) -> ContentReader:
        """Make a new reader: nothing in memory, the cache as it is on disk."""
        self.cache = DiskCache(self.directory / "cache", self.cache_bytes, disk=self.cache_disk, clock=SystemClock())
        self.cache.start()
        self.cache.wait_for_scan()
        loader = ChunkLoader(self.database, self.staging, store, self.cache, self.sealer, self.damage_log)
        self.reader = ContentReader(loader, settings or self.settings)
        return self.reader

    @property
    def damage(self) -> list[tuple[str, str, str]]:
        return self.damage_log.recorded

    @property
    def healed(self) -> list[str]:
        return self.damage_log.cleared

    def close(self) -> None:
        self.reader.close()
        self.cache.close()
        self.database.close()

    @property
    def fetched(self) -> int:
        """Bytes read from the store so far."""
        return self.counting.counts()["read"].bytes

    @property
    def reads(self) -> int:
        """Calls that read from the store so far."""
        return self.counting.counts()["read"].calls

    def seal(self, content: bytes) -> SealedChunk:
        return self.sealer.seal(self.sealer.chunk_id(content), content)

    def stage_rows(self, contents: Sequence[bytes]) -> Manifest:
        chunks = [self.seal(content) for content in contents]
        self.database.writer.run(
            lambda transaction: [
                chunk_table.put_row(transaction, chunk, local=False, replace=False) for chunk in chunks
            ]
        )
        return _manifest(chunks)

    def stage_pack(self, contents: Sequence[bytes]) -> tuple[Manifest, Path]:
        """Put chunks into an open pack of the staging directory; return its file too."""
        chunks = [self.seal(content) for content in contents]
        pack = self.staging.create(1)
        entries = [_entry(chunk, pack.append(chunk.data)) for chunk in chunks]
        pack.sync()
        self._record(pack.name, pack.file, pack.length, entries)
        pack.close()
        return _manifest(chunks), pack.path

    def store_pack(self, contents: Sequence[bytes]) -> Manifest:
        """Put chunks into a pack of the store, next to each other."""
        chunks = [self.seal(content) for content in contents]
        name = BlobName(self.entropy.bytes(16))
        data, entries = bytearray(), []
        for chunk in {chunk.id: chunk for chunk in chunks}.values():
            entries.append(_entry(chunk, len(data)))
            data += chunk.data
        data += bytes(TAIL)
        number = self._record(name, name.hex() + ".pack", len(data) - TAIL, entries)
        self._mark_stored(number, name, bytes(data))
        return _manifest(chunks)

    def move_to_store(self, manifest: Manifest, data: bytes) -> None:
        """Make the staged pack of the manifest's first chunk a stored one."""
        chunk = manifest.extents[0].chunk
        assert chunk is not None
        with self.database.reading() as connection:
            place = chunk_table.find(connection, chunk)
        assert place is not None
        assert place.pack is not None
        assert place.pack_name is not None
        self._mark_stored(place.pack, place.pack_name, data)

    def _mark_stored(self, number: int, name: BlobName, data: bytes) -> None:
        info = self.counting.append(name, BytesSource(data), "label")

        def stored(transaction: Transaction) -> None:
            pack_table.close_pack(transaction, number, len(data), bytes(32), "label")
            pack_table.mark_sent(transaction, number)
            row = pack_table.pack(transaction, number)
            assert row is not None
            pack_table.mark_stored(transaction, row, info.id)

        self.database.writer.run(stored)

    def _record(self, name: BlobName, file: str, end: int, entries: list[IndexEntry]) -> int:
        def record(transaction: Transaction) -> int:
            number = pack_table.put_pack(transaction, name=name, epoch=1, file=file, end=end, created=1)
            for entry in entries:
                chunk_table.put_in_pack(transaction, entry, number, replace=False)
            return number

        return self.database.writer.run(record)

    def names(self) -> dict[bytes, int]:
        """Return the blobs of the store by name."""
        return {info.name: info.id for info in self.counting.list()}

    def files(self) -> list[Path]:
        """Return the files of the cache."""
        return sorted(path for path in (self.directory / "cache").rglob("*") if path.is_file())


class WatchedStore(RemoteStore):
    """Counts how often each byte range was requested."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.asked: Counter[tuple[int, int, int]] = Counter()

    def read(self, blob_id, offset, length):  # type: ignore[no-untyped-def]
        self.asked[blob_id, offset, length] += 1
        return self.inner.read(blob_id, offset, length)


def blocks(seed: int, sizes: Sequence[int]) -> list[bytes]:
    """Return incompressible content of these sizes."""
    choose = random.Random(seed)
    return [choose.randbytes(size) for size in sizes]


def _entry(chunk: SealedChunk, offset: int) -> IndexEntry:
    return IndexEntry(chunk.id, offset, len(chunk.data), chunk.length, chunk.codec, chunk.epoch)


def _manifest(chunks: Sequence[SealedChunk]) -> Manifest:
    return Manifest(tuple(Extent(chunk.length, chunk.id) for chunk in chunks))
