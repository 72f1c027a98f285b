"""The content store: files' content in and out."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.content import chunk_table
from tgdav.content.format.manifest import Manifest
from tgdav.content.format.sealer import ChunkSealer, ContentIdentity
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.read.chunk_loader import ChunkLoader
from tgdav.content.read.damage_log import DamageLog
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.read.reader import ContentReader, ReadSettings
from tgdav.content.repacking import PackRewriter
from tgdav.content.staging.context import ContentContext, ContentSettings
from tgdav.content.staging.pack_file import StagingDirectory
from tgdav.content.staging.quota import StagingQuota
from tgdav.content.staging.recovery import recover
from tgdav.content.staging.stream import ContentStream
from tgdav.content.upload.uploader import Uploader
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import LocalFailure
from tgdav.ids import BlobName, ChunkId
from tgdav.platform import Platform

_log = logging.getLogger(__name__)

_STORED_FROM = int(PackState.STORED)
_USUAL_CHUNK = 1024 * 1024
_EVICT_BYTES = 64 * 1024 * 1024
"""Bytes of the disk cache dropped at once for a writer that waits for disk space."""


class UploadState(StrEnum):
    """How far content is on its way to the store."""

    LOCAL = "local"
    UPLOADING = "uploading"
    STORED = "stored"


class StagingUsage(msgspec.Struct, frozen=True):
    """Bytes in staging, the limit, and whether a usual chunk still fits."""

    used: int
    limit: int
    is_full: bool


class ContentStore:
    """Streams new content in and reads stored content. Thread-safe. Made by ``open``."""

    def __init__(
        self,
        context: ContentContext,
        blobs: BlobStore,
        uploader: Uploader,
        reader: ContentReader,
        damage_log: DamageLog,
    ) -> None:
        self._context = context
        self._damage_log = damage_log
        self.database = context.database
        self.identity = context.identity
        self.reader = reader
        self.sealer = context.sealer
        self.staging = context.staging
        self.uploader = uploader
        self.rewriter = PackRewriter(context, blobs, reader, uploader)
        # Callbacks upward are set here: staging imports neither reading nor uploading.
        context.on_small = reader.remember
        context.on_staged = uploader.notify_staged
        context.quota.on_shortage = self._on_shortage
        if reader.cache.max_bytes:
            uploader.sender.on_stored = self._keep_in_cache

    @classmethod
    def open(
        cls,
        database: Database,
        blobs: BlobStore,
        directory: Path,
        identity: ContentIdentity,
        settings: ContentSettings,
        platform: Platform,
        *,
        cache: DiskCache | None = None,
        read_settings: ReadSettings | None = None,
    ) -> "ContentStore":
        """Open the staging ``directory`` (created if missing) and recover what an earlier run left in it.

        ``cache``: None for no disk cache. Raises LocalFailure, NoSpace, UsageError.
        """
        clock, entropy, disk = platform.clock, platform.entropy, platform.disk
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk.sync_directory(directory.parent)
        quota = StagingQuota(directory, settings.staging_bytes, clock, reserve=settings.reserve_bytes)
        staging = StagingDirectory(directory, quota, disk=disk, clock=clock, entropy=entropy)
        sealer = ChunkSealer(identity, entropy, compresses=settings.compression_enabled)
        context = ContentContext(database, staging, identity, settings, sealer, clock)
        recover(context)
        uploader = Uploader(context, blobs, entropy)
        cache = cache or DiskCache(directory / "no-cache", 0, disk=disk, clock=clock)
        damage_log = DamageLog(database, clock)
        loader = ChunkLoader(database, staging, blobs, cache, sealer, damage_log)
        return cls(context, blobs, uploader, ContentReader(loader, read_settings or ReadSettings()), damage_log)

    def start(self) -> None:
        """Start uploading, and start to scan the disk cache."""
        self.reader.cache.start()
        self.uploader.start()

    def stop(self) -> None:
        """Finish the uploads in progress and close all files; staged content remains for the next start."""
        with ExitStack() as stack:  # each is stopped, even if another one raises
            stack.callback(self._context.open_packs.close)
            stack.callback(self.uploader.stop)
            stack.callback(self.reader.cache.close)
            self.reader.close()

    # ---- writing ---------------------------------------------------------------------------------------------------------

    def open_stream(self, *, local: bool = False) -> ContentStream:
        """Return a stream for new content; ``local`` content never leaves this machine."""
        return ContentStream(self._context, local=local)

    def admit(self, count: int) -> None:
        """Wait until a writer may add ``count`` bytes to this machine; raises NoSpace after 60 s."""
        self._context.quota.admit(count)

    def stop_waiting(self) -> None:
        """Fail the writers that wait for space, now and later: the process is about to stop."""
        self._context.quota.stop_waiting()

    def staging_usage(self) -> StagingUsage:
        """Return how full staging is."""
        quota = self._context.quota
        return StagingUsage(quota.used, quota.limit(), not quota.fits(_USUAL_CHUNK))

    def publish(self, transaction: Transaction, manifest: Manifest) -> None:
        """Send the chunks of a manifest to the store from now on, those too that only local content referenced so far."""
        sizes = chunk_table.publish(transaction, manifest.chunk_ids())

        def count() -> None:
            self._context.quota.charge(sum(sizes))
            self._context.backlog.add(len(sizes), sum(sizes))

        if sizes:
            transaction.after_commit(count)

    # ---- garbage collection ----------------------------------------------------------------------------------------------

    @contextmanager
    def removing(self, chunks: Iterable[ChunkId]) -> Iterator[bool]:
        """Keep streams from pinning these chunks during the ``with`` block, a change that retires their pack.

        Yields whether they may be removed: False, and nothing is kept from anything, if one is pinned or was pinned since
        ``record_pins``.
        """
        wanted, pins = set(chunks), self._context.pins
        free = pins.start_removal(wanted)
        try:
            yield free == wanted
        finally:
            pins.end_removal(free)

    def record_pins(self, on: bool) -> None:
        """Remember from now on which chunks streams pin, or forget it."""
        if on:
            self._context.pins.start_recording()
        else:
            self._context.pins.stop_recording()

    def is_pinned(self, chunk: ChunkId) -> bool:
        """Return whether a stream has pinned a chunk, now or since ``record_pins``."""
        return self._context.pins.was_pinned(chunk)

    def idle_since(self) -> float:
        """Return the monotonic time at which something was last staged."""
        return max(self._context.backlog.touched, self._context.last_chunk)

    def forget_pack(self, name: BlobName, size: int) -> None:
        """Drop what the disk cache has of a pack that was deleted."""
        self.reader.cache.drop(name, 0, size)

    # ---- temporary files ---------------------------------------------------------------------------------------------------

    def discard(
        self, chunks: Iterable[ChunkId], named: Callable[[Transaction, set[ChunkId]], Collection[ChunkId]]
    ) -> None:
        """Delete those of these staged chunks that were stored moments ago, unless a stream pins them or something names them.

        ``named`` returns which of the given chunks the log or local files name. Raises LocalFailure, NoSpace.
        """
        context, removing = self._context, set[ChunkId]()

        def drop(transaction: Transaction) -> list[int]:
            # Inside the change: a stream that finds a chunk later stores it again, one that found it before has pinned it.
            removing.update(context.pins.start_removal(context.fresh_chunks.among(chunks)))
            return chunk_table.discard(transaction, removing.difference(named(transaction, removing)))

        try:
            sizes = self.database.writer.run(drop)
        finally:
            context.pins.end_removal(removing)
        context.quota.charge(-sum(sizes))
        context.backlog.remove(len(sizes), sum(sizes))

    def on_sealed(self, chunks: Iterable[ChunkId]) -> None:
        """A segment names these chunks: they are never discarded."""
        self._context.fresh_chunks.forget(chunks)

    def before_packing(self, action: Callable[[], None]) -> None:
        """Call ``action`` each time before what is staged is packed; it may ``discard``."""
        self._context.before_packing = action

    # ---- the state of things ---------------------------------------------------------------------------------------------

    def record_damage(self, blob: str, kind: str, reason: str) -> None:
        """Write a row of ``damage`` for what another part of the program found."""
        self._damage_log.record(blob, kind, reason)

    def flush(self, timeout: float) -> bool:
        """Send all that is staged now; True once nothing is pending, False after ``timeout`` seconds."""
        return self.uploader.flush(timeout)

    def pending(self) -> int:
        """Return the bytes that are staged for the store and not there yet."""
        return self.uploader.pending()

    def state_of(self, chunks: Iterable[ChunkId]) -> UploadState:
        """Return the state of the chunk that is furthest from the store."""
        with self.database.reading() as connection:
            least = min(
                (int(state or PackState.OPEN) for state in chunk_table.states(connection, chunks)), default=_STORED_FROM
            )
        if least >= _STORED_FROM:
            return UploadState.STORED
        return UploadState.UPLOADING if least else UploadState.LOCAL

    def _keep_in_cache(self, row: PackRow, path: Path) -> None:
        """Move the staging file of a stored pack to the disk cache, or remove it."""
        self.reader.cache.adopt(row.name, path)
        try:
            self.staging.disk.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalFailure(f"a staging file could not be removed: {error.strerror}") from error

    def _on_shortage(self) -> None:
        """A writer waits for space: evict cached ranges, and upload without pauses."""
        if self._context.quota.is_disk_low:
            self.reader.cache.evict(_EVICT_BYTES)
        self.uploader.make_space()
