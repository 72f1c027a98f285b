"""The volume's background work: one thread that looks once a second at what is due."""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tgdav.blobs.interface import BlobInfo
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crypto.header import recognise
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError, StoreUnavailable, TgdavError, WriterReplaced
from tgdav.metadata import settings
from tgdav.replication import outbox, rows
from tgdav.replication.checkpoint_format import is_due
from tgdav.threads import Guard, Worker
from tgdav.volume.budget import Sums, difference
from tgdav.volume.report import moment

if TYPE_CHECKING:
    from tgdav.volume.volume import Volume

_log = logging.getLogger(__name__)

NAME = "tgdav-housekeeping"
TICK_SECONDS = 1.0
PUSH_SECONDS = 60.0
JOIN_SECONDS = 5.0
HEADER_SECONDS = 3600.0
HEADER_AGAIN_SECONDS = 60.0
FLUSH_SECONDS = 3600.0
LOOK_SECONDS = 5.0
SHORT_LOOK_SECONDS = 0.25
SHORT_REST = 2.0
"""Seconds of rest that syncing waits for although nobody asked it to wait."""
POLL_SECONDS = 900.0
POLL_AGAIN_SECONDS = 60.0
KEEPING, JOINING, PUSHING, LOOKING = "keeping the headers", "joining", "pushing the log", "looking at the log"
CHECKPOINT_LOOK_SECONDS = 30.0

HELD = "joining is held up"
REPORT = "run 'tgdav check', which says what is missing"


class Housekeeping:
    """Pushes, checkpoints, settles idle files, folds the database's log back, keeps the headers."""

    def __init__(self, volume: "Volume") -> None:
        self._volume = volume
        self._clock = volume.platform.clock
        self._stop = threading.Event()
        self._thread: Worker | None = None
        self._work = threading.RLock()
        self._errors: dict[str, str] = {}
        self._guard = Guard(NAME)
        self._clock_problem: str | None = None
        started = self._clock.monotonic()
        self._next_push = started + PUSH_SECONDS
        self._next_join = self._next_header = started
        self._next_look = started + POLL_SECONDS
        self._new_header, self._new_log = threading.Event(), threading.Event()
        self._next_checkpoint = started + CHECKPOINT_LOOK_SECONDS

    def start(self) -> None:
        """Begin."""
        self._thread = Worker(NAME, self._run, guard=self._guard)
        self._thread.start()

    def stop(self) -> None:
        """End, after the task at work."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def last_error(self) -> str | None:
        """What failed last of what has not succeeded since."""
        return next(reversed(self._errors.values()), None) if self._errors else None

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            self.tick()

    def tick(self) -> None:
        """Do what is due now. What fails is noted and due again later; it keeps nothing else from being done."""
        volume, now = self._volume, self._clock.monotonic()
        self._attempt("keeping some of the disk in reserve", volume.reserve.keep)
        self._attempt("folding the database's log", volume.database.checkpoint)
        self.save_counts()
        self._attempt("looking at the clock", self._look_at_clock)
        if now >= self._next_header or self._new_header.is_set():
            self._new_header.clear()
            self._next_header = now + HEADER_AGAIN_SECONDS
            if self._attempt(KEEPING, volume.keep_headers):
                self._next_header = now + HEADER_SECONDS
        if volume.account_life is not None:
            self._attempt("keeping how long the account lives", volume.account_life.keep_up)
        if volume.is_joining and now >= self._next_join:
            self._next_join = now + JOIN_SECONDS
            self._attempt(JOINING, self.push)
        if volume.read_only_reason is not None:
            return
        if now >= self._next_look or self._new_log.is_set():
            self._new_log.clear()
            self._next_look = now + (POLL_SECONDS if self._attempt(LOOKING, self.look) else POLL_AGAIN_SECONDS)
        self._attempt("settling files", volume.fs.flush_idle)
        if now >= self._next_push:
            self._attempt(PUSHING, self._push_if_pending)
        if now >= self._next_checkpoint:
            self._next_checkpoint = now + CHECKPOINT_LOOK_SECONDS
            self._attempt("writing a checkpoint", self.checkpoint_if_due)

    def _look_at_clock(self) -> None:
        """Say that the clock is wrong when that becomes known, and that it is right again."""
        account = self._volume.stores.account
        problem = None if account is None else account.clock_problem
        if problem is not None and self._clock_problem is None:
            _log.warning("%s", problem)
        elif problem is None and self._clock_problem is not None:
            _log.warning("this machine's clock is right again")
        self._clock_problem = problem

    def try_again(self) -> None:
        """What kept the store from being used is over: do now what waits for it."""
        self._next_push = self._next_join = self._next_header = self._next_look = self._clock.monotonic()

    def hear(self, info: BlobInfo) -> None:
        """Another login stored a blob: a header, and another machine's log, are looked at by the next tick. Any thread."""
        volume = self._volume
        if recognise(info.label):
            self._new_header.set()
            return
        label = decode_label(info.label, volume.vault_keys, info.name)
        if label is not None and label.kind != BlobKind.PACK and label.incarnation != volume.log.incarnation:
            self._new_log.set()

    def save_counts(self) -> None:
        """Keep what the day's messages and bytes are."""
        self._attempt("keeping count of what was sent", self._volume.budget.save)

    def _attempt(self, what: str, task: Callable[[], object]) -> bool:
        try:
            task()
        except TgdavError as error:
            if self._errors.pop(what, None) != str(error) and not isinstance(error, StoreUnavailable):
                _log.warning("%s: %s", what, error)
            self._errors[what] = str(error)
            return False
        except Exception as error:  # this task is due again later, and the others are due now
            self._errors[what] = f"{what}: {self._guard.record(error)}"
            return False
        self._errors.pop(what, None)
        if not self._errors:
            self._guard.clear()
        return True

    # ---- pushing -------------------------------------------------------------------------------------------------

    def push(self) -> bool:
        """Look who the writer is, then send what is ready; return whether anything was.

        Raises WriterReplaced, StoreUnavailable, DamageError (the store was set back), NoSpace, LocalFailure.
        """
        volume = self._volume
        with self._work:
            self._check_writer()
            pushed = volume.pusher.push()
            self._check_writer()
            if volume.is_joining and volume.watch.has_joined():
                volume.finish_joining()
            return pushed.segments > 0

    def _push_if_pending(self) -> None:
        if self._volume.pusher.pending_operations():
            self._next_push = self._clock.monotonic() + PUSH_SECONDS
            self.push()

    def look(self) -> None:
        """Look who the writer is. Raises WriterReplaced, StoreUnavailable, DamageError, NoSpace, LocalFailure."""
        with self._work:
            self._check_writer()

    def _check_writer(self) -> None:
        volume = self._volume
        verdict = volume.watch.look(joining=volume.is_joining)
        while verdict.late and verdict.reason is None and not verdict.held:
            volume.watch.take_late(volume.journal, verdict)
            verdict = volume.watch.look(joining=volume.is_joining)
        if verdict.reason is not None:
            volume.journal.read_only = verdict.reason
            if verdict.is_restored:  # and the reason says what to do
                raise WriterReplaced(verdict.reason)
            raise WriterReplaced(
                f"{verdict.reason}; this machine serves read-only and keeps its unsent operations",
                hint="to write here again, run 'tgdav init --join' in a fresh home",
            )
        if verdict.held:
            held = verdict.held[0]
            raise DamageError(
                f"{HELD if volume.is_joining else 'nothing is sent'}: {held.reason}", blob=held.blob, hint=REPORT
            )

    def sync(self, *, wait: bool, progress: Any = None) -> dict[str, Any]:
        """Look who the writer is, then send everything that waits; with ``wait``, return only when nothing is pending.

        Without ``wait`` it returns as soon as the store asks for rest, with what waits and until when. Raises as ``push``;
        DamageError when operations name content that this machine has lost.
        """
        before = self._volume.budget.total()
        while True:
            try:
                with ExitStack() as patience:
                    if not wait:
                        patience.enter_context(self._volume.stores.retrying.fail_fast())
                    is_done = self._sync_once(wait, progress)
            except StoreUnavailable:
                if not self._is_resting():
                    raise
                is_done = self._rest_over(wait, progress)
            if is_done or self._stop.is_set():
                return self._synced(before)

    def _sync_once(self, wait: bool, progress: Any) -> bool:
        """Look, send what can be sent, and return whether that was all."""
        volume = self._volume
        volume.keep_headers()
        self.look()
        stuck = volume.pusher.oldest_unsent()
        flushed = self._flush(wait, progress)
        self.push()
        pending = volume.pending()
        if wait and flushed and stuck is not None and stuck == volume.pusher.oldest_unsent():
            raise DamageError(
                f"{pending['operations']} operations name content that this machine has lost", blob="staging"
            )
        if progress is not None:
            progress("pending bytes", 0, pending["bytes"])
        return not wait or not (pending["bytes"] or pending["operations"])

    def _synced(self, before: Sums) -> dict[str, Any]:
        """Return the ``sync`` object."""
        volume, is_resting = self._volume, self._is_resting()
        for what in () if is_resting else (KEEPING, JOINING, PUSHING, LOOKING):
            self._errors.pop(what, None)
        waiting, reason = volume.stores.asked_rest if is_resting else (0.0, "")
        return {
            "pending": volume.pending(),
            "sent": difference(volume.budget.total(), before),
            "waiting_seconds": waiting,
            "waiting_for": reason or None,
            "waiting_until": moment(self._clock.now_ns(), waiting) if waiting else None,
        }

    def _is_resting(self) -> bool:
        return self._volume.stores.asked_rest[0] > SHORT_REST

    def _rest_over(self, wait: bool, progress: Any) -> bool:
        """Return True without ``wait``; else wait until a rest may be over, a moment at most, and return False."""
        seconds, reason = self._volume.stores.asked_rest
        if wait:
            if progress is not None:
                progress(f"waiting {seconds:.0f} s: {reason}", 0, self._volume.content.pending())
            self._stop.wait(min(seconds, LOOK_SECONDS))
        return not wait

    def _flush(self, wait: bool, progress: Any) -> bool:
        """Send all packs; False if that takes too long, or without ``wait`` if the store asks for rest.

        Raises what ends all sending: no login, an account that is lost.
        """
        volume = self._volume
        step = LOOK_SECONDS if wait else SHORT_LOOK_SECONDS
        deadline = self._clock.monotonic() + FLUSH_SECONDS
        while True:
            began = self._clock.monotonic()
            if volume.content.flush(step):
                return True
            problem = None if volume.stores.account is None else volume.stores.account.problem
            if problem is not None:
                raise type(problem)(problem.message, hint=problem.hint)
            waiting, reason = volume.stores.rest
            if progress is not None:
                stage = f"waiting {waiting:.0f} s: {reason}" if waiting else "pending bytes"
                progress(stage, 0, volume.content.pending())
            now = self._clock.monotonic()
            if now >= deadline or now - began < step or (not wait and self._is_resting()):  # or it gave up by itself
                return False

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> bool:
        """Write a checkpoint if one is due, or finish one that was cut off; return whether one was written."""
        volume = self._volume
        with self._work:
            if volume.checkpoints.send_sealed():
                self._drop_log_files()
                return True
        with volume.database.reading() as connection:
            position, size = connection.one(rows.LAST_CHECKPOINT) or (0, 0)
            log_bytes, count, stamp = connection.one(rows.LOG_SINCE, (position,)) or (0, 0, 0)
        # A stamp of a time to come was given while some clock was wrong; its age is not known to be a day, nor to be none.
        age = max((self._clock.now_ns() - stamp_time_ns(stamp)) / 1e9, 0.0)
        if not is_due(log_bytes=log_bytes, last_bytes=size, age_seconds=age, changed=count > 0):
            return False
        return self.checkpoint()

    def checkpoint(self) -> bool:
        """Write a checkpoint now; False when some operation is not in the store yet. Older log files go then.

        Raises StoreUnavailable, WriterReplaced, DamageError, NoSpace, LocalFailure.
        """
        volume = self._volume
        with self._work:
            self._check_writer()
            with volume.database.reading() as connection:
                counters = settings.everything(connection, prefix=settings.NAMESPACE)
            if not volume.checkpoints.write(counters, self._clock.now_ns()):
                return False
            self._drop_log_files()
        return True

    def _drop_log_files(self) -> None:
        """A stored checkpoint covers the segments: their files are no longer kept for appending them again."""
        volume = self._volume
        with volume.database.reading() as connection:
            files = [str(row[0]) for row in connection.all(rows.COVERED_FILES)]

        def work(transaction: Transaction) -> None:
            transaction.executemany(rows.FORGET_FILE, [(file,) for file in files])

        volume.database.writer.run(work, durable=True)
        for file in files:
            outbox.remove(volume.places.state / "outbox" / file, volume.platform.disk)
