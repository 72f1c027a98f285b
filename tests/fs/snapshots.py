"""Whole trees as plain values, to compare two file systems; and what a crash may leave of a file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.model_content import SparseBytes
from tgdav.fs.api import FileSystem
from tgdav.metadata.types import Attributes, Kind

WHOLE = 4 * 1024 * 1024
WINDOW = 256 * 1024

Look = tuple[int, tuple[bytes, ...]]
"""A content's size and its bytes; of a larger one, windows where the tests write."""


@dataclass(frozen=True)
class Shown:
    """What a tree shows at a path. ``twin`` is the first path of the same node."""

    twin: tuple[bytes, ...]
    kind: Kind
    mode: int
    owner: tuple[int, int]
    rdev: int
    nlink: int
    size: int
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    properties: tuple[tuple[bytes, bytes], ...]
    content: Look | None


Path = tuple[bytes, ...]
Snapshot = dict[Path, Shown]


def snapshot(file_system: FileSystem, windows: tuple[int, ...]) -> Snapshot:
    """Return all that a file system shows; contents are read whole, huge ones at ``windows``."""
    first: dict[int, Path] = {}
    shown: Snapshot = {}
    for path, attributes in walk(file_system):
        twin = first.setdefault(attributes.inode, path)
        shown[path] = _show(file_system, attributes, twin, windows)
    return shown


def walk(file_system: FileSystem) -> Iterator[tuple[Path, Attributes]]:
    """Yield every path and what it names, the root first, each directory before what it holds."""
    waiting: list[tuple[Path, Attributes]] = [((), file_system.attributes(file_system.root))]
    while waiting:
        path, attributes = waiting.pop(0)
        yield path, attributes
        if attributes.is_directory:
            entries = file_system.list_directory(attributes.inode)
            waiting.extend(((*path, entry.name), entry.attributes) for entry in entries)


def look(read: Callable[[int, int], bytes], size: int, windows: tuple[int, ...]) -> Look:
    if size <= WHOLE:
        return size, (read(0, WHOLE),)
    starts = [*windows, size - WINDOW]
    return size, tuple(read(max(start - WINDOW // 2, 0), WINDOW) for start in starts)


def content_of(file_system: FileSystem, attributes: Attributes, windows: tuple[int, ...]) -> Look:
    handle = file_system.open(attributes.inode)
    try:
        return look(handle.read, attributes.size, windows)
    finally:
        handle.close()


def _show(file_system: FileSystem, attributes: Attributes, twin: Path, windows: tuple[int, ...]) -> Shown:
    inode = attributes.inode
    names = file_system.list_xattrs(inode)
    return Shown(
        twin=twin,
        kind=attributes.kind,
        mode=attributes.mode,
        owner=(attributes.uid, attributes.gid),
        rdev=attributes.rdev,
        nlink=attributes.nlink,
        size=attributes.size if attributes.kind in (Kind.FILE, Kind.SYMLINK) else 0,
        target=file_system.read_link(inode) if attributes.kind == Kind.SYMLINK else b"",
        xattrs=tuple((name, file_system.get_xattr(inode, name)) for name in sorted(names)),
        properties=tuple(sorted(file_system.properties([inode]).get(inode, {}).items())),
        content=content_of(file_system, attributes, windows) if attributes.is_file else None,
    )


class Survivors:
    """The contents of one file that a crash may leave: the last committed one, and each later state in turn."""

    def __init__(self, committed: SparseBytes) -> None:
        self._states: list[tuple[int, SparseBytes]] = [(0, committed.copy())]

    def written(self, handle: int, content: SparseBytes) -> None:
        """Note the content after a write or truncation through ``handle``."""
        self._states.append((handle, content.copy()))

    def synced(self) -> None:
        """Note that everything up to now must survive."""
        del self._states[:-1]

    def committed(self, handle: int) -> None:
        """Note that what ``handle`` wrote must survive, and so all before it."""
        of_handle = [number for number, (by, _) in enumerate(self._states) if by == handle]
        del self._states[: of_handle[-1] if of_handle else 0]

    def resized(self, size: int) -> None:
        """Note a truncation by itself, which must survive on whatever it found."""
        for _, content in self._states:
            content.truncate(size)

    def choose(self, left: Look, windows: tuple[int, ...]) -> SparseBytes | None:
        """Return the allowed content that ``left`` is, or None. Of an append, a beginning is allowed."""
        before: SparseBytes | None = None
        for _, content in self._states:
            allowed = content.copy()
            if before and before.size < left[0] < content.size and _extends(content, before):
                allowed.truncate(left[0])
            if look(allowed.read, allowed.size, windows) == left:
                return allowed
            before = content
        return None


def _extends(content: SparseBytes, before: SparseBytes) -> bool:
    """Whether ``content`` is ``before`` with more at its end."""
    beginning = content.copy()
    beginning.truncate(before.size)
    return beginning.tag() == before.tag()
