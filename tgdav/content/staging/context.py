"""What the streams and the uploader of one content store share."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from tgdav.clock import Clock
from tgdav.content import chunk_table
from tgdav.content.format.chunk import SMALL_CHUNK
from tgdav.content.format.chunker import chunk_sizes
from tgdav.content.format.pack import largest_padded, plan
from tgdav.content.format.sealer import ChunkSealer, ContentIdentity
from tgdav.content.staging.open_packs import OpenPacks
from tgdav.content.staging.pack_file import StagingDirectory
from tgdav.content.staging.quota import RESERVE
from tgdav.crypto.chunk_seal import ScratchBuffer
from tgdav.crypto.sealing import OVERHEAD
from tgdav.db.database import Database
from tgdav.errors import UsageError
from tgdav.ids import ChunkId

_BUFFERS_KEPT = 3
_FRESH_SECONDS = 120.0
_MOST_FRESH = 100_000


class ContentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says about content. Sizes in bytes."""

    chunk_size: int = 50 * 1024 * 1024
    """Upper limit of a pack."""
    average_size: int = 1024 * 1024
    """Aim of the chunker, at least 64 KiB; a chunk has a quarter of it to twice it less 64 KiB."""
    compression_enabled: bool = True
    dedup_enabled: bool = True
    """False: content is staged and sent again even if its chunks are known; they are then read from the new pack."""
    max_concurrent_uploads: int = 3
    staging_bytes: int | None = None
    """Limit of staging; None: 10 GiB, at most half of what the disk has free."""
    reserve_bytes: int = RESERVE
    """Bytes of the limit and of the disk that writers cannot use."""


class Pins:
    """Chunks that streams rely on, counted, so that nothing deletes them before a commit references them. Thread-safe.

    A stream pins a chunk first and looks it up afterwards, in a newer snapshot. A deletion calls ``start_removal`` inside its
    transaction and ``end_removal`` when that is over; in between, the chunks cannot be pinned. A stream also holds what it
    stores anew, before it records it. Transactions run one after another. So either the deletion sees the pin, or the
    stream sees the deletion and stores the chunk again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pinned: Counter[ChunkId] = Counter()
        self._removing: set[ChunkId] = set()
        self._recorded: set[ChunkId] | None = None

    def start_recording(self) -> None:
        """From now on, remember every chunk that is pinned, those that are pinned now among them."""
        with self._lock:
            self._recorded = set(self._pinned)

    def stop_recording(self) -> None:
        """Forget what was remembered."""
        with self._lock:
            self._recorded = None

    def was_pinned(self, chunk: ChunkId) -> bool:
        """Return whether a chunk is pinned, or was since ``start_recording``."""
        recorded = self._recorded
        return chunk in self._pinned or (recorded is not None and chunk in recorded)

    def pin(self, chunk: ChunkId) -> bool:
        """Pin a stored chunk once more; False (and no pin) if it is being deleted."""
        with self._lock:
            if chunk in self._removing:
                return False
            self._add(chunk)
            return True

    def hold(self, chunk: ChunkId) -> None:
        """Pin a chunk that the caller is about to record itself."""
        with self._lock:
            self._add(chunk)

    def _add(self, chunk: ChunkId) -> None:
        self._pinned[chunk] += 1
        if self._recorded is not None:
            self._recorded.add(chunk)

    def unpin(self, chunks: Iterable[ChunkId]) -> None:
        """Undo ``pin`` or ``hold``, once for each chunk given."""
        with self._lock:
            for chunk in chunks:
                self._pinned[chunk] -= 1
                if not self._pinned[chunk]:
                    del self._pinned[chunk]

    def start_removal(self, chunks: Iterable[ChunkId]) -> set[ChunkId]:
        """Return those of ``chunks`` that are not pinned; they cannot be until ``end_removal``."""
        with self._lock:
            recorded = self._recorded or ()
            free = {
                chunk
                for chunk in chunks
                if chunk not in self._pinned and chunk not in self._removing and chunk not in recorded
            }
            self._removing |= free
            return free

    def end_removal(self, chunks: Iterable[ChunkId]) -> None:
        """The deletion's transaction is over, committed or not."""
        with self._lock:
            self._removing.difference_update(chunks)


class Backlog:
    """How much is staged as rows, and when something was last staged. Thread-safe; sizes in sealed bytes.

    ``count`` and ``bytes`` do not include what stays on this machine.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.count = 0
        self.bytes = 0
        self.touched = clock.monotonic()

    def add(self, count: int, size: int) -> None:
        """Rows were added."""
        with self._lock:
            self.count += count
            self.bytes += size
            self.touched = self._clock.monotonic()

    def remove(self, count: int, size: int) -> None:
        """Rows were moved into a pack."""
        with self._lock:
            self.count = max(self.count - count, 0)
            self.bytes = max(self.bytes - size, 0)


class FreshChunks:
    """Chunks that streams of this process stored moments ago, and that no segment names. Thread-safe.

    Everything that names such a chunk is in the unsent log, in local files, or pinned; so it can be found out whether nothing
    does. Of other chunks that is not known.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: dict[ChunkId, float] = {}

    def add(self, chunks: Iterable[ChunkId]) -> None:
        """These were stored just now, and were unknown before."""
        now = self._clock.monotonic()
        with self._lock:
            self._times.update(dict.fromkeys(chunks, now))
            # The first are the oldest.
            while len(self._times) > _MOST_FRESH or (
                self._times and now - self._times[next(iter(self._times))] > _FRESH_SECONDS
            ):
                del self._times[next(iter(self._times))]

    def forget(self, chunks: Iterable[ChunkId]) -> None:
        """A segment names these."""
        with self._lock:
            for chunk in chunks:
                self._times.pop(chunk, None)

    def among(self, chunks: Iterable[ChunkId]) -> set[ChunkId]:
        """Return those of ``chunks`` that are fresh."""
        with self._lock:
            return {chunk for chunk in chunks if chunk in self._times}


class BufferPool:
    """Scratch buffers in which chunks of up to ``size`` bytes are sealed and verified. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[ScratchBuffer] = []

    @contextmanager
    def borrow(self) -> Iterator[ScratchBuffer]:
        """Lend a buffer for the ``with`` block."""
        # list.pop and list.append are atomic, so no lock is needed.
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = ScratchBuffer(self._size)
        try:
            yield buffer
        finally:
            if len(self._free) < _BUFFERS_KEPT:
                self._free.append(buffer)


class ContentContext:
    """Parts and settings; each part is thread-safe."""

    def __init__(
        self,
        database: Database,
        staging: StagingDirectory,
        identity: ContentIdentity,
        settings: ContentSettings,
        sealer: ChunkSealer,
        clock: Clock,
    ) -> None:
        self.database = database
        self.staging = staging
        self.quota = staging.quota
        self.identity = identity
        self.keys = identity.keys
        self.settings = settings
        self.sealer = sealer
        self.clock = clock
        self.sizes = chunk_sizes(settings.average_size)
        self.uncut = min(SMALL_CHUNK, self.sizes.minimum)
        """Content of at most this many bytes is one chunk and a row: it is not cut."""
        if plan(self.sizes.maximum + OVERHEAD, 1).size > largest_padded(settings.chunk_size):
            raise UsageError("chunk.chunk_size is too small for chunks of chunk.average_size")
        self.open_packs = OpenPacks(staging, clock, settings.chunk_size)
        self.buffers = BufferPool(self.sizes.maximum)
        self.pins = Pins()
        self.backlog = Backlog(clock)
        self.fresh_chunks = FreshChunks(clock)
        self.last_chunk = -1e9
        """Monotonic time at which a writer last added a chunk to a pack."""
        self.on_small: Callable[[ChunkId, bytes], None] = _ignore
        """Called with the plaintext of small content that was committed."""
        self.before_packing: Callable[[], None] = _nothing
        """Called before what is staged is packed: now it can still be discarded."""
        self.on_staged: Callable[[], None] = _nothing
        """Called when something was staged; the uploader checks whether that makes anything due."""

    def pin_known(self, chunk: ChunkId) -> bool | None:
        """Pin a known chunk and return whether only local content references it; None if it must be stored."""
        if not self.pins.pin(chunk):
            return None
        local = None
        try:
            # A chunk of a pending lazy commit counts as unknown: storing it twice is cheaper than forcing the commit.
            with self.database.autocommit_reader(committed=True) as connection:
                local = chunk_table.known(connection, chunk)
        finally:
            if local is None:
                self.pins.unpin([chunk])
        return local


def _nothing() -> None:
    return


def _ignore(_chunk: ChunkId, _plaintext: bytes) -> None:
    return
