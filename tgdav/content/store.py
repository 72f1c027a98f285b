"""The content store's front door."""

import logging
from collections.abc import Iterable
from pathlib import Path

from tgdav.blobs.contract import BlobStore
from tgdav.clock import Clock
from tgdav.content import index
from tgdav.content.core import ContentCore
from tgdav.content.manifest import Manifest
from tgdav.content.recovery import take_over
from tgdav.content.sealer import ChunkSealer
from tgdav.content.space import RESERVE, Space
from tgdav.content.staging import Staging
from tgdav.content.stream import ContentStream
from tgdav.content.types import ChunkPlace, ContentIdentity, ContentSettings, ContentState, PackState
from tgdav.content.uploader import Uploader
from tgdav.db.database import Database
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, ChunkId

_log = logging.getLogger(__name__)

_STORED_FROM = int(PackState.STORED)


class ContentStore:
    """Files' content, in and out. Thread-safe. Made by ``open``."""

    def __init__(self, core: ContentCore, blobs: BlobStore, uploader: Uploader) -> None:
        self.core = core
        self.uploader = uploader
        self._blobs = blobs

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
    ) -> "ContentStore":
        """Open the staging ``folder`` (made if it is not there) and take over what an earlier run left in it.

        ``reserve``: bytes of staging and of its disk that writers cannot take. Raises LocalFailure, NoSpace, UsageError.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk.sync_folder(folder.parent)
        space = Space(folder, settings.staging_bytes, clock, reserve=reserve)
        staging = Staging(folder, space, disk=disk, clock=clock, entropy=entropy)
        sealer = ChunkSealer(identity, entropy, compresses=settings.compression_enabled)
        core = ContentCore(database, staging, identity, settings, sealer, clock)
        take_over(core)
        uploader = Uploader(core, blobs, entropy)
        core.on_work = core.space.on_shortage = uploader.wake
        return cls(core, blobs, uploader)

    def start(self) -> None:
        """Begin to upload."""
        self.uploader.start()

    def stop(self) -> None:
        """Finish what is being sent and let go of all files; staged content stays for the next start."""
        self.uploader.stop()
        self.core.pool.close()

    def open_stream(self, *, local: bool = False) -> ContentStream:
        """Return a stream for new content; ``local`` content never leaves this machine."""
        return ContentStream(self.core, local=local)

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
                (int(state or PackState.OPEN) for state in index.states(connection, chunks)), default=_STORED_FROM
            )
        if behind >= _STORED_FROM:
            return ContentState.STORED
        return ContentState.UPLOADING if behind else ContentState.LOCAL

    def read(self, manifest: Manifest, offset: int, length: int) -> bytes:
        """Return the bytes of a range, clipped at the end; holes are zeros.

        Raises DamageError that names the blob, StoreUnavailable, LocalFailure.
        """
        parts = []
        for number, start, count in manifest.slice(offset, length):
            chunk = manifest.extents[number].chunk
            parts.append(bytes(count) if chunk is None else self.chunk(chunk)[start : start + count])
        return b"".join(parts)

    def chunk(self, chunk: ChunkId) -> bytes:
        """Return a chunk's plaintext, checked against its id. Raises as ``read``."""
        while True:
            place = self._find(chunk)
            sealed = self.fetch(place, place.offset, place.stored) if place.data is None else place.data
            if sealed is not None:
                break
        return self.core.sealer.open(chunk, place.epoch, place.codec, place.length, sealed, _blob_of(place))

    def fetch(self, place: ChunkPlace, offset: int, length: int) -> bytes | None:
        """Return a range of the pack at ``place``, from the staging file or the store; None: the pack is elsewhere now.

        Raises as ``read``.
        """
        if place.file is not None:
            return self._fetch_staged(place, place.file, offset, length)
        if place.blob is None:
            raise DamageError("a chunk lies in a pack that is nowhere", blob=_blob_of(place))
        try:
            return self._blobs.read(BlobId(place.blob), offset, length)
        except BlobMissing as error:
            raise DamageError("the store has lost a pack", blob=_blob_of(place)) from error

    def _fetch_staged(self, place: ChunkPlace, file: str, offset: int, length: int) -> bytes | None:
        data = self.core.staging.read(file, offset, length)
        if data is not None and len(data) == length:
            return data
        # A pack that was stored leaves staging; its row says so before its file goes.
        if self._find(place.id).file != file:
            return None
        raise DamageError("a staged pack is gone or cut", blob=_blob_of(place))

    def _find(self, chunk: ChunkId) -> ChunkPlace:
        with self.core.database.reading() as connection:
            place = index.find(connection, chunk)
        if place is None:
            raise DamageError("a chunk is in no known pack", blob=f"chunk {chunk.hex()}")
        return place


def _blob_of(place: ChunkPlace) -> str:
    return "database" if place.pack_name is None else place.pack_name.hex()
