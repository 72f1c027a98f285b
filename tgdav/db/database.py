"""Opening the local database, reading from it, and folding its write-ahead log back.

Locks of SQLite are POSIX locks: a process that closes any descriptor of the database or ``-shm`` file drops them all. So
nothing here or elsewhere ever opens those two files; the barrier's descriptor is on ``-wal``, which carries no locks. It is
opened after the writer's connection, which is the first to be opened and the last to be closed, so that SQLite cannot
remove the file under it.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tgdav.db.connection import Connection, connect
from tgdav.db.migrations import bring_up_to_date
from tgdav.db.redo_log import RedoLog
from tgdav.db.wal import WriteAheadLog
from tgdav.db.writer import Writer
from tgdav.disk import Disk
from tgdav.entropy import Entropy, SystemEntropy
from tgdav.errors import DamageError, LocalFailure

_log = logging.getLogger(__name__)

WRITER_CACHE_KIB = 32 * 1024
READER_CACHE_KIB = 2 * 1024
IDLE_READERS = 16
"""Reading connections kept for reuse; more are opened when needed and closed afterwards."""
ROOM_BYTES = 64 * 1024 * 1024
"""Free bytes of the disk without which no lazy job is answered before it is committed; some hundred jobs write a few MiB."""
CHECKPOINT_PAGES = 2000
RESTART_PAGES = 16_000
"""A write-ahead log of this many pages (64 MiB) is folded back with writers held off, so that it starts anew."""


class Database:
    """A namespace's local database. Thread-safe. ``writer`` is the only way to change it."""

    def __init__(self, path: Path, key: bytes, connection: Connection, wal: WriteAheadLog, redo: RedoLog) -> None:
        self._path = path
        self._key = key
        self._connection = connection
        self._wal = wal
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self.redo = redo
        self.writer = Writer(connection, redo, wal.sync, self._has_room)

    @classmethod
    def open(cls, path: Path, key: bytes, *, disk: Disk, entropy: Entropy | None = None) -> "Database":
        """Open the database at ``path``, making it, or bringing its schema up to date, durably.

        What an earlier process answered and did not commit is in it; ``redo.found`` is what it kept for others. Raises
        DamageError (wrong key, damage), UsageError (a newer program made it), LocalFailure, NoSpace.
        """
        connection = connect(path, key, cache_kib=WRITER_CACHE_KIB)
        redo = RedoLog(path, disk, entropy or SystemEntropy())
        try:
            bring_up_to_date(connection)
            redo.replay(connection)
            wal = WriteAheadLog(path, disk)
        except BaseException:
            redo.close()
            connection.close()
            raise
        database = cls(path, key, connection, wal, redo)
        try:
            database.writer.sync()
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection that sees one consistent state, as of its first query, for the whole ``with`` block.

        All that was answered before is in it: lazy jobs are committed first, so hold no lock that a job takes. A job of the
        writer is lent its own transaction, so that it decides on what it is going to change.
        """
        own = self.writer.own_transaction
        if own is not None:
            yield own
            return
        self.writer.show()
        connection = self._borrow()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._give_back(connection)

    @contextmanager
    def glancing(self, *, committed: bool = False) -> Iterator[Connection]:
        """Lend a connection whose statements each see the state of their own moment: cheaper, for a single question.

        ``committed``: what lazy jobs did a moment ago does not matter to the question. Not for jobs of the writer, for what
        is glanced at may be kept: RuntimeError.
        """
        if not committed:
            self.writer.show()
        connection = self._borrow()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _has_room(self) -> bool:
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return False
        return found.f_bavail * found.f_frsize >= ROOM_BYTES

    def _borrow(self) -> Connection:
        with self._lock:
            if self._closed:
                raise LocalFailure("the local database is closed")
            if self._idle:
                return self._idle.pop()
        return connect(self._path, self._key, cache_kib=READER_CACHE_KIB, read_only=True)

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_READERS:
                self._idle.append(connection)
                return
        connection.close()

    def checkpoint(self, *, pages: int = CHECKPOINT_PAGES) -> int:
        """Fold the write-ahead log back into the database if it has ``pages`` pages to fold; return how many it did.

        Readers and writers go on meanwhile; only a log of RESTART_PAGES holds writers off, for the rest of it. SQLite syncs
        the log before and the database after. To be called by one thread. Raises LocalFailure, and then poisons the writer:
        pages that failed to reach the disk may be lost from the middle of the log.
        """
        with self._lend() as connection:
            _, total, done = self._pages(connection, "NOOP")
            if total - done < pages:
                return 0
            try:
                _, total, folded = self._pages(connection, "PASSIVE")
                if total >= RESTART_PAGES:
                    _, _, folded = self.writer.exclusively(lambda: self._pages(connection, "PASSIVE"))
            except (LocalFailure, DamageError) as error:
                self.writer.poison(f"a checkpoint failed: {error}")
                raise
        return max(folded - done, 0)

    @contextmanager
    def _lend(self) -> Iterator[Connection]:
        connection = self._borrow()
        try:
            yield connection
        finally:
            self._give_back(connection)

    @staticmethod
    def _pages(connection: Connection, mode: str) -> tuple[int, int, int]:
        """Run a checkpoint; return (blocked, pages in the log, pages folded back)."""
        row = connection.one(f"PRAGMA wal_checkpoint({mode})")
        if row is None:
            raise DamageError("the write-ahead log cannot be read", blob="database")
        return row[0], max(row[1], 0), max(row[2], 0)

    def close(self) -> None:
        """Finish what writes, fold the log back and close; calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
        self.writer.close()
        for connection in idle:
            connection.close()
        self._wal.close()
        self._connection.close()
        self.redo.close()
