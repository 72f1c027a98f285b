"""Copies a node with everything below it. A copy is operations only and moves no data, because chunks are shared."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from tgdav.content.format.manifest import decode
from tgdav.content.store import ContentStore
from tgdav.crdt.ops import Attr, Field, Write
from tgdav.crypto.keys import NamespaceKeys
from tgdav.errors import Exists, InvalidArgument, NotFound
from tgdav.fs import changes
from tgdav.fs.api import Owner, Precondition
from tgdav.fs.names import JunkPolicy, is_junk
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind


class Source(Protocol):
    """The tree that is copied: the live one, or history."""

    def attributes(self, inode: Inode) -> Attributes:
        """Return a node's attributes. Raises NotFound."""
        ...

    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        """Return all entries of a directory."""
        ...

    def content(self, inode: Inode) -> bytes:
        """Return a file's encoded manifest, or a symlink's target."""
        ...

    def fields(self, inodes: Iterable[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
        """Return the extended attributes and properties of nodes whose prefixed names begin with ``prefix``."""
        ...


class LiveSource:
    """The live tree, inside a change."""

    def __init__(self, change: Change) -> None:
        self._connection = change.connection

    def attributes(self, inode: Inode) -> Attributes:
        """Return a node's attributes. Raises NotFound."""
        found = queries.attributes(self._connection, inode)
        if found is None:
            raise NotFound
        return found

    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        """Return all entries of a directory."""
        return queries.children(self._connection, inode)

    def content(self, inode: Inode) -> bytes:
        """Return a file's encoded manifest, or a symlink's target."""
        return queries.manifest(self._connection, inode)

    def fields(self, inodes: Iterable[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
        """Return the extended attributes and properties of nodes."""
        return queries.fields(self._connection, inodes, prefix)


class Copier:
    """Copies nodes inside one change."""

    def __init__(
        self, change: Change, content: ContentStore, keys: NamespaceKeys, policy: JunkPolicy, source: "Source"
    ) -> None:
        self._change, self._content, self._keys, self._policy = change, content, keys, policy
        self._source = source

    def copy(
        self,
        inode: Inode,
        parent: Attributes,
        name: bytes,
        *,
        recursive: bool,
        replace: bool,
        precondition: Precondition | None,
        local: bool,
    ) -> tuple[NodeId, bool]:
        """Copy ``inode`` to (parent, name); return the copy's node id and whether something was replaced.

        Raises Exists, InvalidArgument, NotFound, and what ``precondition`` raises.
        """
        source = self._source.attributes(inode)
        if source.is_directory and recursive and self._is_below(source.inode, parent.inode):
            raise InvalidArgument("a directory cannot be copied into itself")
        target = changes.find(self._change, parent.inode, name)
        if precondition is not None:
            precondition(target.attributes if target else None)
        if target is not None:
            self._check_target(source, target, replace=replace)
        # A file that replaces another must be there before: that one's content is a version of it.
        is_later = target is not None and source.is_file and not local and changes.is_logged_file(target)
        if target is not None and not is_later:
            changes.delete(self._change, target, name)
        node = self._copy_node(source, parent, name, local=local)
        if target is not None and is_later:
            changes.delete(self._change, target, name, self._entry_of(node))
        if source.is_directory and recursive:
            self._copy_children(source, node)
        return node, target is not None

    def _is_below(self, directory: Inode, inode: Inode) -> bool:
        return directory == inode or queries.is_ancestor(self._change.connection, directory, inode)

    def _entry_of(self, node: NodeId) -> EntryId:
        [(entry, *_)] = queries.entries_of(self._change.connection, changes.made(self._change, node).inode)
        return entry

    def _check_target(self, source: Attributes, target: DirectoryEntry, *, replace: bool) -> None:
        if not replace:
            raise Exists
        if target.attributes.inode == source.inode:
            raise InvalidArgument("source and target are the same")
        if target.attributes.is_directory and self._is_below(target.attributes.inode, source.inode):
            raise InvalidArgument("the target contains the source")

    def _copy_children(self, source: Attributes, node: NodeId) -> None:
        pending: list[tuple[Attributes, NodeId]] = [(source, node)]
        while pending:
            directory, into = pending.pop()
            parent = changes.made(self._change, into)
            for entry in self._source.list_directory(directory.inode):
                local = is_junk(entry.name) and self._policy is JunkPolicy.LOCAL
                made = self._copy_node(entry.attributes, parent, entry.name, local=local)
                if entry.attributes.is_directory:
                    pending.append((entry.attributes, made))
            # Adding the entries has changed the times of the copy.
            self._change.emit(Attr(into, {"mtime": directory.mtime, "btime": directory.btime}))

    def _copy_node(self, source: Attributes, parent: Attributes, name: bytes, *, local: bool) -> NodeId:
        change = self._change
        target = self._source.content(source.inode) if source.kind == Kind.SYMLINK else b""
        node = changes.make(
            change,
            self._keys,
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
            self._content.publish(change.transaction, decode(self._source.content(source.inode)))
        for op in self._contents(source, node):
            changes.emit(change, op, local=local)
        return node

    def _contents(self, source: Attributes, node: NodeId) -> Iterator[Write | Attr | Field]:
        if source.is_file and source.tag is not None and source.size:
            yield Write(node, source.size, source.tag, self._source.content(source.inode), None, source.mtime)
        yield Attr(node, {"mtime": source.mtime, "btime": source.btime})
        stored = self._source.fields([source.inode], b"")
        for field, value in stored.get(source.inode, {}).items():
            yield Field(node, field, value)
