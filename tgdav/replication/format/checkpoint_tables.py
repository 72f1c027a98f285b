"""Which rows of the local database a checkpoint contains, and how they are inserted into another database.

What belongs to this machine alone is left out: junk files, access times, overlays, staged chunks. Rows are written unchanged
in the order of their table's key, so that unchanged rows fall into the same batches.
"""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import msgspec

from tgdav.db.connection import Connection
from tgdav.db.transaction import Transaction

Row = tuple[Any, ...]
Key = tuple[int | bytes, ...]
"""The values of a table's key columns; Python orders them as SQLite does."""

_ATTRIBUTES = "since, kind, mode, uid, gid, rdev, size, mtime, ctime, btime, tag, content, manifest, writer, written"
_NOT_JUNK = "ino NOT IN (SELECT ino FROM nodes WHERE local = 1)"
# A junk directory raises the link count of its parent on this machine only.
_NODES_FROM = """WITH junk(parent, count) AS MATERIALIZED
(SELECT e.parent, count(*) FROM nodes n JOIN entries e ON e.ino = n.ino WHERE n.local = 1 AND n.kind = 2 GROUP BY e.parent)
SELECT {columns}, nlink - coalesce(junk.count, 0) FROM nodes LEFT JOIN junk ON junk.parent = nodes.ino
WHERE local = 0 ORDER BY ino"""


class Table(msgspec.Struct, frozen=True):
    """``columns`` are written to checkpoints; ``rest`` are the other columns that need a value, with its SQL."""

    name: str
    columns: str
    key: str
    where: str = "1"
    rest: tuple[tuple[str, str], ...] = ()
    query: str = ""

    @property
    def select(self) -> str:
        """The statement that selects the rows in key order."""
        # Table and column names are constants of this module.
        return self.query or f"SELECT {self.columns} FROM {self.name} WHERE {self.where} ORDER BY {self.key}"  # noqa: S608

    @property
    def insert(self) -> str:
        """The statement that inserts one row."""
        names = ", ".join([self.columns, *(name for name, _ in self.rest)])
        marks = ", ".join([*("?" for _ in self.columns.split(",")), *(value for _, value in self.rest)])
        return f"INSERT INTO {self.name} ({names}) VALUES ({marks})"  # noqa: S608 - constants

    def rows(self, connection: Connection) -> Iterator[Row]:
        """Yield the rows in key order."""
        return connection.each(self.select)

    def key_of(self, row: Row) -> Key:
        """Return the key of a row."""
        found = self._getter(row)
        return found if isinstance(found, tuple) else (found,)

    @property
    def _getter(self) -> "itemgetter[Any]":
        return _GETTERS[self.name]


_TABLES = (
    Table(
        "nodes",
        f"ino, id, {_ATTRIBUTES}, nlink",
        "ino",
        rest=(("atime", "0"), ("dirty", "0"), ("local", "0")),
        query=_NODES_FROM.format(columns=f"ino, id, {_ATTRIBUTES}"),
    ),
    Table("nodes_past", f"ino, until, {_ATTRIBUTES}", "ino, until", _NOT_JUNK),
    Table(
        "entries",
        "parent, name, id, ino, since, stamp, nfc, origin",
        "parent, name, id",
        "local = 0",
        (("local", "0"),),
    ),
    Table("entries_past", "parent, name, id, until, ino, since", "parent, name, id, until", _NOT_JUNK),
    Table("fields", "ino, field, value, since", "ino, field", _NOT_JUNK),
    Table("fields_past", "ino, field, until, value, since", "ino, field, until", _NOT_JUNK),
    Table(
        "manifests",
        "no, data",
        "no",
        "no NOT IN (SELECT manifest FROM nodes WHERE local = 1 AND manifest IS NOT NULL)",
    ),
    Table(
        "packs",
        "no, name, epoch, size, hash, label, blob, announced, created",
        "no",
        "state = 3",
        (("state", "3"), ("end", "0"), ("damaged", "0")),
    ),
    Table(
        "chunks",
        "no, id, length, stored, codec, epoch, pack, offset",
        "no",
        "+pack IN (SELECT no FROM packs WHERE state = 3) AND data IS NULL",
        (("local", "0"),),
    ),
    Table(
        "machines",
        "machine, name, public_key, incarnation, epoch",
        "machine",
        rest=(("last_sequence", "0"), ("last_stamp", "0"), ("last_segment", "0")),
    ),
    Table(
        "segments",
        "incarnation, number, machine, name, hash, size, first, last, last_stamp, position, label, blob",
        "incarnation, number",
        "blob IS NOT NULL",
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
"""The tables by name, in the order in which their rows are written."""


def _getter_of(table: Table) -> "itemgetter[Any]":
    columns = [name.strip() for name in table.columns.split(",")]
    return itemgetter(*(columns.index(name.strip()) for name in table.key.split(",")))


_GETTERS = {table.name: _getter_of(table) for table in _TABLES}

_AFTERWARDS = (
    # Access times are local to a machine: a file that was never read here gets its modification time.
    "UPDATE nodes SET atime = mtime",
    """UPDATE machines SET
    last_sequence = coalesce((SELECT s.last FROM segments s WHERE s.incarnation = machines.incarnation
        ORDER BY s.number DESC LIMIT 1), 0),
    last_segment = coalesce((SELECT max(s.number) FROM segments s WHERE s.incarnation = machines.incarnation), 0),
    last_stamp = coalesce((SELECT max(s.last_stamp) FROM segments s WHERE s.machine = machines.machine), 0)""",
)


def clear(transaction: Transaction) -> None:
    """Empty all these tables."""
    for name in TABLES:
        transaction.execute(f"DELETE FROM {name}")  # noqa: S608 - a constant


def complete(transaction: Transaction) -> None:
    """Compute, after the last row, the columns that checkpoints do not contain."""
    for statement in _AFTERWARDS:
        transaction.execute(statement)
