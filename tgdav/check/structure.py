"""Every invariant of the local database, checked without the store.

Most are queries that select the rows that break one. The tree and the contents are checked in passes over their tables that
remember little, so that a million files take less than a minute and some 100 MB.
"""

from tgdav.check.content_check import ContentTagger, check_contents
from tgdav.check.problem import Problem, Problems
from tgdav.check.tree_check import check_tree
from tgdav.db.connection import Connection
from tgdav.metadata import settings
from tgdav.metadata.journal import LAST_POSITION
from tgdav.replication import sql

# Each query selects one value for each row that breaks the invariant: an inode, or NULL where the row has no node.
_NODE_ROWS = {
    "earlier states of files overlap": """SELECT ino FROM
(SELECT ino, since, until, lag(until) OVER (PARTITION BY ino ORDER BY until) AS before FROM nodes_past)
WHERE since >= until OR since < before""",
    "files have an earlier state that did not end": """SELECT n.ino FROM nodes n
JOIN (SELECT ino, max(until) AS last FROM nodes_past GROUP BY ino) p ON p.ino = n.ino
WHERE n.since < p.last AND n.local = 0""",
    "earlier names overlap": """SELECT ino FROM
(SELECT ino, since, until, lag(until) OVER (PARTITION BY id ORDER BY until) AS before FROM entries_past)
WHERE since >= until OR since < before""",
    "names have an earlier place that did not end": """SELECT e.ino FROM entries e
JOIN (SELECT id, max(until) AS last FROM entries_past GROUP BY id) p ON p.id = e.id
WHERE e.since < p.last AND e.local = 0""",
    "earlier properties overlap": """SELECT ino FROM
(SELECT ino, since, until, lag(until) OVER (PARTITION BY ino, field ORDER BY until) AS before FROM fields_past)
WHERE since >= until OR since < before""",
    "properties belong to a missing file or directory": (
        "SELECT NULL FROM fields f LEFT JOIN nodes n ON n.ino = f.ino WHERE n.ino IS NULL"
    ),
    "names have an unknown author": "SELECT ino FROM entries WHERE by != 0 AND by NOT IN (SELECT no FROM authors)",
    "names are logged in a directory that is not": """SELECT e.ino FROM nodes p JOIN entries e ON e.parent = p.ino
WHERE p.local = 1 AND e.local = 0""",
    "local changes belong to a missing file": (
        "SELECT NULL FROM overlays o LEFT JOIN nodes n ON n.ino = o.ino WHERE n.ino IS NULL"
    ),
}
_ROWS = {
    "chunks are in a pack that does not exist": """SELECT NULL FROM chunks c LEFT JOIN packs p ON p.no = c.pack
WHERE c.pack IS NOT NULL AND p.no IS NULL""",
    "chunks are neither staged nor in a pack": "SELECT NULL FROM chunks WHERE pack IS NULL AND data IS NULL",
    "chunks are both staged and in a pack": "SELECT NULL FROM chunks WHERE pack IS NOT NULL AND data IS NOT NULL",
    "staged chunks have another length": "SELECT NULL FROM chunks WHERE data IS NOT NULL AND length(data) != stored",
    "chunks reach beyond the end of their pack": """SELECT NULL FROM chunks c JOIN packs p ON p.no = c.pack
WHERE c.offset < 0 OR c.offset + c.stored > iif(p.state = 0, p.end, p.size)""",
    "packs are of an unknown state": "SELECT NULL FROM packs WHERE state NOT BETWEEN 0 AND 4",
    "closed packs lack their size, hash or label": """SELECT NULL FROM packs
WHERE state IN (1, 2, 3) AND (size = 0 OR hash IS NULL OR label IS NULL)""",
    "stored packs have no place in the store": (
        "SELECT NULL FROM packs WHERE state = 3 AND blob IS NULL AND damaged = 0"
    ),
    "segments are neither stored nor in the outbox": "SELECT NULL FROM segments WHERE blob IS NULL AND file IS NULL",
    "chains have another head than their segments": """SELECT NULL FROM chains c
JOIN segments s ON s.incarnation = c.incarnation AND s.number >= c.number AND s.blob IS NOT NULL
WHERE s.number > c.number OR s.hash != c.hash""",
    "chains are behind their segments": """SELECT NULL FROM chains c
JOIN segments s ON s.incarnation = c.incarnation AND s.blob IS NOT NULL
WHERE s.position > c.position OR s.last > c.sequence OR s.last_stamp > c.stamp""",
    "segments are in no chain": """SELECT NULL FROM (SELECT DISTINCT incarnation FROM segments WHERE blob IS NOT NULL)
WHERE incarnation NOT IN (SELECT incarnation FROM chains)""",
    "unsent changes are in a segment that does not exist": """SELECT NULL FROM log l WHERE l.segment IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM segments s WHERE s.incarnation = l.incarnation AND s.number = l.segment)""",
    "unsent changes overlap": """SELECT NULL FROM (SELECT sequence, lag(sequence + count) OVER
(PARTITION BY incarnation ORDER BY sequence) AS next FROM log) WHERE sequence < next""",
    "checkpoints lack a part": """SELECT NULL FROM checkpoints c WHERE c.state = 1 AND c.parts !=
(SELECT count(*) FROM checkpoint_parts p WHERE p.number = c.number AND p.blob IS NOT NULL)""",
    "checkpoints are based on one that does not exist": """SELECT NULL FROM checkpoints
WHERE state < 2 AND base IS NOT NULL AND base NOT IN (SELECT number FROM checkpoints WHERE state < 2)""",
    "snapshots have an unknown author": "SELECT NULL FROM pins WHERE author NOT IN (SELECT no FROM authors)",
}
_LATER = {
    "snapshots are later than the log": "SELECT NULL FROM pins WHERE position > ?",
    "checkpoints are later than the log": "SELECT NULL FROM checkpoints WHERE position > ?",
    "files or directories are later than the log": "SELECT ino FROM nodes WHERE since > ?",
    "names are later than the log": "SELECT ino FROM entries WHERE since > ?",
    "replaced files are later than the log": "SELECT ino FROM predecessors WHERE position > ?",
}
_LARGEST_INODES = {
    "nodes": "max(ino)",
    "nodes_past": "max(ino)",
    "entries_past": "max(ino)",
    "fields_past": "max(ino)",
    "predecessors": "max(ino)",
}
# What is trimmed may be deleted in any order.
_NUMBERS = """SELECT incarnation, number FROM segments s WHERE NOT EXISTS
(SELECT 1 FROM chains c WHERE c.incarnation = s.incarnation AND s.number <= c.trimmed) ORDER BY incarnation, number"""
_GAPS = "SELECT blob FROM damage WHERE kind = 'gap'"


def structural_problems(connection: Connection, tag_of: ContentTagger) -> list[Problem]:
    """Return every invariant of the database that is broken. ``tag_of`` returns the tag of an encoded manifest.

    Raises DamageError if the database cannot be read.
    """
    problems = Problems()
    check_tree(connection, problems)
    check_contents(connection, tag_of, problems)
    for what, query in (*_NODE_ROWS.items(), *_ROWS.items()):
        problems.add_all(what, (row[0] for row in connection.each(query)))
    _check_positions(connection, problems)
    _check_inodes(connection, problems)
    _check_chains(connection, problems)
    return problems.all()


def _check_positions(connection: Connection, problems: Problems) -> None:
    row = connection.one(LAST_POSITION)
    # A change of junk alone is not logged: its rows have the position that the next logged change will have.
    next_ = (row[0] if row else 0) + 1
    for what, query in _LATER.items():
        problems.add_all(what, (found[0] for found in connection.each(query, (next_,))))


def _check_inodes(connection: Connection, problems: Problems) -> None:
    """No inode is larger than the counter: else its number would be given away again."""
    counter = settings.get(connection, settings.LAST_INODE)
    if counter is None:  # nothing was made since the schema has the counter
        return
    for table, largest in _LARGEST_INODES.items():
        row = connection.one(f"SELECT {largest} FROM {table}")  # noqa: S608 - constants
        if row is not None and row[0] is not None and row[0] > counter:
            problems.add("tables have an inode number that would be given away again")


def _check_chains(connection: Connection, problems: Problems) -> None:
    """Segments are contiguous from the first that is kept, save for gaps that a rebuild found and recorded."""
    gaps = {row[0] for row in connection.all(_GAPS)}
    before: tuple[bytes, int] = (b"", 0)
    for incarnation, number in connection.all(_NUMBERS):
        expected = before[1] + 1
        gap = f"{sql.incarnation_of(incarnation):016x}-{expected}"
        if incarnation == before[0] and number != expected and gap not in gaps:
            problems.add("segments are missing in the middle of a chain")
        before = (incarnation, number)
