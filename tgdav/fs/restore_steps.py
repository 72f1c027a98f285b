"""The steps of a restore inside one change: each compares the tree with the snapshot, and emits what differs."""

from contextlib import suppress

import msgspec

from tgdav.crdt.ops import Attr, Field, Make, Place, Write
from tgdav.errors import InvalidArgument, NotADirectory, NotFound
from tgdav.fs import changes
from tgdav.ids import ContentTag, EntryId, Inode, NodeId
from tgdav.metadata import as_of, queries
from tgdav.metadata.change import Change
from tgdav.metadata.restore_plan import EntryRow, Plan, Scope, Want, now_entry, occupants
from tgdav.metadata.types import SYMLINK, Attributes, DirectoryEntry

Told = tuple[Inode | None, Inode | None, bytes | None]
"""What a listener is told."""


class State(msgspec.Struct, frozen=True):
    """Give a node the attributes, content and fields that the node ``then`` had."""

    then: Inode


class Removal(msgspec.Struct, frozen=True):
    """Send an entry to the trash."""

    entry: EntryId


class Times(msgspec.Struct, frozen=True):
    """Give a directory the times that the node ``then`` had. Changes of its entries would move them, so it comes last."""

    then: Inode


Step = Want | State | Removal | Times


class Steps:
    """Takes steps in a change. ``made`` are the nodes that this pass of the restore has made; the steps add to them.

    ``told`` are the notices for listeners, ``written`` the files with new content (encoded manifest, tag), ``later`` steps that
    must follow after all others.
    """

    def __init__(self, change: Change, scope: Scope, plan: Plan, made: set[NodeId]) -> None:
        self._change, self._scope, self._plan = change, scope, plan
        self._made = made
        self._inodes: dict[NodeId, Inode | None] = {}
        self.told: list[Told] = []
        self.written: dict[Inode, tuple[bytes, ContentTag | None]] = {}
        self.later: list[Step] = []

    def take(self, step: Step) -> None:
        """Take one step. What the tree does not allow (somebody else has changed it) is left to a later pass."""
        with suppress(NotFound, InvalidArgument, NotADirectory):
            match step:
                case Want():
                    self._want(step)
                case State():
                    self._set_state(step.then)
                case Removal():
                    self._remove(step.entry)
                case Times():
                    self._set_times(step.then)

    # ---- names ---------------------------------------------------------------------------------------------------

    def _want(self, want: Want) -> None:
        connection, wanted = self._change.connection, want.node.node
        parent = self._inode_of(want.parent)
        if parent is None:
            raise NotFound
        if want.node.is_made and queries.inode_of(connection, wanted) is None:
            self._make(want)
            if want.parent in self._made:  # so its name is free
                self._change.emit(Place(want.entry, wanted, want.parent, want.name))
                self.told.append((None, parent, want.name))
                return
        node = queries.attributes_of(self._change.connection, wanted)
        if node is None or node.local:
            raise NotFound
        # Also if the entry is there: an interrupted restore may have left the directory that had its name.
        self._clear(parent, want, node)
        present = now_entry(connection, want.entry)
        if present == EntryRow(want.entry, parent, want.name, node.inode):
            return
        self._change.emit(Place(want.entry, wanted, want.parent, want.name))
        self.told.append((node.inode, parent, want.name))
        if present is not None:
            self.told.append((None, present.parent, present.name))

    def _inode_of(self, node: NodeId) -> Inode | None:
        if self._inodes.get(node) is None:
            self._inodes[node] = queries.inode_of(self._change.connection, node)
        return self._inodes[node]

    def _clear(self, parent: Inode, want: Want, node: Attributes) -> None:
        """Send what has the wanted name to the trash. A directory waits until all that was elsewhere has left it."""
        for row in occupants(self._change.connection, parent, want.name):
            if row.id == want.entry or row.id in self._plan.kept:
                continue
            other = queries.attributes(self._change.connection, row.ino)
            if other is None or other.is_directory:
                self.later.append(Removal(row.id))
                continue
            replaces = other.is_file and node.is_file
            because = want.entry if replaces else None
            entry = DirectoryEntry(row.name, row.id, other)
            changes.delete(self._change, entry, row.name, because, keeps_new=True)

    def _remove(self, entry: EntryId) -> None:
        row = now_entry(self._change.connection, entry)
        node = None if row is None else queries.attributes(self._change.connection, row.ino)
        if row is None or node is None:
            return
        changes.require_directory(self._change, row.parent)  # else it has gone with a directory above it
        # Nobody has deleted it: it must not be gone, however new it is.
        changes.delete(self._change, DirectoryEntry(row.name, row.id, node), row.name, keeps_new=True)
        self.told.append((node.inode, row.parent, row.name))

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def _make(self, want: Want) -> None:
        """Make a node as it was."""
        connection, at, node = self._change.connection, self._scope.at, want.node.node
        then = self._then(want.then)
        manifest = as_of.manifest(connection, at, want.then)
        target = manifest if then.kind == SYMLINK else b""
        time = self._change.time
        self._change.emit(Make(node, int(then.kind), then.mode, then.uid, then.gid, then.rdev, time, target))
        if then.is_file and then.tag is not None and then.size:
            self._change.emit(Write(node, then.size, then.tag, manifest, None, then.mtime))
        self._change.emit(Attr(node, {"mtime": then.mtime, "btime": then.btime}))
        for field, value in self._fields_then(want.then).items():
            self._change.emit(Field(node, field, value))
        self._made.add(node)
        if then.is_directory:
            self.later.append(Times(want.then))

    def _set_state(self, ino: Inode) -> None:
        if self._plan.nodes[ino].node in self._made:
            return
        then, now = self._then(ino), self._now(ino)
        if then.kind != now.kind:
            return
        if then.is_directory:
            self.later.append(Times(ino))
        if then.tag is not None and then.tag != now.tag:
            manifest = as_of.manifest(self._change.connection, self._scope.at, ino)
            self._change.emit(Write(now.node, then.size, then.tag, manifest, now.tag, then.mtime, restores=True))
            self.written[now.inode] = manifest, then.tag
            now = self._now(ino)
        names = ["mode", "uid", "gid", "btime", *([] if then.is_directory else ["mtime"])]
        changed = self._set_attributes(then, now, names)
        changed |= self._set_fields(ino, now)
        if changed or now.inode in self.written:
            self.told.append((now.inode, None, None))

    def _set_times(self, ino: Inode) -> None:
        now = self._now(ino)
        if self._set_attributes(self._then(ino), now, ["mtime"]):
            self.told.append((now.inode, None, None))

    def _set_attributes(self, then: Attributes, now: Attributes, names: list[str]) -> bool:
        values = {name: getattr(then, name) for name in names if getattr(then, name) != getattr(now, name)}
        if values:
            self._change.emit(Attr(now.node, values))
        return bool(values)

    def _set_fields(self, ino: Inode, now: Attributes) -> bool:
        wanted = self._fields_then(ino)
        present = queries.fields(self._change.connection, [now.inode], b"").get(now.inode, {})
        different = [name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)]
        for name in sorted(different):
            self._change.emit(Field(now.node, name, wanted.get(name)))
        return bool(different)

    def _then(self, ino: Inode) -> Attributes:
        found = as_of.attributes(self._change.connection, self._scope.at, ino)
        if found is None:
            raise NotFound
        return found

    def _now(self, ino: Inode) -> Attributes:
        node: NodeId = self._plan.nodes[ino].node
        found = queries.attributes_of(self._change.connection, node)
        if found is None or found.local:
            raise NotFound
        return found

    def _fields_then(self, ino: Inode) -> dict[bytes, bytes]:
        return as_of.fields(self._change.connection, self._scope.at, [ino], b"").get(ino, {})
