"""Queries of the present tree: functions of a connection or a transaction.

None of them raises if something does not exist; all raise LocalFailure or DamageError if the database cannot be read.
"""

import json
from collections.abc import Iterable, Iterator

from sqlalchemy import bindparam, func, literal_column, select, union_all

from tgdav.db import Connection, compiled
from tgdav.db.connection import Row
from tgdav.db.schema import PURGED_INODE, ROOT_INODE, TRASH_INODE, entries, machines, manifests, nodes, tombstones
from tgdav.db.schema import fields as _fields
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata.conflict_names import CONFLICT_MARK, conflict_name, nfc
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind, Listed, listed

_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}
_n, _e = nodes.c, entries.c
_ATTRIBUTES = (
    *(_n.ino, _n.id, _n.kind, _n.mode, _n.uid, _n.gid, _n.rdev, _n.nlink, _n.size),
    *(_n.atime, _n.mtime, _n.ctime, _n.btime, _n.tag, _n.dirty, _n.local),
)
_NAMED = select(*_ATTRIBUTES, _e.name, _e.id.label("entry"), _e.stamp).join_from(entries, nodes, _n.ino == _e.ino)

_BY_INODE = compiled(select(*_ATTRIBUTES).where(_n.ino == bindparam("ino")))
_BY_ID = compiled(select(*_ATTRIBUTES).where(_n.id == bindparam("id")))
_INODE_OF = compiled(select(_n.ino).where(_n.id == bindparam("id")))
_IS_USED = compiled(
    union_all(
        select(_n.ino).where(_n.id == bindparam("id")),
        select(literal_column("1")).select_from(tombstones).where(tombstones.c.id == bindparam("id")),
    )
)
_NODE_ID_OF = compiled(select(_n.id).where(_n.ino == bindparam("ino")))
_BY_NAME = compiled(
    _NAMED.where(_e.parent == bindparam("parent"), _e.name == bindparam("name")).order_by(_e.stamp, _e.id).limit(1)
)
_BY_NFC = compiled(
    _NAMED.where(_e.parent == bindparam("parent"), _e.nfc == bindparam("name")).order_by(_e.stamp, _e.id).limit(1)
)
_CHILDREN = compiled(_NAMED.where(_e.parent == bindparam("parent")).order_by(_e.name, _e.id))
_LISTED = compiled(
    select(_e.name, _n.ino, _n.kind, _n.size, _n.mtime, _n.btime, _n.tag, _n.dirty)
    .join_from(entries, nodes, _n.ino == _e.ino)
    .where(_e.parent == bindparam("parent"))
    .order_by(_e.name, _e.id)
)
_ANY_CHILD = compiled(select(_e.ino).where(_e.parent == bindparam("parent")).limit(1))
# The earliest entry comes first: it is the one that keeps its name in a conflict.
_PLACES = compiled(select(_e.parent, _e.name).where(_e.ino == bindparam("ino")).order_by(_e.stamp, _e.id))
_ENTRIES_OF = compiled(
    select(_e.id, _e.parent, _e.name, _e.local).where(_e.ino == bindparam("ino")).order_by(_e.stamp, _e.id)
)
_CONTENT = compiled(
    select(func.coalesce(manifests.c.data, _n.content))
    .join_from(nodes, manifests, manifests.c.no == _n.manifest, isouter=True)
    .where(_n.ino == bindparam("ino"))
)
_FIELD = compiled(
    select(_fields.c.value).where(_fields.c.ino == bindparam("ino"), _fields.c.field == bindparam("field"))
)
# json_each takes any number of inodes in one parameter; a list of parameters has a limit.
_FIELDS = (
    "SELECT fields.ino, fields.field, fields.value FROM json_each(:inodes) JOIN fields ON fields.ino = json_each.value"
    " WHERE fields.field >= :first AND fields.field < :end"
)
_NAMES_BYTES = (
    "SELECT coalesce(sum(length(field) + :more), 0) FROM fields WHERE ino = :ino AND field >= :first AND field < :end"
)
_TOTALS = compiled(
    select(func.count(), func.coalesce(func.sum(_n.size), 0))
    .select_from(nodes)
    .where(_n.kind == int(Kind.FILE), _n.nlink > 0)
)
_CONTENTS_WITH_HOLES = (
    "SELECT coalesce(manifests.data, nodes.content) AS held FROM nodes LEFT JOIN manifests ON manifests.no = nodes.manifest"
    " WHERE nodes.kind = :kind AND nodes.nlink > 0 AND nodes.size > :least AND instr(held, :hole)"
)
_MACHINE_OF = compiled(select(machines.c.name).where(machines.c.incarnation == bindparam("incarnation")).limit(1))
_LOCAL_CONTENTS = compiled(
    select(func.coalesce(manifests.c.data, _n.content))
    .join_from(nodes, manifests, manifests.c.no == _n.manifest, isouter=True)
    .where(_n.local == 1, _n.kind == int(Kind.FILE), _n.size > 0)
)
# A file in a directory that is in the trash has no links, and a name.
_UNNAMED_LOCAL = compiled(
    select(_n.ino).where(_n.local == 1, _n.nlink == 0, ~select(_e.ino).where(_e.ino == _n.ino).exists())
)
_ABOVE = (
    "WITH RECURSIVE up(ino) AS (SELECT :ino UNION SELECT entries.parent FROM up JOIN entries ON entries.ino = up.ino)"
    " SELECT 1 FROM up WHERE ino = :ancestor"
)
_IS_DELETED = (
    "WITH RECURSIVE up(ino) AS (SELECT :ino UNION SELECT entries.parent FROM up JOIN entries ON entries.ino = up.ino)"
    " SELECT 1 FROM up WHERE ino IN (0, 2)"  # PURGED_INODE, TRASH_INODE
)

_EXTENT_BYTES = 40
_CHUNK_AT = 8
_HOLE = bytes(_EXTENT_BYTES - _CHUNK_AT)
"""A manifest consists of records of 40 bytes: length (8, little-endian), chunk id (32; zeros are a hole). The format is that of
``tgdav.content.format.manifest``, which this package must not import."""


def to_attributes(row: Row) -> Attributes:
    """Return the attributes in a row that begins with the 16 columns of ``Attributes``."""
    ino, node, kind, mode, uid, gid, rdev, nlink, size, atime, mtime, ctime, btime, tag, dirty, local = row[:16]
    kind, local = _KINDS[kind], local == 1
    # Attributes(*row) would make large directories a third slower to list.
    return Attributes(ino, node, kind, mode, uid, gid, rdev, nlink, size, atime, mtime, ctime, btime, tag, dirty, local)


def to_entry(row: Row) -> DirectoryEntry:
    """Return the entry in a row of those columns, and its name and id."""
    return DirectoryEntry(row[16], row[17], to_attributes(row))


def attributes(c: Connection, ino: Inode) -> Attributes | None:
    """Return a node's attributes, even if it has no entry; None if there is no such node."""
    row = c.one(_BY_INODE, {"ino": ino})
    return to_attributes(row) if row else None


def attributes_of(c: Connection, node_id: NodeId) -> Attributes | None:
    """As ``attributes``, by the node's id in the log."""
    row = c.one(_BY_ID, {"id": node_id})
    return to_attributes(row) if row else None


def inode_of(c: Connection, node_id: NodeId) -> Inode | None:
    """Return this machine's inode number of a node."""
    row = c.one(_INODE_OF, {"id": node_id})
    return row[0] if row else None


def is_used(c: Connection, node_id: NodeId) -> bool:
    """Return whether a node has this id, or a purged directory had it."""
    return c.one(_IS_USED, {"id": node_id}) is not None


def node_id_of(c: Connection, ino: Inode) -> NodeId | None:
    """Return a node's id in the log."""
    row = c.one(_NODE_ID_OF, {"ino": ino})
    return row[0] if row else None


def find_entry(c: Connection, parent: Inode, name: bytes, *, normalized: bool = False) -> DirectoryEntry | None:
    """Return the entry ``name`` in the directory ``parent``; with ``normalized``, also one with the same NFC form.

    A name with equal bytes is preferred. The result has the entry's own name, not the requested one. Of several matches the
    earliest entry is returned.
    """
    row = c.one(_BY_NAME, {"parent": parent, "name": name})
    if row is not None:
        return to_entry(row)
    # A conflict name exists only in listings, so the listing is searched.
    if CONFLICT_MARK in name:
        return next((entry for entry in children(c, parent) if entry.name == name), None)
    if not normalized or name.isascii():
        return None
    wanted = {"parent": parent, "name": nfc(name) or name}
    rows = [row for row in (c.one(_BY_NAME, wanted), c.one(_BY_NFC, wanted)) if row]
    return to_entry(min(rows, key=age_of)) if rows else None


def age_of(row: Row) -> tuple[int, bytes]:
    """Return a key that sorts rows of entries, each with its stamp after name and id: the earliest keeps its name."""
    return row[18], row[17]


def children(c: Connection, parent: Inode) -> list[DirectoryEntry]:
    """Return the entries of a directory, sorted by name, each name once.

    Of several entries with one name the earliest keeps it; the others show as ``name (conflict MACHINE DATE)``.
    """
    rows = c.all(_CHILDREN, {"parent": parent})
    found = [to_entry(row) for row in rows]
    if len({row[16] for row in rows}) == len(found):
        return found
    return sorted(with_conflict_names(c, rows), key=lambda entry: entry.name)


def listing(c: Connection, parent: Inode) -> list[Listed]:
    """As ``children``, but only what long listings show, in half the time."""
    found = [
        Listed(name, ino, _KINDS[kind], size, mtime, btime, tag, dirty)
        for name, ino, kind, size, mtime, btime, tag, dirty in c.all(_LISTED, {"parent": parent})
    ]
    if len({each.name for each in found}) == len(found):
        return found
    return [listed(entry.name, entry.attributes) for entry in children(c, parent)]


def with_conflict_names(c: Connection, rows: list[Row]) -> Iterator[DirectoryEntry]:
    """Yield a directory's entries; of several with one name all but the earliest get another."""
    names = {row[16] for row in rows}
    taken: set[bytes] = set()
    for row in sorted(rows, key=age_of):
        name = row[16]
        if name in taken:
            name = conflict_name(name, _author(c, row[17]), row[18], names | taken)
        taken.add(name)
        yield DirectoryEntry(name, row[17], to_attributes(row))


def _author(c: Connection, entry: EntryId) -> str:
    """Return the name of the machine with whose incarnation an entry's id begins; if there is none, that beginning in hex."""
    row = c.one(_MACHINE_OF, {"incarnation": entry[:8]})
    return str(row[0]) if row else entry[:4].hex()


def is_empty(c: Connection, ino: Inode) -> bool:
    """Return whether a directory has no entries."""
    return c.one(_ANY_CHILD, {"parent": ino}) is None


def parent_of(c: Connection, ino: Inode) -> Inode | None:
    """Return the parent of a node's earliest entry (TRASH_INODE or PURGED_INODE if it was deleted), None if it has no entry."""
    row = c.one(_PLACES, {"ino": ino})
    return row[0] if row else None


def entries_of(c: Connection, ino: Inode) -> list[tuple[EntryId, Inode, bytes, bool]]:
    """Return (entry, directory, name, local) of each entry of a node, also in the trash."""
    return [(row[0], row[1], row[2], bool(row[3])) for row in c.all(_ENTRIES_OF, {"ino": ino})]


def is_ancestor(c: Connection, ancestor: Inode, ino: Inode) -> bool:
    """Return whether ``ancestor`` is the directory ``ino`` or above it."""
    return ancestor == ino or c.one(_ABOVE, {"ancestor": ancestor, "ino": ino}) is not None


def is_deleted(c: Connection, directory: Inode) -> bool:
    """Return whether a directory is in the trash, or was purged, or is below such a directory."""
    return c.one(_IS_DELETED, {"ino": directory}) is not None


def walk(c: Connection, ino: Inode) -> Iterator[tuple[tuple[bytes, ...], DirectoryEntry]]:
    """Yield (path below ``ino``, entry) for everything below a directory, sorted by name, each directory before its entries."""
    waiting: list[tuple[tuple[bytes, ...], DirectoryEntry]] = []
    waiting.extend(((entry.name,), entry) for entry in reversed(children(c, ino)))
    while waiting:
        path, entry = waiting.pop()
        yield path, entry
        if entry.attributes.is_directory:
            below = children(c, entry.attributes.inode)
            waiting.extend(((*path, child.name), child) for child in reversed(below))


def paths_of(c: Connection, ino: Inode) -> list[bytes]:
    """Return all paths of a node, each beginning with ``/``; none if it is in the trash or has no entry."""
    if ino == ROOT_INODE:
        return [b"/"]
    if ino in (TRASH_INODE, PURGED_INODE):
        return []
    return [
        above.rstrip(b"/") + b"/" + name
        for parent, name in c.all(_PLACES, {"ino": ino})
        for above in paths_of(c, parent)
    ]


def places_of(c: Connection, ino: Inode) -> list[tuple[Inode, bytes]]:
    """Return each (parent, name) of a node; the parent may be TRASH_INODE or PURGED_INODE."""
    return [(Inode(parent), name) for parent, name in c.all(_PLACES, {"ino": ino})]


def manifest(c: Connection, ino: Inode) -> bytes:
    """Return a file's encoded manifest; empty if the file is empty, is of another kind, or does not exist."""
    row = c.one(_CONTENT, {"ino": ino})
    return row[0] or b"" if row else b""


def link_target(c: Connection, ino: Inode) -> bytes:
    """Return a symlink's target."""
    return manifest(c, ino)


def field(c: Connection, ino: Inode, name: bytes) -> bytes | None:
    """Return the value of one extended attribute or property, by its prefixed name."""
    row = c.one(_FIELD, {"ino": ino, "field": name})
    return row[0] if row else None


def fields(c: Connection, inodes: Iterable[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
    """Return the fields of several nodes whose names begin with ``prefix``, in one statement; nodes without any are omitted."""
    # The first key after all keys with the prefix, so that the index is used.
    end = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\xff" * 8
    wanted = {"inodes": json.dumps(list(inodes)), "first": prefix, "end": end}
    found: dict[Inode, dict[bytes, bytes]] = {}
    for ino, name, value in c.all(_FIELDS, wanted):
        found.setdefault(ino, {})[name] = value
    return found


def names_bytes(c: Connection, ino: Inode, prefix: bytes) -> int:
    """Return the total bytes of a node's field names that begin with ``prefix``, without the prefix and plus one for each."""
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    row = c.one(_NAMES_BYTES, {"ino": ino, "first": prefix, "end": end, "more": 1 - len(prefix)})
    return row[0] if row else 0


def totals(c: Connection) -> tuple[int, int]:
    """Return (files, bytes) outside the trash; a file with several names counts once. Reads every node: 1 s for a million."""
    row = c.one(_TOTALS)
    return (row[0], row[1]) if row else (0, 0)


def hole_bytes(c: Connection, least: int) -> int:
    """Return how many bytes of the files larger than ``least`` are holes. Reads every node, like ``totals``."""
    wanted = {"kind": int(Kind.FILE), "least": least, "hole": _HOLE}
    return sum(
        int.from_bytes(content[at : at + _CHUNK_AT], "little")
        for (content,) in c.execute(_CONTENTS_WITH_HOLES, wanted)
        for at in range(0, len(content), _EXTENT_BYTES)
        if content[at + _CHUNK_AT : at + _EXTENT_BYTES] == _HOLE
    )


def local_contents(c: Connection) -> list[bytes]:
    """Return the encoded manifests of the files that stay on this machine."""
    return [row[0] for row in c.all(_LOCAL_CONTENTS) if row[0]]


def unnamed_local(c: Connection) -> list[Inode]:
    """Return the local nodes without an entry: files that were removed while open, and still open when the process ended."""
    return [row[0] for row in c.all(_UNNAMED_LOCAL)]
