"""The history of nodes, names and properties by what it means: versions, and what each snapshot shows.

A past row says from which position until which it holds. Positions are local numbers, rows that nothing needs are swept at
different times, and one state may be one row here and two there. So rows are replaced by what can be seen of them: the versions
of a file, and for each run of snapshots the state that they show.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

from tgdav.db.connection import Connection
from tgdav.ids import Inode, Position
from tgdav.metadata import as_of
from tgdav.metadata.types import DIRECTORY

Values = tuple[Any, ...]
Keyed = tuple[tuple[Any, ...], Values]
_Row = tuple[tuple[Any, ...], int, int | None, Values]
"""(key, since, until, values); ``until`` is None for what holds now."""

_CONTENT = "coalesce(m.data, n.content)"
OF_NODE = (
    *("n.kind", "n.mode", "n.uid", "n.gid", "n.rdev", "n.size", "n.mtime", "n.ctime", "n.btime", "n.tag"),
    *(_CONTENT, "n.writer", "n.written", "n.burst", "n.author", "n.seq", "n.version"),
)
"""The logged columns of a node, as SQL: the node is ``n``, its manifest ``m``."""
NODE = tuple("content" if column == _CONTENT else column.removeprefix("n.") for column in OF_NODE)
AUTHOR = NODE.index("author")
_KIND, _MTIME, _CTIME = (NODE.index(name) for name in ("kind", "mtime", "ctime"))


class _Unknown:
    """What a program that knew the first version of the schema did not record. It differs from nothing."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


UNKNOWN = _Unknown()
BESIDE_AUTHOR = tuple(NODE.index(name) - AUTHOR for name in ("burst", "seq", "version"))
"""Where the columns are that are not known either if the author of a content is not."""


class Meaning:
    """What local numbers of a database mean: positions, by the snapshots that they precede, and authors."""

    def __init__(self, connection: Connection) -> None:
        self.pins = [row[0] for row in connection.all("SELECT position FROM pins ORDER BY position")]
        known = connection.all("SELECT no, machine, incarnation FROM authors")
        self._authors = {no: (machine, incarnation) for no, machine, incarnation in known}

    def with_author(self, row: Values, column: int, beside: Sequence[int] = ()) -> Values:
        """Return a row with an author's machine and incarnation in the place of his number.

        ``beside``: where, from there, columns are that are unknown if the author is.
        """
        if row[column] == 0:
            unknown = {column, *(column + distance for distance in beside)}
            return tuple(UNKNOWN if at in unknown else value for at, value in enumerate(row))
        return (*row[:column], self._authors.get(row[column], row[column]), *row[column + 1 :])

    def seen(self, since: int, until: int | None) -> range:
        """Return the numbers of the snapshots, from 0, that show what holds from ``since`` until ``until``."""
        first = bisect_left(self.pins, since)
        return range(first, len(self.pins) if until is None else bisect_left(self.pins, until))


# ---- versions ------------------------------------------------------------------------------------------------------

_WITH_VERSIONS = "SELECT DISTINCT id, ino FROM nodes_past WHERE kept = 1 ORDER BY id, ino"
_VERSIONS = f"""SELECT n.version, n.size, n.tag, {_CONTENT}, n.written, n.burst, n.author, n.seq
FROM nodes_past n LEFT JOIN manifests m ON m.no = n.manifest WHERE n.ino = ? AND n.kept = 1 ORDER BY n.until"""  # noqa: S608


def versions(connection: Connection, meaning: Meaning) -> Iterator[Keyed]:
    """Yield (node id, earlier contents, oldest first) of each file that has versions."""
    for node, inodes in groupby(connection.each(_WITH_VERSIONS), key=itemgetter(0)):
        found = (row for _, ino in inodes for row in connection.all(_VERSIONS, (ino,)))
        yield (node,), (tuple(meaning.with_author(row, 6, BESIDE_AUTHOR[:2]) for row in found),)


# ---- snapshots -----------------------------------------------------------------------------------------------------

_NODES = f"""SELECT n.id, n.since, {", ".join(OF_NODE)}
FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest WHERE n.local = 0 ORDER BY n.id"""  # noqa: S608 - constants
_PAST_NODES = "SELECT DISTINCT id, ino FROM nodes_past ORDER BY id, ino"
_PAST_NODE = f"""SELECT n.since, n.until, {", ".join(OF_NODE)}
FROM nodes_past n LEFT JOIN manifests m ON m.no = n.manifest WHERE n.ino = ?"""  # noqa: S608 - constants
_ID = """coalesce((SELECT n.id FROM nodes n WHERE n.ino = {ino}),
(SELECT p.id FROM nodes_past p WHERE p.ino = {ino} LIMIT 1))"""
_PARENT, _NODE = _ID.format(ino="e.parent"), _ID.format(ino="e.ino")
_ENTRIES = f"""SELECT e.id, e.since, {_PARENT}, e.name, {_NODE}, e.stamp, e.nfc, e.by
FROM entries e WHERE e.local = 0 ORDER BY e.id"""  # noqa: S608 - constants
_PAST_ENTRIES = f"""SELECT e.id, e.since, e.until, {_PARENT}, e.name, {_NODE}, e.stamp, e.nfc, e.by
FROM entries_past e ORDER BY e.id"""  # noqa: S608 - constants
_ENTRY_PARENT, _ENTRY_NODE, _ENTRY_AUTHOR = 0, 2, 5
_FIELDS = """SELECT n.id, f.field, f.since, f.value FROM nodes n CROSS JOIN fields f ON f.ino = n.ino
WHERE n.local = 0 ORDER BY n.id, f.field"""
_PAST_FIELDS = (
    f"SELECT DISTINCT {_ID.format(ino='e.ino')} AS node, e.field, e.ino FROM fields_past e ORDER BY node, e.field"  # noqa: S608
)
_PAST_FIELD = "SELECT since, until, value FROM fields_past WHERE ino = ? AND field = ?"


def states(connection: Connection, meaning: Meaning, table: str) -> Iterator[Keyed]:
    """Yield (key, (what snapshots show,)) of all nodes, entries or fields that a snapshot shows.

    What they show are tuples (first snapshot, last snapshot, values), in order. Entries have the id of their last node, too.
    """
    if not meaning.pins:
        return
    present, past = _ROWS[table]
    rows = merge(present(connection, meaning), past(connection, meaning), key=itemgetter(0))
    for key, same in groupby(rows, key=itemgetter(0)):
        seen = list(_runs(same, meaning))
        if seen:
            yield key, (tuple(seen), *([seen[-1][2][_ENTRY_NODE]] if table == "entries" else []))


_INODES = "SELECT ino FROM nodes WHERE id = ?1 UNION SELECT ino FROM nodes_past WHERE id = ?1"


def reachable(
    connection: Connection, meaning: Meaning, node: bytes, values: Values, table: str
) -> list[tuple[int, Values]]:
    """Return (number of the snapshot, state) of those states of a row of ``states`` that someone who browses them can reach.

    The others are of what was in the trash already when the snapshot was made: they are swept at different times. ``node`` is
    the node's id, ``values`` those of the row. Looks at each state, so it is meant for few rows.
    """
    found = []
    for first, last, state in values[0]:
        shown = state[_ENTRY_PARENT] if table == "entries" else node
        inodes = [Inode(row[0]) for row in connection.all(_INODES, (shown,))]
        for number in range(first, last + 1):
            at = Position(meaning.pins[number])
            if any(as_of.paths_of(connection, at, ino) for ino in inodes):
                found.append((number, state))
    return found


def _runs(rows: Iterator[_Row], meaning: Meaning) -> Iterator[tuple[int, int, Values]]:
    ranges = [(meaning.seen(since, until), values) for _, since, until, values in rows]
    shown = sorted(((each.start, each.stop - 1, values) for each, values in ranges if each), key=itemgetter(0))
    while shown:
        first, last, values = shown.pop(0)
        while shown and shown[0][0] == last + 1 and shown[0][2] == values:
            last = shown.pop(0)[1]
        yield first, last, values


def _nodes(connection: Connection, meaning: Meaning) -> Iterator[_Row]:
    for node, since, *columns in connection.each(_NODES):
        yield (node,), since, None, _node(columns, meaning)


def _past_nodes(connection: Connection, meaning: Meaning) -> Iterator[_Row]:
    for node, ino in connection.each(_PAST_NODES):
        for since, until, *columns in connection.all(_PAST_NODE, (ino,)):
            yield (node,), since, until, _node(columns, meaning)


def _node(columns: list[Any], meaning: Meaning) -> Values:
    if columns[_KIND] == DIRECTORY:
        columns[_MTIME] = columns[_CTIME] = None  # junk in it moves them, on its own machine alone
    return meaning.with_author(tuple(columns), AUTHOR, BESIDE_AUTHOR)


def _entries(connection: Connection, meaning: Meaning) -> Iterator[_Row]:
    for entry, since, *columns in connection.each(_ENTRIES):
        yield (entry,), since, None, meaning.with_author(tuple(columns), _ENTRY_AUTHOR)


def _past_entries(connection: Connection, meaning: Meaning) -> Iterator[_Row]:
    for entry, since, until, *columns in connection.each(_PAST_ENTRIES):
        yield (entry,), since, until, meaning.with_author(tuple(columns), _ENTRY_AUTHOR)


def _fields(connection: Connection, _meaning: Meaning) -> Iterator[_Row]:
    for node, field, since, value in connection.each(_FIELDS):
        yield (node, field), since, None, (value,)


def _past_fields(connection: Connection, _meaning: Meaning) -> Iterator[_Row]:
    for node, field, ino in connection.each(_PAST_FIELDS):
        for since, until, value in connection.all(_PAST_FIELD, (ino, field)):
            yield (node, field), since, until, (value,)


_Rows = Callable[[Connection, Meaning], Iterator[_Row]]
_ROWS: dict[str, tuple[_Rows, _Rows]] = {
    "nodes": (_nodes, _past_nodes),
    "entries": (_entries, _past_entries),
    "fields": (_fields, _past_fields),
}
