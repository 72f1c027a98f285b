"""The volume's background work: one thread that looks once a second at what is due."""

import logging
import threading
from typing import TYPE_CHECKING, Any

from tgdav.crdt.clocks import stamp_time_ns
from tgdav.db.writer import Transaction
from tgdav.errors import DamageError, LocalFailure, StoreError, StoreUnavailable, WriterReplaced
from tgdav.metadata import settings
from tgdav.replication.checkpoint import is_due

if TYPE_CHECKING:
    from tgdav.volume.volume import Volume

_log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
PUSH_SECONDS = 60.0
HEADER_SECONDS = 3600.0
FLUSH_SECONDS = 3600.0
CHECKPOINT_LOOK_SECONDS = 30.0


class Housekeeping:
    """Pushes, checkpoints, settles idle files, folds the database's log back, keeps the headers."""

    def __init__(self, volume: "Volume") -> None:
        self._volume = volume
        self._clock = volume.seams.clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._work = threading.Lock()
        started = self._clock.monotonic()
        self._next_push = started + PUSH_SECONDS
        self._next_header = started
        self._next_checkpoint = started + CHECKPOINT_LOOK_SECONDS

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="tgdav-housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, after the task at work."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self.tick()
            except StoreUnavailable as error:
                self._volume.last_error = str(error)
            except (StoreError, DamageError, LocalFailure, WriterReplaced) as error:
                self._volume.last_error = str(error)
                _log.warning("background work met: %s", error)

    def tick(self) -> None:
        """Do what is due now. Raises what the tasks raise; each task is due again later."""
        volume, now = self._volume, self._clock.monotonic()
        volume.database.checkpoint()
        if volume.read_only_reason is not None:
            return
        volume.fs.settle_idle()
        if now >= self._next_header:
            self._next_header = now + HEADER_SECONDS
            volume.keep_headers()
        if now >= self._next_push and volume.pusher.pending_operations():
            self._next_push = now + PUSH_SECONDS
            self.push()
        if now >= self._next_checkpoint:
            self._next_checkpoint = now + CHECKPOINT_LOOK_SECONDS
            self.checkpoint_if_due()

    # ---- pushing -------------------------------------------------------------------------------------------------

    def push(self) -> bool:
        """Look who the writer is, then send what is ready; return whether anything was.

        Raises WriterReplaced, StoreUnavailable, DamageError (the store was set back).
        """
        with self._work:
            self._check_writer()
            pushed = self._volume.pusher.push()
            self._check_writer()
            return pushed.segments > 0

    def _check_writer(self) -> None:
        volume = self._volume
        reason = volume.watch.look().reason
        if reason is not None:
            volume.journal.read_only = reason
            raise WriterReplaced(
                f"{reason}; this machine serves read-only and keeps its unsent operations",
                hint="to write here again, run 'tgdav init --join' in a fresh home",
            )

    def sync(self, *, wait: bool, progress: Any = None) -> dict[str, Any]:
        """Send everything that waits; with ``wait``, return only when nothing is pending."""
        volume = self._volume
        if volume.read_only_reason is not None:
            self._check_writer()
        volume.keep_headers()
        while True:
            flushed = volume.content.flush(FLUSH_SECONDS)
            moved = self.push()
            pending = volume.pending()
            if wait and flushed and not moved and pending["operations"]:
                raise DamageError(
                    f"{pending['operations']} operations name content that this machine has lost", blob="staging"
                )
            if progress is not None:
                progress("pending bytes", 0, pending["bytes"])
            if not wait or not (pending["bytes"] or pending["operations"]) or self._stop.is_set():
                return {"pending": pending}

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> bool:
        """Write a checkpoint if one is due; return whether one was written."""
        volume = self._volume
        with volume.database.reading() as connection:
            last = connection.one(
                "SELECT segment, bytes, created FROM checkpoints WHERE state = 1 ORDER BY number DESC LIMIT 1"
            )
            segment, size, created = last or (0, 0, 0)
            log = connection.one(
                "SELECT coalesce(sum(size), 0), count(*), coalesce(max(number), 0), min(last_stamp) FROM segments"
                " WHERE blob IS NOT NULL AND file IS NOT NULL AND number > ?",
                (segment,),
            )
        if log is None or not log[1]:
            return False
        since = created or stamp_time_ns(int(log[3]))
        age = (self._clock.now_ns() - since) / 1e9
        if not is_due(log_bytes=int(log[0]), last_bytes=int(size), age_seconds=age, changed=bool(log[1])):
            return False
        return self.checkpoint()

    def checkpoint(self) -> bool:
        """Write a checkpoint now; False when some operation is not in the store yet. Older log files may go then."""
        volume = self._volume
        with self._work:
            with volume.database.reading() as connection:
                counters = settings.everything(connection, prefix=settings.NAMESPACE)
            if not volume.checkpoints.write(counters, self._clock.now_ns()):
                return False
            self._drop_log_files()
        return True

    def _drop_log_files(self) -> None:
        volume = self._volume
        with volume.database.reading() as connection:
            files = [
                str(row[0])
                for row in connection.all("SELECT file FROM segments WHERE blob IS NOT NULL AND file IS NOT NULL")
            ]

        def work(transaction: Transaction) -> None:
            transaction.executemany("UPDATE segments SET file = NULL WHERE file = ?", [(file,) for file in files])

        volume.database.writer.run(work, durable=True)
        for file in files:
            volume.seams.disk.unlink(volume.places.state / "outbox" / file)
