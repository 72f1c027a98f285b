"""Keep the log in the store up to date: check who the writer is, push segments, write checkpoints.

Every step that adds to the store checks first that this machine is still the writer, and again afterwards: another machine
may have joined in between. ``Journal.read_only`` says why nothing may be changed here; it is set and cleared here alone.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from tgdav.blobs.interface import BlobInfo, BlobStore
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError, WriterReplaced
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform
from tgdav.replication import outbox, sql, trimming
from tgdav.replication.checkpoint import CheckpointWriter
from tgdav.replication.format.checkpoint import is_due
from tgdav.replication.intake import Damage
from tgdav.replication.log_identity import LogIdentity
from tgdav.replication.pusher import Pusher
from tgdav.replication.retractions import Retractions
from tgdav.replication.writer_check import WriterCheck

JOINING = "joining this vault is not finished: the store does not have this machine's first segment yet"
"""Why a machine that joined changes nothing until its first segment is stored."""
_JOIN_HELD = "joining is held up"
_REPORT = "run 'tgdav check', which reports what is missing"


class Replicator:
    """Replicates the log of one namespace. Thread-safe: one step at a time."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        log: LogIdentity,
        journal: Journal,
        directory: Path,
        platform: Platform,
    ) -> None:
        """``directory`` is the outbox: it holds sealed files until the store has them."""
        self.log, self.journal = log, journal
        self._database, self._store, self._directory, self._platform = database, store, directory, platform
        self.retractions = Retractions(database, journal.fresh)
        self.pusher = Pusher(
            database, store, log, directory, self.retractions, entropy=platform.entropy, disk=platform.disk
        )
        self.checkpoints = CheckpointWriter(
            database, store, log, directory, entropy=platform.entropy, disk=platform.disk
        )
        self.writer_check = WriterCheck(database, store, log)
        self.on_joined: Callable[[], None] = _nothing
        """Called by ``finish_joining``."""
        self._lock = threading.RLock()

    def start(self) -> None:
        """Resume after the last process: remove files that no row names, and set why nothing may be changed, if so."""
        outbox.remove_leftovers(self._database, self._directory, self._platform.disk)
        self.journal.read_only = self.writer_check.replaced() or (None if self.writer_check.has_joined() else JOINING)

    @property
    def read_only_reason(self) -> str | None:
        """Why nothing can be changed here, or None."""
        return self.journal.read_only

    @property
    def is_joining(self) -> bool:
        """Whether this machine is the writer and its first segment is not in the store yet."""
        return self.journal.read_only == JOINING

    # ---- checking ------------------------------------------------------------------------------------------------

    def on_notice(self, blob: BlobInfo) -> bool:
        """Record a blob that another login stored; return whether ``poll`` should run soon. Any thread may call it."""
        return self.writer_check.on_notice(blob)

    def poll(self) -> None:
        """Check who the writer is. Raises WriterReplaced, StoreUnavailable, DamageError, NoSpace, LocalFailure."""
        with self._lock:
            self._check_writer()

    def missing(self) -> list[Damage]:
        """Return what is missing from other machines' logs in the store, or does not open. Raises StoreUnavailable."""
        return self.writer_check.missing(joining=self.is_joining)

    def _check_writer(self) -> None:
        status = self.writer_check.poll(joining=self.is_joining)
        while status.missed and status.reason is None and not status.held:
            status = self.writer_check.apply_missed(self.journal, status)
        if status.reason is not None:
            self.journal.read_only = status.reason
            if status.is_restored:  # the reason names the remedy itself
                raise WriterReplaced(status.reason)
            raise WriterReplaced(
                f"{status.reason}; this machine serves read-only and keeps its unsent operations",
                hint="to write here again, run 'tgdav init --join' in a fresh home",
            )
        if status.held:
            held = status.held[0]
            what = _JOIN_HELD if self.is_joining else "nothing is sent"
            raise DamageError(f"{what}: {held.reason}", blob=held.blob, hint=_REPORT)

    # ---- pushing -------------------------------------------------------------------------------------------------

    def push(self) -> bool:
        """Check who the writer is, then send what is ready; return whether anything was sent.

        Raises WriterReplaced, StoreUnavailable, DamageError (the store was set back), NoSpace, LocalFailure.
        """
        with self._lock:
            self._check_writer()
            pushed = self.pusher.push()
            self._check_writer()
            if self.is_joining and self.writer_check.has_joined():
                self.finish_joining()
            return pushed.segments > 0

    def finish_joining(self) -> None:
        """Allow changes: the store has the first segment of this machine."""
        self.journal.read_only = None
        self.on_joined()

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> bool:
        """Write a checkpoint if one is due, or finish one that was interrupted; return whether one was written."""
        with self._lock:
            if self.checkpoints.send_sealed():
                self._drop_log_files()
                return True
        with self._database.reading() as connection:
            position, size = connection.one(sql.LAST_CHECKPOINT) or (0, 0)
            log_bytes, count, stamp = connection.one(sql.LOG_SINCE, (position,)) or (0, 0, 0)
        # A stamp in the future was given while some clock was wrong, so its age is unknown: count it as 0.
        age = max((self._platform.clock.now_ns() - stamp_time_ns(stamp)) / 1e9, 0.0)
        if not is_due(log_bytes=log_bytes, last_bytes=size, age_seconds=age, changed=count > 0):
            return False
        return self.checkpoint()

    def checkpoint(self) -> bool:
        """Write a checkpoint now, and remove the log files that it covers; False if an operation is not in the store yet.

        Raises StoreUnavailable, WriterReplaced, DamageError, NoSpace, LocalFailure.
        """
        with self._lock:
            self._check_writer()
            with self._database.reading() as connection:
                counters = settings.of_namespace(connection)
            self._database.writer.run(trimming.mark)
            if not self.checkpoints.write(counters, self._platform.clock.now_ns()):
                return False
            self._drop_log_files()
        return True

    def trim(self) -> int:
        """Delete from the store what the newest two checkpoints have made superfluous; return how many blobs.

        Raises StoreUnavailable, WriterReplaced, DamageError, NoSpace, LocalFailure.
        """
        with self._lock:
            with self._database.reading() as connection:
                if self.journal.read_only is not None or not trimming.superfluous(connection):
                    return 0
            self._check_writer()
            return trimming.trim(self._database, self._store)

    def _drop_log_files(self) -> None:
        """Remove the files of segments that a stored checkpoint covers: they need not be appended again."""
        with self._database.reading() as connection:
            files = [str(row[0]) for row in connection.all(sql.COVERED_FILES)]

        def forget(transaction: Transaction) -> None:
            transaction.executemany(sql.FORGET_FILE, [(file,) for file in files])

        self._database.writer.run(forget, durable=True)
        for file in files:
            outbox.remove(self._directory / file, self._platform.disk)


def _nothing() -> None:
    return
