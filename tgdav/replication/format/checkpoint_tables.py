"""Which rows of the local database a checkpoint contains, and how they are inserted into another database.

What belongs to this machine alone is left out: junk files, access times, overlays, staged chunks. Rows are written unchanged
in the order of their table's key, so that unchanged rows fall into the same batches.
"""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import msgspec

from tgdav.db import migrations
from tgdav.db.connection import Connection
from tgdav.db.transaction import Transaction

Row = tuple[Any, ...]
Key = tuple[int | bytes, ...]
"""The values of a table's key columns; Python orders them as SQLite does."""

_ATTRIBUTES = "since, kind, mode, uid, gid, rdev, size, mtime, ctime, btime, tag, content, manifest, writer, written"
_CONTENT = "burst, author, seq, version"
_NOT_JUNK = "ino NOT IN (SELECT ino FROM nodes WHERE local = 1)"
# A junk directory raises the link count of its parent on this machine only.
_NODES_FROM = """WITH junk(parent, count) AS MATERIALIZED
(SELECT e.parent, count(*) FROM nodes n JOIN entries e ON e.ino = n.ino WHERE n.local = 1 AND n.kind = 2 GROUP BY e.parent)
SELECT {columns}, nlink - coalesce(junk.count, 0), {content} FROM nodes LEFT JOIN junk ON junk.parent = nodes.ino
WHERE local = 0 ORDER BY ino"""


class Table(msgspec.Struct, frozen=True):
    """``columns`` are written to checkpoints; ``rest`` are the other columns that need a value, with its SQL.

    ``added`` are the values of the last columns for rows of checkpoints of version 1, which do not have them; ``since_version``
    is the first version that has the table.
    """

    name: str
    columns: str
    key: str
    where: str = "1"
    rest: tuple[tuple[str, str], ...] = ()
    query: str = ""
    added: tuple[Any, ...] = ()
    since_version: int = 1

    def row_of(self, row: Row, version: int) -> Row | None:
        """Return a row of a checkpoint of ``version`` with a value for each column; None if it has too many or too few."""
        completed = (*row, *self.added) if version == 1 else tuple(row)
        return completed if len(completed) == len(self.columns.split(",")) else None

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
        f"ino, id, {_ATTRIBUTES}, nlink, {_CONTENT}",
        "ino",
        rest=(("atime", "0"), ("dirty", "0"), ("local", "0")),
        query=_NODES_FROM.format(columns=f"ino, id, {_ATTRIBUTES}", content=_CONTENT),
        added=(0, 0, 0, 1),
    ),
    # The past tables contain no junk; a file that is junk now may have been logged before.
    Table("nodes_past", f"ino, until, {_ATTRIBUTES}, {_CONTENT}, id, kept", "ino, until", added=(0, 0, 0, 1, None, 1)),
    Table(
        "entries",
        "parent, name, id, ino, since, stamp, nfc, origin, deleted, by",
        "parent, name, id",
        "local = 0",
        (("local", "0"),),
        added=(None, 0),
    ),
    Table(
        "entries_past",
        "parent, name, id, until, ino, since, stamp, nfc, by",
        "parent, name, id, until",
        added=(0, None, 0),
    ),
    Table("fields", "ino, field, value, since", "ino, field", _NOT_JUNK),
    Table("fields_past", "ino, field, until, value, since", "ino, field, until"),
    Table(
        "manifests",
        "no, data",
        "no",
        """no NOT IN (SELECT manifest FROM nodes WHERE local = 1 AND manifest IS NOT NULL
EXCEPT SELECT manifest FROM nodes_past WHERE manifest IS NOT NULL)""",
    ),
    Table(
        "pins",
        "id, position, name, time, files, bytes, new_bytes, settled, author",
        "id",
        since_version=2,
    ),
    Table("predecessors", "entry, position, ino, id", "entry, position, ino", since_version=2),
    Table("tombstones", "id, parent, name", "id", since_version=2),
    Table("authors", "no, machine, incarnation", "no", since_version=2),
    Table(
        "chains",
        "incarnation, machine, number, hash, sequence, stamp, position, trimmed",
        "incarnation",
        since_version=2,
    ),
    Table(
        "packs",
        "no, name, epoch, size, hash, label, blob, announced, created, retired",
        "no",
        # Retired ones too, so that another machine can delete them.
        "state = 3 OR (state = 4 AND retired IS NOT NULL)",
        (("state", "3"), ("end", "0"), ("damaged", "0")),
        added=(None,),
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
        # The checkpoints before this one need the segments that are trimmed, this one and later ones do not.
        """blob IS NOT NULL AND NOT EXISTS
(SELECT 1 FROM chains c WHERE c.incarnation = segments.incarnation AND segments.number <= c.trimmed)""",
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
"""The tables by name, in the order in which their rows are written."""


def _getter_of(table: Table) -> "itemgetter[Any]":
    columns = [name.strip() for name in table.columns.split(",")]
    return itemgetter(*(columns.index(name.strip()) for name in table.key.split(",")))


_GETTERS = {table.name: _getter_of(table) for table in _TABLES}

_AFTERWARDS = (
    "UPDATE packs SET state = 4 WHERE retired IS NOT NULL",
    # Access times are local to a machine: a file that was never read here gets its modification time.
    "UPDATE nodes SET atime = mtime",
    """UPDATE machines SET
    last_sequence = coalesce((SELECT c.sequence FROM chains c WHERE c.incarnation = machines.incarnation), 0),
    last_segment = coalesce((SELECT c.number FROM chains c WHERE c.incarnation = machines.incarnation), 0),
    last_stamp = coalesce((SELECT max(c.stamp) FROM chains c WHERE c.machine = machines.machine), 0)""",
)


def clear(transaction: Transaction) -> None:
    """Empty all these tables."""
    for name in TABLES:
        transaction.execute(f"DELETE FROM {name}")  # noqa: S608 - a constant


def complete(transaction: Transaction, version: int) -> None:
    """Compute, after the last row, the columns that checkpoints of this version do not contain."""
    if version < 2:
        migrations.fill_version_2(transaction)
    for statement in _AFTERWARDS:
        transaction.execute(statement)
