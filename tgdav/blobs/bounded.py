"""A store whose calls end, whatever the disk or network folder under it does.

A system call on a network folder whose server is gone returns when the server is back, and nothing but that ends it. So each
call of the store under this one runs in a thread of its own; one that does not return in time is left alone there, and its
caller gets StoreUnavailable. That is allowed, since every call of the contract may have happened although it failed, and may
be repeated. The threads are daemons: they keep no process from ending.

Contracts are kept: ``progress`` is called on the caller's thread, errors pass through unchanged.
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
"""Longest silence of a call that a reader may wait for."""
LIST_SECONDS = 60.0
APPEND_SECONDS = 120.0
"""Longest silence of an append: a slow disk takes its time to sync what it was given."""
STUCK_SECONDS = 3.0
"""Longest silence of a call while an earlier one has not returned."""
MOST_STUCK = 16
"""Calls that have not returned; while there are so many, no other is begun."""
_IDLE_WORKERS = 8
_BATCH = 256
_SLICE = 0.25
"""How often a waiting caller looks whether it is to give up."""


class _Cancelled(Exception):
    """The caller is no longer interested: ends an append at its next progress."""


class _Call:
    """One call on its way through a worker. ``reported`` is what its progress is to be told."""

    def __init__(self, work: Callable[["_Call"], Any]) -> None:
        self.work = work
        self.changed = threading.Condition()
        self.is_done = self.is_abandoned = self.is_cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.reported: int | None = None

    def run(self) -> None:
        """Do it; called in a worker."""
        try:
            self.result = self.work(self)
        except BaseException as error:  # for the caller to raise, whatever it is
            self.error = error
        with self.changed:
            self.is_done = True
            self.changed.notify_all()

    def report(self, count: int) -> None:
        """Hand ``count`` to the caller's progress, and go on once that returned."""
        with self.changed:
            self.reported = count
            self.changed.notify_all()
            while self.reported is not None and not (self.is_abandoned or self.is_cancelled):
                self.changed.wait()
            if self.is_abandoned or self.is_cancelled:
                raise _Cancelled

    def cancel(self) -> None:
        """End it at its next sign of life, and wait a moment for that."""
        with self.changed:
            self.is_cancelled = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.is_done, timeout=STUCK_SECONDS)


class BoundedStore(StoreWrapper):
    """Passes every call on, and waits for none longer than is said above. ``what`` names the store in messages."""

    def __init__(self, inner: BlobStore, what: str, clock: Clock = SystemClock()) -> None:  # noqa: B008 (no state)
        super().__init__(inner)
        self._clock = clock
        self._what = what
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Call | None]] = []
        self._stuck = 0
        self._is_closed = False
        self._gives_up = threading.Event()
        self._own = threading.local()

    @property
    def is_stuck(self) -> bool:
        """Whether an earlier call has not returned yet."""
        return self._stuck > 0

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Within the block, this thread's calls wait no longer than ``seconds``."""
        before, self._own.seconds = getattr(self._own, "seconds", None), seconds
        try:
            yield
        finally:
            self._own.seconds = before

    def give_up(self) -> None:
        """End all waiting: those who wait, and all who call from now on, get StoreUnavailable at once."""
        self._gives_up.set()

    def ask(self, work: Callable[[], T], seconds: float) -> T:
        """Return what ``work`` returns, which asks the place of the store something. Raises StoreUnavailable."""
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
        return self.ask(lambda: self.inner.read(blob_id, offset, length), CALL_SECONDS)

    def size(self, blob_id: BlobId) -> int:
        """See ``BlobStore.size``."""
        return self.ask(lambda: self.inner.size(blob_id), CALL_SECONDS)

    def find(self, name: BlobName) -> BlobInfo | None:
        """See ``BlobStore.find``."""
        return self.ask(lambda: self.inner.find(name), CALL_SECONDS)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``."""
        self.ask(lambda: self.inner.delete(ids), CALL_SECONDS)

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
                return found, error  # after what came before it
            return found, None

        while True:
            found, error = self.ask(batch, LIST_SECONDS)
            yield from found
            if error is not None:
                raise error
            if len(found) < _BATCH:
                return

    def close(self) -> None:
        """See ``BlobStore.close``. Calls that do not return are left alone."""
        with self._lock:
            idle, self._idle, self._is_closed = self._idle, [], True
        for queue in idle:
            queue.put(None)
        self.inner.close()

    # ---- waiting -----------------------------------------------------------------------------------------------------

    def _call(self, work: Callable[[_Call], Any], seconds: float, progress: Callable[[int], None] | None = None) -> Any:
        if self._gives_up.is_set() or self._stuck >= MOST_STUCK:
            raise self._silent()
        seconds = min(
            seconds, getattr(self._own, "seconds", None) or seconds, STUCK_SECONDS if self._stuck else seconds
        )
        call = _Call(work)
        self._worker().put(call)
        try:
            self._await(call, seconds, progress)
        except BaseException:
            if not call.is_abandoned:
                call.cancel()
            raise
        if call.error is not None:
            raise call.error
        return call.result

    def _await(self, call: _Call, seconds: float, progress: Callable[[int], None] | None) -> None:
        """Return when the call is done. Raises StoreUnavailable after ``seconds`` without a sign of life."""
        heard = self._clock.monotonic()
        while True:
            with call.changed:
                moved = call.changed.wait_for(lambda: call.is_done or call.reported is not None, timeout=_SLICE)
                if call.is_done:
                    return
                now, reported = self._clock.monotonic(), call.reported
                heard = now if moved else heard
                if not moved and (now - heard >= seconds or self._gives_up.is_set()):
                    call.is_abandoned = True
                    with self._lock:
                        self._stuck += 1
                    raise self._silent()
            if reported is not None:
                if progress is not None:
                    progress(reported)
                with call.changed:
                    call.reported = None
                    call.changed.notify_all()

    def _silent(self) -> StoreUnavailable:
        return StoreUnavailable(f"the store {self._what} does not answer", hint="is its disk or network folder there?")

    def _worker(self) -> "SimpleQueue[_Call | None]":
        """Return the queue of a worker that has nothing to do."""
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
                self._stuck -= call.is_abandoned
                if self._is_closed or len(self._idle) >= _IDLE_WORKERS:
                    return
                self._idle.append(queue)
            del call
