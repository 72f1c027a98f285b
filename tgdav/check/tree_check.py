"""Checks the tree itself: entries and nodes fit, link counts are right, and every directory leads up to the root or the trash."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from tgdav.check.problem import Problems, State
from tgdav.db.connection import Connection
from tgdav.db.schema import PURGED_INODE, ROOT_INODE, TRASH_INODE
from tgdav.ids import Inode
from tgdav.metadata.types import DIRECTORY

# The index of inodes covers the query: the rows come in its order, without sorting.
_PLACES = "SELECT ino, parent FROM entries ORDER BY ino"
_DIRECTORIES = (
    "SELECT n.ino, e.parent FROM nodes n LEFT JOIN entries e ON e.ino = n.ino WHERE n.kind = 2 ORDER BY n.ino"
)
_NODES = "SELECT ino, kind, nlink FROM nodes ORDER BY ino"

_TOPS = (ROOT_INODE, TRASH_INODE)
Directories = dict[Inode, list[Inode]]
"""The parents of each directory."""


def check_tree(connection: Connection, problems: Problems) -> None:
    """Add what is wrong to ``problems``. It reads every entry once and every node twice, and remembers only directories."""
    directories = _directories(connection)
    deleted = _below_trash(directories, problems)
    subdirectories = Counter(parent for parents in directories.values() for parent in parents)
    entries = groupby(connection.each(_PLACES), key=itemgetter(0))
    place = next(entries, None)
    for ino, kind, nlink in connection.each(_NODES):
        while place is not None and place[0] < ino:
            problems.add("entries name a missing file or directory")
            place = next(entries, None)
        parents: list[Inode] = []
        if place is not None and place[0] == ino:
            parents = [row[1] for row in place[1]]
            place = next(entries, None)
        if any(parent not in directories and parent != PURGED_INODE for parent in parents):
            problems.add("entries are in a missing directory", State(ino))
        if kind == DIRECTORY:
            right = 2 + subdirectories[ino] if ino != TRASH_INODE else 2
            if len(parents) > 1 or (parents and ino in _TOPS):
                problems.add("directories have more than one entry", State(ino))
        else:
            right = sum(parent not in deleted for parent in parents)
        if nlink != right:
            problems.add("files or directories have a wrong link count", State(ino))
    while place is not None:
        problems.add("entries name a missing file or directory")
        place = next(entries, None)
    for ino in _TOPS:
        if ino not in directories:
            problems.add("root or trash directories are missing")


def _directories(connection: Connection) -> Directories:
    found: Directories = {}
    for ino, parent in connection.each(_DIRECTORIES):
        parents = found.setdefault(ino, [])
        if parent is not None:
            parents.append(parent)
    return found


def _below_trash(directories: Directories, problems: Problems) -> set[Inode]:
    """Return the trash, the parent of what was purged, and all directories below.

    A directory that leads neither there nor to the root is in a cycle.
    """
    is_deleted = {Inode(ROOT_INODE): False, Inode(TRASH_INODE): True, Inode(PURGED_INODE): True}
    for directory in directories:
        above = list(_up(directory, directories, is_deleted))
        last = above[-1] if above else directory
        if last in is_deleted:
            found = is_deleted[last]
        else:
            # The way up ends in a directory without an entry, or comes back to one that it has passed.
            found = False
            if directories.get(last):
                problems.add("directories are below themselves", State(directory))
        is_deleted.update(dict.fromkeys((each for each in above if each not in is_deleted), found))
    return {directory for directory, deleted in is_deleted.items() if deleted}


def _up(directory: Inode, directories: Directories, known: dict[Inode, bool]) -> Iterator[Inode]:
    """Yield a directory and those above it, up to one that is known, has no entry, or would repeat."""
    seen = set[Inode]()
    while directory not in seen:
        yield directory
        parents = directories.get(directory, [])
        if directory in known or not parents:
            return
        seen.add(directory)
        directory = parents[0]
