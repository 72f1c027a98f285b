"""Reads all that a vault shows, present and past, as plain values."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from tgdav.errors import TgdavError
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.metadata.types import Attributes, Kind

Path = tuple[bytes, ...]


class Shown(NamedTuple):
    """What a path shows. ``twin`` is the first path of the same node; ``rest`` are attributes that the model does not know."""

    kind: Kind
    mode: int
    mtime: int
    links: int
    twin: Path
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    properties: tuple[tuple[bytes, bytes], ...]
    rest: tuple[int, ...] = ()


Tree = dict[Path, Shown]


class Version(NamedTuple):
    """An earlier content of a file."""

    number: int
    time: bytes
    content: bytes


class Trashed(NamedTuple):
    """An entry of ``trash list``."""

    former: bytes
    path: bytes
    deleted: int
    bytes: int


@dataclass
class Observed:
    """All that a vault shows. ``trees``: the day and the tree of each entry in the trash. ``inodes``: those of the live tree."""

    live: Tree
    inodes: dict[Path, int] = field(default_factory=dict)
    snapshots: dict[str, Tree] = field(default_factory=dict)
    versions: dict[Path, list[Version]] = field(default_factory=dict)
    trash: list[Trashed] = field(default_factory=list)
    trees: list[tuple[bytes, Tree]] = field(default_factory=list)


def observe(fs: NamespaceFileSystem) -> Observed:
    """Read everything. What cannot be read is a broken promise."""
    with _named("live tree"):
        found = Observed(read_tree(fs, fs.attributes(fs.root)))
        found.inodes = {path: fs.resolve(path).inode for path in found.live}
    with _named("snapshots"):
        for name, top in _list(fs, b".snapshots"):
            found.snapshots[name.decode()] = read_tree(fs, top)
    with _named("versions"):
        _read_versions(fs, found)
    with _named("trash"):
        _read_trash(fs, found)
    return found


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except TgdavError as error:
        raise AssertionError(f"{what}: cannot be read: {error!r}") from error


def _read_versions(fs: NamespaceFileSystem, found: Observed) -> None:
    for path, shown in found.live.items():
        if shown.kind == Kind.FILE:
            found.versions[path] = _versions(fs, path, shown)


def _read_trash(fs: NamespaceFileSystem, found: Observed) -> None:
    found.trash = [Trashed(each.former, each.path, each.deleted, each.bytes) for each in fs.trash.items()]
    for day, top in _list(fs, b".trash"):
        for entry in fs.list_directory(top.inode):
            found.trees.append((day, read_tree(fs, entry.attributes)))


def _list(fs: NamespaceFileSystem, name: bytes) -> list[tuple[bytes, Attributes]]:
    top = fs.lookup(fs.root, name)
    return [(entry.name, entry.attributes) for entry in fs.list_directory(top.inode)]


def read_tree(fs: NamespaceFileSystem, top: Attributes) -> Tree:
    """Read a node and everything below it."""
    found: Tree = {}
    first: dict[int, Path] = {}
    waiting: list[tuple[Path, Attributes]] = [((), top)]
    while waiting:
        path, node = waiting.pop(0)
        found[path] = _shown(fs, node, first.setdefault(node.inode, path))
        if node.is_directory:
            waiting += [((*path, entry.name), entry.attributes) for entry in fs.list_directory(node.inode)]
    # The first path of a node is the first in order, whatever the order of reading.
    names: dict[Path, Path] = {}
    for path in sorted(found):
        twin = found[path].twin
        found[path] = found[path]._replace(twin=names.setdefault(twin, path))
    return found


def _shown(fs: NamespaceFileSystem, node: Attributes, twin: Path) -> Shown:
    content = b""
    if node.is_file:
        content = read_file(fs, node)
    elif node.kind == Kind.SYMLINK:
        content = fs.read_link(node.inode)
    xattrs = tuple((name, fs.get_xattr(node.inode, name)) for name in sorted(fs.list_xattrs(node.inode)))
    properties = tuple(sorted(fs.properties([node.inode]).get(node.inode, {}).items()))
    rest = (node.uid, node.gid, node.rdev, node.ctime, node.btime)
    return Shown(node.kind, node.mode, node.mtime, node.nlink, twin, content, xattrs, properties, rest)


def read_file(fs: NamespaceFileSystem, node: Attributes) -> bytes:
    handle = fs.open(node.inode)
    try:
        content = handle.read(0, node.size + 1)
    finally:
        handle.close()
    assert len(content) == node.size, f"a file of {node.size} bytes has a content of {len(content)}"
    return content


def _versions(fs: NamespaceFileSystem, path: Path, shown: Shown) -> list[Version]:
    """The earlier contents of a file; the list ends with the present one, which must be what the file shows."""
    top = fs.resolve([b".versions", *path])
    found = []
    for entry in fs.list_directory(top.inode):
        number, _, time = entry.name.partition(b"-")
        found.append(Version(int(number), time, read_file(fs, entry.attributes)))
    found.sort()
    assert found, f"versions: {path} shows none, not even its present content"
    assert found[-1].content == shown.content, f"versions: the last one of {path} is not its present content"
    numbers = [each.number for each in found]
    assert len(set(numbers)) == len(numbers), f"versions: {path} has two of one number: {numbers}"
    return found[:-1]
