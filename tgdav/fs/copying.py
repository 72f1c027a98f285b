"""Copying a node with all below it: operations only, no data moves, because chunks are shared."""

from collections.abc import Iterator

from tgdav.content.format.manifest import decode
from tgdav.content.store import ContentStore
from tgdav.crdt.ops import Attr, Field, Make, Place, Write
from tgdav.crypto.keys import NamespaceKeys
from tgdav.errors import Exists, InvalidArgument, NotFound
from tgdav.fs import changes
from tgdav.fs.api import Owner, Precondition
from tgdav.fs.names import JunkPolicy, is_junk
from tgdav.ids import Inode, NodeId
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind


def copy(
    change: Change,
    content: ContentStore,
    keys: NamespaceKeys,
    inode: Inode,
    parent: Attributes,
    name: bytes,
    policy: JunkPolicy,
    *,
    recursive: bool,
    replace: bool,
    precondition: Precondition | None,
    local: bool,
) -> tuple[NodeId, bool]:
    """Copy ``inode`` to (parent, name); return the copy's node id and whether something was replaced."""
    source = queries.attributes(change.connection, inode)
    if source is None:
        raise NotFound
    if (
        source.is_directory
        and recursive
        and (source.inode == parent.inode or queries.is_ancestor(change.connection, source.inode, parent.inode))
    ):
        raise InvalidArgument("a folder cannot be copied into itself")
    target = changes.find(change, parent.inode, name)
    if precondition is not None:
        precondition(target.attributes if target else None)
    if target is not None:
        _make_room(change, source, target, name, replace=replace)
    node = _copy_node(change, content, keys, source, parent, name, local=local)
    if source.is_directory and recursive:
        _copy_children(change, content, keys, source, node, policy)
    return node, target is not None


def _make_room(
    change: Change,
    source: Attributes,
    target: DirectoryEntry,
    name: bytes,
    *,
    replace: bool,
) -> None:
    if not replace:
        raise Exists
    if target.attributes.inode == source.inode:
        raise InvalidArgument("source and target are the same")
    if target.attributes.is_directory and queries.is_ancestor(change.connection, target.attributes.inode, source.inode):
        raise InvalidArgument("the target holds the source")
    changes.delete(change, target, name)


def _copy_children(
    change: Change, content: ContentStore, keys: NamespaceKeys, source: Attributes, node: NodeId, policy: JunkPolicy
) -> None:
    pending: list[tuple[Attributes, NodeId]] = [(source, node)]
    while pending:
        folder, into = pending.pop()
        parent = _folder(change, into)
        for entry in queries.children(change.connection, folder.inode):
            local = is_junk(entry.name) and policy is JunkPolicy.LOCAL
            made = _copy_node(change, content, keys, entry.attributes, parent, entry.name, local=local)
            if entry.attributes.is_directory:
                pending.append((entry.attributes, made))
        # What was put into the copy moved its times.
        change.emit(Attr(into, {"mtime": folder.mtime, "btime": folder.btime}))


def _folder(change: Change, node: NodeId) -> Attributes:
    attributes = queries.attributes_of(change.connection, node)
    if attributes is None:
        raise NotFound
    return attributes


def _copy_node(
    change: Change,
    content: ContentStore,
    keys: NamespaceKeys,
    source: Attributes,
    parent: Attributes,
    name: bytes,
    *,
    local: bool,
) -> NodeId:
    target = queries.link_target(change.connection, source.inode) if source.kind == Kind.SYMLINK else b""
    node = changes.make(
        change,
        keys,
        parent,
        name,
        Kind(source.kind),
        source.mode,
        Owner(source.uid, source.gid),
        rdev=source.rdev,
        target=target,
        local=local,
        inherits=False,
    )
    if source.local and not local:
        content.publish(change.transaction, decode(queries.manifest(change.connection, source.inode)))
    for op in _contents(change, source, node):
        if local:
            change.emit_local(op)
        else:
            change.emit(op)
    return node


def _contents(change: Change, source: Attributes, node: NodeId) -> Iterator[Make | Place | Write | Attr | Field]:
    if source.is_file and source.tag is not None and source.size:
        manifest = queries.manifest(change.connection, source.inode)
        yield Write(node, source.size, source.tag, manifest, None, source.mtime)
    yield Attr(node, {"mtime": source.mtime, "btime": source.btime})
    stored = queries.fields(change.connection, [source.inode], b"")
    for field, value in stored.get(source.inode, {}).items():
        yield Field(node, field, value)
