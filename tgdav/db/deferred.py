"""Deferred writes: rows that several jobs insert into one table become one statement.

A statement costs a dozen thread switches, whatever it does, so a hundred small jobs that each insert a row into five tables
are fast only if they share statements. Deferred rows are written before the transaction's next statement and before its
commit, so no query can observe the delay.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

from sqlalchemy import Table

from tgdav.db.connection import Connection
from tgdav.errors import InvalidArgument

SMALLEST, LARGEST = -(2**63), 2**63 - 1
"""Range of an INTEGER of SQLite."""
MOST_ROWS = 16
"""Most rows of one statement; each table has one prepared statement for each number of rows."""


class Deferrable(Protocol):
    """A kind of write. Kinds of a lower ``rank`` are written first; kinds of equal rank do not depend on each other.

    ``number`` identifies it in the redo log; None: a job that defers it must not be lazy.
    """

    rank: int
    number: int | None

    def values(self, row: Any) -> Iterable[Any]:
        """Return the values of ``row`` that are bound to a statement."""
        ...

    def write(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Write all rows, in as few statements as possible."""
        ...


_LOGGED: dict[int, Deferrable] = {}


def register_kind(number: int | None, kind: Deferrable) -> int | None:
    """Register ``kind`` under ``number``, which is part of the redo log's format; return the number."""
    if number is not None:
        _LOGGED[number] = kind
    return number


def kind_of(number: int) -> Deferrable:
    """Return the kind that has ``number`` in the redo log. Raises KeyError."""
    return _LOGGED[number]


class Inserts:
    """Inserts rows into one table; a row is a tuple of values in the order of ``columns``."""

    rank = 0

    def __init__(
        self,
        table: Table,
        columns: Iterable[str] | None = None,
        ending: str = "",
        *,
        verb: str = "INSERT",
        number: int | None = None,
    ) -> None:
        self.number = register_kind(number, self)
        self.columns = tuple(table.c.keys() if columns is None else columns)
        names = ", ".join(f'"{name}"' for name in self.columns)
        values = "(" + ", ".join("?" * len(self.columns)) + ")"
        self._texts = [
            f"{verb} INTO {table.name} ({names}) VALUES {', '.join([values] * count)}{ending}"  # our schema's
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
        """Insert up to MOST_ROWS rows with one statement; return how many were inserted or updated."""
        changed: int = connection.execute(self._texts[len(rows)], [*chain.from_iterable(rows)]).rowcount
        return changed


class Deferred:
    """The rows that the jobs of one batch have deferred and that are not written yet, in order."""

    def __init__(self) -> None:
        self._rows: list[tuple[Deferrable, Any]] = []

    def add(self, kind: Deferrable, row: Any) -> None:
        """Add a row. Raises InvalidArgument for a number that SQLite cannot store.

        It is checked here because the statement comes later and is shared: an error there would fail every job.
        """
        for value in kind.values(row):
            if type(value) is int and not SMALLEST <= value <= LARGEST:
                raise InvalidArgument("a number has more than 64 bits")
        self._rows.append((kind, row))

    def __len__(self) -> int:
        return len(self._rows)

    def forget(self, mark: int) -> None:
        """Drop all rows after the first ``mark``."""
        del self._rows[mark:]

    def take(self, count: int | None = None) -> list[tuple[Deferrable, Any]]:
        """Remove and return the first ``count`` rows, or all."""
        taken, self._rows = self._rows[:count], self._rows[count:] if count is not None else []
        return taken


def write(connection: Connection, rows: Sequence[tuple[Deferrable, Any]]) -> None:
    """Write deferred rows, one kind after another."""
    kinds: dict[Deferrable, list[Any]] = {}
    for kind, row in rows:
        kinds.setdefault(kind, []).append(row)
    # New rows first: an update of a row that is inserted later would change nothing.
    for kind in sorted(kinds, key=_rank):
        kind.write(connection, kinds[kind])


def _rank(kind: Deferrable) -> int:
    return kind.rank
