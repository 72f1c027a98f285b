"""The transaction object a job writes through, and the state that all jobs of one SQLite transaction share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tgdav.db.connection import Connection, Parameters, Row, ordered
from tgdav.db.deferred import Deferrable, Deferred, write
from tgdav.db.redo_log import KeptRecord, RedoEntry
from tgdav.db.statements import plain
from tgdav.errors import LocalFailure, TgdavError


class TransactionBatch:
    """State shared by the jobs of one SQLite transaction: connection, deferred rows, and an error that fails them all.

    ``redo_entries``: what lazy jobs executed and deferred, in order, and the redo log does not have yet; None if no redo log
    is kept. ``has_unlogged``: some change has no redo entry. ``released``: records the redo log may drop after the commit.
    """

    __slots__ = ("alone", "connection", "deferred", "error", "has_unlogged", "redo_entries", "released")

    def __init__(self, connection: Connection, *, alone: bool, is_logged: bool = False) -> None:
        self.connection = connection
        self.alone = alone
        self.redo_entries: list[RedoEntry] | None = [] if is_logged else None
        self.has_unlogged = False
        self.released: list[KeptRecord] = []
        self.deferred = Deferred()
        self.error: TgdavError | None = None

    def take_redo_entries(self) -> list[RedoEntry] | None:
        """Return the entries and start a new list; None if they are not complete."""
        if self.has_unlogged or self.redo_entries is None:
            return None
        taken, self.redo_entries = self.redo_entries, []
        return taken

    def write(self, count: int | None = None) -> None:
        """Write the first ``count`` deferred rows, or all. Raises TgdavError, which fails the whole batch."""
        try:
            write(self.connection, self.deferred.take(count))
        except TgdavError as error:
            self.error = error
            raise
        except Exception as error:
            # It is not known whose row failed, and no job may be committed without its rows.
            self.error = LocalFailure("rows were refused by the local database")
            raise self.error from error


class Transaction(Connection):
    """A job's access to the database, valid until the job returns.

    ``generation`` grows each time a whole batch is rolled back: state kept in memory that was written in a transaction of an
    earlier generation must be read again.
    """

    __slots__ = ("_batch", "_logged", "_mark", "_released", "_saved", "callbacks", "generation")

    def __init__(self, batch: TransactionBatch, generation: int) -> None:
        super().__init__(batch.connection.raw)
        self._batch = batch
        self._mark = len(batch.deferred)
        self._saved = batch.alone
        self._logged = len(batch.redo_entries or ())
        self._released: list[KeptRecord] = []
        self.generation = generation
        self.callbacks: list[tuple[Callable[[], None], bool]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after the commit (for a durable job: after the sync); never if the job fails."""
        self.callbacks.append((callback, True))

    def when_done(self, callback: Callable[[], None]) -> None:
        """As ``after_commit``, but for a lazy job already before its caller is answered, which is before the commit.

        If that commit fails, ``Writer.on_loss`` callbacks are called.
        """
        self.callbacks.append((callback, False))

    def defer(self, kind: Deferrable, row: Any) -> None:
        """Write ``row`` later, in one statement with rows of other jobs, but before this transaction's next statement.

        Raises InvalidArgument for a number that SQLite cannot store.
        """
        batch = self._batch
        batch.deferred.add(kind, row)
        if batch.redo_entries is not None:
            if kind.number is None:
                batch.has_unlogged = True
            else:
                batch.redo_entries.append((kind.number, row))

    def release(self, kept: Iterable[KeptRecord]) -> None:
        """Allow the redo log to drop these records once this is committed."""
        self._released += kept

    def _log(self, sql: str, params: Parameters) -> None:
        entries = self._batch.redo_entries
        if entries is not None and not sql.startswith("SELECT"):
            entries.append((plain(sql), ordered(sql, params)))

    def execute(self, sql: str, params: Parameters = ()) -> Any:
        """Execute one statement; return its cursor."""
        self._prepare()
        cursor = super().execute(sql, params)
        self._log(sql, params)
        return cursor

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> Any:
        """Execute one changing statement for each row of parameters."""
        self._prepare()
        # The rows are needed twice, and may come from an iterator.
        rows = list(rows)
        cursor = super().executemany(sql, rows)
        for row in rows:
            self._log(sql, row)
        return cursor

    def one(self, sql: str, params: Parameters = ()) -> Row | None:
        """Return the first row, or None."""
        self._prepare()
        row = super().one(sql, params)
        self._log(sql, params)
        return row

    def all(self, sql: str, params: Parameters = ()) -> list[Row]:
        """Return all rows."""
        self._prepare()
        rows = super().all(sql, params)
        self._log(sql, params)
        return rows

    def each(self, sql: str, params: Parameters = ()) -> Iterator[Row]:
        """Iterate over the rows without loading them all."""
        self._prepare()
        self._log(sql, params)
        return super().each(sql, params)

    def _prepare(self) -> None:
        """Before a statement: write the deferred rows, those of this job within a savepoint."""
        batch = self._batch
        if not self._saved:
            # Rows of earlier jobs go before the savepoint: undoing this job must not undo them.
            if self._mark:
                batch.write(self._mark)
                self._mark = 0
            super().execute("SAVEPOINT job")
            self._saved = True
        if batch.deferred:
            batch.write()

    def keep(self) -> None:
        """The job succeeded: its changes stay in the transaction."""
        self._batch.released += self._released
        if self._saved and not self._batch.alone:
            super().execute("RELEASE job")

    def undo(self) -> None:
        """The job failed: undo its changes. Raises LocalFailure if SQLite has rolled the whole transaction back."""
        batch = self._batch
        # Rows of other jobs, deferred before this one, stay.
        batch.deferred.forget(self._mark)
        if batch.redo_entries is not None:
            del batch.redo_entries[self._logged :]
        if batch.error is not None:
            raise batch.error
        if not self._saved:
            return
        if batch.alone:
            if self.in_transaction:
                super().execute("ROLLBACK")
        elif self.in_transaction:
            super().execute("ROLLBACK TO job")
            super().execute("RELEASE job")
        else:
            raise LocalFailure("the local database rolled a transaction back")
