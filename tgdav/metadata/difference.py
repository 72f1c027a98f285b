"""What differs between two states of the tree, by path: of two snapshots, or of a snapshot and the present.

Rows that changed between the two positions name the candidates: one scan of the tables, then work in proportion to the
changes, not to the tree. Only below directories that one state has and the other has not, every path is looked at.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property

import msgspec

from tgdav.db import Connection
from tgdav.ids import Inode, Position
from tgdav.metadata import as_of
from tgdav.metadata.types import Attributes, DirectoryEntry

NOW = Position(1 << 62)
"""As a position: the present state, without junk."""

ADDED, REMOVED, CHANGED, RENAMED = "added", "removed", "changed", "renamed"

# A change of an entry or a field changes the ctime of its node, so the rows of nodes tell all.
_NODES = """SELECT ino FROM nodes WHERE since > :first AND since <= :last AND local = 0
UNION SELECT ino FROM nodes_past WHERE (since > :first AND since <= :last) OR (until > :first AND until <= :last)"""

Names = tuple[bytes, ...]
"""A path below the top of the comparison; empty for the top itself."""


class Difference(msgspec.Struct, frozen=True):
    """One path that differs. ``names`` is where it is in the second state; where it was, if that does not have it.

    ``source`` is the path that a renamed node had in the first state. ``size`` is in bytes. A renamed node may differ too
    (``modified``).
    """

    names: Names
    change: str
    size: int
    source: Names | None = None
    modified: bool = False


def changed_nodes(c: Connection, first: Position, last: Position) -> set[Inode]:
    """Return the nodes whose attributes, content, fields or names changed after ``first`` and not after ``last``."""
    return {row[0] for row in c.each(_NODES, {"first": first, "last": last})}


class Side:
    """One of the two states: the tree below ``top`` as of a position. What was found once is not asked for again."""

    def __init__(self, connection: Connection, at: Position, top: Attributes) -> None:
        self.connection, self.at, self.top = connection, at, top
        self._found: dict[Names, DirectoryEntry | None] = {(): DirectoryEntry(b"", b"", top)}  # type: ignore[arg-type]
        self._paths: dict[Inode, list[Names]] = {top.inode: [()]}
        self._fields: dict[Inode, dict[bytes, bytes]] = {}

    def find(self, names: Names) -> DirectoryEntry | None:
        """Return what a path names, None if it does not exist."""
        if names not in self._found:
            parent = self.find(names[:-1])
            is_directory = parent is not None and parent.attributes.is_directory
            self._found[names] = self._entry(parent, names[-1]) if parent is not None and is_directory else None
        return self._found[names]

    def _entry(self, parent: DirectoryEntry, name: bytes) -> DirectoryEntry | None:
        return as_of.find_entry(self.connection, self.at, parent.attributes.inode, name)

    def below(self, names: Names) -> list[Names]:
        """Return the paths of all entries of a directory; none if it is something else."""
        entry = self.find(names)
        if entry is None or not entry.attributes.is_directory:
            return []
        children = as_of.children(self.connection, self.at, entry.attributes.inode)
        found = {(*names, child.name): child for child in children}
        self._found.update(found)
        inodes = [child.attributes.inode for child in children]
        # One statement for all of a directory.
        known = as_of.fields(self.connection, self.at, inodes, b"")
        self._fields.update((ino, known.get(ino, {})) for ino in inodes)
        return list(found)

    def paths(self, ino: Inode) -> list[Names]:
        """Return all paths of a node below the top."""
        known = self._paths.get(ino)
        if known is None:
            places = as_of.places_of(self.connection, self.at, ino)
            known = [(*above, name) for parent, name in places for above in self.paths(parent)]
            self._paths[ino] = known
        return known

    def fields(self, ino: Inode) -> dict[bytes, bytes]:
        """Return a node's extended attributes and properties."""
        if ino not in self._fields:
            self._fields[ino] = as_of.fields(self.connection, self.at, [ino], b"").get(ino, {})
        return self._fields[ino]


class Comparison:
    """Compares two states. Use it within one read transaction. ``times``: the times of directories count too."""

    def __init__(self, before: Side, after: Side, *, times: bool = False) -> None:
        self._before, self._after, self._times = before, after, times
        self._connection = before.connection
        self._renamed: dict[Names, Names] = {}
        self._used: set[Names] = set()

    @cached_property
    def _positions(self) -> tuple[Position, Position]:
        first, last = sorted((self._before.at, self._after.at))
        return first, last

    @cached_property
    def _nodes(self) -> set[Inode]:
        return changed_nodes(self._connection, *self._positions)

    def run(self) -> list[Difference]:
        """Return all differences, sorted by path."""
        come, gone = deque[Names](), deque[Names]()
        found = list(self._in_both(self._candidates(), come, gone))
        found += self._come(come)
        found += self._gone(gone)
        return sorted(found, key=lambda each: each.names)

    def _candidates(self) -> dict[Names, None]:
        """Return the paths, in either state, of all that changed."""
        found: dict[Names, None] = {(): None}
        sides = (self._before, self._after)
        for ino in self._nodes:
            for side in sides:
                found.update((path, None) for path in side.paths(ino))
        return found

    def _in_both(self, candidates: dict[Names, None], come: deque[Names], gone: deque[Names]) -> Iterator[Difference]:
        waiting = deque(candidates)
        while waiting:
            names = waiting.popleft()
            before, after = self._before.find(names), self._after.find(names)
            if before is None or after is None:
                (gone if after is None else come).append(names)
                continue
            if self._is_modified(before.attributes, after.attributes):
                yield Difference(names, CHANGED, after.attributes.size)
            if before.attributes.inode != after.attributes.inode:
                more = [*self._before.below(names), *self._after.below(names)]
                waiting.extend(each for each in more if each not in candidates)
                candidates.update(dict.fromkeys(more))

    def _come(self, come: deque[Names]) -> Iterator[Difference]:
        """Yield what is new or renamed. A path that neither state has is nothing."""
        seen = set(come)
        waiting = deque(sorted(come))
        while waiting:
            names = waiting.popleft()
            after = self._after.find(names)
            if after is None:
                continue
            source = self._source(after)
            if source is None:
                yield Difference(names, ADDED, after.attributes.size)
                more = [each for each in self._after.below(names) if each not in seen]
                seen.update(more)
                waiting.extend(more)
                continue
            self._used.add(source)
            before = self._before.find(source)
            assert before is not None, "it was just found there"
            modified = self._is_modified(before.attributes, after.attributes)
            # What is below a renamed directory came with it.
            came_along = self._renamed.get(names[:-1]) == source[:-1] and source[-1:] == names[-1:]
            self._renamed[names] = source
            if modified or not came_along:
                yield Difference(names, RENAMED, after.attributes.size, source, modified)

    def _source(self, after: DirectoryEntry) -> Names | None:
        """Return a path that the node had before and that names nothing now."""
        paths = self._before.paths(after.attributes.inode)
        return next((each for each in paths if each not in self._used and self._after.find(each) is None), None)

    def _gone(self, gone: deque[Names]) -> Iterator[Difference]:
        seen = set(gone)
        waiting = deque(sorted(gone))
        while waiting:
            names = waiting.popleft()
            before = self._before.find(names)
            if before is None or names in self._used:
                continue
            yield Difference(names, REMOVED, before.attributes.size)
            more = [each for each in self._before.below(names) if each not in seen]
            seen.update(more)
            waiting.extend(more)

    def _is_modified(self, before: Attributes, after: Attributes) -> bool:
        if before.inode == after.inode and before.inode not in self._nodes:
            return False
        return self._compared(before) != self._compared(after) or self._has_other_content(before, after)

    def _compared(self, node: Attributes) -> tuple[object, ...]:
        """Return the attributes that count. A directory's mtime changes with its entries, which are compared themselves."""
        same = (node.kind, node.mode, node.uid, node.gid, node.rdev)
        if node.is_directory:
            return (*same, node.mtime) if self._times else same
        return (*same, node.mtime, node.size, node.tag)

    def _has_other_content(self, before: Attributes, after: Attributes) -> bool:
        first, second = self._before, self._after
        if first.fields(before.inode) != second.fields(after.inode):
            return True
        # A file's content is known by its tag; a symlink has only its target.
        return before.tag is None and as_of.manifest(self._connection, first.at, before.inode) != as_of.manifest(
            self._connection, second.at, after.inode
        )


def path_of(names: Iterable[bytes], top: bytes = b"") -> bytes:
    """Return names as a path that begins with ``/``, below the path ``top``."""
    return top.rstrip(b"/") + b"/" + b"/".join(names) if names else top or b"/"
