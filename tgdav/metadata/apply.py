"""Turning operations into rows: the one place, for calls of this machine and for logs from the store alike.

An operation never fails for what the tree looks like. What cannot be applied (a node that is not known, a move that would
put a folder below itself, an older place of an entry) changes nothing, and what was applied already changes nothing
either, so that every machine that applies the same operations ends with the same tree.

A new node's row is written last, when all operations of its group have had their say: a new file with its content is one
row, written once. Ask about the tree only after ``flush``.
"""

from collections.abc import Collection
from typing import Any, assert_never

from sqlalchemy import bindparam, delete, func, insert, literal_column, select, update
from sqlalchemy.dialects import sqlite

from tgdav.crdt.ops import Attr, Field, Group, Make, Member, Namespace, Op, Place, Write
from tgdav.db import Inserts, Transaction, compiled
from tgdav.db.schema import ROOT_INODE, entries, fields, machines, manifests, nodes
from tgdav.ids import Inode, NodeId
from tgdav.metadata import history, settings
from tgdav.metadata.context import GroupContext, InodeCounter, NewNode
from tgdav.metadata.entry_moves import EntryMover
from tgdav.metadata.history import ContentState, HistoryPolicy
from tgdav.metadata.node_rows import NODE_UPDATES, NodeUpdate
from tgdav.metadata.types import FILE, Kind

INLINE_BYTES = 320
"""Manifests up to this length (8 extents) stand in their node's row."""

_LOGGED_ATTRIBUTES = ("mode", "uid", "gid", "mtime", "ctime", "btime")
_n = nodes.c

_IS_KNOWN = compiled(select(_n.ino, _n.kind, _n.local).where(_n.id == bindparam("id")))
_CONTENT_STATE = compiled(
    select(_n.ino, _n.kind, _n.size, _n.tag, _n.since, _n.writer, _n.written, _n.manifest, _n.local).where(
        _n.id == bindparam("id")
    )
)
NEW_NODES = Inserts(nodes, number=1)
_SHOWN_OF_CONTENT = ("size", "mtime", "ctime", "tag")
_PUBLISH = compiled(update(nodes).where(_n.ino == bindparam("inode")).values(local=0))
_INSERT_MANIFEST = compiled(insert(manifests), ("data",))
_upsert_field = sqlite.insert(fields)
_SET_FIELD = compiled(
    _upsert_field.on_conflict_do_update(
        set_={"value": _upsert_field.excluded.value, "since": _upsert_field.excluded.since}
    )
)
_DROP_FIELD = compiled(delete(fields).where(fields.c.ino == bindparam("ino"), fields.c.field == bindparam("field")))
_PLACEHOLDER_ENTRY = compiled(delete(entries).where(entries.c.id == bindparam("id")).returning(entries.c.parent))
_FEWER_FOLDERS = compiled(
    update(nodes).where(_n.ino == bindparam("inode")).values(nlink=_n.nlink - literal_column("1"))
)
_MAKE_AGAIN = compiled(
    update(nodes).where(_n.ino == bindparam("inode")), ("mode", "uid", "gid", "mtime", "ctime", "btime")
)
_upsert_member = sqlite.insert(machines)
_SET_MEMBER = compiled(
    _upsert_member.on_conflict_do_update(
        set_={
            name: func.max(machines.c.epoch, _upsert_member.excluded.epoch) if name == "epoch" else excluded
            for name, excluded in _upsert_member.excluded.items()
            if name in ("name", "public_key", "incarnation", "epoch")
        }
    )
)


class OperationApplier:
    """One group being applied inside a transaction."""

    def __init__(
        self, transaction: Transaction, context: GroupContext, policy: HistoryPolicy, inodes: InodeCounter
    ) -> None:
        self._transaction = transaction
        self._context = context
        self._policy = policy
        self._inodes = inodes
        self._new: dict[NodeId, NewNode] = {}

    @property
    def transaction(self) -> Transaction:
        """The transaction that it writes to; new nodes may not be in it yet."""
        return self._transaction

    @property
    def context(self) -> GroupContext:
        """Whose group it is, and when."""
        return self._context

    def apply(self, op: Op, *, local: bool = False) -> bool:
        """Apply one operation; ``local`` marks what it makes as this machine's own. Return whether it changed a thing."""
        match op:
            case Make():
                return self._make(op, local)
            case Place():
                # Kept, the two would name each other, and all that the change holds would wait for the collector.
                return EntryMover(self).place(op, local)
            case Write():
                return self._write(op)
            case Attr():
                return self._set(op)
            case Field():
                return self._set_field(op)
            case Member():
                return self._admit(op)
            case Namespace():
                return self._found(op)
            case _:
                assert_never(op)

    def update(self, ino: Inode, values: dict[str, Any], links: int = 0) -> None:
        """Give a node's attributes new values, and move its link count."""
        self._context.changes.amend(ino, values, links)
        self._transaction.defer(NODE_UPDATES, NodeUpdate(ino, {"since": self._context.position, **values}, links))

    def flush(self) -> None:
        """Write the rows of new nodes."""
        for node in self._new.values():
            self._transaction.defer(NEW_NODES, node.values)
        self._new.clear()

    # ---- what the operations share -----------------------------------------------------------------------------

    def new_node(self, node: NodeId) -> NewNode | None:
        """Return the node whose row is not written yet, if this is one."""
        return self._new.get(node)

    def find(self, node: NodeId) -> tuple[Inode, int, bool] | None:
        """Return (inode, kind, local) of a known node."""
        new = self._new.get(node)
        if new is not None:
            return new.ino, new.row["kind"], bool(new.row["local"])
        found = self._context.found_nodes.get(node)
        if found is not None:
            return found
        row = self._transaction.one(_IS_KNOWN, {"id": node})
        return (row[0], row[1], bool(row[2])) if row else None

    def add_node(self, op: Make, *, local: bool) -> NewNode:
        """Add a node that is not known, whose row is written at the next flush."""
        new = NewNode.of(op, self._inodes.next(), self._context, local=local)
        self._new[op.node] = new
        self._context.touched.add(new.ino)
        self._context.fields.add_new(new.ino)
        return new

    def keep_pinned(self, ino: Inode) -> None:
        """Before a node's row changes: keep it as it is, if a snapshot pins that and this group did not yet."""
        pinned = self._policy.last_pinned
        if pinned and ino not in self._context.touched:
            history.close_node(self._transaction, ino, self._context.position, pinned)
            self._context.touched.add(ino)

    @property
    def pinned(self) -> int:
        """The newest position that a snapshot pins, or 0."""
        return self._policy.last_pinned

    # ---- the operations but Place --------------------------------------------------------------------------------

    def _make(self, op: Make, local: bool) -> bool:
        known = None if op.node in self._context.fresh else self.find(op.node)
        if known is None:
            if op.kind not in _KINDS:
                return False
            self.add_node(op, local=local)
            return True
        ino, _, known_local = known
        if known_local and not local:
            self.flush()
            self._transaction.execute(_PUBLISH, {"inode": ino})
            self._context.found_nodes.clear()
            self._context.found_empty.clear()
            self._context.changes.nodes.add(ino)
            self._context.touched.add(ino)
            return True
        return self._settle_placeholder(op, ino)

    def _settle_placeholder(self, op: Make, ino: Inode) -> bool:
        """A folder that was only known by what lies in it is made at last: it leaves ``lost+found``."""
        row = self._transaction.one(_PLACEHOLDER_ENTRY, {"id": op.node})
        if row is None:
            return False
        self._context.changes.everything = True
        self._transaction.execute(_FEWER_FOLDERS, {"inode": row[0]})
        times = {"mtime": op.time, "ctime": op.time, "btime": op.time}
        self._transaction.execute(_MAKE_AGAIN, {"inode": ino, "mode": op.mode, "uid": op.uid, "gid": op.gid, **times})
        return True

    def _write(self, op: Write) -> bool:
        context = self._context
        new = self._new.get(op.node)
        if new is not None:
            if new.row["kind"] != FILE:
                return False
            replaced, ino = new.row["manifest"], new.ino
            new.row.update(self._content(op))
        else:
            known = self._forget_content(op)
            if known is None:
                return False
            ino, replaced = known
            values = self._content(op)
            self._transaction.defer(NODE_UPDATES, NodeUpdate(ino, values))
            context.changes.amend(ino, {name: values[name] for name in _SHOWN_OF_CONTENT})
            context.changes.written[ino] = op.manifest if values["manifest"] is None else None
        context.touched.add(ino)
        history.drop_manifest(self._transaction, ino, replaced)
        return True

    def _forget_content(self, op: Write) -> tuple[Inode, int | None] | None:
        """Leave the content that a file has to the past, if history wants it; return the inode, and the number of a manifest
        that nobody may need any more. None for what is no file."""
        if op.node in self._context.found_empty and not self.pinned:
            self._context.found_empty.discard(op.node)
            return self._context.found_nodes[op.node][0], None
        row = self._transaction.one(_CONTENT_STATE, {"id": op.node})
        if row is None or row[1] != FILE:
            return None
        old = ContentState(*row)
        kept = old.ino not in self._context.touched and self._keep_version(op, old)
        return old.ino, None if kept else old.manifest

    def _content(self, op: Write) -> dict[str, object]:
        inline, number = op.manifest or None, None
        if len(op.manifest) > INLINE_BYTES:
            inline, number = None, self._transaction.execute(_INSERT_MANIFEST, {"data": op.manifest}).lastrowid
        context = self._context
        return {
            "since": context.position,
            "size": op.size,
            "mtime": op.mtime,
            "ctime": context.time,
            "tag": op.tag,
            "content": inline,
            "manifest": number,
            "writer": context.machine,
            "written": context.time,
        }

    def _keep_version(self, op: Write, old: ContentState) -> bool:
        """Move the old content to the past, if history wants it; return whether it did."""
        context = self._context
        if not self._policy.keeps(old, context.machine, context.time, same=old.tag == op.tag):
            return False
        history.close_node(self._transaction, old.ino, context.position)
        history.drop_versions(self._transaction, old.ino, self._policy)
        return True

    def _set(self, op: Attr) -> bool:
        values = {name: op.values[name] for name in _LOGGED_ATTRIBUTES if name in op.values}
        if not values:
            return False
        values.setdefault("ctime", self._context.time)
        new = self._new.get(op.node)
        if new is not None:
            new.row.update(values)
            return True
        known = self.find(op.node)
        if known is None:
            return False
        self.keep_pinned(known[0])
        self.update(known[0], values)
        return True

    def _set_field(self, op: Field) -> bool:
        known = self.find(op.node)
        if known is None:
            return False
        ino, context = known[0], self._context
        context.fields.forget(ino, op.field)
        if self.pinned and (ino, op.field) not in context.touched_fields:
            history.close_field(self._transaction, ino, op.field, context.position, self.pinned)
            context.touched_fields.add((ino, op.field))
        if op.value is None:
            self._transaction.execute(_DROP_FIELD, {"ino": ino, "field": op.field})
        else:
            row = {"ino": ino, "field": op.field, "value": op.value, "since": context.position}
            self._transaction.execute(_SET_FIELD, row)
        if op.node not in self._new:
            self.keep_pinned(ino)
            self.update(ino, {"ctime": context.time})
        return True

    def _found(self, op: Namespace) -> bool:
        """Note what the namespace is; its root folder is as old as it."""
        self._context.changes.everything = True
        settings.put(self._transaction, settings.NAMESPACE, (op.name, op.mode, op.time))
        times = dict.fromkeys(("mtime", "ctime", "btime"), op.time)
        self.update(Inode(ROOT_INODE), times)
        return True

    def _admit(self, op: Member) -> bool:
        row = {"machine": op.machine, "name": op.name, "public_key": op.public_key, "epoch": op.epoch}
        incarnation = op.incarnation.to_bytes(8, "big")
        zero = {"last_sequence": 0, "last_stamp": 0, "last_segment": 0}
        self._transaction.execute(_SET_MEMBER, {**row, "incarnation": incarnation, **zero})
        return True


_KINDS: Collection[int] = frozenset(Kind)


def apply_group(
    transaction: Transaction, context: GroupContext, group: Group, policy: HistoryPolicy, inodes: InodeCounter
) -> int:
    """Apply all operations of a group; return how many of them changed something."""
    application = OperationApplier(transaction, context, policy, inodes)
    changed = sum(application.apply(op) for op in group.ops)
    application.flush()
    return changed
