"""Writes that a transaction gathers: rows that many jobs put into one table become one statement.

A statement costs its caller a dozen switches between threads, whatever it does, so a hundred small jobs that each insert a
row into five tables are fast only if they do it together. What is deferred is written before anything else is asked of the
transaction, and before it is committed: nobody can tell the difference.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from sqlalchemy import Table

from tgdav.db.connection import Connection
from tgdav.errors import InvalidArgument

SMALLEST, LARGEST = -(2**63), 2**63 - 1
"""What an INTEGER of SQLite holds."""
MOST_ROWS = 16
"""Rows of one statement; for each number up to it there is one prepared statement a table."""


class Deferrable(Protocol):
    """A kind of write. Those of a lower ``rank`` come first; of one rank, none depends on another.

    ``number`` stands for it in the redo log; None: a job that defers it is not to be lazy.
    """

    rank: int
    number: int | None

    def values(self, row: Any) -> Iterable[Any]:
        """Return what of ``row`` is bound to a statement."""
        ...

    def write(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Do all of it, in as few statements as can be."""
        ...


_LOGGED: dict[int, Deferrable] = {}


def logged(number: int | None, kind: Deferrable) -> int | None:
    """Let the redo log find ``kind`` by ``number``, which is part of the log's format; return it."""
    if number is not None:
        _LOGGED[number] = kind
    return number


def kind_of(number: int) -> Deferrable:
    """Return the kind that has ``number`` in the redo log. Raises KeyError."""
    return _LOGGED[number]


class Inserts:
    """Rows for one table, as tuples of all its ``columns`` in their order."""

    rank = 0

    def __init__(
        self, table: Table, columns: Iterable[str] | None = None, ending: str = "", *, number: int | None = None
    ) -> None:
        self.number = logged(number, self)
        self.columns = tuple(table.c.keys() if columns is None else columns)
        names = ", ".join(f'"{name}"' for name in self.columns)
        values = "(" + ", ".join("?" * len(self.columns)) + ")"
        self._texts = [
            f"INSERT INTO {table.name} ({names}) VALUES {', '.join([values] * count)}{ending}"  # noqa: S608 (our schema's)
            for count in range(MOST_ROWS + 1)
        ]

    def values(self, row: tuple[Any, ...]) -> Iterable[Any]:
        """Return the row's values."""
        return row

    def write(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows."""
        for start in range(0, len(rows), MOST_ROWS):
            self.insert(connection, rows[start : start + MOST_ROWS])

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert up to ``MOST_ROWS`` rows with one statement; return how many were inserted or updated."""
        changed: int = connection.execute(self._texts[len(rows)], [value for row in rows for value in row]).rowcount
        return changed


class Deferred:
    """What the jobs of one batch have deferred and nobody has written yet, in the order of their jobs."""

    def __init__(self) -> None:
        self._rows: list[tuple[Deferrable, Any]] = []

    def add(self, kind: Deferrable, row: Any) -> None:
        """Take one more. Raises InvalidArgument for a number that SQLite cannot keep.

        The statement that binds it comes later and is shared: there, the error would end everybody's jobs.
        """
        for value in kind.values(row):
            if type(value) is int and not SMALLEST <= value <= LARGEST:
                raise InvalidArgument("a number has more than 64 bits")
        self._rows.append((kind, row))

    def __len__(self) -> int:
        return len(self._rows)

    def forget(self, mark: int) -> None:
        """Drop what was added since there were ``mark``."""
        del self._rows[mark:]

    def take(self, count: int | None = None) -> list[tuple[Deferrable, Any]]:
        """Return and drop the first ``count``, or all."""
        taken, self._rows = self._rows[:count], self._rows[count:] if count is not None else []
        return taken


def write(connection: Connection, gathered: Sequence[tuple[Deferrable, Any]]) -> None:
    """Do what was deferred, kind by kind."""
    kinds: dict[Deferrable, list[Any]] = {}
    for kind, row in gathered:
        kinds.setdefault(kind, []).append(row)
    for kind in sorted(kinds, key=_rank):
        kind.write(connection, kinds[kind])


def _rank(kind: Deferrable) -> int:
    return kind.rank
