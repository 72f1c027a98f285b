"""Reading content: a ``FileReader`` for each handle, over one ``ContentReader`` that all of them share.

A read goes down once. The handle's reader requests the chunks that a sequential reader needs next, then asks the shared
reader for the bytes: chunks come from memory, others are loaded, each by one thread, nearest copy first.
"""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from tgdav.content.format.manifest import Extent, Manifest
from tgdav.content.read.chunk_cache import DEFAULT_LIMIT, ChunkCache
from tgdav.content.read.chunk_loader import ChunkLoader
from tgdav.cpu_affinity import use_all_cores
from tgdav.errors import DamageError, TgdavError
from tgdav.ids import ChunkId
from tgdav.threads import Guard

WORKERS = 4
"""Threads that fetch ahead."""
_SHARE = 4
"""A quarter of the chunk cache may be fetched ahead: for each reader, and for all readers together."""


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says about reading. Sizes in bytes."""

    memory_bytes: int = DEFAULT_LIMIT
    """Plaintext of chunks kept in memory."""
    prefetch_enabled: bool = True
    prefetch_count: int = 3
    """Chunks fetched ahead of a sequential reader."""


class ContentReader:
    """Reads the content of manifests. Thread-safe."""

    def __init__(self, loader: ChunkLoader, settings: ReadSettings) -> None:
        self.settings = settings
        self.cache = loader.cache
        self._loader = loader
        self._chunks = ChunkCache(settings.memory_bytes)
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[FileReader] = weakref.WeakSet()
        # A local store is read faster than a chunk is handed from thread to thread.
        count = settings.prefetch_count if settings.prefetch_enabled and not loader.is_store_local else 0
        self._read_ahead = ReadAhead(self.chunk, self.is_remote, self._chunks, count)

    def open(self, manifest: Manifest) -> "FileReader":
        """Return a reader for one handle, which fetches ahead while it is read in sequence; close it after use."""
        reader = FileReader(self, self._read_ahead, manifest)
        with self._lock:
            self._open.add(reader)
        return reader

    def open_manifests(self) -> list[Manifest]:
        """Return the contents of all open readers: the files may be deleted already."""
        with self._lock:
            return [reader.manifest for reader in self._open if not reader.is_closed]

    def read(self, manifest: Manifest, offset: int, length: int) -> bytes:
        """Return the bytes of a range, clipped at the end; holes are zeros.

        Raises DamageError that names the blob, StoreUnavailable or StoreRejected, LocalFailure.
        """
        extents = [(manifest.extents[number], start, count) for number, start, count in manifest.slice(offset, length)]
        wanted = list(dict.fromkeys(extent.chunk for extent, _, _ in extents if extent.chunk is not None))
        chunks = self._chunks.get(wanted, self._loader.load)
        if len(extents) == 1:
            return bytes(self._part(chunks, *extents[0]))
        return b"".join(self._part(chunks, *extent) for extent in extents)

    def chunk(self, chunk: ChunkId) -> bytes:
        """Return a chunk's plaintext, checked against its id. Raises as ``read``."""
        return self._chunks.get([chunk], self._loader.load)[chunk]

    def is_remote(self, chunk: ChunkId) -> bool:
        """Return whether a chunk must come from the store."""
        return chunk not in self._chunks and self._loader.is_remote(chunk)

    def remember(self, chunk: ChunkId, plaintext: bytes) -> None:
        """Keep in memory what was just written."""
        self._chunks.add(chunk, plaintext)

    def resize_memory(self, limit: int | None = None) -> None:
        """Keep at most ``limit`` bytes of plaintext from now on; None restores what the settings say."""
        self._chunks.resize(self.settings.memory_bytes if limit is None else limit)

    def clear(self) -> None:
        """Drop all that can be fetched again, from memory and disk."""
        self._chunks.clear()
        self.cache.clear()

    def close(self) -> None:
        """Stop fetching ahead; reading remains possible."""
        self._read_ahead.close()

    def _part(self, chunks: dict[ChunkId, bytes], extent: Extent, start: int, count: int) -> bytes | memoryview:
        if extent.chunk is None:
            return bytes(count)
        data = chunks[extent.chunk]
        if len(data) != extent.length:
            raise self._contradiction(extent.chunk)
        return data if count == len(data) else memoryview(data)[start : start + count]

    def _contradiction(self, chunk: ChunkId) -> DamageError:
        reason = "a manifest names a chunk with another length than it has"
        self._loader.damage_log.failed("database", "database", reason, chunk)
        return DamageError(reason, blob="database")


class FileReader:
    """Reads one content for one handle. Thread-safe. From the second read in sequence on, chunks are fetched ahead."""

    def __init__(self, reader: ContentReader, read_ahead: "ReadAhead", manifest: Manifest) -> None:
        self.manifest = manifest
        self._reader = reader
        self._read_ahead = read_ahead
        self._lock = threading.Lock()
        self._next_offset: int | None = None
        self._requested = 0
        """Extents before this number were requested already."""
        self._futures: list[Future[None]] = []
        self._is_closed = False

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range, clipped at the end. Raises as ``ContentReader.read``."""
        if self._read_ahead.max_chunks:
            self._follow(offset, length)
        return self._reader.read(self.manifest, offset, length)

    def is_here(self) -> bool:
        """Return whether this machine has all chunks."""
        return not any(
            extent.chunk is not None and self._reader.is_remote(extent.chunk) for extent in self.manifest.extents
        )

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    def close(self) -> None:
        """Cancel the requests that have not begun."""
        with self._lock:
            self._is_closed = True
            for future in self._futures:
                future.cancel()
            self._futures.clear()

    def _follow(self, offset: int, length: int) -> None:
        """Request the chunks after this read, if it begins where the last one ended."""
        # Kernels and HTTP clients send several requests of one handle at a time, so this may run concurrently.
        with self._lock:
            if offset != self._next_offset:
                self._requested = 0
            elif length > 0 and not self._is_closed:
                following = self.manifest.find(offset + length - 1) + 1
                futures, self._requested = self._read_ahead.request(self.manifest, following, self._requested)
                self._futures = [future for future in self._futures if not future.done()] + futures
            self._next_offset = offset + length


class ReadAhead:
    """Decides which chunks sequential readers need next, and fetches those that only the store has. Thread-safe."""

    def __init__(
        self,
        load: Callable[[ChunkId], object],
        is_remote: Callable[[ChunkId], bool],
        chunks: ChunkCache,
        max_chunks: int,
    ) -> None:
        self.max_chunks = max_chunks
        """Chunks fetched ahead of each reader; 0: none."""
        self._is_remote = is_remote
        self._chunks = chunks
        self._prefetcher = Prefetcher(load, chunks.limit // _SHARE)

    def request(self, manifest: Manifest, start: int, requested: int) -> tuple[list[Future[None]], int]:
        """Begin to fetch what follows when all before extent ``start`` was read and all before ``requested`` requested.

        Return the fetches begun and the new ``requested``.
        """
        futures = []
        for number in self.window(manifest, start):
            extent = manifest.extents[number]
            if number < requested or extent.chunk is None:
                continue
            if self._is_remote(extent.chunk):
                future = self._prefetcher.fetch(extent.chunk, extent.length)
                if future is not None:
                    futures.append(future)
            requested = number + 1
        return futures, requested

    def window(self, manifest: Manifest, start: int) -> range:
        """Return the numbers of the extents to have in memory when all before extent ``start`` was read."""
        size, chunks, number = 0, 0, start
        while number < len(manifest.extents) and chunks < self.max_chunks:
            extent = manifest.extents[number]
            if extent.chunk is not None:
                chunks += 1
                size += extent.length
            # More would push out of memory what was fetched and is not read yet.
            if size > self._chunks.limit // _SHARE:
                break
            number += 1
        return range(start, number)

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._prefetcher.close()


class Prefetcher:
    """Loads chunks on a few threads. Thread-safe. ``budget``: bytes of plaintext that may be in flight at once."""

    def __init__(self, load: Callable[[ChunkId], object], budget: int) -> None:
        self._load = load
        self._budget = budget
        self._guard = Guard("prefetch")
        self._lock = threading.Lock()
        self._pending = 0
        self._is_closed = False
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="prefetch", initializer=use_all_cores)

    def fetch(self, chunk: ChunkId, length: int) -> Future[None] | None:
        """Begin to fetch a chunk of ``length`` bytes; None if too much is in flight."""
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
            return  # the reader gets the same error when it reads the chunk, and reports it

    def _release(self, length: int) -> None:
        with self._lock:
            self._pending -= length
