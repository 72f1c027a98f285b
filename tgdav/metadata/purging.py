"""Deletes entries of the trash for good: what the operation does at once, and the sweep that removes the rows.

The operation only moves the entries out of the trash, to the parent PURGED_INODE: from then on nobody finds them, or what is
below them, so it takes the same moment for a file and for a directory with a million. The sweep then removes the rows, a few at
a time, in changes that log nothing. All that it needs is in the rows: it may be interrupted anywhere, a checkpoint carries what
is left of it, and every machine comes to the same rows. ``since`` of such an entry is the position of the purge.

What a snapshot shows stays in the ``*_past`` tables. A node that has another name, or is open on this machine, stays as it is.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Table

from tgdav.db import Connection, Transaction
from tgdav.db.connection import Row
from tgdav.db.schema import PURGED_INODE, TRASH_INODE, entries, entries_past, fields, fields_past, nodes, nodes_past
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata import history
from tgdav.metadata.context import GroupContext
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.tree_cache import TreeChanges
from tgdav.metadata.types import DIRECTORY, FILE

IsOpen = Callable[[Inode], bool]
"""Returns whether a node is open, or has unflushed writes, on this machine."""

Key = tuple[bytes, bytes]
"""Name and id of a purged entry: the order of the sweep."""

FIRST: Key = (b"", b"")

# In the statements 0 is PURGED_INODE and 2 is TRASH_INODE.
_PLACE = "SELECT parent, name FROM entries WHERE id = ?"
_PURGE = "UPDATE entries SET parent = 0, since = ?, deleted = NULL WHERE id = ?"
# Two files that were exchanged have each other's contents: what counts is a file that is named, or in the trash by itself.
_IS_VERSION = """WITH RECURSIVE taken(entry) AS (SELECT entry FROM predecessors WHERE id = :entry
 UNION SELECT p.entry FROM taken t JOIN predecessors p ON p.id = t.entry)
SELECT 1 FROM taken t JOIN entries e ON e.id = t.entry
WHERE e.id != :entry AND e.parent != 0 AND (e.parent != 2 OR e.deleted IS NOT NULL) LIMIT 1"""
_HIDE = "UPDATE entries SET since = ?, origin = NULL, deleted = NULL WHERE id = ?"
_RETURN = "UPDATE entries SET parent = 2, origin = NULL WHERE id = ?"
_ANY_PURGED = "SELECT 1 FROM entries WHERE parent = 0 LIMIT 1"
_PURGED = """SELECT e.name, e.id, e.ino, e.since, e.origin, n.kind, n.id,
EXISTS (SELECT 1 FROM entries o WHERE o.ino = e.ino AND o.id != e.id),
EXISTS (SELECT 1 FROM predecessors p WHERE p.id = e.id)
FROM entries e LEFT JOIN nodes n ON n.ino = e.ino
WHERE e.parent = 0 AND (e.name, e.id) > (?, ?) ORDER BY e.name, e.id LIMIT ?"""
_PINS = "SELECT position FROM pins WHERE position IS NOT NULL ORDER BY position"

# ---- what is in a purged directory ---------------------------------------------------------------------------------
_CHILDREN = "SELECT name, id FROM entries WHERE parent = ? ORDER BY name, id LIMIT ?"
_UNLINK_SUBDIRECTORIES = """UPDATE nodes SET nlink = nlink - (SELECT count(*) FROM entries e
JOIN nodes n ON n.ino = e.ino AND n.kind = 2 WHERE e.parent = ?1 AND (e.name, e.id) <= (?2, ?3)) WHERE ino = ?1"""
_PURGE_CHILDREN = """UPDATE entries SET parent = 0, since = ?, origin = ?, deleted = NULL
WHERE parent = ? AND (name, id) <= (?, ?)"""

# ---- nodes: parameters are JSON arrays of inodes -------------------------------------------------------------------
_MANIFESTS = """SELECT manifest FROM nodes WHERE ino IN (SELECT value FROM json_each(?1)) AND manifest IS NOT NULL
UNION SELECT manifest FROM nodes_past WHERE ino IN (SELECT value FROM json_each(?1)) AND manifest IS NOT NULL"""
_CONTENTS = """SELECT coalesce(m.data, n.content) AS held FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest
WHERE n.ino IN (SELECT value FROM json_each(?1)) AND held IS NOT NULL
UNION SELECT coalesce(m.data, n.content) AS held FROM nodes_past n LEFT JOIN manifests m ON m.no = n.manifest
WHERE n.ino IN (SELECT value FROM json_each(?1)) AND held IS NOT NULL"""
_DROP = (
    """DELETE FROM nodes_past WHERE ino IN (SELECT value FROM json_each(?)) AND NOT EXISTS
 (SELECT 1 FROM pins WHERE pins.position >= nodes_past.since AND pins.position < nodes_past.until)""",
    "UPDATE nodes_past SET kept = 0 WHERE ino IN (SELECT value FROM json_each(?)) AND kept = 1",
    "DELETE FROM nodes WHERE ino IN (SELECT value FROM json_each(?))",
    "DELETE FROM fields WHERE ino IN (SELECT value FROM json_each(?))",
    "DELETE FROM predecessors WHERE ino IN (SELECT value FROM json_each(?))",
    "DELETE FROM entries WHERE ino IN (SELECT value FROM json_each(?)) AND parent = 0",
)
# A manifest belongs to one node.
_DROP_MANIFESTS = """DELETE FROM manifests WHERE no IN (SELECT value FROM json_each(?))
AND no NOT IN (SELECT manifest FROM nodes_past WHERE ino IN (SELECT value FROM json_each(?)) AND manifest IS NOT NULL)"""

# ---- entries -------------------------------------------------------------------------------------------------------
_OTHERS = "SELECT parent, since, id FROM entries WHERE ino = ? AND id != ?"
_DROP_ENTRY = "DELETE FROM entries WHERE id = ?"
# The files that the entry's file replaced are its versions: they go with it.
_REPLACED = """SELECT e.id FROM predecessors p JOIN entries e ON e.id = p.id
WHERE p.entry = ? AND e.parent = 2 AND e.deleted IS NULL"""
_FORGET_REPLACED = "DELETE FROM predecessors WHERE entry = ?"
_HAVE_REPLACED = """SELECT DISTINCT entry FROM predecessors WHERE entry IN
(SELECT id FROM entries WHERE parent = 0 AND ino IN (SELECT value FROM json_each(?)))"""
_BURY = "INSERT OR REPLACE INTO tombstones (id, parent, name) VALUES (?, ?, ?)"
_UNBURY = (
    "DELETE FROM tombstones WHERE id = ?",
    "UPDATE entries SET origin = NULL WHERE parent = 0 AND ino = (SELECT ino FROM nodes WHERE id = ?)",
)
_FORGET_NAMES = """UPDATE tombstones SET parent = NULL, name = NULL WHERE name IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM entries WHERE deleted IS NOT NULL)"""


def unbury(transaction: Transaction, directory: NodeId) -> None:
    """Let the id of a purged directory be used again: nothing about it is in the log any more."""
    for statement in _UNBURY:
        transaction.execute(statement, (directory,))


def _keep(source: Table, target: Table, where: str) -> str:
    """Return a statement that copies rows that existed at a position to the past, until another.

    Its parameters: until, those of ``where``, the position.
    """
    names = [name for name in target.c.keys() if name not in ("until", "kept")]  # noqa: SIM118
    more = ["until", "kept"] if "kept" in target.c else ["until"]
    return (
        f"INSERT OR IGNORE INTO {target.name} ({', '.join([*names, *more])})"  # noqa: S608 - the schema's names
        f" SELECT {', '.join([*names, *('?', '0')[: len(more)]])} FROM {source.name} WHERE {where} AND since <= ?"
    )


_KEEP_CHILDREN = _keep(entries, entries_past, "parent = ? AND (name, id) <= (?, ?) AND local = 0")
_KEEP_NODES = _keep(nodes, nodes_past, "ino IN (SELECT value FROM json_each(?)) AND local = 0")
_KEEP_FIELDS = _keep(
    fields,
    fields_past,
    "ino IN (SELECT value FROM json_each(?)) AND ino NOT IN (SELECT ino FROM nodes WHERE local = 1)",
)


def purge(transaction: Transaction, context: GroupContext, policy: HistoryPolicy, purged: Sequence[EntryId]) -> bool:
    """Move entries out of the trash for good; return whether any was there. Entries that are elsewhere stay."""
    # All of them, not only the first.
    return sum(_purge(transaction, context, policy, entry) for entry in purged) > 0


def _purge(transaction: Transaction, context: GroupContext, policy: HistoryPolicy, entry: EntryId) -> bool:
    row = transaction.one(_PLACE, (entry,))
    if row is None or row[0] != TRASH_INODE:
        return False
    if policy.last_pinned:
        history.close_entry(transaction, entry, context.position, policy.last_pinned)
    # A deleted backup of an editor, whose content is a version of another file: it stays for that.
    is_version = _is_version(transaction, entry)
    transaction.execute(_HIDE if is_version else _PURGE, (context.position, entry))
    context.changes.names.add((Inode(TRASH_INODE), row[1]))
    return True


def is_pending(connection: Connection) -> bool:
    """Return whether rows of purged entries are still there."""
    return connection.one(_ANY_PURGED) is not None


class Swept(msgspec.Struct, frozen=True):
    """What one step did: ``after`` is where the next one goes on, None at the end; ``rows`` counts what moved or was removed.

    ``temporary`` are the encoded manifests of the files among it that leave no trace.
    """

    after: Key | None
    rows: int
    temporary: list[bytes] = []


class _Purged(msgspec.Struct, frozen=True, gc=False):
    """A purged entry and the node that it names. ``has_other``: so does another entry. ``may_be_version``: it was replaced."""

    name: bytes
    entry: EntryId
    ino: Inode
    position: int
    origin: bytes | None
    kind: int | None
    node: bytes | None
    has_other: int
    may_be_version: int


class _Until(NamedTuple):
    """The position of a purge, and of the newest snapshot before it; 0 without one."""

    position: int
    pinned: int

    @classmethod
    def of(cls, position: int, pins: Sequence[int]) -> "_Until":
        at = bisect_left(pins, position)
        return cls(position, pins[at - 1] if at else 0)


_NOTHING_PINNED = _Until(0, 0)


def sweep(
    transaction: Transaction, changes: TreeChanges, is_open: IsOpen, *, after: Key = FIRST, most: int = 500
) -> Swept:
    """Remove the rows of up to ``most`` purged entries. Repeat it from ``after``, and from the start while that does something.

    Whatever ``is_open`` names stays; so does a directory until the entries in it, which are purged here, are gone.
    """
    found = [_Purged(*row) for row in transaction.all(_PURGED, (*after, most))]
    pins = [row[0] for row in transaction.all(_PINS)] if found else []
    rows, leaves = 0, dict[_Until, list[_Purged]]()
    for each in found:
        until = _Until.of(each.position, pins)
        if each.kind == DIRECTORY and (moved := _purge_children(transaction, each, until, most)):
            rows += moved
        elif each.may_be_version and _is_version(transaction, each.entry):
            # It was in a purged directory. The file that has its content as a version is elsewhere.
            transaction.execute(_RETURN, (each.entry,))
            rows += 1
        # Asked again: the other entries may be purged too, and removed by now.
        elif each.has_other and (others := transaction.all(_OTHERS, (each.ino, each.entry))):
            if _goes_before(each, others):
                _drop_entry(transaction, each)
                rows += 1
        elif not is_open(each.ino):
            leaves.setdefault(until if until.pinned else _NOTHING_PINNED, []).append(each)
    temporary: list[bytes] = []
    for until, nodes_of in leaves.items():
        temporary += _temporary(transaction, nodes_of)
        _drop_nodes(transaction, until, nodes_of)
        changes.nodes.update(each.ino for each in nodes_of)
        rows += len(nodes_of)
    if len(found) == most:
        return Swept((found[-1].name, found[-1].entry), rows, temporary)
    transaction.execute(_FORGET_NAMES)
    return Swept(None, rows, temporary)


def _purge_children(transaction: Transaction, directory: _Purged, until: _Until, most: int) -> int:
    """Purge up to ``most`` of the entries in a purged directory, as of the same position; return how many there were."""
    children = transaction.all(_CHILDREN, (directory.ino, most))
    if children:
        where = (directory.ino, *children[-1])
        if until.pinned:
            transaction.execute(_KEEP_CHILDREN, (until.position, *where, until.pinned))
        transaction.execute(_UNLINK_SUBDIRECTORIES, where)
        origin = None
        if directory.origin is not None:
            origin = msgspec.msgpack.encode((directory.node, 0, *msgspec.msgpack.decode(directory.origin)[2:]))
        transaction.execute(_PURGE_CHILDREN, (directory.position, origin, *where))
    return len(children)


def _goes_before(purged: _Purged, others: Sequence[Row]) -> bool:
    """Return whether an entry goes before the other ones of its node. The one that was purged last goes last, with the node."""
    return any(
        parent != PURGED_INODE or (since, entry) > (purged.position, purged.entry) for parent, since, entry in others
    )


def _drop_entry(transaction: Transaction, purged: _Purged) -> None:
    """Remove an entry whose node stays."""
    _purge_versions(transaction, purged.entry, purged.position)
    transaction.execute(_DROP_ENTRY, (purged.entry,))


def _purge_versions(transaction: Transaction, entry: bytes, position: int) -> None:
    replaced = transaction.all(_REPLACED, (entry,))
    transaction.execute(_FORGET_REPLACED, (entry,))
    for (each,) in replaced:
        if not _is_version(transaction, each):
            transaction.execute(_PURGE, (position, each))


def _is_version(connection: Connection, entry: EntryId) -> bool:
    """Return whether the content of the file that an entry names is a version of a file that is not purged."""
    return connection.one(_IS_VERSION, {"entry": entry}) is not None


def _temporary(transaction: Transaction, purged: Sequence[_Purged]) -> list[bytes]:
    """Return the present and earlier contents, as encoded manifests, of files that leave no trace."""
    files = json.dumps([each.ino for each in purged if each.kind == FILE and _is_temporary(each.origin)])
    return [row[0] for row in transaction.all(_CONTENTS, (files,))] if len(files) > len("[]") else []


def _is_temporary(origin: bytes | None) -> bool:
    return origin is None or len(msgspec.msgpack.decode(origin)) > len(("parent", "time"))


def _drop_nodes(transaction: Transaction, until: _Until, purged: Sequence[_Purged]) -> None:
    """Remove nodes and their entries; what a snapshot shows of them moves to the past."""
    these = json.dumps([each.ino for each in purged])
    manifests = [row[0] for row in transaction.all(_MANIFESTS, (these,))]
    if until.pinned:
        transaction.execute(_KEEP_NODES, (until.position, these, until.pinned))
        transaction.execute(_KEEP_FIELDS, (until.position, these, until.pinned))
    positions = {each.entry: each.position for each in purged}
    for (entry,) in transaction.all(_HAVE_REPLACED, (these,)):
        _purge_versions(transaction, entry, positions[entry])
    for each in purged:
        # Without an origin the log has nothing of the directory any more.
        if each.kind == DIRECTORY and each.origin is not None:
            transaction.execute(_BURY, (each.node, msgspec.msgpack.decode(each.origin)[0], each.name))
    for statement in _DROP:
        transaction.execute(statement, (these,))
    if manifests:
        transaction.execute(_DROP_MANIFESTS, (json.dumps(manifests), these))
