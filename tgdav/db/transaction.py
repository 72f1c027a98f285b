"""What a job changes the database through, and what it shares with the other jobs of its batch."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tgdav.db.connection import Connection, Parameters, Row, ordered
from tgdav.db.deferred import Deferrable, Deferred, write
from tgdav.db.redo_log import Kept, Note
from tgdav.db.statements import plain
from tgdav.errors import LocalFailure, TgdavError


class Batch:
    """What the jobs of one transaction share: the connection, what they deferred, and the error that ends them all.

    ``notes``: what lazy jobs executed and deferred, in this order, and the redo log does not have yet; None where nobody wants
    to know, ``is_silent`` if they do not tell all. ``released``: what the redo log need not keep once this is committed.
    """

    __slots__ = ("alone", "connection", "deferred", "error", "is_silent", "notes", "released")

    def __init__(self, connection: Connection, *, alone: bool, is_noted: bool = False) -> None:
        self.connection = connection
        self.alone = alone
        self.notes: list[Note] | None = [] if is_noted else None
        self.is_silent = False
        self.released: list[Kept] = []
        self.deferred = Deferred()
        self.error: TgdavError | None = None

    def take_notes(self) -> list[Note] | None:
        """Return the notes, and begin anew; None if they do not tell all."""
        if self.is_silent or self.notes is None:
            return None
        taken, self.notes = self.notes, []
        return taken

    def write(self, count: int | None = None) -> None:
        """Write the first ``count`` of what was deferred, or all. Raises TgdavError, which ends the whole batch."""
        try:
            write(self.connection, self.deferred.take(count))
        except TgdavError as error:
            self.error = error
            raise
        except Exception as error:
            # Whose row it was is not known, and nobody's may be missing from what is committed.
            self.error = LocalFailure("rows were refused by the local database")
            raise self.error from error


class Transaction(Connection):
    """What a job changes the database through; of no use when the job has returned.

    ``generation`` grows each time a whole batch was rolled back: whoever keeps in memory what a transaction of an
    earlier generation wrote must read it again.
    """

    __slots__ = ("_batch", "_mark", "_noted", "_released", "_saved", "callbacks", "generation")

    def __init__(self, batch: Batch, generation: int) -> None:
        super().__init__(batch.connection.raw)
        self._batch = batch
        self._mark = len(batch.deferred)
        self._saved = batch.alone
        self._noted = len(batch.notes or ())
        self._released: list[Kept] = []
        self.generation = generation
        self.callbacks: list[tuple[Callable[[], None], bool]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the change stands, and for a durable job survives a power cut; never if it fails."""
        self.callbacks.append((callback, True))

    def when_done(self, callback: Callable[[], None]) -> None:
        """As ``after_commit``, but for a lazy job before it is committed, when its caller is about to be answered.

        Whoever uses it hears by ``Writer.on_loss`` that such a change does not stand after all.
        """
        self.callbacks.append((callback, False))

    def defer(self, kind: Deferrable, row: Any) -> None:
        """Write ``row`` together with its like of other jobs, but before this transaction is asked anything.

        Raises InvalidArgument for a number that SQLite cannot keep.
        """
        batch = self._batch
        batch.deferred.add(kind, row)
        if batch.notes is not None:
            if kind.number is None:
                batch.is_silent = True
            else:
                batch.notes.append((kind.number, row))

    def release(self, kept: Iterable[Kept]) -> None:
        """Let the redo log forget what it keeps, once this is committed."""
        self._released += kept

    def _note(self, sql: str, params: Parameters) -> None:
        notes = self._batch.notes
        if notes is not None and not sql.startswith("SELECT"):
            notes.append((plain(sql), ordered(sql, params)))

    def execute(self, sql: str, params: Parameters = ()) -> Any:
        """Execute one statement, return its cursor."""
        self._prepare()
        cursor = super().execute(sql, params)
        self._note(sql, params)
        return cursor

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> Any:
        """Execute one changing statement for each row of parameters."""
        self._prepare()
        rows = list(rows)
        cursor = super().executemany(sql, rows)
        for row in rows:
            self._note(sql, row)
        return cursor

    def one(self, sql: str, params: Parameters = ()) -> Row | None:
        """Return the first row, or None."""
        self._prepare()
        row = super().one(sql, params)
        self._note(sql, params)
        return row

    def all(self, sql: str, params: Parameters = ()) -> list[Row]:
        """Return all rows."""
        self._prepare()
        rows = super().all(sql, params)
        self._note(sql, params)
        return rows

    def each(self, sql: str, params: Parameters = ()) -> Iterator[Row]:
        """Go through the rows without holding them all."""
        self._prepare()
        self._note(sql, params)
        return super().each(sql, params)

    def _prepare(self) -> None:
        """Before a statement of its own: write what was deferred, this job's within a savepoint."""
        batch = self._batch
        if not self._saved:
            if self._mark:
                batch.write(self._mark)
                self._mark = 0
            super().execute("SAVEPOINT job")
            self._saved = True
        if batch.deferred:
            batch.write()

    def keep(self) -> None:
        """The job is done."""
        self._batch.released += self._released
        if self._saved and not self._batch.alone:
            super().execute("RELEASE job")

    def undo(self) -> None:
        """The job failed: leave nothing of it. Raises LocalFailure where SQLite gave up the whole transaction."""
        batch = self._batch
        batch.deferred.forget(self._mark)
        if batch.notes is not None:
            del batch.notes[self._noted :]
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
            raise LocalFailure("the local database gave up a transaction")
