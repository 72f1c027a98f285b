"""Queries of the tree as of a position that a snapshot pins: functions of a connection, like those of ``queries``.

A row holds as of a position if it is a current row that is not older, or a past row whose interval contains the position. Junk
is in no snapshot. Each function uses an index for each name, directory or node, and none sees changes that were made after the
position. Of the attributes, ``nlink`` is counted, ``atime`` (which is not kept) is mtime, and nothing is dirty or local.

None of them raises if something does not exist; all raise LocalFailure or DamageError if the database cannot be read.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    FromClause,
    Select,
    Table,
    bindparam,
    func,
    literal_column,
    select,
    union_all,
)

from tgdav.db import Connection, compiled
from tgdav.db.connection import Row
from tgdav.db.schema import ROOT_INODE, TRASH_INODE, entries, entries_past, manifests, nodes, nodes_past
from tgdav.db.schema import fields as _fields
from tgdav.db.schema import fields_past as _fields_past
from tgdav.db.statements import Statement
from tgdav.ids import Inode, Position
from tgdav.metadata import queries
from tgdav.metadata.conflict_names import CONFLICT_MARK, nfc
from tgdav.metadata.types import DIRECTORY, Attributes, DirectoryEntry, Kind, Listed, listed

_UNCOUNTED = -1
"""In the place of a link count that must be counted."""

_KINDS = {int(kind): kind for kind in Kind}
_AT: BindParameter[int] = bindparam("at")
_INO: BindParameter[int] = bindparam("ino")
_PARENT: BindParameter[int] = bindparam("parent")
_NAME: BindParameter[bytes] = bindparam("name")
_WANTED = func.json_each(bindparam("inodes")).table_valued("value")
"""json_each takes any number of inodes in one parameter."""


def _holds(table: Table) -> ColumnElement[bool]:
    """Return the condition that a row of a table holds as of ``:at``."""
    since = table.c.since <= _AT
    if "until" in table.c:
        return since & (table.c.until > _AT)
    return since & (table.c.local == 0) if "local" in table.c else since


def _in_both(current: Table, past: Table, query: Callable[[Table], Select[Any]]) -> Statement:
    """Return a query of the rows of both tables that hold as of ``:at``."""
    return compiled(union_all(*(query(table).where(_holds(table)) for table in (current, past))))


def _columns(node: Table) -> tuple[ColumnElement[Any], ...]:
    """Return the columns of ``Attributes``. A directory's link count changes only with its row."""
    n, zero = node.c, _literal(0)
    node_id: ColumnElement[Any] = n.id
    if node is not nodes:
        # Older programs did not keep the id.
        node_id = func.coalesce(n.id, select(nodes.c.id).where(nodes.c.ino == n.ino).scalar_subquery())
    links: ColumnElement[Any] = n.nlink if node is nodes else _literal(_UNCOUNTED)
    more = (n.size, n.mtime.label("atime"), n.mtime, n.ctime, n.btime, n.tag, zero, zero.label("local"))
    return (n.ino, node_id, n.kind, n.mode, n.uid, n.gid, n.rdev, links, *more)


def _literal(value: int) -> ColumnElement[int]:
    return literal_column(str(value))


def _named(*conditions: Callable[[Table], ColumnElement[bool]], brief: bool = False) -> Statement:
    """Return a query of entries with the attributes of the nodes that they name. ``brief``: only what listings show."""

    def query(entry: Table, node: Table) -> Select[Any]:
        e, n = entry.c, node.c
        all_columns = (*_columns(node), e.name, e.id.label("entry"), e.stamp)
        columns = (e.name, n.ino, n.kind, n.size, n.mtime, n.btime, n.tag) if brief else all_columns
        found = select(*columns).join_from(entry, node, n.ino == e.ino)
        return found.where(*(condition(entry) for condition in conditions), _holds(entry), _holds(node))

    return compiled(union_all(*(query(e, n) for e in (entries, entries_past) for n in (nodes, nodes_past))))


_BY_INODE = _in_both(nodes, nodes_past, lambda node: select(*_columns(node)).where(node.c.ino == _INO))
_BY_NAME = _named(lambda entry: entry.c.parent == _PARENT, lambda entry: entry.c.name == _NAME)
_BY_NFC = _named(lambda entry: entry.c.parent == _PARENT, lambda entry: entry.c.nfc == _NAME)
_CHILDREN = _named(lambda entry: entry.c.parent == _PARENT)
_LISTED = _named(lambda entry: entry.c.parent == _PARENT, brief=True)
_PLACES = _in_both(
    entries,
    entries_past,
    lambda entry: select(entry.c.parent, entry.c.name, entry.c.stamp, entry.c.id).where(entry.c.ino == _INO),
)
_PLACES_OF_MANY = _in_both(
    entries,
    entries_past,
    lambda entry: select(entry.c.ino, entry.c.parent).join_from(_WANTED, entry, entry.c.ino == _WANTED.c.value),
)


def _kind_of(ino: ColumnElement[int]) -> ColumnElement[int]:
    """Return the kind of a node, which never changes."""
    known: Select[Any] = select(nodes.c.kind).where(nodes.c.ino == ino)
    gone: Select[Any] = select(nodes_past.c.kind).where(nodes_past.c.ino == ino).limit(_literal(1))
    return func.coalesce(known.scalar_subquery(), gone.scalar_subquery())


def _subdirectories(entry: Table, *conditions: ColumnElement[bool]) -> Select[Any]:
    counted = select(entry.c.parent, func.count()).join_from(_WANTED, entry, entry.c.parent == _WANTED.c.value)
    return counted.where(_kind_of(entry.c.ino) == int(DIRECTORY), *conditions).group_by(entry.c.parent)


_LINKS_NOW = compiled(select(nodes.c.ino, nodes.c.nlink).join_from(_WANTED, nodes, nodes.c.ino == _WANTED.c.value))
_ENTERED_SINCE = compiled(_subdirectories(entries, entries.c.since > _AT, entries.c.local == 0))
_LEFT_SINCE = compiled(_subdirectories(entries_past, _holds(entries_past)))
_STAYED = compiled(_subdirectories(entries, _holds(entries)))


def _with_manifest(node: Table) -> FromClause:
    return node.join(manifests, manifests.c.no == node.c.manifest, isouter=True)


_CONTENT = _in_both(
    nodes,
    nodes_past,
    lambda node: (
        select(func.coalesce(manifests.c.data, node.c.content))
        .select_from(_with_manifest(node))
        .where(node.c.ino == _INO)
    ),
)
_FIELD = _in_both(
    _fields,
    _fields_past,
    lambda field: select(field.c.value).where(field.c.ino == _INO, field.c.field == _NAME),
)
_FIELDS = _in_both(
    _fields,
    _fields_past,
    lambda field: (
        select(field.c.ino, field.c.field, field.c.value)
        .join_from(_WANTED, field, field.c.ino == _WANTED.c.value)
        .where(field.c.field >= bindparam("first"), field.c.field < bindparam("end"))
    ),
)
_TOTALS = """WITH RECURSIVE directories(ino) AS (
 SELECT 1
 UNION SELECT e.ino FROM directories d JOIN entries e ON e.parent = d.ino AND e.since <= :at AND e.local = 0
  WHERE (SELECT kind FROM nodes WHERE ino = e.ino UNION ALL SELECT kind FROM nodes_past WHERE ino = e.ino LIMIT 1) = 2
 UNION SELECT e.ino FROM directories d JOIN entries_past e ON e.parent = d.ino AND e.since <= :at AND e.until > :at
  WHERE (SELECT kind FROM nodes WHERE ino = e.ino UNION ALL SELECT kind FROM nodes_past WHERE ino = e.ino LIMIT 1) = 2),
named(ino) AS (
 SELECT e.ino FROM directories d JOIN entries e ON e.parent = d.ino AND e.since <= :at AND e.local = 0
 UNION SELECT e.ino FROM directories d JOIN entries_past e ON e.parent = d.ino AND e.since <= :at AND e.until > :at)
SELECT count(*), coalesce(sum(size), 0) FROM (
 SELECT n.size FROM named JOIN nodes n ON n.ino = named.ino AND n.since <= :at AND n.local = 0 AND n.kind = 1
 UNION ALL
 SELECT p.size FROM named JOIN nodes_past p ON p.ino = named.ino AND p.since <= :at AND p.until > :at AND p.kind = 1)"""


# ---- nodes -----------------------------------------------------------------------------------------------------------


def attributes(c: Connection, at: Position, ino: Inode) -> Attributes | None:
    """Return a node's attributes, even if it had no entry; None if there was no such node."""
    rows = _with_links(c, at, c.all(_BY_INODE, {"at": at, "ino": ino}))
    return queries.to_attributes(rows[0]) if rows else None


def manifest(c: Connection, at: Position, ino: Inode) -> bytes:
    """Return a file's encoded manifest; empty if the file was empty, is of another kind, or did not exist."""
    row = c.one(_CONTENT, {"at": at, "ino": ino})
    return row[0] or b"" if row else b""


def link_target(c: Connection, at: Position, ino: Inode) -> bytes:
    """Return a symlink's target."""
    return manifest(c, at, ino)


def field(c: Connection, at: Position, ino: Inode, name: bytes) -> bytes | None:
    """Return the value of one extended attribute or property, by its prefixed name."""
    row = c.one(_FIELD, {"at": at, "ino": ino, "name": name})
    return row[0] if row else None


def fields(c: Connection, at: Position, inodes: Iterable[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
    """Return the fields of several nodes that existed, those whose names begin with ``prefix``; nodes without any are omitted."""
    # The first key after all keys with the prefix, so that the index is used.
    end = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\xff" * 8
    wanted = {"at": at, "inodes": json.dumps(list(inodes)), "first": prefix, "end": end}
    found: dict[Inode, dict[bytes, bytes]] = {}
    for ino, name, value in c.all(_FIELDS, wanted):
        found.setdefault(ino, {})[name] = value
    return found


def _with_links(c: Connection, at: Position, rows: list[Row]) -> list[Row]:
    """Return rows that begin with the columns of ``Attributes``, with their link counts."""
    if not rows:
        return rows
    links = _links(c, at, rows)
    return [(*row[:7], links[row[0]], *row[8:]) for row in rows]


def _links(c: Connection, at: Position, rows: list[Row]) -> dict[Inode, int]:
    """Return the link count of each row's node: names outside the trash, or two and the sub-directories."""
    links = {row[0]: (row[7] if row[7] != _UNCOUNTED else 2) if row[2] == DIRECTORY else 0 for row in rows}
    # A file may have several names in one listing; json_each would find its places for each of them.
    files = list({row[0] for row in rows if row[2] != DIRECTORY})
    changed = [row[0] for row in rows if row[2] == DIRECTORY and row[7] == _UNCOUNTED]
    known = {Inode(ROOT_INODE): True, Inode(TRASH_INODE): False}
    if files:
        for ino, parent in c.all(_PLACES_OF_MANY, {"at": at, "inodes": json.dumps(files)}):
            links[ino] += _is_live(c, at, parent, known)
    if changed:
        links.update(_links_of_directories(c, at, changed))
    return links


def _links_of_directories(c: Connection, at: Position, inodes: list[Inode]) -> dict[Inode, int]:
    """Return the link counts of directories that have changed since: the present one, and what has come and gone."""
    wanted = {"at": at, "inodes": json.dumps(inodes)}
    links: dict[Inode, int] = {ino: count for ino, count in c.all(_LINKS_NOW, wanted)}  # noqa: C416 - typed
    # Counting all sub-directories would read the nodes of all entries.
    for ino, count in c.all(_ENTERED_SINCE, wanted):
        if ino in links:
            links[ino] -= count
    gone = [ino for ino in inodes if ino not in links]
    links.update(dict.fromkeys(gone, 2))
    if gone:
        for ino, count in c.all(_STAYED, {"at": at, "inodes": json.dumps(gone)}):
            links[ino] += count
    for ino, count in c.all(_LEFT_SINCE, wanted):
        links[ino] += count
    return links


def _is_live(c: Connection, at: Position, directory: Inode, known: dict[Inode, bool]) -> bool:
    """Return whether a directory was reachable from the root; ``known`` has what was found before."""
    above = [directory]
    while above[-1] not in known:
        parent = parent_of(c, at, above[-1])
        if parent is None or parent in above:
            known[above[-1]] = False
        else:
            above.append(parent)
    return known.setdefault(directory, known[above[-1]])


# ---- names -----------------------------------------------------------------------------------------------------------


def find_entry(
    c: Connection, at: Position, parent: Inode, name: bytes, *, normalized: bool = False
) -> DirectoryEntry | None:
    """Return the entry ``name`` in the directory ``parent``, as ``queries.find_entry`` does."""
    rows = c.all(_BY_NAME, {"at": at, "parent": parent, "name": name})
    if not rows and CONFLICT_MARK in name:
        return next((entry for entry in children(c, at, parent) if entry.name == name), None)
    if not rows and normalized and not name.isascii():
        wanted = {"at": at, "parent": parent, "name": nfc(name) or name}
        rows = [*c.all(_BY_NAME, wanted), *c.all(_BY_NFC, wanted)]
    if not rows:
        return None
    [found] = _with_links(c, at, [min(rows, key=queries.age_of)])
    return queries.to_entry(found)


def children(c: Connection, at: Position, parent: Inode) -> list[DirectoryEntry]:
    """Return the entries of a directory, sorted by name, each name once, as ``queries.children`` does."""
    rows = _with_links(c, at, c.all(_CHILDREN, {"at": at, "parent": parent}))
    is_plain = len({row[16] for row in rows}) == len(rows)
    found: Iterable[DirectoryEntry] = map(queries.to_entry, rows) if is_plain else queries.with_conflict_names(c, rows)
    return sorted(found, key=lambda entry: entry.name)


def listing(c: Connection, at: Position, parent: Inode) -> list[Listed]:
    """As ``children``, but only what long listings show, in half the time."""
    found = [
        Listed(name, ino, _KINDS[kind], size, mtime, btime, tag, 0)
        for name, ino, kind, size, mtime, btime, tag in c.all(_LISTED, {"at": at, "parent": parent})
    ]
    if len({each.name for each in found}) == len(found):
        return sorted(found, key=lambda each: each.name)
    return [listed(entry.name, entry.attributes) for entry in children(c, at, parent)]


def places_of(c: Connection, at: Position, ino: Inode) -> list[tuple[Inode, bytes]]:
    """Return each (parent, name) of a node, the earliest entry first; the parent may be the trash."""
    rows = sorted(c.all(_PLACES, {"at": at, "ino": ino}), key=lambda row: (row[2], row[3]))
    return [(Inode(parent), name) for parent, name, _, _ in rows]


def parent_of(c: Connection, at: Position, ino: Inode) -> Inode | None:
    """Return the parent of a node's earliest entry (TRASH_INODE if it was deleted), None if it had no entry."""
    places = places_of(c, at, ino)
    return places[0][0] if places else None


def paths_of(c: Connection, at: Position, ino: Inode) -> list[bytes]:
    """Return all paths of a node, each beginning with ``/``; none if it was in the trash or had no entry."""
    if ino == ROOT_INODE:
        return [b"/"]
    return [
        above.rstrip(b"/") + b"/" + name
        for parent, name in places_of(c, at, ino)
        if parent != TRASH_INODE
        for above in paths_of(c, at, parent)
    ]


def walk(c: Connection, at: Position, ino: Inode) -> Iterator[tuple[tuple[bytes, ...], DirectoryEntry]]:
    """Yield (path below ``ino``, entry) for everything below a directory, sorted by name, each directory before its entries."""
    waiting: list[tuple[tuple[bytes, ...], DirectoryEntry]] = []
    waiting.extend(((entry.name,), entry) for entry in reversed(children(c, at, ino)))
    while waiting:
        path, entry = waiting.pop()
        yield path, entry
        if entry.attributes.is_directory:
            below = children(c, at, entry.attributes.inode)
            waiting.extend(((*path, child.name), child) for child in reversed(below))


def totals(c: Connection, at: Position) -> tuple[int, int]:
    """Return (files, bytes) outside the trash; a file with several names counts once. Reads the whole tree."""
    row = c.one(_TOTALS, {"at": at})
    return (row[0], row[1]) if row else (0, 0)
