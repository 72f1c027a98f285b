"""Open files and uploads of the model file system."""

from collections.abc import Callable, Mapping
from threading import RLock
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, Self, TypeVar

from tests.support.model_content import SparseBytes
from tests.support.model_tree import Node, Tree
from tgdav.errors import BadHandle, InvalidArgument, IsADirectory, NoSpace
from tgdav.fs.api import Owner, Precondition, PropertiesOf
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, Kind


class Locked(Protocol):
    lock: RLock


S = TypeVar("S", bound=Locked)
P = ParamSpec("P")
R = TypeVar("R")


def locked(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run a method under its object's one lock."""

    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return run


class Space:
    """How many bytes there are for all files; None: no end."""

    def __init__(self, tree: Tree, total: int | None) -> None:
        self.tree = tree
        self.total = total

    @property
    def used(self) -> int:
        return sum(node.content.stored for node in self.tree.nodes.values())

    def take(self, count: int) -> None:
        """Raise NoSpace if ``count`` bytes more do not fit."""
        if self.total is not None and self.used + count > self.total:
            raise NoSpace


class ModelHandle:
    """An open file, by the contract of ``FileHandle``."""

    def __init__(self, tree: Tree, space: Space, lock: RLock, node: Node, *, writable: bool) -> None:
        self.inode = node.inode
        self.lock = lock
        self._tree = tree
        self._space = space
        self._node = node
        self._writable = writable
        self._open = True
        self._kept: SparseBytes | None = None
        node.handles += 1

    @locked
    def read(self, offset: int, length: int) -> bytes:
        self._check()
        return (self._kept or self._node.content).read(offset, length)

    @locked
    def keep_content(self) -> bytes | None:
        self._check()
        if self._node.dirty:
            return None
        self._kept = self._node.content.copy()
        return self._tree.attributes(self._node).tag or b""

    def is_here(self) -> bool:
        return self._kept is not None

    @locked
    def write(self, offset: int, data: bytes | bytearray | memoryview, *, append: bool = False) -> int:
        self._check(writing=True)
        self._space.take(len(data))
        self._node.content.write(self._node.size if append else offset, bytes(data))
        if data:
            self._changed()
        return len(data)

    @locked
    def truncate(self, size: int) -> None:
        self._check(writing=True)
        self._node.content.truncate(size)
        self._changed()

    @locked
    def fsync(self) -> None:
        self._check()
        self._node.keep()

    @locked
    def flush(self) -> None:
        self._check()
        self._node.flush()

    @locked
    def close(self) -> None:
        if self._open:
            self._open = False
            if self._writable:
                self._node.flush()
            self._node.handles -= 1
            self._tree.forget_unused(self._node)

    def _check(self, *, writing: bool = False) -> None:
        if not self._open or (writing and not self._writable):
            raise BadHandle

    def _changed(self) -> None:
        self._node.dirty += 1
        self._node.mtime = self._node.ctime = self._tree.clock.now_ns()


class ModelUpload:
    """New content on its way, by the contract of ``Upload``."""

    def __init__(
        self,
        tree: Tree,
        space: Space,
        lock: RLock,
        parent: Inode,
        name: bytes,
        owner: Owner,
        mode: int,
        normalized: bool,
    ) -> None:
        self.lock = lock
        self._tree = tree
        self._space = space
        self._parent = parent
        self._name = name
        self._owner = owner
        self._mode = mode
        self._normalized = normalized
        self._content: SparseBytes | None = SparseBytes()

    @locked
    def write(self, data: bytes | bytearray | memoryview) -> None:
        content = self._live()
        self._space.take(content.size + len(data))
        content.write(content.size, bytes(data))

    @locked
    def commit(
        self,
        *,
        precondition: Precondition | None = None,
        mtime: int | None = None,
        btime: int | None = None,
        properties: PropertiesOf | None = None,
        durable: bool = True,
    ) -> tuple[Attributes, bool]:
        content = self._live()
        folder = self._tree.folder(self._parent)
        found = self._tree.find(folder, self._name, normalized=self._normalized)
        if precondition:
            precondition(self._tree.attributes(found[1]) if found else None)
        if found:
            check_file(found[1])
        node = found[1] if found else self._tree.make(Kind.FILE, self._mode, self._owner)
        node.content = content
        node.ctime = self._tree.clock.now_ns()
        node.mtime = node.ctime if mtime is None else mtime
        node.btime = node.btime if btime is None else btime
        node.flush()
        tag = self._tree.attributes(node).tag
        assert tag is not None
        set_values(node.properties, properties(tag) if properties else {})
        if not found:
            self._tree.place(folder, self._name, node)
        self._content = None
        return self._tree.attributes(node), not found

    @locked
    def abort(self) -> None:
        self._content = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _live(self) -> SparseBytes:
        if self._content is None:
            raise BadHandle("the upload is over")
        return self._content


def check_file(node: Node) -> None:
    """Refuse a node that has no content. Raises IsADirectory, InvalidArgument."""
    if node.is_directory:
        raise IsADirectory
    if node.kind != Kind.FILE:
        raise InvalidArgument("not a regular file")


def set_values(kept: dict[bytes, bytes], values: Mapping[bytes, bytes | None]) -> None:
    """Set each value; None removes."""
    for name, value in values.items():
        kept.pop(name, None)
        if value is not None:
            kept[name] = value
