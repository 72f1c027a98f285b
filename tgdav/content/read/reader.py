"""Reading content: manifest → chunks in memory → sealed chunks, nearest first → checked plaintext."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.content.format.manifest import Extent, Manifest
from tgdav.content.format.sealer import ChunkSealer
from tgdav.content.read.chunk_cache import DEFAULT_LIMIT, ChunkMemory
from tgdav.content.read.chunk_loader import ChunkLoader
from tgdav.content.read.damage_log import Health, OnDamage, OnHealed
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.staging.pack_file import Staging
from tgdav.cpu_affinity import use_all_cores
from tgdav.db.database import Database
from tgdav.errors import DamageError, TgdavError
from tgdav.ids import BlobName, ChunkId
from tgdav.threads import Guard

_SHARE = 4
"""Readers may have a quarter of the memory for chunks under way ahead of them, each and together."""


WORKERS = 4


class Prefetcher:
    """Thread-safe. ``budget``: bytes of plaintext that may be under way at once."""

    def __init__(self, load: Callable[[ChunkId], object], budget: int) -> None:
        self._load = load
        self._budget = budget
        self._guard = Guard("prefetch")
        self._lock = threading.Lock()
        self._pending = 0
        self._is_closed = False
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="prefetch", initializer=use_all_cores)

    def fetch(self, chunk: ChunkId, length: int) -> Future[None] | None:
        """Begin to fetch a chunk of ``length`` bytes; None if too much is under way."""
        with self._lock:
            if self._is_closed or self._pending + length > self._budget:
                return None
            self._pending += length
            future = self._pool.submit(self._run, chunk)
        future.add_done_callback(lambda _: self._release(length))
        return future

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        with self._lock:
            self._is_closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._guard.clear()

    def _run(self, chunk: ChunkId) -> None:
        self._guard.run(lambda: self._fetch(chunk))

    def _fetch(self, chunk: ChunkId) -> None:
        try:
            self._load(chunk)
        except TgdavError:
            return  # the reader meets it again when it gets there, and says so

    def _release(self, length: int) -> None:
        with self._lock:
            self._pending -= length


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says about reading. Sizes in bytes."""

    memory_bytes: int = DEFAULT_LIMIT
    """Plaintext of chunks kept in memory."""
    prefetch_enabled: bool = True
    prefetch_count: int = 3
    """Chunks fetched ahead of a sequential reader."""


class Reader:
    """Reads content. Thread-safe; no two threads load one chunk at the same time.

    ``on_damage(blob, kind, reason)`` and ``on_healed(blob)`` come from the reading thread and must not raise. Where the
    store is local, nothing that was read is copied into the cache or fetched ahead; packs that were staged here stay, as
    links that cost no space.
    """

    def __init__(
        self,
        database: Database,
        staging: Staging,
        store: BlobStore,
        cache: DiskCache,
        sealer: ChunkSealer,
        settings: ReadSettings,
        *,
        on_damage: OnDamage,
        on_healed: OnHealed,
    ) -> None:
        self.cache = cache
        self.settings = settings
        self._health = Health(on_damage, on_healed)
        self._loader = ChunkLoader(database, staging, store, cache, sealer, self._health)
        self._memory = ChunkMemory(settings.memory_bytes)
        self._ahead = settings.prefetch_count if settings.prefetch_enabled and not store.traits.is_local else 0
        self._prefetcher = Prefetcher(self.chunk, settings.memory_bytes // _SHARE)

    def read(self, manifest: Manifest, offset: int, length: int) -> bytes:
        """Return the bytes of a range, clipped at the end; holes are zeros.

        Raises DamageError that names the blob, StoreUnavailable or StoreRejected, LocalFailure.
        """
        extents = [(manifest.extents[number], start, count) for number, start, count in manifest.slice(offset, length)]
        wanted = list(dict.fromkeys(extent.chunk for extent, _, _ in extents if extent.chunk is not None))
        chunks = self._memory.obtain(wanted, self._loader.load)
        if len(extents) == 1:
            return bytes(self._part(chunks, *extents[0]))
        return b"".join(self._part(chunks, *extent) for extent in extents)

    def chunk(self, chunk: ChunkId) -> bytes:
        """Return a chunk's plaintext. Raises as ``read``."""
        return self._memory.obtain([chunk], self._loader.load)[chunk]

    def reader(self, manifest: Manifest) -> "ContentReader":
        """Return a reader that fetches ahead once it is read in sequence."""
        return ContentReader(self, manifest)

    def keep(self, pack: BlobName, path: Path) -> bool:
        """Take a stored pack's staging file into the cache by a link; False if it is not wanted. ``path`` stays."""
        return bool(self.cache.max_bytes) and self.cache.adopt(pack, path)

    def remember(self, chunk: ChunkId, plaintext: bytes) -> None:
        """Keep in memory what was just written."""
        self._memory.keep(chunk, plaintext)

    def resize_memory(self, limit: int | None = None) -> None:
        """Keep at most ``limit`` bytes of plaintext from now on; None goes back to what the settings say."""
        self._memory.resize(self.settings.memory_bytes if limit is None else limit)

    def clear(self) -> None:
        """Forget all that can be fetched again, in memory and on disk."""
        self._memory.clear()
        self.cache.clear()

    def close(self) -> None:
        """Stop fetching ahead; reading stays possible."""
        self._prefetcher.close()

    def ahead(self, manifest: Manifest, start: int) -> range:
        """Return the numbers of the extents to have under way when everything before extent ``start`` was asked for."""
        size, chunks, number = 0, 0, start
        while number < len(manifest.extents) and chunks < self._ahead:
            extent = manifest.extents[number]
            chunks += extent.chunk is not None
            size += extent.length if extent.chunk is not None else 0
            if size > self._memory.limit // _SHARE:
                break
            number += 1
        return range(start, number)

    def is_far(self, chunk: ChunkId) -> bool:
        """Return whether a chunk must come from the store."""
        return chunk not in self._memory and self._loader.is_far(chunk)

    def fetch_ahead(self, chunk: ChunkId, length: int) -> Future[None] | None:
        """Begin to fetch a chunk into memory; None if it is on this machine, or too much is under way.

        What is here is read faster than it is handed from thread to thread.
        """
        if not self.is_far(chunk):
            return None
        return self._prefetcher.fetch(chunk, length)

    def _part(self, chunks: dict[ChunkId, bytes], extent: Extent, start: int, count: int) -> bytes | memoryview:
        if extent.chunk is None:
            return bytes(count)
        data = chunks[extent.chunk]
        if len(data) != extent.length:
            raise self._contradiction(extent.chunk)
        return data if count == len(data) else memoryview(data)[start : start + count]

    def _contradiction(self, chunk: ChunkId) -> DamageError:
        reason = "a manifest names a chunk with another length than it has"
        self._health.failed("database", "database", reason, chunk)
        return DamageError(reason, blob="database")


class ContentReader:
    """Reads one content for one handle. Thread-safe. From the second read in sequence on, chunks are fetched ahead."""

    def __init__(self, reader: Reader, manifest: Manifest) -> None:
        self.manifest = manifest
        self._reader = reader
        self._lock = threading.Lock()
        self._next: int | None = None
        self._asked = 0
        self._under_way: list[Future[None]] = []
        self._is_closed = False

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range, clipped at the end. Raises as ``Reader.read``."""
        with self._lock:
            if length > 0 and offset == self._next and not self._is_closed:
                self._look_ahead(offset + length)
            elif offset != self._next:
                self._asked = 0
            self._next = offset + length
        return self._reader.read(self.manifest, offset, length)

    def is_here(self) -> bool:
        """Return whether no chunk must come from the store."""
        return not any(
            extent.chunk is not None and self._reader.is_far(extent.chunk) for extent in self.manifest.extents
        )

    def close(self) -> None:
        """Give up what was to be fetched ahead and has not begun."""
        with self._lock:
            self._is_closed = True
            for future in self._under_way:
                future.cancel()
            self._under_way.clear()

    def _look_ahead(self, end: int) -> None:
        """Have the chunks behind those that hold the bytes before ``end`` under way."""
        following = self.manifest.find(end - 1) + 1
        self._under_way = [future for future in self._under_way if not future.done()]
        for number in self._reader.ahead(self.manifest, following):
            extent = self.manifest.extents[number]
            if number < self._asked or extent.chunk is None:
                continue
            future = self._reader.fetch_ahead(extent.chunk, extent.length)
            if future is not None:
                self._under_way.append(future)
            self._asked = number + 1
