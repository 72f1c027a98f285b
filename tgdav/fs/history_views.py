"""What ``/.snapshots``, ``/.versions`` and ``/.trash`` contain. ``tgdav.fs.history`` gives all of it to the front ends.

Each view is a tree of nodes that it knows by a number of its own, its *key*. ``number`` and ``split`` turn the view's region and
the key into an inode number and back, so no table of numbers is needed and a number stays the same while the process runs.
"""

import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Protocol

import msgspec

from tgdav.db import Connection
from tgdav.db.schema import PURGED_INODE, ROOT_INODE, TRASH_INODE
from tgdav.errors import NotADirectory, NotFound
from tgdav.fs.api import HISTORY_INODES
from tgdav.ids import Inode, NodeId, Position, SnapshotId
from tgdav.metadata import as_of, queries, snapshots, trash, versions
from tgdav.metadata.types import DIRECTORY, Attributes, Listed
from tgdav.metadata.versions import Version

_KEY_BITS = 40
_FIRST_REGION = HISTORY_INODES >> _KEY_BITS
LIST, MIRROR, DAYS, TRASH, SNAPSHOTS, VERSIONS = 0, 1, 2, 3, 1 << 10, 1 << 21
"""Regions. Each snapshot has one, from ``SNAPSHOTS`` on, and all versions of the same number, from ``VERSIONS`` on."""

_DAY = 86_400 * 1_000_000_000
_EPOCH = date(1970, 1, 1).toordinal()

_DELETED = (TRASH_INODE, PURGED_INODE)

Named = tuple[bytes, Attributes]


def number(region: int, key: int) -> Inode:
    """Return the inode number of a node of history."""
    return Inode((_FIRST_REGION + region) << _KEY_BITS | key)


def split(inode: Inode) -> tuple[int, int]:
    """Return the region and the key of a node of history."""
    return (inode >> _KEY_BITS) - _FIRST_REGION, inode & ((1 << _KEY_BITS) - 1)


class View(Protocol):
    """A tree of nodes by key. All methods raise NotFound if the node or the view is gone."""

    def attributes(self, c: Connection, key: int) -> Attributes:
        """Return a node's attributes, as the front ends see them."""
        ...

    def find(self, c: Connection, key: int, name: bytes, *, normalized: bool) -> Attributes:
        """Return what a name in a directory names. Raises NotADirectory too."""
        ...

    def children(self, c: Connection, key: int) -> list[Named]:
        """Return the entries of a directory, sorted by name. Raises NotADirectory too."""
        ...

    def parent(self, c: Connection, key: int) -> Inode:
        """Return the directory that contains a directory."""
        ...

    def content(self, c: Connection, key: int) -> bytes:
        """Return a file's encoded manifest, or a symlink's target."""
        ...

    def fields(self, c: Connection, keys: Sequence[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
        """Return the fields of nodes whose names begin with ``prefix``; nodes without any may be omitted."""
        ...


def _directory(inode: Inode, mode: int, time: int, like: Attributes | None = None) -> Attributes:
    """Return the attributes of a directory that only history has; ``like`` gives the owner."""
    uid, gid = (0, 0) if like is None else (like.uid, like.gid)
    times = (time, time, time, time)
    # One link: the number of sub-directories is not known (as on btrfs). With two, find(1) would look for none.
    return Attributes(inode, NodeId(b""), DIRECTORY, mode, uid, gid, 0, 1, 0, *times, None, 0, False)


def _renumbered(region: int, node: Attributes) -> Attributes:
    return msgspec.structs.replace(node, inode=number(region, node.inode))


def _require(node: Attributes | None) -> Attributes:
    if node is None:
        raise NotFound
    return node


def _require_directory(node: Attributes | None) -> None:
    if not _require(node).is_directory:
        raise NotADirectory


class _Directories:
    """A view of directories alone: no contents, no fields."""

    def content(self, c: Connection, key: int) -> bytes:  # noqa: ARG002
        """Return nothing."""
        return b""

    def fields(self, c: Connection, keys: Sequence[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:  # noqa: ARG002
        """Return nothing."""
        return {}


# ---- snapshots -------------------------------------------------------------------------------------------------------

_POSITION = "SELECT position FROM pins WHERE id = ?"


class SnapshotNumbers:
    """Gives each snapshot that is looked at a region. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: dict[SnapshotId, int] = {}
        self._snapshots: dict[int, SnapshotId] = {}

    def region(self, snapshot: SnapshotId) -> int:
        """Return a snapshot's region."""
        with self._lock:
            region = self._regions.setdefault(snapshot, SNAPSHOTS + len(self._regions))
            self._snapshots[region] = snapshot
            return region

    def snapshot(self, region: int) -> SnapshotId:
        """Return the snapshot of a region. Raises NotFound."""
        found = self._snapshots.get(region)
        if found is None:
            raise NotFound
        return found


class SnapshotList(_Directories):
    """``/.snapshots``: a directory for each snapshot."""

    def __init__(self, numbers: SnapshotNumbers) -> None:
        self._numbers = numbers

    def attributes(self, c: Connection, key: int) -> Attributes:
        """Return the attributes of the list itself, whose key is 0."""
        if key:
            raise NotFound
        newest = max((each.time for each in snapshots.listed(c)), default=0)
        return _directory(number(LIST, key), 0o755, newest)

    def find(self, c: Connection, key: int, name: bytes, *, normalized: bool) -> Attributes:  # noqa: ARG002
        """Return the root directory of the snapshot of that name."""
        found = snapshots.find(c, name.decode(errors="replace"))
        if found is None or found.name.encode() != name:
            raise NotFound("there is no snapshot of this name")
        return self._root(c, found.id)

    def children(self, c: Connection, key: int) -> list[Named]:  # noqa: ARG002
        """Return the root directories of all snapshots; of several with one name the newest."""
        newest = {each.name.encode(): each.id for each in snapshots.listed(c)}
        return [(name, self._root(c, snapshot)) for name, snapshot in sorted(newest.items())]

    def _root(self, c: Connection, snapshot: SnapshotId) -> Attributes:
        region = self._numbers.region(snapshot)
        return SnapshotTree(self._numbers, region).attributes(c, ROOT_INODE)

    def parent(self, c: Connection, key: int) -> Inode:  # noqa: ARG002
        """Return the root."""
        return Inode(ROOT_INODE)


class SnapshotTree:
    """One snapshot. Keys are inodes."""

    def __init__(self, numbers: SnapshotNumbers, region: int) -> None:
        self._snapshot, self._region = numbers.snapshot(region), region

    def _position(self, c: Connection) -> Position:
        row = c.one(_POSITION, (self._snapshot,))
        if row is None:
            raise NotFound("the snapshot was deleted")
        return Position(row[0])

    def attributes(self, c: Connection, key: int) -> Attributes:
        """Return a node's attributes."""
        return _renumbered(self._region, _require(as_of.attributes(c, self._position(c), Inode(key))))

    def find(self, c: Connection, key: int, name: bytes, *, normalized: bool) -> Attributes:
        """Return what a name names."""
        at = self._position(c)
        entry = as_of.find_entry(c, at, Inode(key), name, normalized=normalized)
        if entry is None:
            _require_directory(as_of.attributes(c, at, Inode(key)))
            raise NotFound
        return _renumbered(self._region, entry.attributes)

    def children(self, c: Connection, key: int) -> list[Named]:
        """Return the entries of a directory."""
        at = self._position(c)
        found = as_of.children(c, at, Inode(key))
        if not found:
            _require_directory(as_of.attributes(c, at, Inode(key)))
        return [(entry.name, _renumbered(self._region, entry.attributes)) for entry in found]

    def listing(self, c: Connection, key: int) -> list[Listed]:
        """As ``children``, but only what long listings show, in half the time."""
        at = self._position(c)
        found = as_of.listing(c, at, Inode(key))
        if not found:
            _require_directory(as_of.attributes(c, at, Inode(key)))
        return [msgspec.structs.replace(each, inode=number(self._region, each.inode)) for each in found]

    def parent(self, c: Connection, key: int) -> Inode:
        """Return the directory that contained a directory."""
        if key == ROOT_INODE:
            return number(LIST, 0)
        found = as_of.parent_of(c, self._position(c), Inode(key))
        if found is None or found in _DELETED:
            raise NotFound
        return number(self._region, found)

    def content(self, c: Connection, key: int) -> bytes:
        """Return a file's encoded manifest, or a symlink's target."""
        return as_of.manifest(c, self._position(c), Inode(key))

    def fields(self, c: Connection, keys: Sequence[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
        """Return the fields of nodes."""
        return as_of.fields(c, self._position(c), keys, prefix)


# ---- versions --------------------------------------------------------------------------------------------------------


class Mirror(_Directories):
    """``/.versions``: the live directories, and a directory of versions in the place of each file. Keys are live inodes."""

    @staticmethod
    def _is_shown(node: Attributes) -> bool:
        return node.is_directory or (node.is_file and not node.local)

    @staticmethod
    def _shown(node: Attributes) -> Attributes:
        """Return the directory that stands for a live directory or file."""
        # Who may read a file may read the list of its versions.
        mode = node.mode & 0o777 if node.is_directory else node.mode & 0o444 | (node.mode & 0o444) >> 2
        return _directory(number(MIRROR, node.inode), mode, node.mtime, node)

    def _node(self, c: Connection, key: int) -> Attributes:
        node = _require(queries.attributes(c, Inode(key)))
        if not self._is_shown(node):
            raise NotFound
        return node

    def attributes(self, c: Connection, key: int) -> Attributes:
        """Return the attributes of a directory."""
        return self._shown(self._node(c, key))

    def find(self, c: Connection, key: int, name: bytes, *, normalized: bool) -> Attributes:
        """Return what a name names."""
        if self._node(c, key).is_directory:
            entry = queries.find_entry(c, Inode(key), name, normalized=normalized)
            if entry is None or not self._is_shown(entry.attributes):
                raise NotFound
            return self._shown(entry.attributes)
        found = next((each for each in versions.versions_of(c, Inode(key)) if version_name(each) == name), None)
        if found is None:
            raise NotFound("there is no such version")
        return version_attributes(Inode(key), found)

    def children(self, c: Connection, key: int) -> list[Named]:
        """Return the entries of a directory, or the versions of a file."""
        if self._node(c, key).is_directory:
            found = queries.children(c, Inode(key))
            return [(entry.name, self._shown(entry.attributes)) for entry in found if self._is_shown(entry.attributes)]
        kept = versions.versions_of(c, Inode(key))
        return sorted((version_name(each), version_attributes(Inode(key), each)) for each in kept)

    def parent(self, c: Connection, key: int) -> Inode:
        """Return the directory that contains a directory."""
        if key == ROOT_INODE:
            return Inode(ROOT_INODE)
        found = queries.parent_of(c, Inode(key))
        if found is None or found in _DELETED:
            raise NotFound
        return number(MIRROR, found)


class Versions:
    """The versions of one number, of all files. A key is the inode of the file in whose history it is."""

    def __init__(self, region: int) -> None:
        self._number = region - VERSIONS

    def _version(self, c: Connection, key: int) -> Version:
        return find_version(c, Inode(key), self._number)

    def attributes(self, c: Connection, key: int) -> Attributes:
        """Return the attributes of a version."""
        return version_attributes(Inode(key), self._version(c, key))

    def find(self, c: Connection, key: int, name: bytes, *, normalized: bool) -> Attributes:  # noqa: ARG002
        """Raise NotADirectory."""
        raise NotADirectory

    def children(self, c: Connection, key: int) -> list[Named]:  # noqa: ARG002
        """Raise NotADirectory."""
        raise NotADirectory

    def parent(self, c: Connection, key: int) -> Inode:  # noqa: ARG002
        """Return the directory of the file's versions."""
        return number(MIRROR, key)

    def content(self, c: Connection, key: int) -> bytes:
        """Return the version's encoded manifest."""
        return versions.manifest_of(c, self._version(c, key))

    def fields(self, c: Connection, keys: Sequence[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:  # noqa: ARG002
        """Return nothing: fields are not kept with versions."""
        return {}


def find_version(c: Connection, inode: Inode, wanted: int) -> Version:
    """Return a version of a file by its number. Raises NotFound."""
    found = next((each for each in versions.versions_of(c, inode) if each.number == wanted), None)
    if found is None:
        raise NotFound(f"there is no version {wanted}")
    return found


def version_attributes(inode: Inode, version: Version) -> Attributes:
    """Return the attributes of a version of the file ``inode``."""
    node = version.attributes
    return msgspec.structs.replace(node, inode=number(VERSIONS + version.number, inode), nlink=1)


def version_name(version: Version) -> bytes:
    """Return a version's name: its number and the time when it was written, ``3-2026-12-01T10-15-00Z``."""
    moment = datetime.fromtimestamp(version.time // 1_000_000_000, UTC)
    return f"{version.number}-{moment:%Y-%m-%dT%H-%M-%SZ}".encode()


# ---- trash -----------------------------------------------------------------------------------------------------------


class TrashDays(_Directories):
    """``/.trash`` (key 0), and a directory for each day on which something in it was deleted (its ordinal)."""

    def attributes(self, c: Connection, key: int) -> Attributes:
        """Return the attributes of the trash or of a day."""
        top = _require(queries.attributes(c, Inode(TRASH_INODE)))
        if not key:
            # Deleted entries have left the directories whose modes protected them.
            last = next(reversed(trash.days(c)), None)
            return self._of_day(last, top.mode, key=0) if last else _directory(number(DAYS, 0), top.mode, top.mtime)
        day = _day(key)
        if day not in trash.days(c):
            raise NotFound
        return self._of_day(day, top.mode)

    @staticmethod
    def _of_day(day: str, mode: int, key: int | None = None) -> Attributes:
        """Return a directory with a day's time: that of the day, or that with another key."""
        ordinal = date.fromisoformat(day).toordinal()
        return _directory(number(DAYS, ordinal if key is None else key), mode, (ordinal - _EPOCH) * _DAY)

    def find(self, c: Connection, key: int, name: bytes, *, normalized: bool) -> Attributes:  # noqa: ARG002
        """Return a day, or what was deleted on it."""
        if not key:
            found = next((each for each in self.children(c, key) if each[0] == name), None)
            if found is None:
                raise NotFound("nothing was deleted on this day")
            return found[1]
        entry = trash.find_deleted(c, _day(key), name)
        if entry is None:
            raise NotFound
        return _in_trash(_require(queries.attributes(c, entry.inode)))

    def children(self, c: Connection, key: int) -> list[Named]:
        """Return the days, or what was deleted on one."""
        if not key:
            mode = self.attributes(c, 0).mode
            return [(day.encode(), self._of_day(day, mode)) for day in trash.days(c)]
        found = trash.deleted_on(c, _day(key))
        nodes = [(name, queries.attributes(c, entry.inode)) for name, entry in found]
        return sorted((name, _in_trash(node)) for name, node in nodes if node is not None)

    def parent(self, c: Connection, key: int) -> Inode:  # noqa: ARG002
        """Return the trash for a day, the root for the trash."""
        return number(DAYS, 0) if key else Inode(ROOT_INODE)


def _day(key: int) -> str:
    return date.fromordinal(min(key, date.max.toordinal())).isoformat()


def _in_trash(node: Attributes) -> Attributes:
    # A node without a name outside the trash has no link; programs must not take it for a removed one.
    return msgspec.structs.replace(node, inode=number(TRASH, node.inode), nlink=max(node.nlink, 1))


class TrashTree:
    """What was deleted, and all below it. Keys are inodes."""

    def attributes(self, c: Connection, key: int) -> Attributes:
        """Return a node's attributes."""
        return _in_trash(_require(queries.attributes(c, Inode(key))))

    def find(self, c: Connection, key: int, name: bytes, *, normalized: bool) -> Attributes:
        """Return what a name names."""
        entry = queries.find_entry(c, Inode(key), name, normalized=normalized)
        if entry is None:
            _require_directory(queries.attributes(c, Inode(key)))
            raise NotFound
        return _in_trash(entry.attributes)

    def children(self, c: Connection, key: int) -> list[Named]:
        """Return the entries of a directory."""
        found = queries.children(c, Inode(key))
        if not found:
            _require_directory(queries.attributes(c, Inode(key)))
        return [(entry.name, _in_trash(entry.attributes)) for entry in found]

    def parent(self, c: Connection, key: int) -> Inode:
        """Return the directory that contains a directory: for a deleted one, the day."""
        found = queries.parent_of(c, Inode(key))
        if found is None or found == PURGED_INODE:
            raise NotFound
        if found != TRASH_INODE:
            return number(TRASH, found)
        row = c.one("SELECT deleted FROM entries WHERE ino = ? AND deleted IS NOT NULL", (key,))
        return number(DAYS, row[0] // _DAY + _EPOCH if row else 0)

    def content(self, c: Connection, key: int) -> bytes:
        """Return a file's encoded manifest, or a symlink's target."""
        return queries.manifest(c, Inode(key))

    def fields(self, c: Connection, keys: Sequence[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
        """Return the fields of nodes."""
        return queries.fields(c, keys, prefix)
