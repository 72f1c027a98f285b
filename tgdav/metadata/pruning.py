"""Drops earlier contents of files: what the operation ``Prune`` does, and which contents a file has too many.

A content may be a version of several files, and the present one of another. Pruning takes it from all lists of versions; it goes
unless a named file still has it, or a snapshot shows it.
"""

from collections.abc import Iterator

from tgdav.crdt.ops import Dot, Prune
from tgdav.db import Connection, Transaction
from tgdav.ids import EntryId, Inode, NodeId, Position
from tgdav.metadata import history, purging, retention
from tgdav.metadata.node_rows import NodeRows
from tgdav.metadata.versions import versions_of

DOTS_AT_ONCE = 200
"""Most contents that one operation drops: each takes some statements."""

_NUMBER = "SELECT version FROM nodes WHERE ino = ?"
_PRESENT = """SELECT n.seq, a.incarnation, n.manifest FROM nodes n LEFT JOIN authors a ON a.no = n.author
WHERE n.ino = ? AND n.kind = 1"""
_KEPT = """SELECT until, since, manifest FROM nodes_past WHERE ino = :ino AND kept = 1 AND
 CASE WHEN :run = 0 THEN until = :sequence AND seq = 0
 ELSE seq = :sequence AND author = (SELECT no FROM authors WHERE incarnation = :incarnation) END"""
_LAST_KEPT = "SELECT coalesce(max(until), 0) FROM nodes_past WHERE ino = ? AND kept = 1 AND until < ?"
_TAKEN = "SELECT entry, position, id FROM predecessors WHERE ino = ? AND position > ? AND position <= ?"
_LEAVE = "DELETE FROM predecessors WHERE entry = ? AND position = ? AND ino = ?"
_TAKE = "INSERT OR IGNORE INTO predecessors (entry, position, ino, id) VALUES (?, ?, ?, ?)"
_INHERIT = """INSERT OR IGNORE INTO predecessors (entry, position, ino, id)
SELECT ?, position, ino, id FROM predecessors WHERE entry = ? AND position < ?"""
_IS_PINNED = "SELECT 1 FROM pins WHERE position >= ? AND position < ? LIMIT 1"
_UNKEEP = "UPDATE nodes_past SET kept = 0 WHERE ino = ? AND until = ?"
_DROP = "DELETE FROM nodes_past WHERE ino = ? AND until = ?"
# An entry in the trash without a time of deletion is there for its versions alone.
_IS_NAMED = "SELECT 1 FROM entries WHERE ino = ? AND (parent != 2 OR deleted IS NOT NULL) LIMIT 1"
_REPLACED = "SELECT id FROM entries WHERE ino = ? AND parent = 2 AND deleted IS NULL"
_HAS_VERSIONS = "SELECT 1 FROM predecessors WHERE ino = ? LIMIT 1"
_EMPTY = "UPDATE nodes SET size = 0, tag = ?, content = NULL, manifest = NULL, since = ? WHERE ino = ?"
_WITH_VERSIONS = """SELECT ino FROM (SELECT ino FROM nodes_past WHERE kept = 1 AND ino > :after
 UNION SELECT e.ino FROM predecessors p JOIN entries e ON e.id = p.entry WHERE e.ino > :after)
WHERE EXISTS (SELECT 1 FROM entries e WHERE e.ino = ino AND parent != 0 AND (parent != 2 OR deleted IS NOT NULL))
ORDER BY ino LIMIT :count"""
_NEVER = Position(2**62)
"""Later than every position."""


def beyond(c: Connection, ino: Inode, most: int, now: int) -> Iterator[Prune]:
    """Yield operations that leave a file at most ``most`` earlier contents."""
    # A file never has more contents than the number of its present one says. This is the usual case.
    (number,) = c.one(_NUMBER, (ino,)) or (0,)
    if number <= most + 1:
        return
    earlier = [each for each in versions_of(c, ino) if not each.is_current]
    if len(earlier) <= most:
        return
    # The content that the file had last stays, whichever has the largest number.
    earlier.sort(key=lambda each: each.ended or 0)
    dots: dict[NodeId, list[Dot]] = {}
    for index in retention.thin([each.time for each in earlier], most, now):
        dots.setdefault(earlier[index].attributes.node, []).append(earlier[index].dot)
    for node, pruned in dots.items():
        for first in range(0, len(pruned), DOTS_AT_ONCE):
            yield Prune(node, tuple(pruned[first : first + DOTS_AT_ONCE]))


def with_versions(c: Connection, after: Inode, count: int) -> list[Inode]:
    """Return the next ``count`` files after an inode that have earlier contents, by inode. Replaced files do not count."""
    return [Inode(row[0]) for row in c.all(_WITH_VERSIONS, {"after": after, "count": count})]


def prune(rows: NodeRows, op: Prune) -> bool:
    """Apply the operation; return whether it changed anything."""
    rows.flush()
    found = rows.find(op.node)
    # All of them, not only the first.
    return found is not None and sum(_prune(rows, found[0], dot) for dot in op.dots) > 0


def _prune(rows: NodeRows, ino: Inode, dot: Dot) -> bool:
    transaction = rows.transaction
    run = dot.incarnation.to_bytes(8, "big")
    params = {"ino": ino, "run": int(dot.incarnation != 0), "sequence": dot.sequence, "incarnation": run}
    kept = transaction.one(_KEPT, params)
    if kept is not None:
        until, since, manifest = kept
        _leave(transaction, ino, until)
        is_pinned = transaction.one(_IS_PINNED, (since, until)) is not None
        transaction.execute(_UNKEEP if is_pinned else _DROP, (ino, until))
        history.drop_manifest(transaction, ino, manifest)
        _purge_unneeded(rows, ino)
        return True
    present = transaction.one(_PRESENT, (ino,))
    if present is None or (present[0], present[1] if dot.sequence else None) != (
        dot.sequence,
        run if dot.sequence else None,
    ):
        return False
    if not _leave(transaction, ino, _NEVER):
        return False
    _drop_present(rows, ino)
    _purge_unneeded(rows, ino)
    return True


def _purge_unneeded(rows: NodeRows, ino: Inode) -> None:
    """Purge the entries of a replaced file that no other file has versions of any more."""
    if rows.transaction.one(_HAS_VERSIONS, (ino,)) is None:
        replaced = [EntryId(row[0]) for row in rows.transaction.all(_REPLACED, (ino,))]
        purging.purge(rows.transaction, rows.context, rows.policy, replaced)


def _leave(transaction: Transaction, ino: Inode, until: Position) -> bool:
    """Take the content that a node had until a position from the versions of others, and leave its earlier ones there."""
    (last,) = transaction.one(_LAST_KEPT, (ino, until)) or (0,)
    taken = transaction.all(_TAKEN, (ino, last, until))
    for entry, position, former in taken:
        transaction.execute(_LEAVE, (entry, position, ino))
        if last:
            transaction.execute(_TAKE, (entry, last, ino, former))
        # In any case: a row that ends at ``last`` would hide what ``former`` took over later.
        transaction.execute(_INHERIT, (entry, former, position))
    return bool(taken)


def _drop_present(rows: NodeRows, ino: Inode) -> None:
    """Drop a node's present content if nothing else needs it."""
    transaction, context = rows.transaction, rows.context
    if transaction.one(_IS_NAMED, (ino,)) is not None or transaction.one(_HAS_VERSIONS, (ino,)) is None:
        return
    rows.keep_pinned(ino)
    (_, _, manifest) = transaction.one(_PRESENT, (ino,)) or (None, None, None)
    transaction.execute(_EMPTY, (context.empty_tag, context.position, ino))
    history.drop_manifest(transaction, ino, manifest)
    context.changes.nodes.add(ino)
