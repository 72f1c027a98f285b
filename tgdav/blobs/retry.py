"""A store that repeats calls while the inner store is unavailable, with exponential backoff.

Every call of the contract may be repeated (``append`` is idempotent by name). Waits double, with equal jitter (half
fixed, half random: Brooker, "Exponential Backoff And Jitter", AWS, 2015), so that machines that failed at the same
time do not return at the same time. If the store names a time, the wait is at least that long.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from tgdav.blobs.interface import START, BlobInfo, BlobStore, Source
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.clock import Clock
from tgdav.entropy import Entropy
from tgdav.errors import StoreError, StoreUnavailable
from tgdav.ids import BlobId, BlobName

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class RetryPolicy(msgspec.Struct, frozen=True):
    """Backoff parameters in seconds."""

    first_wait: float = 0.25
    longest_wait: float = 30.0
    give_up_after: float = 60.0
    """No wait starts that would end later than this after the start of the call; infinity never gives up."""


class Reachability(msgspec.Struct, frozen=True):
    """What ``status`` shows of a store."""

    reachable: bool
    """Whether the store responded to the last call, possibly by naming a time to wait; True before the first call."""
    waiting_seconds: float
    """Until the next attempt of the call that waits longest; 0 if none waits."""
    last_error: str
    """The last error, empty if there was none."""


def next_wait(policy: RetryPolicy, failures: int, retry_after: float | None, chance: float) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row (from 1); ``chance`` is in [0, 1)."""
    base = min(policy.longest_wait, policy.first_wait * 2.0 ** min(failures - 1, 64))
    backoff = base * (0.5 + chance / 2)
    return backoff if retry_after is None else retry_after + backoff


class RetryStore(StoreWrapper):
    """Repeats calls that raise StoreUnavailable until they succeed, the policy gives up, or ``stop`` is set.

    In the last two cases it raises the last StoreUnavailable. Other errors pass through at once. ``wait(seconds)``
    sleeps and returns True if it was interrupted by ``stop``; the default is ``stop.wait``.
    """

    def __init__(
        self,
        inner: BlobStore,
        *,
        clock: Clock,
        entropy: Entropy,
        stop: threading.Event,
        wait: Callable[[float], bool] | None = None,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__(inner)
        self._clock = clock
        self._entropy = entropy
        self._stop = stop
        self._wait = wait or stop.wait
        self._policy = policy
        self._lock = threading.Lock()
        self._reachable = True
        self._last_error = ""
        self._waits: dict[int, float] = {}  # by thread id, the time until which each waits
        self._fail_fast = threading.local()

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""
        return self._repeat(lambda: self.inner.append(name, source, label, progress=progress))

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """See ``BlobStore.read``."""
        return self._repeat(lambda: self.inner.read(blob_id, offset, length))

    def size(self, blob_id: BlobId) -> int:
        """See ``BlobStore.size``."""
        return self._repeat(lambda: self.inner.size(blob_id))

    def find(self, name: BlobName) -> BlobInfo | None:
        """See ``BlobStore.find``."""
        return self._repeat(lambda: self.inner.find(name))

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``."""
        self._repeat(lambda: self.inner.delete(ids))

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``; after a failure it continues after the last blob that it yielded."""
        infos: Iterator[BlobInfo] | None = None

        def step() -> BlobInfo | None:
            nonlocal infos
            infos = infos or self.inner.list(after)
            try:
                return next(infos, None)
            except StoreUnavailable:
                infos = None  # a generator that raised is exhausted
                raise

        while (info := self._repeat(step)) is not None:
            after = info.id
            yield info

    def reachability(self) -> Reachability:
        """Return what is known of the store, without a call to it."""
        with self._lock:
            until = max(self._waits.values(), default=0.0)
            waiting = max(0.0, until - self._clock.monotonic()) if self._waits else 0.0
            return Reachability(self._reachable, waiting, self._last_error)

    def record_outcome(self, error: StoreError | None) -> None:
        """Record the outcome of a call that bypassed this wrapper: its error, or None for success."""
        if error is None:
            self._record_success()
        else:
            self._record_failure(error)

    @contextmanager
    def fail_fast(self) -> Iterator[None]:
        """Within the block, calls of this thread do not wait when the store names a time: they raise at once."""
        self._fail_fast.active = True
        try:
            yield
        finally:
            self._fail_fast.active = False

    def _repeat(self, call: Callable[[], Result]) -> Result:
        began = self._clock.monotonic()
        failures = 0
        while True:
            try:
                result = call()
            except StoreUnavailable as error:
                failures += 1
                self._record_failure(error)
                if not self._wait_after(error, failures, began):
                    raise
            else:
                self._record_success()
                return result

    def _wait_after(self, error: StoreUnavailable, failures: int, began: float) -> bool:
        """Wait, and return whether to repeat the call."""
        chance = int.from_bytes(self._entropy.bytes(4), "big") / 2**32
        seconds = next_wait(self._policy, failures, error.retry_after, chance)
        until = self._clock.monotonic() + seconds
        if error.retry_after is not None and getattr(self._fail_fast, "active", False):
            return False
        if self._stop.is_set() or until - began > self._policy.give_up_after:
            return False
        log.info("store unavailable, attempt %d, waiting %.1f s: %s", failures, seconds, error.message)
        with self._lock:
            self._waits[threading.get_ident()] = until
        try:
            return not self._wait(seconds)
        finally:
            with self._lock:
                del self._waits[threading.get_ident()]

    def _record_failure(self, error: StoreError) -> None:
        with self._lock:
            # A store that names a time has responded, so it is reachable: other kinds of calls may succeed.
            has_responded = isinstance(error, StoreUnavailable) and error.retry_after is not None
            self._reachable = self._reachable and has_responded
            self._last_error = str(error)

    def _record_success(self) -> None:
        with self._lock:
            self._reachable = True
