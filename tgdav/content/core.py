"""What streams, readers and the uploader of one content store share."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tgdav.clock import Clock
from tgdav.content import index
from tgdav.content.chunker import chunk_sizes
from tgdav.content.pack import largest_padded, plan
from tgdav.content.pins import Pins
from tgdav.content.pool import PackPool
from tgdav.content.sealer import ChunkSealer
from tgdav.content.staging import Staging
from tgdav.content.types import SMALL_CHUNK, ContentIdentity, ContentSettings
from tgdav.crypto.chunk_seal import Room
from tgdav.crypto.sealing import OVERHEAD
from tgdav.db.database import Database
from tgdav.errors import UsageError
from tgdav.ids import ChunkId

_ROOMS_KEPT = 3


class Backlog:
    """How much is staged as rows, and when something was last staged. Thread-safe; sizes in sealed bytes.

    ``count`` and ``bytes`` leave out what stays on this machine.
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


class Rooms:
    """Memory in which chunks of up to ``size`` bytes are sealed and proven, one at a time in each. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[Room] = []

    @contextmanager
    def one(self) -> Iterator[Room]:
        """Lend one for a block; of those given back a few are kept."""
        try:
            room = self._free.pop()
        except IndexError:
            room = Room(self._size)
        try:
            yield room
        finally:
            if len(self._free) < _ROOMS_KEPT:
                self._free.append(room)


class ContentCore:
    """Parts and settings; thread-safe as each part is."""

    def __init__(
        self,
        database: Database,
        staging: Staging,
        identity: ContentIdentity,
        settings: ContentSettings,
        sealer: ChunkSealer,
        clock: Clock,
    ) -> None:
        self.database = database
        self.staging = staging
        self.space = staging.space
        self.identity = identity
        self.keys = identity.keys
        self.settings = settings
        self.sealer = sealer
        self.clock = clock
        self.sizes = chunk_sizes(settings.average_size)
        self.uncut = min(SMALL_CHUNK, self.sizes.minimum)
        """Content of at most so many bytes is one chunk and a row: it needs no cutting."""
        if plan(self.sizes.maximum + OVERHEAD, 1).size > largest_padded(settings.chunk_size):
            raise UsageError("chunk.chunk_size is too small for chunks of chunk.average_size")
        self.pool = PackPool(staging, clock, settings.chunk_size)
        self.rooms = Rooms(self.sizes.maximum)
        self.pins = Pins()
        self.backlog = Backlog(clock)
        self.last_chunk = -1e9
        """Monotonic time at which a writer last added a chunk to a pack."""
        self.on_small: Callable[[ChunkId, bytes], None] = _ignore
        """Called with the plaintext of small content that was committed."""
        self.on_work: Callable[[], None] = _nothing
        """Called when something was staged; the uploader sees whether that makes anything due."""

    def pin_known(self, chunk: ChunkId) -> bool | None:
        """Return None if the chunk must be stored; else pin it and return whether only junk names it so far."""
        if not self.pins.pin(chunk):
            return None
        local = None
        try:
            with self.database.glancing(committed=True) as connection:
                local = index.known(connection, chunk)
        finally:
            if local is None:
                self.pins.unpin([chunk])
        return local


def _nothing() -> None:
    return


def _ignore(_chunk: ChunkId, _plaintext: bytes) -> None:
    return
