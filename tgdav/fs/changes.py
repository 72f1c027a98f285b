"""Changes of names inside one transaction: the rules of POSIX and WebDAV, expressed as operations.

Each function reads the tree through the ``Change`` that it gets, and emits operations to it. None of them uses threads, files or
the network.
"""

from contextlib import suppress

from tgdav.content.format.manifest import decode
from tgdav.content.store import ContentStore
from tgdav.crdt.ops import TRASH, Field, Make, Op, Place
from tgdav.crypto.keys import NamespaceKeys
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import (
    Exists,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from tgdav.fs import acl
from tgdav.fs.api import Owner, Precondition, RenameFlag
from tgdav.fs.departures import Departures
from tgdav.fs.node_attributes import XATTR, check_numbers
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.types import DIRECTORY, FILE, SYMLINK, Attributes, DirectoryEntry, Kind

# As ext4.
LINK_MAX = 65_000
MOST_FRESH = 1000
"""Entries in a directory above which it goes to the trash, however new they are: looking at them takes time."""

# UNION, not UNION ALL: it ends even if the entries contained a cycle.
_IS_BELOW_ROOT = """WITH RECURSIVE up(ino) AS (SELECT :ino UNION SELECT e.parent FROM entries e JOIN up ON e.ino = up.ino)
SELECT 1 FROM up WHERE ino = :root"""


def require_directory(change: Change, parent: Inode) -> Attributes:
    """Return a directory that is reachable from the root; its times may be out of date. Raises NotFound, NotADirectory."""
    known = change.directories.get(parent)
    if known is not None:
        return known
    attributes = change.attributes(parent)
    if attributes is None:
        raise NotFound
    if not attributes.is_directory:
        raise NotADirectory
    if not _is_live(change, parent):
        raise NotFound("the directory was removed")
    change.directories.add(attributes)
    return attributes


def _is_live(change: Change, directory: Inode) -> bool:
    wanted = {"ino": directory, "root": ROOT_INODE}
    return directory == ROOT_INODE or change.connection.one(_IS_BELOW_ROOT, wanted) is not None


def find(change: Change, parent: Inode, name: bytes, *, normalized: bool = False) -> DirectoryEntry | None:
    """Return the entry with a name, None if the name is free."""
    return change.find(parent, name, normalized=normalized)


def require(change: Change, parent: Inode, name: bytes) -> DirectoryEntry:
    """Return the entry with a name. Raises NotFound."""
    entry = find(change, parent, name)
    if entry is None:
        raise NotFound
    return entry


def made(change: Change, node: NodeId) -> Attributes:
    """Return the attributes of a node that this change created."""
    found = change.attributes_of(node)
    assert found is not None, "this transaction has created the node"
    return found


def made_alone(change: Change, node: NodeId) -> Attributes:
    """As ``made``, for a change that created nothing else. The tree cache then knows the empty file, which is usually opened
    next, and the empty directory."""
    found = made(change, node)
    # The manifest of an empty file is empty.
    change.changes.contents[found.inode] = (found, b"" if found.is_file else None)
    if found.is_directory:
        change.changes.empty.add(found.inode)
        change.directories.add(found)
    return found


def emit(change: Change, op: Op, *, local: bool) -> None:
    """Apply an operation, and log it unless it is ``local``."""
    if local:
        change.emit_local(op)
    else:
        change.emit(op)


def make(
    change: Change,
    keys: NamespaceKeys,
    parent: Attributes,
    name: bytes,
    kind: Kind,
    mode: int,
    owner: Owner,
    *,
    rdev: int = 0,
    target: bytes = b"",
    local: bool = False,
    umask: int = 0,
    inherits: bool = True,
    departures: Departures | None = None,
) -> NodeId:
    """Create a node and its first entry, whose name must be free; return the node's id. Raises InvalidArgument.

    With ``inherits`` the node inherits the default ACL of its directory. If there is none, ``umask`` is removed from its mode.
    With ``departures``, a file continues the history of one that has just left the name.
    """
    check_numbers(owner.uid, owner.gid, rdev)
    node, entry = _new_ids(change, keys, parent, name, kind, local=local)
    # A symlink has no mode of its own, and so no ACL.
    default = change.field(parent.inode, XATTR + acl.DEFAULT) if inherits and kind != SYMLINK else None
    mode, access = (mode & ~umask, None) if default is None else acl.inherited(default, mode)
    emit(change, Make(node, int(kind), mode & 0o7777, owner.uid, owner.gid, rdev, change.time, target), local=local)
    after = None
    if departures is not None and kind == FILE and not local:
        after = departures.fill((parent.inode, name), entry, change.time)
    emit(change, Place(entry, node, parent.node, name, made=kind == DIRECTORY, after=after), local=local)
    # A directory passes its default ACL on to what is created in it.
    acls = {acl.ACCESS: access, acl.DEFAULT: default if kind == DIRECTORY else None}
    for attribute, value in acls.items():
        if value is not None:
            emit(change, Field(node, XATTR + attribute, value), local=local)
    return node


def _new_ids(
    change: Change, keys: NamespaceKeys, parent: Attributes, name: bytes, kind: Kind, *, local: bool
) -> tuple[NodeId, EntryId]:
    """Return new ids for a node and its entry."""
    if kind == DIRECTORY and not local:
        # Two machines that create the same directory must get one directory, so its ids are derived from parent and name. If
        # that id has been used before (the directory was moved, removed or purged), a random one is used.
        node = keys.directory_id(parent.node, name)
        if not queries.is_used(change.connection, node):
            return node, keys.directory_entry_id(parent.node, name)
    return NodeId(change.new_id()), EntryId(change.new_id())


def make_whiteout(change: Change, keys: NamespaceKeys, parent: Inode, name: bytes, owner: Owner) -> None:
    """Create the device that marks a deleted name, if the name is free after the move."""
    if find(change, parent, name) is None:
        kind = Kind.CHARACTER_DEVICE
        make(change, keys, require_directory(change, parent), name, kind, 0, owner, inherits=False)


def check_target(kind: Kind, target: bytes) -> None:
    """Raise InvalidArgument if a new node cannot have this symlink target."""
    if kind == SYMLINK and not 0 < len(target) < 4096:
        raise InvalidArgument("a symbolic link's target has 1 to 4095 bytes")
    if kind != SYMLINK and target:
        raise InvalidArgument("only a symbolic link has a target")


def link(change: Change, inode: Inode, directory: Inode, name: bytes) -> Attributes:
    """Add a name to a node; return its attributes. Raises Exists, NotPermitted, TooManyLinks, NotFound."""
    node = change.attributes(inode)
    if node is None or (node.nlink == 0):
        raise NotFound
    if node.is_directory:
        raise NotPermitted("a directory has only one name")
    if node.nlink >= LINK_MAX:
        raise TooManyLinks
    parent = require_directory(change, directory)
    if find(change, parent.inode, name) is not None:
        raise Exists
    emit(change, Place(EntryId(change.new_id()), node.node, parent.node, name), local=node.local)
    return made(change, node.node)


def delete(
    change: Change, entry: DirectoryEntry, name: bytes, because: EntryId | None = None, *, keeps_new: bool = False
) -> None:
    """Move an entry, and everything below it, to the trash. Without a trash, or if all of it is new, delete it for good.

    ``because``: the entry whose file has its content as a version. ``keeps_new``: what is new goes to the trash, too.
    """
    node = entry.attributes
    op = Place(entry.entry, node.node, TRASH, name, because)
    if node.local or because is not None:
        emit(change, op, local=node.local)
    elif not keeps_new and change.is_fresh(node, entry.entry) and (fresh := _all_fresh(change, node)):
        change.emit_removal(op, fresh)
    elif change.has_trash:
        change.emit(op)
    else:
        change.emit_removal(op)


def _all_fresh(change: Change, top: Attributes) -> list[Inode]:
    """Return the inodes of a node and all below it; none if something there is not fresh, or very much is there."""
    fresh, waiting = [top.inode], [top.inode] if top.is_directory else []
    while waiting:
        found = queries.children(change.connection, waiting.pop())
        fresh += [each.attributes.inode for each in found]
        if len(fresh) > MOST_FRESH or not all(change.is_fresh(each.attributes, each.entry) for each in found):
            return []
        waiting += [each.attributes.inode for each in found if each.attributes.is_directory]
    return fresh


def unlink(change: Change, parent: Inode, name: bytes, departures: Departures) -> None:
    """Remove a name of a node that is not a directory. Raises NotFound, IsADirectory."""
    if change.directories.get(parent) is None:
        with suppress(NotFound):  # only to remember that the directory is reachable, which saves queries later
            require_directory(change, parent)
    entry = require(change, parent, name)
    if entry.attributes.is_directory:
        raise IsADirectory
    delete(change, entry, name, departures.successor(entry.entry, change.time))


def remove_directory(change: Change, parent: Inode, name: bytes) -> None:
    """Remove an empty directory. Raises NotFound, NotADirectory, NotEmpty."""
    entry = require(change, parent, name)
    if not entry.attributes.is_directory:
        raise NotADirectory
    if not queries.is_empty(change.connection, entry.attributes.inode):
        raise NotEmpty
    delete(change, entry, name)


def rename(
    change: Change,
    content: ContentStore,
    parent: Inode,
    name: bytes,
    new_parent: Attributes,
    new_name: bytes,
    flags: RenameFlag,
    *,
    replace_tree: bool,
    precondition: Precondition | None,
    local: bool,
    departures: Departures,
) -> bool:
    """Move an entry; return whether something was replaced. Raises as ``FileSystem.rename``."""
    source = require(change, parent, name)
    target = find(change, new_parent.inode, new_name)
    if precondition is not None:
        precondition(target.attributes if target else None)
    _check_no_cycle(change, source, new_parent.inode)
    if target is not None and target.entry == source.entry:
        if RenameFlag.NO_REPLACE in flags:
            raise Exists
        return False
    if RenameFlag.EXCHANGE in flags:
        _exchange(change, source, parent, name, target, new_parent, new_name)
        return False
    if target is not None:
        if RenameFlag.NO_REPLACE in flags:
            raise Exists
        if not replace_tree:
            if target.attributes.inode == source.attributes.inode:
                return False  # rename(2): two names of the same file are left as they are
            _check_replaceable(change, source, target)
        # Replacing a directory that contains the source would remove the source as well.
        _check_no_cycle(change, target, parent)
        takes_over = is_logged_file(source) and is_logged_file(target) and not local
        delete(change, target, new_name, source.entry if takes_over else None)
        change.keep_versions_of(source.entry)
    after = None
    if source.attributes.is_file and not local:
        if target is None:
            after = departures.fill((new_parent.inode, new_name), source.entry, change.time)
        if not source.attributes.local:
            departures.leave((parent, name), source.entry, change.time)
    _move(change, content, source, new_parent, new_name, after, local=local)
    return target is not None


def is_logged_file(entry: DirectoryEntry) -> bool:
    """Return whether an entry names a file that does not stay on this machine."""
    return entry.attributes.is_file and not entry.attributes.local


def _check_no_cycle(change: Change, entry: DirectoryEntry, new_parent: Inode) -> None:
    inode = entry.attributes.inode
    if entry.attributes.is_directory and (
        inode == new_parent or queries.is_ancestor(change.connection, inode, new_parent)
    ):
        raise InvalidArgument("a directory cannot be moved into itself")


def _check_replaceable(change: Change, source: DirectoryEntry, target: DirectoryEntry) -> None:
    if target.attributes.is_directory:
        if not source.attributes.is_directory:
            raise IsADirectory
        if not queries.is_empty(change.connection, target.attributes.inode):
            raise NotEmpty
    elif source.attributes.is_directory:
        raise NotADirectory


def _exchange(
    change: Change,
    source: DirectoryEntry,
    parent: Inode,
    name: bytes,
    target: DirectoryEntry | None,
    new_parent: Attributes,
    new_name: bytes,
) -> None:
    if target is None:
        raise NotFound
    _check_no_cycle(change, target, parent)
    node = queries.node_id_of(change.connection, parent)
    assert node is not None, "the parent of an entry exists"
    first, second = source.attributes, target.attributes
    take_over = is_logged_file(source) and is_logged_file(target)
    after, other = (target.entry, source.entry) if take_over else (None, None)
    emit(change, Place(source.entry, first.node, new_parent.node, new_name, after=after), local=first.local)
    emit(change, Place(target.entry, second.node, node, name, after=other), local=second.local)


def _move(
    change: Change,
    content: ContentStore,
    source: DirectoryEntry,
    new_parent: Attributes,
    new_name: bytes,
    after: EntryId | None,
    *,
    local: bool,
) -> None:
    """Move an entry. If the new name is not junk and the old one was, publish the file; the other way round, withdraw it."""
    inode, node = source.attributes.inode, source.attributes.node
    was_local = source.attributes.local
    # The log has never seen this file: all of it is logged, and the Place below logs its entry.
    if was_local and not local:
        content.publish(change.transaction, decode(queries.manifest(change.connection, inode)))
        change.publish(inode, moved=source.entry)
        was_local = False
    elif local and not was_local and source.attributes.is_file:
        change.withdraw(inode)
        was_local = True
    emit(change, Place(source.entry, node, new_parent.node, new_name, after=after), local=was_local)
