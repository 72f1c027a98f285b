"""Plaintext of chunks in memory: the most recently used, bounded by bytes, and loaded by one thread at a time each."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from tgdav.errors import TgdavError
from tgdav.ids import ChunkId

DEFAULT_LIMIT = 48 * 1024 * 1024
"""Enough for some forty large chunks, or 10 000 files of 4 KiB."""

MOUNTED_LIMIT = 24 * 1024 * 1024
"""Beside a mount: what is read often, its kernel keeps too. Large blocks and small ones do not fit into each other's holes
in the heap, so that after large files and many small ones twice as much is taken.
"""

Outcome = bytes | TgdavError
Settle = Callable[[ChunkId, Outcome], None]
Load = Callable[[list[ChunkId], Settle], None]
"""Loads chunks and says for each, once, what became of it."""


class _Flight:
    """A chunk that a thread is loading. ``outcome`` stays None if that thread gave up; then whoever waits tries itself."""

    __slots__ = ("_latch", "outcome")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._latch = threading.Lock()  # held until landed: far cheaper to make than an Event
        self._latch.acquire()

    def land(self, outcome: Outcome | None) -> None:
        self.outcome = outcome
        self._latch.release()

    def wait(self) -> Outcome | None:
        with self._latch:
            return self.outcome


class ChunkMemory:
    """Thread-safe. ``limit``: bytes of plaintext kept; what is being loaded or read comes on top."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._used = 0
        self._flights: dict[ChunkId, _Flight] = {}

    @property
    def used(self) -> int:
        """Bytes kept now."""
        return self._used

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._kept

    def obtain(self, chunks: Sequence[ChunkId], load: Load) -> dict[ChunkId, bytes]:
        """Return the plaintext of ``chunks`` (each named once); ``load`` gets those that no thread has or is loading.

        Raises the error that ``load`` settled for the first chunk that has one, and whatever it raises.
        """
        found: dict[ChunkId, bytes] = {}
        wanted = list(chunks)
        while wanted:
            mine, others = self._claim(wanted, found)
            if mine:
                # Own chunks land before others are waited for: so no two threads ever wait for each other.
                self._load(mine, load, found)
            wanted = []
            for chunk, flight in others:
                outcome = flight.wait()
                if outcome is None:
                    wanted.append(chunk)
                else:
                    found[chunk] = _data(outcome)
        return found

    def keep(self, chunk: ChunkId, plaintext: bytes) -> None:
        """Keep a chunk that was just written: it is likely to be read."""
        with self._lock:
            self._keep(chunk, plaintext)

    def resize(self, limit: int) -> None:
        """Keep at most ``limit`` bytes from now on."""
        with self._lock:
            self.limit = limit
            self._shrink()

    def clear(self) -> None:
        """Forget all that is kept."""
        with self._lock:
            self._kept.clear()
            self._used = 0

    def _claim(
        self, wanted: list[ChunkId], found: dict[ChunkId, bytes]
    ) -> tuple[dict[ChunkId, _Flight], list[tuple[ChunkId, _Flight]]]:
        """Take what is kept into ``found``; return (flights begun for this thread, flights of others)."""
        mine: dict[ChunkId, _Flight] = {}
        others = []
        with self._lock:
            for chunk in wanted:
                data = self._kept.get(chunk)
                if data is not None:
                    self._kept.move_to_end(chunk)
                    found[chunk] = data
                elif chunk in self._flights:
                    others.append((chunk, self._flights[chunk]))
                else:
                    mine[chunk] = self._flights[chunk] = _Flight()
        return mine, others

    def _load(self, mine: dict[ChunkId, _Flight], load: Load, found: dict[ChunkId, bytes]) -> None:
        outcomes: dict[ChunkId, Outcome] = {}

        def settle(chunk: ChunkId, outcome: Outcome) -> None:
            outcomes[chunk] = outcome
            self._land(chunk, mine.pop(chunk), outcome)

        asked = list(mine)
        try:
            load(asked, settle)
        finally:
            for chunk, flight in mine.items():
                self._land(chunk, flight, None)
        for chunk in asked:
            found[chunk] = _data(outcomes[chunk])

    def _land(self, chunk: ChunkId, flight: _Flight, outcome: Outcome | None) -> None:
        with self._lock:
            del self._flights[chunk]
            if isinstance(outcome, bytes):
                self._keep(chunk, outcome)
        flight.land(outcome)

    def _keep(self, chunk: ChunkId, data: bytes) -> None:
        if len(data) > self.limit or chunk in self._kept:
            return
        self._kept[chunk] = data
        self._used += len(data)
        self._shrink()

    def _shrink(self) -> None:
        while self._used > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self._used -= len(oldest)


def _data(outcome: Outcome) -> bytes:
    if isinstance(outcome, TgdavError):
        raise outcome
    return outcome
