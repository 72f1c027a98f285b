"""A store that waits and asks again while the store under it is unavailable.

Repeating is safe because every call of the contract may be repeated (``append`` is idempotent by name). Waits grow
twofold with equal jitter (half fixed, half random: Brooker, "Exponential Backoff And Jitter", AWS, 2015), so that
machines that failed together do not come back together; a store that names a time is left alone at least that long.
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
    """How long to go on. All in seconds."""

    first_wait: float = 0.25
    longest_wait: float = 30.0
    give_up_after: float = 60.0
    """A wait that would end later than this after the call began is not begun; infinity never gives up."""


class Reachability(msgspec.Struct, frozen=True):
    """What ``status`` says of a store."""

    reachable: bool
    """Whether the last call was answered, be it by asking for rest; True before the first call."""
    waiting_seconds: float
    """Until the next attempt of whoever waits longest; 0 if nobody waits."""
    last_error: str
    """The last reason for being unavailable, empty if there was none."""


def next_wait(policy: RetryPolicy, failures: int, retry_after: float | None, chance: float) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row (from 1); ``chance`` is in [0, 1)."""
    base = min(policy.longest_wait, policy.first_wait * 2.0 ** min(failures - 1, 64))
    backoff = base * (0.5 + chance / 2)
    return backoff if retry_after is None else retry_after + backoff


class RetryStore(StoreWrapper):
    """Repeats calls that raise StoreUnavailable, until they succeed, the policy gives up or ``stop`` is set.

    It then raises the last StoreUnavailable. Other errors pass through at once. ``wait(seconds)`` sleeps and returns
    True if it was woken to stop: ``stop.wait`` of the same event in production.
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
        self._waits: dict[int, float] = {}
        self._impatient = threading.local()

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
        """See ``BlobStore.list``; after a failure it goes on behind the last blob that it gave."""
        infos: Iterator[BlobInfo] | None = None

        def step() -> BlobInfo | None:
            nonlocal infos
            infos = infos or self.inner.list(after)
            try:
                return next(infos, None)
            except StoreUnavailable:
                infos = None  # an iterator that raised is at its end
                raise

        while (info := self._repeat(step)) is not None:
            after = info.id
            yield info

    def reachability(self) -> Reachability:
        """Return what is known of the store without asking it."""
        with self._lock:
            until = max(self._waits.values(), default=0.0)
            waiting = max(0.0, until - self._clock.monotonic()) if self._waits else 0.0
            return Reachability(self._reachable, waiting, self._last_error)

    def heard(self, error: StoreError | None) -> None:
        """Take in what a call met that went around this wrapper: it was answered, or failed."""
        if error is None:
            self._note_success()
        else:
            self._note_failure(error)

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Within the block, this thread's calls raise at once what names a time to wait, instead of waiting."""
        self._impatient.active = True
        try:
            yield
        finally:
            self._impatient.active = False

    def _repeat(self, call: Callable[[], Result]) -> Result:
        began = self._clock.monotonic()
        failures = 0
        while True:
            try:
                result = call()
            except StoreUnavailable as error:
                failures += 1
                self._note_failure(error)
                if not self._wait_after(error, failures, began):
                    raise
            else:
                self._note_success()
                return result

    def _wait_after(self, error: StoreUnavailable, failures: int, began: float) -> bool:
        """Wait, and return whether to ask again."""
        chance = int.from_bytes(self._entropy.bytes(4), "big") / 2**32
        seconds = next_wait(self._policy, failures, error.retry_after, chance)
        until = self._clock.monotonic() + seconds
        if error.retry_after is not None and getattr(self._impatient, "active", False):
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

    def _note_failure(self, error: StoreError) -> None:
        with self._lock:
            # A store that names a time to wait has answered: what else was asked may go on.
            has_answered = isinstance(error, StoreUnavailable) and error.retry_after is not None
            self._reachable = self._reachable and has_answered
            self._last_error = str(error)

    def _note_success(self) -> None:
        with self._lock:
            self._reachable = True
