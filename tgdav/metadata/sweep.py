"""Deletes past rows that no snapshot needs any more, in small steps.

A row of the past tables is needed while a snapshot's position is in its interval, and a version (``kept``) in any case. When
a snapshot is deleted, its rows stay, so that deleting takes no time; the sweep then reads the past tables once, in the order of
their keys. A setting says how far it has come, so a restart continues there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tgdav.db import Connection, Database, Transaction
from tgdav.metadata import history, settings

ROWS_READ = 5_000
"""Rows read in one step."""
ROWS_DELETED = 500
"""Rows deleted in one transaction, so that writers wait a few ms at most."""

_UNNEEDED = "NOT EXISTS (SELECT 1 FROM pins WHERE position >= t.since AND position < t.until)"


class _Table(NamedTuple):
    """A table that is swept. ``first`` is a key that is smaller than any in it."""

    first: list[Any]
    page: str
    drop: str


def _table(name: str, keys: str, first: list[Any], manifest: str = "NULL", unneeded: str = _UNNEEDED) -> _Table:
    marks = ", ".join("?" for _ in first)
    # All parts are constants of this module.
    page = f"SELECT {keys}, {unneeded} FROM {name} t WHERE ({keys}) > ({marks}) ORDER BY {keys} LIMIT {{}}"  # noqa: S608
    drop = f"DELETE FROM {name} AS t WHERE ({keys}) = ({marks}) AND {unneeded} RETURNING ino, {manifest}"  # noqa: S608
    return _Table(first, page, drop)


_TABLES = (
    _table("nodes_past", "ino, until", [0, 0], "manifest", f"t.kept = 0 AND {_UNNEEDED}"),
    _table("entries_past", "parent, name, id, until", [0, b"", b"", 0]),
    _table("fields_past", "ino, field, until", [0, b"", 0]),
)

Place = tuple[int, int, list[Any]]
"""How far a sweep has come: its own number, that of the table, and the key of the table's last row that was read."""


def sweep(database: Database) -> bool:
    """Do one step; return whether there may be more to do. Raises LocalFailure, NoSpace, DamageError."""
    with database.reading() as connection:
        sweep_number, number, key = place = _place(connection)
        if number == len(_TABLES):
            return False
        rows = connection.all(_TABLES[number].page.format(ROWS_READ), key)
    following = (number, list(rows[-1][:-1])) if len(rows) == ROWS_READ else _beginning(number + 1)
    unneeded = [row[:-1] for row in rows if row[-1]]
    for start in range(0, len(unneeded), ROWS_DELETED):
        batch = unneeded[start : start + ROWS_DELETED]
        database.writer.run(lambda transaction, batch=batch: _drop(transaction, number, batch))  # type: ignore[misc]
    database.writer.run(lambda transaction: _proceed(transaction, place, (sweep_number, *following)))
    return True


def sweep_all(database: Database) -> None:
    """Sweep to the end. Whoever deletes contents that nothing names calls this first: unneeded rows still name some."""
    while sweep(database):
        pass


def _beginning(number: int) -> tuple[int, list[Any]]:
    return number, [] if number == len(_TABLES) else _TABLES[number].first


def _place(connection: Connection) -> Place:
    # A sweep that has just begun has a number only; before the first one there is none.
    sweep_number, *begun = settings.get(connection, settings.SWEPT, [0])
    number, key = begun or _beginning(0)
    return sweep_number, number, key


def _drop(transaction: Transaction, number: int, keys: Sequence[Sequence[Any]]) -> None:
    """Delete rows unless something needs them by now."""
    for key in keys:
        row = transaction.one(_TABLES[number].drop, key)
        if row is not None:
            history.drop_manifest(transaction, row[0], row[1])


def _proceed(transaction: Transaction, place: Place, following: Place) -> None:
    # A snapshot that was deleted meanwhile has made the sweep begin again.
    if _place(transaction) == place:
        settings.put(transaction, settings.SWEPT, following)
