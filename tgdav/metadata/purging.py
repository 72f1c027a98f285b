"""Deletes entries of the trash for good: what the operation does at once, and the sweep that removes the rows.

The operation only moves the entries out of the trash, to the parent PURGED_INODE: from then on nobody finds them, or what is
below them, so it takes the same moment for a file and for a directory with a million. The sweep then removes the rows, a few at
a time, in changes that log nothing. All that it needs is in the rows: it may be interrupted anywhere, a checkpoint carries what
is left of it, and every machine comes to the same rows. ``since`` of such an entry is the position of the purge.

What a snapshot shows stays in the ``*_past`` tables. A node that has another name, or is open on this machine, stays as it is.
"""

import json
from collections.abc import Callable, Iterable, Sequence

import msgspec
from sqlalchemy import Table

from tgdav.db import Connection, Transaction
from tgdav.db.schema import TRASH_INODE, entries, entries_past, fields, fields_past, nodes, nodes_past
from tgdav.ids import EntryId, Inode
from tgdav.metadata import history
from tgdav.metadata.context import GroupContext
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.tree_cache import TreeChanges
from tgdav.metadata.types import DIRECTORY

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
_LAST_PIN = "SELECT coalesce(max(position), 0) FROM pins WHERE position < ?"

# ---- what is in a purged directory ---------------------------------------------------------------------------------
_CHILDREN = "SELECT name, id FROM entries WHERE parent = ? ORDER BY name, id LIMIT ?"
_PURGE_CHILDREN = """UPDATE entries SET parent = 0, since = ?, origin = ?, deleted = NULL
WHERE parent = ? AND (name, id) <= (?, ?)"""

# ---- nodes: parameters are JSON arrays of inodes -------------------------------------------------------------------
_MANIFESTS = """SELECT manifest FROM nodes WHERE ino IN (SELECT value FROM json_each(?1)) AND manifest IS NOT NULL
UNION SELECT manifest FROM nodes_past WHERE ino IN (SELECT value FROM json_each(?1)) AND manifest IS NOT NULL"""
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
_DROP_ENTRY = "DELETE FROM entries WHERE id = ?"
# The files that the entry's file replaced are its versions: they go with it.
_REPLACED = """SELECT e.id FROM predecessors p JOIN entries e ON e.id = p.id
WHERE p.entry = ? AND e.parent = 2 AND e.deleted IS NULL"""
_FORGET_REPLACED = "DELETE FROM predecessors WHERE entry = ?"
_BURY = "INSERT OR REPLACE INTO tombstones (id, parent, name) VALUES (?, ?, ?)"
_FORGET_NAMES = """UPDATE tombstones SET parent = NULL, name = NULL WHERE name IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM entries WHERE deleted IS NOT NULL)"""


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
    """What one step did: ``after`` is where the next one goes on, None at the end; ``rows`` counts what moved or was removed."""

    after: Key | None
    rows: int


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


def sweep(
    transaction: Transaction, changes: TreeChanges, is_open: IsOpen, *, after: Key = FIRST, most: int = 500
) -> Swept:
    """Remove the rows of up to ``most`` purged entries. Repeat it from ``after``, and from the start while that does something.

    Whatever ``is_open`` names stays; so does a directory until the entries in it, which are purged here, are gone.
    """
    found = [_Purged(*row) for row in transaction.all(_PURGED, (*after, most))]
    rows, leaves = 0, dict[int, list[_Purged]]()
    for each in found:
        if each.kind == DIRECTORY and (moved := _purge_children(transaction, each, most)):
            rows += moved
        elif each.may_be_version and _is_version(transaction, each.entry):
            # It was in a purged directory. The file that has its content as a version is elsewhere.
            transaction.execute(_RETURN, (each.entry,))
            rows += 1
        elif each.has_other:
            _drop_entry(transaction, each)
            rows += 1
        elif not is_open(each.ino):
            leaves.setdefault(each.position, []).append(each)
    for position, nodes_of in leaves.items():
        _drop_nodes(transaction, position, nodes_of)
        changes.nodes.update(each.ino for each in nodes_of)
        rows += len(nodes_of)
    if len(found) == most:
        return Swept((found[-1].name, found[-1].entry), rows)
    transaction.execute(_FORGET_NAMES)
    return Swept(None, rows)


def _purge_children(transaction: Transaction, directory: _Purged, most: int) -> int:
    """Purge up to ``most`` of the entries in a purged directory, as of the same position; return how many there were."""
    children = transaction.all(_CHILDREN, (directory.ino, most))
    if children:
        where, position = (directory.ino, *children[-1]), directory.position
        pinned = _last_pin(transaction, position)
        if pinned:
            transaction.execute(_KEEP_CHILDREN, (position, *where, pinned))
        origin = msgspec.msgpack.encode((directory.node, 0)) if directory.origin is not None else None
        transaction.execute(_PURGE_CHILDREN, (position, origin, *where))
    return len(children)


def _drop_entry(transaction: Transaction, purged: _Purged) -> None:
    """Remove an entry whose node stays."""
    _purge_versions(transaction, purged)
    transaction.execute(_DROP_ENTRY, (purged.entry,))


def _purge_versions(transaction: Transaction, purged: _Purged) -> None:
    replaced = transaction.all(_REPLACED, (purged.entry,))
    transaction.execute(_FORGET_REPLACED, (purged.entry,))
    for (entry,) in replaced:
        if not _is_version(transaction, entry):
            transaction.execute(_PURGE, (purged.position, entry))


def _is_version(connection: Connection, entry: EntryId) -> bool:
    """Return whether the content of the file that an entry names is a version of a file that is not purged."""
    return connection.one(_IS_VERSION, {"entry": entry}) is not None


def _drop_nodes(transaction: Transaction, position: int, purged: Iterable[_Purged]) -> None:
    """Remove nodes that were purged at a position, and their entries; what a snapshot shows of them moves to the past."""
    dropped = list(purged)
    these = json.dumps([each.ino for each in dropped])
    pinned = _last_pin(transaction, position)
    manifests = [row[0] for row in transaction.all(_MANIFESTS, (these,))]
    if pinned:
        transaction.execute(_KEEP_NODES, (position, these, pinned))
        transaction.execute(_KEEP_FIELDS, (position, these, pinned))
    for each in dropped:
        _purge_versions(transaction, each)
        # Without an origin no other machine knows the directory.
        if each.kind == DIRECTORY and each.origin is not None:
            transaction.execute(_BURY, (each.node, msgspec.msgpack.decode(each.origin)[0], each.name))
    for statement in _DROP:
        transaction.execute(statement, (these,))
    if manifests:
        transaction.execute(_DROP_MANIFESTS, (json.dumps(manifests), these))


def _last_pin(transaction: Transaction, position: int) -> int:
    """Return the position of the newest snapshot before a position; 0 without one."""
    row = transaction.one(_LAST_PIN, (position,))
    return int(row[0]) if row else 0
