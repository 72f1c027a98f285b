"""Plaintext of chunks in memory: least recently used first out, bounded by bytes; each chunk is loaded by one thread."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from tgdav.errors import TgdavError
from tgdav.ids import ChunkId

DEFAULT_LIMIT = 48 * 1024 * 1024
"""Enough for some forty large chunks, or 10 000 files of 4 KiB."""

MOUNTED_LIMIT = 24 * 1024 * 1024
"""The limit while a mount runs: its kernel caches files too.

The heap fragments when large blocks follow small ones, so the process takes up to twice this much.
"""

Outcome = bytes | TgdavError
Deliver = Callable[[ChunkId, Outcome], None]
Load = Callable[[list[ChunkId], Deliver], None]
"""Loads chunks and delivers for each, once, its plaintext or an error."""


class _InFlight:
    """A chunk that a thread is loading. ``outcome`` stays None if that thread failed; the waiting threads then try again."""

    __slots__ = ("_latch", "outcome")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._latch = threading.Lock()  # held until the chunk is there: much cheaper to make than an Event
        self._latch.acquire()

    def finish(self, outcome: Outcome | None) -> None:
        self.outcome = outcome
        self._latch.release()

    def wait(self) -> Outcome | None:
        with self._latch:
            return self.outcome


class ChunkCache:
    """Thread-safe. ``limit``: bytes of plaintext kept; chunks that are being loaded or read are not counted."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._used = 0
        self._in_flight: dict[ChunkId, _InFlight] = {}

    @property
    def used(self) -> int:
        """Bytes kept now."""
        return self._used

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._kept

    def get(self, chunks: Sequence[ChunkId], load: Load) -> dict[ChunkId, bytes]:
        """Return the plaintext of ``chunks`` (no duplicates); ``load`` loads those that are not here and not being loaded.

        Raises the error that was delivered for the first chunk that has one, and what ``load`` raises.
        """
        found: dict[ChunkId, bytes] = {}
        wanted = list(chunks)
        while wanted:
            mine, others = self._claim(wanted, found)
            if mine:
                # Own chunks first: a thread that waits holds no chunk that another thread waits for.
                self._load(mine, load, found)
            wanted = []
            for chunk, flight in others:
                outcome = flight.wait()
                if outcome is None:
                    wanted.append(chunk)
                else:
                    found[chunk] = _plaintext_of(outcome)
        return found

    def add(self, chunk: ChunkId, plaintext: bytes) -> None:
        """Keep a chunk that was just written: it will probably be read soon."""
        with self._lock:
            self._keep(chunk, plaintext)

    def resize(self, limit: int) -> None:
        """Keep at most ``limit`` bytes from now on."""
        with self._lock:
            self.limit = limit
            self._shrink()

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self._used = 0

    def _claim(
        self, wanted: list[ChunkId], found: dict[ChunkId, bytes]
    ) -> tuple[dict[ChunkId, _InFlight], list[tuple[ChunkId, _InFlight]]]:
        """Put what is kept into ``found``; return (chunks that this thread must load, chunks that others are loading)."""
        mine: dict[ChunkId, _InFlight] = {}
        others = []
        with self._lock:
            for chunk in wanted:
                data = self._kept.get(chunk)
                if data is not None:
                    self._kept.move_to_end(chunk)
                    found[chunk] = data
                elif chunk in self._in_flight:
                    others.append((chunk, self._in_flight[chunk]))
                else:
                    mine[chunk] = self._in_flight[chunk] = _InFlight()
        return mine, others

    def _load(self, mine: dict[ChunkId, _InFlight], load: Load, found: dict[ChunkId, bytes]) -> None:
        outcomes: dict[ChunkId, Outcome] = {}

        def deliver(chunk: ChunkId, outcome: Outcome) -> None:
            outcomes[chunk] = outcome
            self._finish(chunk, mine.pop(chunk), outcome)

        requested = list(mine)
        try:
            load(requested, deliver)
        finally:
            for chunk, flight in mine.items():
                self._finish(chunk, flight, None)
        for chunk in requested:
            found[chunk] = _plaintext_of(outcomes[chunk])

    def _finish(self, chunk: ChunkId, flight: _InFlight, outcome: Outcome | None) -> None:
        with self._lock:
            del self._in_flight[chunk]
            if isinstance(outcome, bytes):
                self._keep(chunk, outcome)
        flight.finish(outcome)

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


def _plaintext_of(outcome: Outcome) -> bytes:
    if isinstance(outcome, TgdavError):
        raise outcome
    return outcome
