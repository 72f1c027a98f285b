"""The uploader packs rows, closes packs and sends them when the schedule says so: one thread packs, a few send.

Without ``start`` it has no threads, and ``flush`` does all the work in the caller's.
"""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tgdav.blobs.interface import BlobStore
from tgdav.content import chunk_table, pack_table
from tgdav.content.chunk_table import DeadRow
from tgdav.content.format.chunk import SealedChunk
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentContext
from tgdav.content.staging.finalize import PackFinalizer
from tgdav.content.staging.pack_file import PackFile
from tgdav.content.staging.repack import Repacker
from tgdav.content.upload.pack_sender import PackSender
from tgdav.content.upload.schedule import (
    FIRST_INTERVAL,
    LAST_BACKOFF,
    LAST_INTERVAL,
    Decision,
    Situation,
    decide,
    next_backoff,
    next_interval,
)
from tgdav.entropy import Entropy
from tgdav.errors import StoreUnavailable, TgdavError
from tgdav.threads import Guard, Worker

_log = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0
QUIET_SECONDS = 0.5
"""While writers write (the last chunk is not older), a full pack is closed once in ``CLOSE_SECONDS``.

Checking a pack takes as much of a processor as writing it.
"""

REPEAT_WARNING_SECONDS = 60.0
LOCAL_BACKOFF_SECONDS = 1.0
"""Pause after a failure of the local disk, even if ``wake`` is called meanwhile."""

_POLL_SECONDS = 0.25
"""How often a waiting thread reads the clock again, in real time."""


class Uploader:
    """Moves what is staged into the store."""

    def __init__(self, context: ContentContext, store: BlobStore, entropy: Entropy) -> None:
        self._context = context
        self._repacker = Repacker(context)
        self._finalizer = PackFinalizer(context, self._repacker, entropy)
        self.sender = PackSender(context, store)
        self.last_error: str | None = None
        """The most recent failure in one line, None after the next success."""
        # When to close packs; times are monotonic seconds.
        self._interval = FIRST_INTERVAL
        self._since: float | None = None
        """Time of the oldest addition that is in no closed pack; None: nothing is staged."""
        self._last_closed = context.clock.monotonic()
        self._last_full: float | None = None
        """Time at which a full pack was last closed."""
        self._is_space_needed = False
        self._is_idle = True
        """Nothing was staged at the last decision, so whatever is staged next must wake the thread."""
        # When to send them:
        self._backoff = 0.0
        self._not_before = 0.0
        self._retry_after = 0.0
        """End of the backoff that the store requested; ``flush`` does not shorten it."""
        self._may_have_closed = True
        """False: the database has no closed packs, so it need not be queried for them."""
        self._sending: set[int] = set()
        self._postponed: dict[int, float] = {}
        """Packs whose sending failed by a bug, not by the store, and when each is tried again."""
        # The threads:
        self._pause_until = 0.0
        self._warning, self._warned_at = "", 0.0
        self._flush = False
        self._stop = False
        self._woken = False
        self._packing_guard, self._sending_guard = Guard("tgdav-upload"), Guard("tgdav-send")
        self._condition = threading.Condition()
        self._step_lock = threading.Lock()
        self._thread: Worker | None = None
        self._pool: ThreadPoolExecutor | None = None

    # ---- the interface --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads."""
        workers = self._context.settings.max_concurrent_uploads
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tgdav-send")
        self._thread = Worker("tgdav-upload", self._run, guard=self._packing_guard)
        self._thread.start()

    def stop(self) -> None:
        """Finish the uploads in progress, then end the threads; staged content remains for the next start."""
        with self._condition:
            self._stop = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._sending_guard.clear()

    def notify_staged(self) -> None:
        """Something was staged: wake the thread if that can have made anything due. Cheap; called after each commit."""
        context = self._context
        packs, backlog = context.open_packs, context.backlog
        if self._is_idle or packs.has_full() or backlog.bytes >= packs.max_size or context.quota.is_nearly_full:
            self.wake()

    def wake(self) -> None:
        """Check now whether anything is due."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def make_space(self) -> None:
        """A writer waits for space: check now, and close full packs without pauses for other writers."""
        self._is_space_needed = True
        self.wake()

    def flush(self, timeout: float) -> bool:
        """Close and send all that is staged; True once nothing is pending, False after ``timeout`` seconds."""
        deadline = self._context.clock.monotonic() + timeout
        # A user who asks for a flush does not wait for our own backoff, only for the one that the store requested.
        self._not_before, self._backoff = self._retry_after, 0.0
        if self._thread is None:
            return self._flush_here(deadline)
        while self.pending():
            if self._context.clock.monotonic() >= deadline or self._stop:
                return False
            with self._condition:
                self._flush = self._woken = True
                self._condition.notify_all()
                self._condition.wait(_POLL_SECONDS)
        return True

    def pending(self) -> int:
        """Return the bytes that are staged for the store and not there yet."""
        with self._context.database.reading() as connection:
            return chunk_table.staged_total(connection)[1] + pack_table.waiting_bytes(connection)

    def step(self, *, flush: bool = False) -> float:
        """Pack and close what is due; return the seconds until the next step. Raises NoSpace, LocalFailure."""
        with self._step_lock:
            urgent = flush or self._is_space_needed or self._context.quota.is_nearly_full
            self._is_space_needed = False
            pause = self._close_full(with_pauses=not urgent)
            decision = self._decide(flush)
            if decision.pack_rows or decision.close:
                self._context.before_packing()
                decision = self._decide(flush)
            if decision.pack_rows:
                self._repacker.pack_rows()
                pause = self._close_full(with_pauses=not urgent)
            if decision.close:
                self._close_idle()
            return min(decision.wait, pause)

    def rescue(self, chunks: Sequence[SealedChunk], pack: int) -> None:
        """Stage chunks of a lost or damaged pack again. Raises NoSpace, LocalFailure."""
        with self._step_lock:
            with self._context.database.reading() as connection:
                row = pack_table.pack(connection, pack)
            if row is not None and row.file is not None:
                self._context.open_packs.set_aside(row.file)  # else they may be appended to the bad pack itself
            self._repacker.move_chunks(chunks, pack)
        self.wake()

    def drop_rows(self, rows: Sequence[DeadRow]) -> None:
        """Delete staged chunks that nothing refers to: they need not be sent. Raises NoSpace, LocalFailure."""
        with self._step_lock:
            self._repacker.drop_rows(rows)

    def send_waiting(self) -> None:
        """Send all closed packs in this thread, one after another. Raises StoreError, LocalFailure."""
        rows = self._claim_closed()
        try:
            for row in rows:
                self.sender.send(row)
        finally:
            self._sending.difference_update(row.no for row in rows)

    # ---- deciding and closing ------------------------------------------------------------------------------------------

    def _decide(self, flush: bool) -> Decision:
        context, now = self._context, self._context.clock.monotonic()
        idle = context.open_packs.idle()
        self._is_idle = not idle and not context.backlog.count
        if self._is_idle:
            self._since = None
        elif self._since is None:
            self._since = now
            if now - self._last_closed > LAST_INTERVAL:
                # After a long idle time the next file is probably waited for: send it soon.
                self._interval = FIRST_INTERVAL
        situation = Situation(
            now=now,
            row_count=context.backlog.count,
            row_bytes=context.backlog.bytes,
            idle_packs=len(idle),
            touched=max([context.backlog.touched, *(pack.touched for pack in idle)]),
            since=now if self._since is None else self._since,
            interval=self._interval,
            limit=context.open_packs.max_size,
            flush=flush,
            is_space_low=context.quota.is_nearly_full,
        )
        return decide(situation)

    def _close_full(self, *, with_pauses: bool) -> float:
        """Close full packs, perhaps with pauses for writers; return the seconds until the next is due."""
        while self._context.open_packs.has_full():
            pause = self._pause() if with_pauses else 0.0
            if pause > 0:
                return pause
            pack = self._context.open_packs.claim_full()
            assert pack is not None, "full packs are claimed by one thread only"
            self._close(pack)
            self._last_full = self._context.clock.monotonic()
        return LAST_INTERVAL

    def _pause(self) -> float:
        now = self._context.clock.monotonic()
        quiet = self._context.last_chunk + QUIET_SECONDS - now
        if self._last_full is None or quiet <= 0:
            return 0.0
        return min(self._last_full + CLOSE_SECONDS - now, quiet)

    def _close(self, pack: PackFile) -> int:
        self._may_have_closed = True
        return self._finalizer.close(pack)

    def _close_idle(self) -> None:
        packs = self._context.open_packs
        closed = sum(self._close(pack) for pack in packs.idle() if packs.claim(pack))
        self._interval = next_interval(self._interval, closed, packs.max_size)
        self._last_closed = self._context.clock.monotonic()
        self._since = None

    # ---- sending -------------------------------------------------------------------------------------------------------

    def _claim_closed(self) -> list[PackRow]:
        with self._context.database.reading() as connection:
            rows = pack_table.waiting_packs(connection)
        waiting = [row for row in rows if row.state != PackState.OPEN and row.file and not row.damaged]
        self._may_have_closed = bool(waiting)
        now = self._context.clock.monotonic()
        self._postponed = {no: until for no, until in self._postponed.items() if until > now}
        ready = [row for row in waiting if row.no not in self._sending and row.no not in self._postponed]
        self._sending.update(row.no for row in ready)
        return ready

    def _send_one(self, row: PackRow) -> None:
        try:
            # Packs that were submitted before the backoff began wait, too: they are claimed again after it.
            if not self._stop and self._context.clock.monotonic() >= self._not_before:
                self.sender.send(row)
                self._succeeded()
        except TgdavError as error:
            self._failed(error)
        except Exception as error:
            self._postponed[row.no] = self._context.clock.monotonic() + LAST_BACKOFF
            self.last_error = self._sending_guard.record(error)
        finally:
            with self._condition:
                self._sending.discard(row.no)
                self._woken = self._may_have_closed = True
                self._condition.notify_all()

    def _succeeded(self) -> None:
        self.last_error, self._backoff = None, 0.0
        if not self._postponed:
            self._sending_guard.clear()

    def _failed(self, error: TgdavError) -> None:
        self.last_error = error.message
        now = self._context.clock.monotonic()
        if now < self._not_before:
            return  # another thread failed at the same time: one failure, one backoff
        retry_after = error.retry_after if isinstance(error, StoreUnavailable) else None
        self._backoff = next_backoff(self._backoff, retry_after)
        self._not_before = now + self._backoff
        self._retry_after = self._not_before if retry_after else 0.0
        _log.warning("an upload failed, retrying in %.0f s: %s", self._backoff, error.message)

    # ---- the thread -------------------------------------------------------------------------------------------------------

    def _flush_here(self, deadline: float) -> bool:
        while self.pending():
            before = self.pending()
            try:
                self.step(flush=True)
                self.send_waiting()
                self._succeeded()
            except TgdavError as error:
                self._failed(error)
                return False
            after = self.pending()
            # No progress (a damaged pack stays pending): trying again would not end.
            if after >= before or (after and self._context.clock.monotonic() >= deadline):
                return False
        return True

    def _run(self) -> None:
        while not self._stop:
            delay = self._run_once()
            self._wait(delay)

    def _run_once(self) -> float:
        """Pack and close what is due and submit what is closed; return the seconds until the next run."""
        with self._condition:
            flush, self._flush, self._woken = self._flush, False, False
        try:
            delay = self.step(flush=flush)
            self._packing_guard.clear()
        except TgdavError as error:
            # Closed packs can still be sent, and that may free the space that was missing.
            delay = self._postpone("staged content cannot be packed now", error)
        except Exception as error:
            self.last_error, delay = self._packing_guard.record(error), LAST_BACKOFF
        pause = self._not_before - self._context.clock.monotonic()
        if pause > 0:
            return min(delay, pause)
        try:
            self._submit_closed()
        except TgdavError as error:
            delay = self._postpone("closed packs cannot be read from the database now", error)
        return delay

    def _postpone(self, what: str, error: TgdavError) -> float:
        """Record a local failure and return the seconds until the next attempt: no error ends this thread."""
        self.last_error = error.message
        now, line = self._context.clock.monotonic(), f"{what}: {error.message}"
        if line != self._warning or now - self._warned_at >= REPEAT_WARNING_SECONDS:
            self._warning, self._warned_at = line, now
            _log.warning("%s", line)
        self._pause_until = now + LOCAL_BACKOFF_SECONDS
        return LAST_BACKOFF

    def _submit_closed(self) -> None:
        """Give the closed packs to the sending threads; each wakes this thread when it is done."""
        assert self._pool is not None
        for row in self._claim_closed() if self._may_have_closed else ():
            self._pool.submit(self._send_one, row)

    def _wait(self, delay: float) -> None:
        deadline = self._context.clock.monotonic() + delay
        with self._condition:
            while not self._stop and (now := self._context.clock.monotonic()) < deadline:
                if self._woken and now >= self._pause_until:
                    return
                self._condition.wait(_POLL_SECONDS)
