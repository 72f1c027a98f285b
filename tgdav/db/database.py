"""The local database: opening it, reading from it, and checkpointing its write-ahead log.

SQLite's locks are POSIX locks: a process that closes any descriptor of the database or of the ``-shm`` file drops them all. So
no code here or elsewhere opens those two files; the barrier's descriptor is on ``-wal``, which has no locks. It is opened
after the writer's connection, which is opened first and closed last, so that SQLite cannot remove the file meanwhile.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tgdav.db.connection import Connection, connect
from tgdav.db.migrations import bring_up_to_date
from tgdav.db.redo_log import RedoLog
from tgdav.db.writer import Writer
from tgdav.disk import Disk
from tgdav.entropy import Entropy, SystemEntropy
from tgdav.errors import DamageError, LocalFailure

_log = logging.getLogger(__name__)

WRITER_CACHE_KIB = 32 * 1024
READER_CACHE_KIB = 2 * 1024
IDLE_READERS = 16
"""Reading connections kept for reuse; more are opened on demand and closed afterwards."""
ROOM_BYTES = 64 * 1024 * 1024
"""With fewer free bytes on the disk, every job is committed before it is answered; some hundred jobs write a few MiB."""
CHECKPOINT_PAGES = 2000
RESTART_PAGES = 16_000
"""A write-ahead log of this many pages (64 MiB) is checkpointed while no writer runs, so that SQLite can restart it."""

_GROWTH = bytes(1 << 20)


class WriteAheadLog:
    """The barrier's descriptor on the ``-wal`` file: syncing it makes committed transactions durable.

    One sync after a commit is enough, wherever SQLite is in the log. With ``synchronous=NORMAL`` SQLite syncs the log before
    it copies pages into the database, syncs the database before it restarts the log, and syncs the log's new header before
    the first frames that follow it. So at any moment each committed page is in the synced database or in this file, and the
    frames before it in this file are intact.
    """

    def __init__(self, database: Path, disk: Disk) -> None:
        """Open the log of the connected ``database`` and make its directory entry durable. Raises LocalFailure."""
        self._disk = disk
        path = database.with_name(database.name + "-wal")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            disk.sync_directory(database.parent)
        except OSError as error:
            raise LocalFailure(f"the local database's log could not be opened: {error.strerror}") from error
        self._grown = 0

    def sync(self) -> None:
        """Return when all commits survive a power cut. Only the writer's leader calls this. Raises OSError."""
        self._grow_ahead()
        self._disk.sync(self._descriptor)

    def _grow_ahead(self) -> None:
        """When SQLite has made the file longer, append zeros as room for the next commits.

        Syncing a file that grew also syncs its size, which takes more than twice as long. SQLite overwrites the zeros, and
        reads no further than the last valid frame.
        """
        size = os.fstat(self._descriptor).st_size
        if size <= self._grown:
            return
        self._grown = size + len(_GROWTH)
        # On a full disk there is no room to append, and nothing is lost; the sync reports every other error.
        with suppress(OSError):
            self._disk.write(self._descriptor, _GROWTH, size)

    def close(self) -> None:
        """Close the descriptor; SQLite holds no locks on this file that closing could drop."""
        os.close(self._descriptor)


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
        """Open the database at ``path``; create it or migrate its schema, durably, if necessary.

        It then contains what an earlier process answered but did not commit; ``redo.found`` has the kept records. Raises
        DamageError (wrong key, damage), NewerFormat, LocalFailure, NoSpace.
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

        That state contains every change answered before: lazy jobs are committed first, so the caller must hold no lock that
        a job takes. Inside a job of the writer this is the job's own transaction.
        """
        own = self.writer.own_transaction
        if own is not None:
            yield own
            return
        # WAL readers see committed transactions only, and the lazy batch is open.
        self.writer.commit_pending()
        connection = self._borrow()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._give_back(connection)

    @contextmanager
    def autocommit_reader(self, *, committed: bool = False) -> Iterator[Connection]:
        """Lend a connection in autocommit mode: each statement sees the latest state. Cheaper than ``reading``.

        ``committed``: the caller does not need the changes of the lazy batch. Must not be called inside a writer job
        (RuntimeError): callers may cache the result.
        """
        if not committed:
            self.writer.commit_pending()
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
            # The last one used: its page cache is the warmest.
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
        """Checkpoint the write-ahead log if at least ``pages`` pages are not in the database yet; return how many it copied.

        Readers and writers continue meanwhile; only for a log of RESTART_PAGES does the last part exclude writers. SQLite
        syncs the log before and the database after. Only one thread may call this. Raises LocalFailure and then poisons the
        writer: pages that did not reach the disk may be missing from the middle of the log.
        """
        with self._lend() as connection:
            _, total, done = self._pages(connection, "NOOP")
            if total - done < pages:
                return 0
            try:
                _, total, copied = self._pages(connection, "PASSIVE")
                if total >= RESTART_PAGES:
                    _, _, copied = self.writer.exclusively(lambda: self._pages(connection, "PASSIVE"))
            except (LocalFailure, DamageError) as error:
                self.writer.poison(f"a checkpoint failed: {error}")
                raise
        return max(copied - done, 0)

    @contextmanager
    def _lend(self) -> Iterator[Connection]:
        connection = self._borrow()
        try:
            yield connection
        finally:
            self._give_back(connection)

    @staticmethod
    def _pages(connection: Connection, mode: str) -> tuple[int, int, int]:
        """Run a checkpoint; return (blocked, pages in the log, pages copied into the database)."""
        row = connection.one(f"PRAGMA wal_checkpoint({mode})")
        if row is None:
            raise DamageError("the write-ahead log cannot be read", blob="database")
        return row[0], max(row[1], 0), max(row[2], 0)

    def close(self) -> None:
        """Finish running jobs, checkpoint the log and close; calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
        self.writer.close()
        # The writer's connection closes last: SQLite then checkpoints and removes the write-ahead log.
        for connection in idle:
            connection.close()
        self._wal.close()
        self._connection.close()
        self.redo.close()
