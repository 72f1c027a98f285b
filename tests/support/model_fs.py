"""The file system as it should be: in memory, in plain Python, under one lock. Everything in it is durable at once."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from threading import RLock

from tests.support.model_files import ModelHandle, ModelUpload, Space, check_file, locked, set_values
from tests.support.model_moves import Moves
from tests.support.model_tree import ROOT, Node, Tree
from tgdav import errors
from tgdav.clock import Clock, SystemClock
from tgdav.fs.api import NOBODY, Capacity, FileSystem, LockRecord, Owner, Precondition, RenameFlag, XattrFlag
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Attributes, DirectoryEntry, Kind, Listed, listed

XATTR_MAX = 64 * 1024


class ModelFileSystem:
    """An oracle for every file system, and a stand-in for one under a front end.

    ``total`` bytes fit into it (None: no end); past that, writes raise errors.NoSpace.
    """

    def __init__(self, clock: Clock | None = None, *, total: int | None = None) -> None:
        self.lock = RLock()
        self.root = ROOT
        self._tree = Tree(clock or SystemClock())
        self._space = Space(self._tree, total)
        self._locks: dict[str, LockRecord] = {}

    # ---- looking -------------------------------------------------------------------------------------------------

    @locked
    def lookup(self, parent: Inode, name: bytes, *, normalized: bool = False) -> Attributes:
        return self._tree.attributes(self._tree.get(self._tree.folder(parent), name, normalized=normalized))

    @locked
    def resolve(self, path: Sequence[bytes], *, normalized: bool = False) -> Attributes:
        return reduce(
            lambda at, name: self.lookup(at.inode, name, normalized=normalized), path, self.attributes(self.root)
        )

    @locked
    def attributes(self, inode: Inode, *, removed: bool = False) -> Attributes:
        return self._tree.attributes(self._tree.node(inode))

    @locked
    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        return list(self._tree.entries(self._tree.folder(inode)))

    def list_briefly(self, inode: Inode) -> list[Listed]:
        return [listed(entry.name, entry.attributes) for entry in self.list_directory(inode)]

    @locked
    def parent(self, inode: Inode) -> Inode:
        return self._tree.folder(inode).parent or self.root

    @locked
    def read_link(self, inode: Inode) -> bytes:
        node = self._tree.node(inode)
        if node.kind != Kind.SYMLINK:
            raise errors.InvalidArgument("not a symlink")
        return node.target

    @locked
    def capacity(self) -> Capacity:
        used = self._space.used
        total = 2**40 if self._space.total is None else self._space.total
        return Capacity(total, max(total - used, 0), used, len(self._tree.nodes))

    @locked
    def allocated(self, attributes: Attributes) -> int:
        return attributes.size

    def upload_state(self, inode: Inode) -> str:
        self._tree.node(inode)
        return "local"

    # ---- names ---------------------------------------------------------------------------------------------------

    @locked
    def create(
        self,
        parent: Inode,
        name: bytes,
        kind: Kind,
        mode: int,
        owner: Owner,
        *,
        rdev: int = 0,
        target: bytes = b"",
        umask: int = 0,
        durable: bool = False,
    ) -> Attributes:
        folder = self._free(parent, name)
        node = self._tree.make(kind, mode & ~umask, owner, rdev=rdev, target=target)
        self._tree.place(folder, name, node)
        return self._tree.attributes(node)

    @locked
    def link(self, inode: Inode, parent: Inode, name: bytes, *, durable: bool = False) -> Attributes:
        node = self._tree.node(inode)
        if node.is_directory:
            raise errors.NotPermitted("folders have one name")
        if not node.links:
            raise errors.NotFound
        self._tree.place(self._free(parent, name), name, node)
        return self._tree.attributes(node)

    @locked
    def unlink(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        folder = self._tree.folder(parent)
        if self._tree.get(folder, name).is_directory:
            raise errors.IsADirectory
        self._tree.drop(folder, name)

    @locked
    def remove_directory(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        folder = self._tree.folder(parent)
        node = self._tree.get(folder, name)
        if not node.is_directory:
            raise errors.NotADirectory
        if node.entries:
            raise errors.NotEmpty
        self._tree.drop(folder, name)

    @locked
    def remove_tree(
        self, parent: Inode, name: bytes, *, precondition: Precondition | None = None, durable: bool = False
    ) -> None:
        folder = self._tree.folder(parent)
        node = self._tree.get(folder, name)
        if precondition:
            precondition(self._tree.attributes(node))
        self._tree.drop(folder, name)

    @locked
    def rename(
        self,
        parent: Inode,
        name: bytes,
        new_parent: Inode,
        new_name: bytes,
        *,
        flags: RenameFlag = RenameFlag.NONE,
        replace_tree: bool = False,
        whiteout_owner: Owner = NOBODY,
        precondition: Precondition | None = None,
        durable: bool = False,
    ) -> bool:
        old, new = self._tree.folder(parent), self._tree.folder(new_parent)
        replaced = Moves(self._tree).rename(old, name, new, new_name, flags, replace_tree, precondition)
        if RenameFlag.WHITEOUT in flags and not self._tree.find(old, name):
            self._tree.place(old, name, self._tree.make(Kind.CHARACTER_DEVICE, 0, whiteout_owner))
        return replaced

    @locked
    def copy(
        self,
        inode: Inode,
        parent: Inode,
        name: bytes,
        *,
        recursive: bool = True,
        replace: bool = False,
        precondition: Precondition | None = None,
        durable: bool = False,
    ) -> tuple[Attributes, bool]:
        source, folder = self._tree.node(inode), self._tree.folder(parent)
        twin, replaced = Moves(self._tree).copy(source, folder, name, recursive, replace, precondition)
        return self._tree.attributes(twin), replaced

    def _free(self, parent: Inode, name: bytes) -> Node:
        """Return the folder in which ``name`` can be made. Raises Exists, NotPermitted and as ``lookup``."""
        folder = self._tree.folder(parent)
        self._tree.check_new(folder, name)
        if self._tree.find(folder, name):
            raise errors.Exists
        return folder

    # ---- attributes ----------------------------------------------------------------------------------------------

    @locked
    def set_attributes(self, inode: Inode, change: AttributeChange, *, durable: bool = False) -> Attributes:
        node = self._tree.node(inode)
        now = self._tree.clock.now_ns()
        if change.size is not None:
            check_file(node)
            node.content.truncate(change.size)
            node.flush()
            node.mtime = now
        node.ctime = now
        _set_given(node, change)
        return self._tree.attributes(node)

    @locked
    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        return _xattr(self._tree.node(inode), name)

    @locked
    def set_xattr(
        self,
        inode: Inode,
        name: bytes,
        value: bytes,
        *,
        flags: XattrFlag = XattrFlag.NONE,
        drop_set_group_id: bool = False,
        durable: bool = False,
    ) -> None:
        node = self._tree.node(inode)
        if len(value) > XATTR_MAX or not name:
            raise errors.InvalidArgument
        if XattrFlag.CREATE in flags and name in node.xattrs:
            raise errors.Exists
        if XattrFlag.REPLACE in flags:
            _xattr(node, name)
        node.xattrs[name] = value
        node.ctime = self._tree.clock.now_ns()

    @locked
    def list_xattrs(self, inode: Inode) -> list[bytes]:
        return sorted(self._tree.node(inode).xattrs)

    @locked
    def remove_xattr(self, inode: Inode, name: bytes, *, durable: bool = False) -> None:
        node = self._tree.node(inode)
        _xattr(node, name)
        del node.xattrs[name]
        node.ctime = self._tree.clock.now_ns()

    @locked
    def properties(self, inodes: Iterable[Inode]) -> dict[Inode, dict[bytes, bytes]]:
        nodes = [self._tree.nodes[inode] for inode in inodes if inode in self._tree.nodes]
        return {node.inode: dict(node.properties) for node in nodes if node.properties}

    @locked
    def set_properties(
        self,
        inode: Inode,
        values: Mapping[bytes, bytes | None],
        *,
        attributes: AttributeChange | None = None,
        durable: bool = True,
    ) -> None:
        self.set_attributes(inode, attributes or AttributeChange())
        set_values(self._tree.node(inode).properties, values)

    # ---- content -------------------------------------------------------------------------------------------------

    @locked
    def open(
        self, inode: Inode, *, writable: bool = False, truncate: bool = False, moves_times: bool = True
    ) -> ModelHandle:
        node = self._tree.node(inode)
        check_file(node)
        if truncate and not writable:
            raise errors.BadHandle("open for reading only")
        handle = ModelHandle(self._tree, self._space, self.lock, node, writable=writable)
        if truncate:
            handle.truncate(0)
        return handle

    @locked
    def upload(
        self, parent: Inode, name: bytes, *, owner: Owner, mode: int = 0o644, normalized: bool = False
    ) -> ModelUpload:
        folder = self._tree.folder(parent)
        found = self._tree.find(folder, name, normalized=normalized)
        if found:
            check_file(found[1])
        else:
            self._tree.check_new(folder, name)
        return ModelUpload(self._tree, self._space, self.lock, parent, name, owner, mode, normalized)

    @locked
    def sync(self) -> None:
        return

    @locked
    def crash(self) -> None:
        """Be as after kill -9: writes since the last fsync, flush or close are lost. Give up all handles before."""
        self._tree.crash()

    # ---- WebDAV locks --------------------------------------------------------------------------------------------

    @locked
    def load_locks(self) -> list[LockRecord]:
        now = self._tree.clock.now_ns()
        return [record for record in self._locks.values() if record.expires > now]

    @locked
    def save_lock(self, record: LockRecord) -> None:
        self._locks[record.token] = record

    @locked
    def delete_lock(self, token: str) -> None:
        self._locks.pop(token, None)


def _set_given(node: Node, change: AttributeChange) -> None:
    for name in ("atime", "mtime", "ctime", "btime"):
        value = getattr(change, name)
        setattr(node, name, getattr(node, name) if value is None else value)
    node.mode = node.mode if change.mode is None else change.mode & 0o7777
    uid = node.owner.uid if change.uid is None else change.uid
    gid = node.owner.gid if change.gid is None else change.gid
    node.owner = Owner(uid, gid)


def _xattr(node: Node, name: bytes) -> bytes:
    if name not in node.xattrs:
        raise errors.NoAttribute
    return node.xattrs[name]


def _conforms(file_system: ModelFileSystem) -> FileSystem:  # the type checker compares the two
    return file_system
