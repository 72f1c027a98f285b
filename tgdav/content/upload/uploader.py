"""The uploader: packs rows, closes packs and sends them, when the schedule says so. One thread drives, a few send.

Without ``start`` nothing happens by itself, and ``flush`` does all the work in the caller's thread.
"""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tgdav.blobs.interface import BlobStore
from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import SealedChunk
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentCore
from tgdav.content.staging.finalize import PackCloser
from tgdav.content.staging.pack_file import PackFile
from tgdav.content.staging.repack import ChunkMover
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

PACE_SECONDS = 1.0
QUIET_SECONDS = 0.5
"""While writers write, a full pack is closed once in so many seconds: proving it takes as much of a processor as they do."""

SAY_AGAIN_SECONDS = 60.0
FAILED_SECONDS = 1.0
"""How long packing rests after a failure of the local disk, whoever wants it meanwhile."""

_LOOK_SECONDS = 0.25
"""How often a waiting thread looks at the clock again, in real time."""


class Uploader:
    """Moves what is staged into the store."""

    def __init__(self, core: ContentCore, store: BlobStore, entropy: Entropy) -> None:
        self._core = core
        self._mover = ChunkMover(core)
        self._closer = PackCloser(core, self._mover, entropy)
        self.sender = PackSender(core, store)
        self.last_error: str | None = None
        """What failed last, in one line, until something works again."""
        self._interval = FIRST_INTERVAL
        self._since: float | None = None
        self._last_closed = core.clock.monotonic()
        self._last_full: float | None = None
        self._hurry = False
        self._backoff = 0.0
        self._not_before = 0.0
        self._asked_until = 0.0
        """When the rest that the store asked for is over: no hurry of ours shortens it."""
        self._pause_until = 0.0
        self._said, self._said_at = "", 0.0
        self._flush = False
        self._stop = False
        self._woken = False
        self._is_idle = True
        self._may_wait = True
        self._sending: set[int] = set()
        self._passed_over: dict[int, float] = {}
        """Packs whose sending failed in a way that says nothing of the store, and when each is tried again."""
        self._packing_guard, self._sending_guard = Guard("tgdav-upload"), Guard("tgdav-send")
        self._condition = threading.Condition()
        self._driving = threading.Lock()
        self._thread: Worker | None = None
        self._pool: ThreadPoolExecutor | None = None

    # ---- from outside --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work by itself."""
        workers = self._core.settings.max_concurrent_uploads
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tgdav-send")
        self._thread = Worker("tgdav-upload", self._run, guard=self._packing_guard)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is being sent, then end the threads; what is staged stays for the next start."""
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

    def notice(self) -> None:
        """Something was staged: look now if that may have made something due. Cheap; called after each commit."""
        core = self._core
        if self._is_idle or core.pool.has_full() or core.backlog.bytes >= core.pool.limit or core.space.is_pressed:
            self.wake()

    def wake(self) -> None:
        """Look now."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def hurry(self) -> None:
        """A writer waits for space: look now, and let no writer go first."""
        self._hurry = True
        self.wake()

    def flush(self, timeout: float) -> bool:
        """Close and send all that is staged; True once nothing is pending, False after ``timeout`` seconds."""
        deadline = self._core.clock.monotonic() + timeout
        self._not_before, self._backoff = self._asked_until, 0.0
        if self._thread is None:
            return self._flush_here(deadline)
        while self.pending():
            if self._core.clock.monotonic() >= deadline or self._stop:
                return False
            with self._condition:
                self._flush = self._woken = True
                self._condition.notify_all()
                self._condition.wait(_LOOK_SECONDS)
        return True

    def pending(self) -> int:
        """Return the bytes that are staged, meant for the store, and not there yet."""
        with self._core.database.reading() as connection:
            return chunk_table.staged_total(connection)[1] + pack_table.waiting_bytes(connection)

    def step(self, *, flush: bool = False) -> float:
        """Pack and close what is due; return the seconds until it is worth looking again. Raises NoSpace, LocalFailure."""
        with self._driving:
            hurry, self._hurry = flush or self._hurry or self._core.space.is_pressed, False
            pause = self._close_full(hurry)
            decision = self._decide(flush)
            if decision.move:
                self._mover.move_rows()
                pause = self._close_full(hurry)
            if decision.close:
                self._close_idle()
            return min(decision.wait, pause)

    def rescue(self, chunks: Sequence[SealedChunk], pack: int) -> None:
        """Stage chunks of a lost or damaged pack anew. Raises NoSpace, LocalFailure."""
        with self._driving:
            self._mover.move_sealed(chunks, pack)
        self.wake()

    def send_waiting(self) -> None:
        """Send all closed packs from this thread, one after another. Raises StoreError, LocalFailure."""
        rows = self._take_waiting()
        try:
            for row in rows:
                self.sender.send(row)
        finally:
            self._sending.difference_update(row.no for row in rows)

    # ---- deciding and closing ------------------------------------------------------------------------------------------

    def _decide(self, flush: bool) -> Decision:
        core, now = self._core, self._core.clock.monotonic()
        idle = core.pool.idle()
        self._is_idle = not idle and not core.backlog.count
        if self._is_idle:
            self._since = None
        elif self._since is None:
            self._since = now
            if now - self._last_closed > LAST_INTERVAL:
                self._interval = FIRST_INTERVAL
        situation = Situation(
            now=now,
            row_count=core.backlog.count,
            row_bytes=core.backlog.bytes,
            idle_packs=len(idle),
            touched=max([core.backlog.touched, *(pack.touched for pack in idle)]),
            since=now if self._since is None else self._since,
            interval=self._interval,
            limit=core.pool.limit,
            flush=flush,
            pressed=core.space.is_pressed,
        )
        return decide(situation)

    def _close_full(self, hurry: bool) -> float:
        """Close full packs, writers going first unless there is a ``hurry``; return the seconds until the next is due."""
        while self._core.pool.has_full():
            pause = 0.0 if hurry else self._pause()
            if pause > 0:
                return pause
            pack = self._core.pool.claim_full()
            assert pack is not None, "full packs are claimed by one thread only"
            self._close(pack)
            self._last_full = self._core.clock.monotonic()
        return LAST_INTERVAL

    def _pause(self) -> float:
        now = self._core.clock.monotonic()
        quiet = self._core.last_chunk + QUIET_SECONDS - now
        if self._last_full is None or quiet <= 0:
            return 0.0
        return min(self._last_full + PACE_SECONDS - now, quiet)

    def _close(self, pack: PackFile) -> int:
        self._may_wait = True
        return self._closer.close(pack)

    def _close_idle(self) -> None:
        pool = self._core.pool
        closed = sum(self._close(pack) for pack in pool.idle() if pool.claim(pack))
        self._interval = next_interval(self._interval, closed, pool.limit)
        self._last_closed = self._core.clock.monotonic()
        self._since = None

    # ---- sending -------------------------------------------------------------------------------------------------------

    def _take_waiting(self) -> list[PackRow]:
        with self._core.database.reading() as connection:
            rows = pack_table.waiting_packs(connection)
        waiting = [row for row in rows if row.state != PackState.OPEN and row.file and not row.damaged]
        self._may_wait = bool(waiting)
        now = self._core.clock.monotonic()
        self._passed_over = {no: until for no, until in self._passed_over.items() if until > now}
        ready = [row for row in waiting if row.no not in self._sending and row.no not in self._passed_over]
        self._sending.update(row.no for row in ready)
        return ready

    def _send_one(self, row: PackRow) -> None:
        try:
            if not self._stop and self._core.clock.monotonic() >= self._not_before:
                self.sender.send(row)
                self._succeeded()
        except TgdavError as error:
            self._failed(error)
        except Exception as error:
            self._passed_over[row.no] = self._core.clock.monotonic() + LAST_BACKOFF
            self.last_error = self._sending_guard.record(error)
        finally:
            with self._condition:
                self._sending.discard(row.no)
                self._woken = self._may_wait = True
                self._condition.notify_all()

    def _succeeded(self) -> None:
        self.last_error, self._backoff = None, 0.0
        if not self._passed_over:
            self._sending_guard.clear()

    def _failed(self, error: TgdavError) -> None:
        self.last_error = error.message
        now = self._core.clock.monotonic()
        if now < self._not_before:
            return  # one of several that failed together
        asked = error.retry_after if isinstance(error, StoreUnavailable) else None
        self._backoff = next_backoff(self._backoff, asked)
        self._not_before = now + self._backoff
        self._asked_until = self._not_before if asked else 0.0
        _log.warning("uploading goes on in %.0f s: %s", self._backoff, error.message)

    # ---- driving -------------------------------------------------------------------------------------------------------

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
            if after >= before or (after and self._core.clock.monotonic() >= deadline):
                return False
        return True

    def _run(self) -> None:
        while not self._stop:
            delay = self._look()
            self._wait(delay)

    def _look(self) -> float:
        """Do what is due, hand over what is to be sent; return the seconds until the next look."""
        with self._condition:
            flush, self._flush, self._woken = self._flush, False, False
        try:
            delay = self.step(flush=flush)
            self._packing_guard.clear()
        except TgdavError as error:
            # What is closed already can still be sent, which may be what helps.
            delay = self._put_off("staged content cannot be packed now", error)
        except Exception as error:
            self.last_error, delay = self._packing_guard.record(error), LAST_BACKOFF
        pause = self._not_before - self._core.clock.monotonic()
        if pause > 0:
            return min(delay, pause)
        try:
            self._hand_over()
        except TgdavError as error:
            delay = self._put_off("what waits to be sent cannot be found now", error)
        return delay

    def _put_off(self, what: str, error: TgdavError) -> float:
        """Note what failed here, and return the seconds until it is tried again: this thread never ends by an error."""
        self.last_error = error.message
        now, line = self._core.clock.monotonic(), f"{what}: {error.message}"
        if line != self._said or now - self._said_at >= SAY_AGAIN_SECONDS:
            self._said, self._said_at = line, now
            _log.warning("%s", line)
        self._pause_until = now + FAILED_SECONDS
        return LAST_BACKOFF

    def _hand_over(self) -> None:
        """Give what waits to the sending threads; each wakes this one when it is done."""
        assert self._pool is not None
        for row in self._take_waiting() if self._may_wait else ():
            self._pool.submit(self._send_one, row)

    def _wait(self, delay: float) -> None:
        deadline = self._core.clock.monotonic() + delay
        with self._condition:
            while not self._stop and (now := self._core.clock.monotonic()) < deadline:
                if self._woken and now >= self._pause_until:
                    return
                self._condition.wait(_LOOK_SECONDS)
