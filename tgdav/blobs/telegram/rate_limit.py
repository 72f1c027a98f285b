"""One limiter for all work of an account: as much as Telegram lets through, what a person waits for first.

A wrapper with the store's interface. No limits are published, so they are learnt: each FLOOD_WAIT doubles the distance
between messages, each message that passes shortens it again.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from tgdav.blobs.interface import BlobInfo, BlobStore, Source
from tgdav.blobs.telegram.flood_waits import SENDING_WAITS
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.clock import Clock
from tgdav.errors import StoreUnavailable
from tgdav.ids import BlobId, BlobName

MIN_INTERVAL = 0.1
MAX_INTERVAL = 30.0
EASING = 0.95
LONGEST_WAIT = 5.0
"""Seconds that a call waits here for its turn; longer ones are handed to whoever retries."""
MAX_YIELD_SECONDS = 2.0
"""Seconds that an upload lets reads go first, each time, so that endless reading does not stop it."""


class Pace(msgspec.Struct):
    """The distance between messages, in seconds, and when the next may go and a rest ends, on a monotonic clock."""

    distance: float = 0.0
    next_at: float = 0.0
    rests_until: float = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until the next message may go."""
        return max(0.0, self.next_at - now)

    def take(self, now: float) -> None:
        """A message goes now."""
        self.next_at = max(now, self.next_at) + self.distance

    def flooded(self, now: float, seconds: float) -> None:
        """Telegram asked for rest. Whatever was under way then and is refused as well is the same complaint."""
        if now >= self.rests_until:
            self.distance = min(MAX_INTERVAL, max(MIN_INTERVAL, self.distance * 2))
        self.rests_until = max(self.rests_until, now + seconds)
        self.next_at = max(self.next_at, self.rests_until)

    def passed(self) -> None:
        """A message got through."""
        self.distance *= EASING
        if self.distance < MIN_INTERVAL / 2:
            self.distance = 0.0


class RateLimitedStore(StoreWrapper):
    """Lets at most ``uploads`` appends and ``downloads`` reads through at once, and reads before appends.

    ``inner_backoff()`` is how long the store under it waits by itself, in seconds, and why; ``stop`` ends all waiting.
    """

    def __init__(
        self,
        inner: BlobStore,
        *,
        clock: Clock,
        stop: threading.Event,
        uploads: int = 3,
        downloads: int = 5,
        inner_backoff: Callable[[], tuple[float, str]] = lambda: (0.0, ""),
    ) -> None:
        super().__init__(inner)
        self._clock = clock
        self._stop = stop
        self._inner_backoff = inner_backoff
        self._limits = {"append": uploads, "read": downloads}
        self._running = {"append": 0, "read": 0}
        self._pace = Pace()
        self._turn = threading.Condition()

    @property
    def backoff(self) -> tuple[float, str]:
        """How long the account rests, in seconds, and why; 0 and nothing while work goes on."""
        with self._turn:
            own, distance = self._pace.wait(self._clock.monotonic()), self._pace.distance
        asked, reason = self._inner_backoff()
        if asked:  # the pace rests with it
            return max(own, asked), reason
        words = f"the pace that Telegram allows: {distance:.1f} s from message to message{SENDING_WAITS}"
        return own, words if own else ""

    @property
    def distance(self) -> float:
        """The learnt distance between messages, in seconds; 0 while there was no complaint."""
        with self._turn:
            return self._pace.distance

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""

        def yielding(sent: int) -> None:
            if progress:
                progress(sent)
            self._yield_to_reads()

        with self._slot("append"):
            self._yield_to_reads()
            self._wait_for_pace()
            try:
                info = self.inner.append(name, source, label, progress=yielding)
            except StoreUnavailable as error:
                self._note(error)
                raise
        with self._turn:
            self._pace.passed()
        return info

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """See ``BlobStore.read``."""
        with self._slot("read"):
            return self.inner.read(blob_id, offset, length)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``. Deletions go between messages, at their pace."""
        self._wait_for_pace()
        try:
            self.inner.delete(ids)
        except StoreUnavailable as error:
            self._note(error)
            raise

    def _note(self, error: StoreUnavailable) -> None:
        if error.retry_after is not None:
            with self._turn:
                self._pace.flooded(self._clock.monotonic(), error.retry_after)

    @contextmanager
    def _slot(self, kind: str) -> Iterator[None]:
        with self._turn:
            while self._running[kind] >= self._limits[kind]:
                self._check_stop()
                self._turn.wait(MAX_YIELD_SECONDS)
            self._running[kind] += 1
        try:
            yield
        finally:
            with self._turn:
                self._running[kind] -= 1
                self._turn.notify_all()

    def _yield_to_reads(self) -> None:
        """Hold an upload back while reads are under way, for a while."""
        with self._turn:
            if self._running["read"]:
                self._turn.wait_for(lambda: not self._running["read"] or self._stop.is_set(), MAX_YIELD_SECONDS)

    def _wait_for_pace(self) -> None:
        with self._turn:
            wait = self._pace.wait(self._clock.monotonic())
            if wait > LONGEST_WAIT:
                raise StoreUnavailable(f"Telegram asked for {wait:.0f} s of rest", retry_after=wait)
            self._pace.take(self._clock.monotonic())
        if wait and self._stop.wait(wait):
            self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise StoreUnavailable("stopping")
