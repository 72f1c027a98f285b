"""The rate limit of a Telegram account: bounded concurrency, reads before uploads, and a learnt pace of messages.

Telegram publishes no limits, so they are learnt: each FLOOD_WAIT doubles the interval between messages, each message
that was accepted shortens it a little.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tgdav.blobs.interface import BlobInfo, BlobStore, Source
from tgdav.blobs.telegram.flood_waits import SENDING_WAITS, Pace
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.clock import Clock
from tgdav.errors import StoreUnavailable
from tgdav.ids import BlobId, BlobName

MAX_WAIT_SECONDS = 5.0
"""The longest wait for the pace inside a call; a longer one is raised as StoreUnavailable, for the caller to retry."""
MAX_YIELD_SECONDS = 2.0
"""The longest time for which an upload yields to reads, each time, so that continuous reading does not stop it."""


class RateLimitedStore(StoreWrapper):
    """Runs at most ``uploads`` appends and ``downloads`` reads at once; appends yield to reads.

    ``inner_backoff()`` returns for how many seconds the inner store itself waits, and why. ``stop`` ends all waiting.
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
        self._changed = threading.Condition()

    @property
    def backoff(self) -> tuple[float, str]:
        """Seconds until the next message may be sent, and the reason; (0, "") if it may be sent now."""
        with self._changed:
            own, interval = self._pace.wait(self._clock.monotonic()), self._pace.interval
        inner, reason = self._inner_backoff()
        if inner:  # the pace waits for the same FLOOD_WAIT, whose reason says more
            return max(own, inner), reason
        reason = f"the rate that Telegram allows: {interval:.1f} s between messages{SENDING_WAITS}"
        return own, reason if own else ""

    @property
    def interval(self) -> float:
        """The learnt interval between messages in seconds; 0 without a FLOOD_WAIT so far."""
        with self._changed:
            return self._pace.interval

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""

        # Progress is reported after each part: the points at which a running upload can yield.
        def yielding_progress(sent: int) -> None:
            if progress:
                progress(sent)
            self._yield_to_reads()

        with self._slot("append"):
            self._yield_to_reads()
            self._wait_for_pace()
            try:
                info = self.inner.append(name, source, label, progress=yielding_progress)
            except StoreUnavailable as error:
                self._record_flood_wait(error)
                raise
        with self._changed:
            self._pace.on_success()
        return info

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """See ``BlobStore.read``."""
        with self._slot("read"):
            return self.inner.read(blob_id, offset, length)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``. Deletions share the pace of messages."""
        self._wait_for_pace()
        try:
            self.inner.delete(ids)
        except StoreUnavailable as error:
            self._record_flood_wait(error)
            raise

    def _record_flood_wait(self, error: StoreUnavailable) -> None:
        if error.retry_after is not None:
            with self._changed:
                self._pace.on_flood_wait(self._clock.monotonic(), error.retry_after)

    @contextmanager
    def _slot(self, kind: str) -> Iterator[None]:
        with self._changed:
            while self._running[kind] >= self._limits[kind]:
                self._check_stop()
                self._changed.wait(MAX_YIELD_SECONDS)  # with a timeout, because ``stop`` does not notify
            self._running[kind] += 1
        try:
            yield
        finally:
            with self._changed:
                self._running[kind] -= 1
                self._changed.notify_all()

    def _yield_to_reads(self) -> None:
        with self._changed:
            if self._running["read"]:
                self._changed.wait_for(lambda: not self._running["read"] or self._stop.is_set(), MAX_YIELD_SECONDS)

    def _wait_for_pace(self) -> None:
        with self._changed:
            wait = self._pace.wait(self._clock.monotonic())
            if wait > MAX_WAIT_SECONDS:
                raise StoreUnavailable(f"Telegram requires a wait of {wait:.0f} s", retry_after=wait)
            self._pace.reserve(self._clock.monotonic())
        if wait and self._stop.wait(wait):
            self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise StoreUnavailable("stopping")
