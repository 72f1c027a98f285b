"""The content store's front door."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path

from tgdav.blobs.interface import BlobStore
from tgdav.clock import Clock
from tgdav.content import chunk_table
from tgdav.content.format.manifest import Manifest
from tgdav.content.format.sealer import ChunkSealer, ContentIdentity
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.read.damage_log import DamageNotes
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.read.reader import ContentReader, Reader, ReadSettings
from tgdav.content.staging.context import ContentCore, ContentSettings
from tgdav.content.staging.pack_file import Staging
from tgdav.content.staging.quota import RESERVE, Space
from tgdav.content.staging.recovery import take_over
from tgdav.content.staging.stream import ContentStream
from tgdav.content.upload.uploader import Uploader
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import LocalFailure
from tgdav.ids import ChunkId

_log = logging.getLogger(__name__)

_STORED_FROM = int(PackState.STORED)
_GIVE_WAY = 64 * 1024 * 1024
"""Bytes of the cache dropped at once for a writer that waits for disk space."""


class ContentState(StrEnum):
    """How far content is on its way to the store."""

    LOCAL = "local"
    UPLOADING = "uploading"
    STORED = "stored"


class ContentStore:
    """Files' content, in and out. Thread-safe. Made by ``open``."""

    def __init__(self, core: ContentCore, uploader: Uploader, reading: Reader, notes: DamageNotes) -> None:
        self._notes = notes
        self.core = core
        self.uploader = uploader
        self.reading = reading
        core.on_small = reading.remember
        core.on_work, core.space.on_shortage = uploader.notice, self._on_shortage
        if reading.cache.max_bytes:
            uploader.sender.on_stored = self._keep

    @classmethod
    def open(
        cls,
        database: Database,
        blobs: BlobStore,
        folder: Path,
        identity: ContentIdentity,
        settings: ContentSettings,
        *,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        reserve: int = RESERVE,
        cache: DiskCache | None = None,
        read_settings: ReadSettings | None = None,
    ) -> "ContentStore":
        """Open the staging ``folder`` (made if it is not there) and take over what an earlier run left in it.

        ``reserve``: bytes of staging and of its disk that writers cannot take. ``cache``: None keeps no copies.
        Raises LocalFailure, NoSpace, UsageError.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk.sync_directory(folder.parent)
        space = Space(folder, settings.staging_bytes, clock, reserve=reserve)
        staging = Staging(folder, space, disk=disk, clock=clock, entropy=entropy)
        sealer = ChunkSealer(identity, entropy, compresses=settings.compression_enabled)
        core = ContentCore(database, staging, identity, settings, sealer, clock)
        take_over(core)
        uploader = Uploader(core, blobs, entropy)
        notes = DamageNotes(database, clock)
        reading = Reader(
            database,
            staging,
            blobs,
            cache or DiskCache(folder / "no-cache", 0, disk=disk, clock=clock),
            sealer,
            read_settings or ReadSettings(),
            on_damage=notes.damaged,
            on_healed=notes.healed,
        )
        return cls(core, uploader, reading, notes)

    def start(self) -> None:
        """Begin to upload, and to look what the cache holds."""
        self.reading.cache.start()
        self.uploader.start()

    def stop(self) -> None:
        """Finish what is being sent and let go of all files; staged content stays for the next start."""
        with ExitStack() as ending:  # each ends, whatever another one meets
            ending.callback(self.core.pool.close)
            ending.callback(self.uploader.stop)
            ending.callback(self.reading.cache.close)
            self.reading.close()

    def open_stream(self, *, local: bool = False) -> ContentStream:
        """Return a stream for new content; ``local`` content never leaves this machine."""
        return ContentStream(self.core, local=local)

    def publish(self, transaction: Transaction, manifest: Manifest) -> None:
        """What only junk named so far is named by content of the log, from this transaction on: it goes to the store."""
        sizes = chunk_table.publish(transaction, manifest.chunk_ids())

        def count() -> None:
            self.core.space.charge(sum(sizes))
            self.core.backlog.add(len(sizes), sum(sizes))

        if sizes:
            transaction.after_commit(count)

    def note_damage(self, blob: str, kind: str, reason: str) -> None:
        """Write a line of ``damage`` for what others met."""
        self._notes.damaged(blob, kind, reason)

    def flush(self, timeout: float) -> bool:
        """Send all that is staged now; True once nothing is pending, False after ``timeout`` seconds."""
        return self.uploader.flush(timeout)

    def pending(self) -> int:
        """Return the bytes that are meant for the store and not there yet."""
        return self.uploader.pending()

    def state_of(self, chunks: Iterable[ChunkId]) -> ContentState:
        """Return how far the chunks are on their way: the state of the one that is furthest behind."""
        with self.core.database.reading() as connection:
            behind = min(
                (int(state or PackState.OPEN) for state in chunk_table.states(connection, chunks)), default=_STORED_FROM
            )
        if behind >= _STORED_FROM:
            return ContentState.STORED
        return ContentState.UPLOADING if behind else ContentState.LOCAL

    def read(self, manifest: Manifest, offset: int, length: int) -> bytes:
        """Return the bytes of a range, clipped at the end; holes are zeros.

        Raises DamageError that names the blob, StoreUnavailable, LocalFailure.
        """
        return self.reading.read(manifest, offset, length)

    def reader(self, manifest: Manifest) -> ContentReader:
        """Return a reader for one handle, which fetches ahead when it is read in sequence; to be closed."""
        return self.reading.reader(manifest)

    def chunk(self, chunk: ChunkId) -> bytes:
        """Return a chunk's plaintext, checked against its id. Raises as ``read``."""
        return self.reading.chunk(chunk)

    def _keep(self, row: PackRow, path: Path) -> None:
        """A pack is stored: its staging file goes, and may live on in the cache."""
        self.reading.keep(row.name, path)
        try:
            self.core.staging.disk.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalFailure(f"a staging file could not be removed: {error.strerror}") from error

    def _on_shortage(self) -> None:
        """A writer waits for space: the cache gives way, and what can be sent is sent."""
        if self.core.space.lacks_disk:
            self.reading.cache.evict(_GIVE_WAY)
        self.uploader.hurry()
