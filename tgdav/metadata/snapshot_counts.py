"""Counts the files and bytes of snapshots that are not counted yet, in small steps."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator

from tgdav.db import Connection, Database, Transaction
from tgdav.db.connection import Row
from tgdav.db.schema import ROOT_INODE
from tgdav.ids import Position
from tgdav.metadata.difference import changed_nodes
from tgdav.metadata.types import DIRECTORY, FILE

ROWS = 5_000
"""About how many rows one step reads."""

_NEXT = """SELECT id, position, (SELECT max(position) FROM pins b WHERE b.position < a.position) FROM pins a
WHERE (files IS NULL OR new_bytes IS NULL) AND position IS NOT NULL ORDER BY position LIMIT 1"""
_SAVE = "UPDATE pins SET files = ?, bytes = ?, new_bytes = ? WHERE id = ? AND position = ?"
_COUNTS_AT = "SELECT files, bytes FROM pins WHERE position = ?"
_IS_PREDECESSOR = "SELECT 1 FROM pins WHERE position = ?"
# A row of either table holds from ``since`` on; a past one until ``until``.
_PAGE = """SELECT e.name, e.id, e.ino, coalesce(n.kind, p.kind), coalesce(n.size, p.size),
 CASE WHEN n.ino IS NULL THEN p.tag ELSE n.tag END FROM {entries} e
LEFT JOIN nodes n ON n.ino = e.ino AND n.since <= :position
LEFT JOIN nodes_past p ON p.ino = e.ino AND p.since <= :position AND p.until > :position AND n.ino IS NULL
WHERE e.parent = :parent AND (e.name, e.id) > (:name, :entry) AND e.since <= :position AND {valid}
ORDER BY e.name, e.id LIMIT :most"""
_PAGES = (
    _PAGE.format(entries="entries", valid="e.local = 0"),
    _PAGE.format(entries="entries_past", valid="e.until > :position"),
)
_LAST_INODE = "SELECT max(ino) FROM (SELECT max(ino) AS ino FROM nodes UNION ALL SELECT max(ino) FROM nodes_past)"

File = tuple[int, int]
"""Size, and the first 8 bytes of the content's tag as a number."""
Page = tuple[int, bytes, bytes, str]
"""A directory, the name and id of the entry after which the page begins, and the statement."""


class SnapshotCounter:
    """Counts one snapshot after the other. One thread at a time may use it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: Iterator[None] | None = None

    def step(self) -> bool:
        """Do a part of the work; return whether there may be more. Raises LocalFailure, NoSpace, DamageError."""
        running, self._running = self._running, None
        if running is None:
            with self._database.reading() as connection:
                row = connection.one(_NEXT)
            if row is None:
                return False
            running = self._count(*row)
        # After an error it is started anew.
        if next(running, self) is not self:
            self._running = running
        return True

    def _count(self, snapshot: bytes, position: Position, previous: Position | None) -> Iterator[None]:
        counts = None if previous is None else self._unchanged(previous, position)
        if counts is None:
            known: array[int] = array("Q")
            if previous is not None:
                for page in _files(self._database, previous):
                    known.extend(content for _, content in page)
                    yield
                known = array("Q", sorted(known))
            files = size = new = 0
            for page in _files(self._database, position):
                files += len(page)
                size += sum(each for each, _ in page)
                new += sum(each for each, content in page if not _contains(known, content))
                yield
            counts = files, size, new

        def save(transaction: Transaction) -> None:
            # While this was counted, the snapshot before may have been deleted, and rows swept.
            if previous is None or transaction.one(_IS_PREDECESSOR, (previous,)) is not None:
                transaction.execute(_SAVE, (*counts, snapshot, position))

        self._database.writer.run(save)

    def _unchanged(self, previous: Position, position: Position) -> tuple[int, int, int] | None:
        """Return the counts if nothing has changed since the snapshot before, None if they must be counted."""
        with self._database.reading() as connection:
            row = connection.one(_COUNTS_AT, (previous,))
            if row is None or None in row or changed_nodes(connection, previous, position):
                return None
        return row[0], row[1], 0


def _contains(known: "array[int]", content: int) -> bool:
    at = bisect_left(known, content)
    return at < len(known) and known[at] == content


def _files(database: Database, position: Position) -> Iterator[list[File]]:
    """Yield the files of the tree as of ``position``, in pages; a file with several names once."""
    with database.reading() as connection:
        last = (connection.one(_LAST_INODE) or (0,))[0]
    seen = bytearray((last >> 3) + 1)
    waiting = _pages_of(ROOT_INODE)
    while waiting:
        rows: list[Row] = []
        with database.reading() as connection:
            while waiting and len(rows) < ROWS:
                rows += _read(connection, position, waiting)
        found: list[File] = []
        for _, _, ino, kind, size, tag in rows:
            if kind == DIRECTORY:
                waiting += _pages_of(ino)
            elif kind == FILE and not seen[ino >> 3] & (1 << (ino & 7)):
                seen[ino >> 3] |= 1 << (ino & 7)
                found.append((size, int.from_bytes(tag[:8], "big")))
        yield found


def _pages_of(directory: int) -> list[Page]:
    return [(directory, b"", b"", statement) for statement in _PAGES]


def _read(connection: Connection, position: Position, waiting: list[Page]) -> list[Row]:
    """Read the last page that is waiting; if there is another one after it, that one is waiting then."""
    directory, name, entry, statement = waiting.pop()
    params = {"position": position, "parent": directory, "name": name, "entry": entry, "most": ROWS}
    rows = connection.all(statement, params)
    if len(rows) == ROWS:
        waiting.append((directory, rows[-1][0], rows[-1][1], statement))
    return rows
