"""What must be done to the present tree so that a part of it is again as of a position.

Nodes and entries are used again where they are in that part of the present tree or in the trash: a directory that was moved or
deleted comes back as a whole, and names of one file stay names of one file. A file that another one has replaced gets its
content back in place. What was purged, or is in use elsewhere, is made anew, with ids that follow from the restore's own id, so
that an interrupted restore continues with the same ones.
"""

import heapq
from collections.abc import Iterable, Iterator
from enum import Enum
from hashlib import blake2b
from itertools import count
from typing import NamedTuple

import msgspec

from tgdav.db import Connection
from tgdav.db.schema import ROOT_INODE, TRASH_INODE
from tgdav.ids import EntryId, Inode, NodeId, Position
from tgdav.metadata import as_of, queries
from tgdav.metadata.difference import NOW, Names, Side, changed_nodes
from tgdav.metadata.types import Attributes

_THEN_ENTRIES = """SELECT id, parent, name, ino FROM entries WHERE {key} = :ino AND since <= :at AND local = 0
UNION ALL SELECT id, parent, name, ino FROM entries_past WHERE {key} = :ino AND since <= :at AND until > :at"""
_THEN_ENTRIES_OF, _THEN_CHILDREN = _THEN_ENTRIES.format(key="ino"), _THEN_ENTRIES.format(key="parent")
_THEN_ENTRY = """SELECT id, parent, name, ino FROM entries WHERE parent = :ino AND name = :name AND since <= :at AND local = 0
UNION ALL SELECT id, parent, name, ino FROM entries_past
WHERE parent = :ino AND name = :name AND since <= :at AND until > :at"""
_NOW_ENTRIES = "SELECT id, parent, name, ino FROM entries WHERE ino = :ino AND local = 0"
_NOW_ENTRY = "SELECT id, parent, name, ino FROM entries WHERE id = :id AND local = 0"
_OCCUPANTS = "SELECT id, parent, name, ino FROM entries WHERE parent = :ino AND name = :name AND local = 0"


class Where(Enum):
    """Where a node's names are now."""

    INSIDE = 1
    """In the part that is restored."""
    OUTSIDE = 2
    TRASH = 3
    GONE = 4


class EntryRow(NamedTuple):
    """An entry and its place, as of the position or now."""

    id: EntryId
    parent: Inode
    name: bytes
    ino: Inode


class Target(msgspec.Struct, frozen=True):
    """The node that takes the place of a node of then. ``is_made``: it is made by the restore, if it is not there yet."""

    node: NodeId
    is_made: bool


class Want(NamedTuple):
    """An entry that there must be: ``name`` in the node ``parent``, naming ``node``. ``then`` is the node of then."""

    entry: EntryId
    node: Target
    parent: NodeId
    name: bytes
    then: Inode


class Plan(msgspec.Struct, frozen=True):
    """The steps in their order, each to be compared with the tree before it is taken.

    ``wants`` begin with those nearest to the top, ``removals`` (entries) too. ``nodes`` are nodes of then, and what takes their
    place; their attributes, contents and fields must be those of then. ``kept`` are the ids of all entries that stay.
    """

    wants: list[Want]
    nodes: dict[Inode, Target]
    removals: list[EntryId]
    kept: set[EntryId]


class Scope(msgspec.Struct, frozen=True):
    """The part that is restored: ``then`` is its top as of ``at``, ``now`` the top's path in the present tree, if it exists.

    ``base`` is the present directory in which the top's name is ``name``; None for the root. With ``copies`` everything is made
    anew, and nothing is removed.
    """

    at: Position
    then: Attributes
    now: Attributes | None
    base: NodeId | None
    name: bytes
    entry: EntryId
    copies: bool
    restore: bytes


def then_entry(c: Connection, at: Position, parent: Inode, name: bytes) -> EntryRow | None:
    """Return an entry as of a position."""
    row = c.one(_THEN_ENTRY, {"at": at, "ino": parent, "name": name})
    return EntryRow(*row) if row else None


def now_entry(c: Connection, entry: EntryId) -> EntryRow | None:
    """Return an entry as it is now, unless it is junk."""
    row = c.one(_NOW_ENTRY, {"id": entry})
    return EntryRow(*row) if row else None


def occupants(c: Connection, parent: Inode, name: bytes) -> list[EntryRow]:
    """Return the present entries of this name, junk excluded."""
    return [EntryRow(*row) for row in c.all(_OCCUPANTS, {"ino": parent, "name": name})]


class Planner:
    """Makes the plan. Use it within one read transaction."""

    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._c, self._scope = connection, scope
        self._then = Side(connection, scope.at, scope.then)
        self._now = None if scope.now is None else Side(connection, NOW, scope.now)
        self._targets: dict[Inode, Target] = {}
        self._adopted: dict[Inode, EntryId] = {}
        self._where: dict[Inode, Where] = {}
        self._wants: list[Want] = []
        self._kept: set[EntryId] = set()
        self._numbers = count()
        self._waiting: list[tuple[int, int, EntryRow]] = []

    def plan(self) -> Plan:
        """Return the plan."""
        scope = self._scope
        candidates = set() if scope.copies else changed_nodes(self._c, scope.at, NOW)
        if scope.base is None:
            self._targets[scope.then.inode] = Target(scope.then.node, is_made=False)
        else:
            self._wait(EntryRow(scope.entry, Inode(0), scope.name, scope.then.inode), 0)
        for ino in candidates:
            for row in self._entries_then(ino):
                above = self._then.paths(row.parent)
                if above and not (scope.base is not None and row.ino == scope.then.inode):
                    self._wait(row, 1 + min(map(len, above)))
        self._take_waiting()
        return Plan(self._wants, self._targets, list(self._removals(candidates)), self._kept)

    # ---- what there must be --------------------------------------------------------------------------------------

    def _wait(self, row: EntryRow, depth: int) -> None:
        heapq.heappush(self._waiting, (depth, next(self._numbers), row))

    def _take_waiting(self) -> None:
        """Turn entries of then into wants, those nearest to the top first: the parents of the others are known then."""
        seen: set[EntryId] = set()
        while self._waiting:
            depth, _, row = heapq.heappop(self._waiting)
            if row.id in seen:
                continue
            seen.add(row.id)
            is_top = row.parent == 0
            parent = Target(self._scope.base, is_made=False) if is_top else self._parent(row.parent)  # type: ignore[arg-type]
            if parent is None:
                continue
            target = self._target(row, parent)
            entry = self._adopted.get(row.ino) or self._entry(row, target)
            self._kept.add(entry)
            self._wants.append(Want(entry, target, parent.node, row.name, row.ino))
            if target.is_made:
                # All that was in it must be made too, changed or not.
                for child in self._c.all(_THEN_CHILDREN, {"at": self._scope.at, "ino": row.ino}):
                    self._wait(EntryRow(*child), depth + 1)

    def _parent(self, ino: Inode) -> Target | None:
        return self._targets.get(ino) or self._existing(ino)

    def _existing(self, ino: Inode) -> Target | None:
        node = queries.attributes(self._c, ino)
        return None if node is None or node.local else Target(node.node, is_made=False)

    def _target(self, row: EntryRow, parent: Target) -> Target:
        known = self._targets.get(row.ino)
        if known is None:
            known = self._targets[row.ino] = self._choose(row, parent)
        return known

    def _choose(self, row: EntryRow, parent: Target) -> Target:
        made = Target(NodeId(self._derived(b"node", row.ino.to_bytes(8, "big"))), is_made=True)
        if self._scope.copies:
            return made
        where, existing = self.where(row.ino), self._existing(row.ino)
        if existing is not None and where is Where.INSIDE:
            return existing
        occupant = self._adoptable(row, parent)
        if occupant is not None:
            self._adopted[row.ino] = occupant.id
            node = queries.node_id_of(self._c, occupant.ino)
            assert node is not None, "an entry names a node"
            return Target(node, is_made=False)
        return existing if existing is not None and where is Where.TRASH else made

    def _adoptable(self, row: EntryRow, parent: Target) -> EntryRow | None:
        """Return the entry of a file that has the wanted place now and may get the content of then."""
        directory = queries.inode_of(self._c, parent.node)
        found = [] if directory is None else occupants(self._c, directory, row.name)
        then = as_of.attributes(self._c, self._scope.at, row.ino)
        if len(found) != 1 or then is None or not then.is_file or len(self._entries_then(row.ino)) != 1:
            return None
        now = queries.attributes(self._c, found[0].ino)
        is_free = now is not None and now.is_file and now.nlink == 1 and not now.local
        # A file that was somewhere then goes back there.
        return found[0] if is_free and not self._then.paths(found[0].ino) else None

    def _entry(self, row: EntryRow, target: Target) -> EntryId:
        now = None if target.is_made else now_entry(self._c, row.id)
        if now is not None and now.ino == row.ino and self._place(now.parent) in (Where.INSIDE, Where.TRASH):
            return row.id
        if now is not None and self._is_top(now):
            return row.id
        return EntryId(self._derived(b"entry", row.id))

    def _is_top(self, row: EntryRow) -> bool:
        return self._scope.now is not None and row.ino == self._scope.now.inode and self._scope.base is not None

    def _derived(self, kind: bytes, identity: bytes) -> bytes:
        return blake2b(identity, digest_size=16, key=self._scope.restore, person=kind).digest()

    def _entries_then(self, ino: Inode) -> list[EntryRow]:
        return [EntryRow(*row) for row in self._c.all(_THEN_ENTRIES_OF, {"at": self._scope.at, "ino": ino})]

    # ---- what is there now ---------------------------------------------------------------------------------------

    def where(self, ino: Inode) -> Where:
        """Return where a node's names are now; inside counts before outside, that before the trash."""
        places = [Where.INSIDE if self._is_top(row) else self._place(row.parent) for row in self._entries_now(ino)]
        return min(places, key=lambda place: place.value, default=Where.GONE)

    def _entries_now(self, ino: Inode) -> list[EntryRow]:
        return [EntryRow(*row) for row in self._c.all(_NOW_ENTRIES, {"ino": ino})]

    def _place(self, directory: Inode) -> Where:
        """Return where an entry in this directory is."""
        climbed: list[Inode] = []
        place = None
        while place is None and directory not in climbed:
            place = self._known_place(directory)
            climbed.append(directory)
            rows = self._entries_now(directory) if place is None else []
            place = place or (None if rows else Where.GONE)
            directory = rows[0].parent if rows else directory
        found = place or Where.GONE
        self._where.update((each, found) for each in climbed)
        return found

    def _known_place(self, directory: Inode) -> Where | None:
        if self._now is not None and directory == self._now.top.inode:
            return Where.INSIDE
        fixed = {Inode(ROOT_INODE): Where.OUTSIDE, Inode(TRASH_INODE): Where.TRASH}
        return fixed.get(directory) or self._where.get(directory)

    def _removals(self, candidates: Iterable[Inode]) -> Iterator[EntryId]:
        """Yield the entries inside that were not there then, those nearest to the top first."""
        found: list[tuple[int, EntryId]] = []
        if self._now is not None:
            for ino in candidates:
                for row in self._entries_now(ino):
                    above: list[Names] = self._now.paths(row.parent)
                    if above and row.id not in self._kept:
                        found.append((min(map(len, above)), row.id))
        yield from (entry for _, entry in sorted(found))
