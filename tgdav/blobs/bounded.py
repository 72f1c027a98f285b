"""A store whose calls return within a time limit, even if the disk or network directory below it hangs.

A system call on a network file system whose server disappeared blocks until the server returns; it cannot be
interrupted. So each call of the inner store runs in a worker thread. If it shows no progress in time, the thread is
abandoned and the caller gets StoreUnavailable. The contract allows this: a failed call may have taken effect, and may
be repeated. The threads are daemons, so they do not keep the process from ending.

The rest of the contract holds: ``progress`` is called on the caller's thread, and errors pass through unchanged.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from tgdav.blobs.interface import START, BlobInfo, BlobStore, Source
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.clock import Clock, SystemClock
from tgdav.errors import StoreError, StoreUnavailable
from tgdav.ids import BlobId, BlobName
from tgdav.threads import Worker

T = TypeVar("T")

CALL_SECONDS = 20.0
"""Time limit without progress for all calls but ``append`` and ``list``."""
LIST_SECONDS = 60.0
APPEND_SECONDS = 120.0
"""Time limit without progress for an append: fsync on a slow disk takes long."""
STUCK_SECONDS = 3.0
"""Time limit for any call while an abandoned one has not returned: the disk probably still hangs."""
MOST_STUCK = 16
"""While this many abandoned calls have not returned, new ones fail at once."""
_IDLE_WORKERS = 8
_BATCH = 256
_SLICE = 0.25
"""Interval in which a waiting caller checks for its time limit and for ``give_up``."""


class _Cancelled(Exception):
    """Raised inside an append, at its next progress, because its caller gave up."""


class _Call:
    """A call that runs in a worker. ``reported`` is a progress value not yet passed to the caller's callback."""

    def __init__(self, work: Callable[["_Call"], Any]) -> None:
        self.work = work
        self.changed = threading.Condition()
        self.is_done = self.is_abandoned = self.is_cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.reported: int | None = None

    def run(self) -> None:
        """Run the call; called in a worker."""
        try:
            self.result = self.work(self)
        except BaseException as error:  # raised again in the caller
            self.error = error
        with self.changed:
            self.is_done = True
            self.changed.notify_all()

    def report(self, count: int) -> None:
        """Pass ``count`` to the caller's thread and wait until its progress callback returned."""
        with self.changed:
            self.reported = count
            self.changed.notify_all()
            while self.reported is not None and not (self.is_abandoned or self.is_cancelled):
                self.changed.wait()
            if self.is_abandoned or self.is_cancelled:
                raise _Cancelled

    def cancel(self) -> None:
        """Stop the call at its next progress, and wait a moment for that."""
        with self.changed:
            self.is_cancelled = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.is_done, timeout=STUCK_SECONDS)


class BoundedStore(StoreWrapper):
    """Passes every call to ``inner`` within the time limits above. ``what`` names the store in error messages."""

    def __init__(self, inner: BlobStore, what: str, clock: Clock = SystemClock()) -> None:  # noqa: B008  (it has no state)
        super().__init__(inner)
        self._clock = clock
        self._what = what
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Call | None]] = []
        self._stuck = 0
        self._is_closed = False
        self._given_up = threading.Event()
        self._thread_limit = threading.local()

    @property
    def is_stuck(self) -> bool:
        """Whether an abandoned call has not returned yet."""
        return self._stuck > 0

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Within the block, calls of this thread wait no longer than ``seconds``."""
        before, self._thread_limit.seconds = getattr(self._thread_limit, "seconds", None), seconds
        try:
            yield
        finally:
            self._thread_limit.seconds = before

    def give_up(self) -> None:
        """Make all waiting and all future calls raise StoreUnavailable at once."""
        self._given_up.set()

    def run(self, work: Callable[[], T], seconds: float) -> T:
        """Run ``work``, which uses the store's disk, within a time limit. Raises StoreUnavailable."""
        return cast(T, self._call(lambda _: work(), seconds))

    # ---- the store's calls -------------------------------------------------------------------------------------------

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""

        def work(call: _Call) -> BlobInfo:
            return self.inner.append(name, source, label, progress=call.report)

        return cast(BlobInfo, self._call(work, APPEND_SECONDS, progress))

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """See ``BlobStore.read``."""
        return self.run(lambda: self.inner.read(blob_id, offset, length), CALL_SECONDS)

    def size(self, blob_id: BlobId) -> int:
        """See ``BlobStore.size``."""
        return self.run(lambda: self.inner.size(blob_id), CALL_SECONDS)

    def find(self, name: BlobName) -> BlobInfo | None:
        """See ``BlobStore.find``."""
        return self.run(lambda: self.inner.find(name), CALL_SECONDS)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``."""
        self.run(lambda: self.inner.delete(ids), CALL_SECONDS)

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``."""
        infos: Iterator[BlobInfo] | None = None

        def batch() -> tuple[list[BlobInfo], StoreError | None]:
            nonlocal infos
            found: list[BlobInfo] = []
            try:
                infos = self.inner.list(after) if infos is None else infos
                found.extend(islice(infos, _BATCH))
            except StoreError as error:
                return found, error  # raised after the blobs that came before it are yielded
            return found, None

        while True:
            found, error = self.run(batch, LIST_SECONDS)
            yield from found
            if error is not None:
                raise error
            if len(found) < _BATCH:
                return

    def close(self) -> None:
        """See ``BlobStore.close``. Does not wait for abandoned calls."""
        with self._lock:
            idle, self._idle, self._is_closed = self._idle, [], True
        for queue in idle:
            queue.put(None)
        self.inner.close()

    # ---- time limits -------------------------------------------------------------------------------------------------

    def _call(self, work: Callable[[_Call], Any], seconds: float, progress: Callable[[int], None] | None = None) -> Any:
        if self._given_up.is_set() or self._stuck >= MOST_STUCK:
            raise self._unresponsive()
        seconds = min(
            seconds, getattr(self._thread_limit, "seconds", None) or seconds, STUCK_SECONDS if self._stuck else seconds
        )
        call = _Call(work)
        self._worker().put(call)
        try:
            self._wait_for(call, seconds, progress)
        except BaseException:
            # The progress callback raised, or the caller was interrupted: the append must not complete.
            if not call.is_abandoned:
                call.cancel()
            raise
        if call.error is not None:
            raise call.error
        return call.result

    def _wait_for(self, call: _Call, seconds: float, progress: Callable[[int], None] | None) -> None:
        """Return when the call is done. Raises StoreUnavailable after ``seconds`` without progress."""
        last_progress = self._clock.monotonic()
        while True:
            with call.changed:
                has_progressed = call.changed.wait_for(
                    lambda: call.is_done or call.reported is not None, timeout=_SLICE
                )
                if call.is_done:
                    return
                now, reported = self._clock.monotonic(), call.reported
                last_progress = now if has_progressed else last_progress
                if not has_progressed and (now - last_progress >= seconds or self._given_up.is_set()):
                    call.is_abandoned = True
                    with self._lock:
                        self._stuck += 1
                    raise self._unresponsive()
            # Outside of the lock, because the callback may block.
            if reported is not None:
                if progress is not None:
                    progress(reported)
                with call.changed:
                    call.reported = None
                    call.changed.notify_all()

    def _unresponsive(self) -> StoreUnavailable:
        return StoreUnavailable(f"the store {self._what} does not respond", hint="check its disk or network directory")

    def _worker(self) -> "SimpleQueue[_Call | None]":
        """Return the queue of an idle worker, or of a new one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        queue: SimpleQueue[_Call | None] = SimpleQueue()
        Worker("tgdav-store", lambda: self._work(queue)).start()
        return queue

    def _work(self, queue: "SimpleQueue[_Call | None]") -> None:
        while (call := queue.get()) is not None:
            call.run()
            with self._lock:
                self._stuck -= call.is_abandoned  # it did return after all
                if self._is_closed or len(self._idle) >= _IDLE_WORKERS:
                    return
                self._idle.append(queue)
            del call  # or its result would stay alive until the next call
