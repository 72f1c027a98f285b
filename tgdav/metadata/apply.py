"""Applies operations to the database: the only place that does so, for this machine's calls and other machines' logs alike.

Applying never fails because of the tree's state. An operation that cannot be applied (its node is unknown, it would move a
directory below itself, it is older than the entry's present place) changes nothing, and neither does one that was applied
before. So all machines that apply the same operations end up with the same tree.
"""

from collections.abc import Collection
from typing import assert_never

from sqlalchemy import bindparam, delete, func, insert, literal_column, select, update
from sqlalchemy.dialects import sqlite

from tgdav.crdt.ops import (
    Attr,
    Field,
    Group,
    Make,
    Member,
    Namespace,
    NamespaceOp,
    Op,
    Place,
    Prune,
    Purge,
    Retire,
    Retracted,
    Snapshot,
    TrashPolicy,
    Unsnapshot,
    VersionPolicy,
    Write,
)
from tgdav.db import Transaction, compiled
from tgdav.db.schema import ROOT_INODE, entries, fields, machines, manifests, nodes, packs
from tgdav.ids import Inode
from tgdav.metadata import history, pruning, purging, settings, snapshots
from tgdav.metadata.context import GroupContext
from tgdav.metadata.entry_moves import EntryMover, Removal
from tgdav.metadata.history import ContentState, HistoryPolicy
from tgdav.metadata.node_rows import NODE_UPDATES, InodeCounter, NodeRows
from tgdav.metadata.types import FILE, Kind

INLINE_BYTES = 320
"""Manifests up to this length (8 extents) are stored in the node's row."""

_LOGGED_ATTRIBUTES = ("mode", "uid", "gid", "mtime", "ctime", "btime")
_n = nodes.c

_CONTENT_STATE = compiled(
    select(_n.ino, _n.kind, _n.size, _n.tag, _n.since, _n.writer, _n.burst, _n.version, _n.manifest, _n.local).where(
        _n.id == bindparam("id")
    )
)
_CACHED_OF_CONTENT = ("size", "mtime", "ctime", "tag")
# Snapshots do not contain junk, so a published node exists from its publication on: on other machines it is new.
_PUBLISH = """UPDATE nodes SET local = 0, since = :position, writer = iif(kind = 1, :machine, NULL), written = :time,
burst = :time, author = :author, seq = :sequence, version = 1 WHERE ino = :inode"""
_INSERT_MANIFEST = compiled(insert(manifests), ("data",))
_upsert_field = sqlite.insert(fields)
_SET_FIELD = compiled(
    _upsert_field.on_conflict_do_update(
        set_={"value": _upsert_field.excluded.value, "since": _upsert_field.excluded.since}
    )
)
_DROP_FIELD = compiled(delete(fields).where(fields.c.ino == bindparam("ino"), fields.c.field == bindparam("field")))
_DROP_PLACEHOLDER_ENTRY = compiled(delete(entries).where(entries.c.id == bindparam("id")).returning(entries.c.parent))
_DECREMENT_LINKS = compiled(
    update(nodes).where(_n.ino == bindparam("inode")).values(nlink=_n.nlink - literal_column("1"))
)
_SET_MADE = compiled(
    update(nodes).where(_n.ino == bindparam("inode")), ("mode", "uid", "gid", "mtime", "ctime", "btime")
)
# A Member may arrive after a later one, so the epoch never decreases. The columns that say how much of a machine's log has
# been applied are set by the first Member only.
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


_RETIRE = compiled(
    update(packs)
    .where(packs.c.name == bindparam("pack"), packs.c.state == bindparam("stored"))
    .values(state=bindparam("is_retired"), retired=bindparam("position"))
)
_STORED, _RETIRED = 3, 4
"""``packs.state``."""


class OperationApplier:
    """Applies the operations of one group."""

    def __init__(self, rows: NodeRows) -> None:
        self._rows = rows
        self._transaction = rows.transaction
        self._context = rows.context

    def apply(self, op: Op, *, local: bool = False) -> bool:
        """Apply one operation; return whether it changed something. With ``local``, new nodes and entries are never logged."""
        match op:
            case Make():
                return self._make(op, local)
            case Place():
                return EntryMover(self._rows).place(op, local)
            case Write():
                return self._write(op)
            case Attr():
                return self._set_attributes(op)
            case Field():
                return self._set_field(op)
            case Prune():
                return pruning.prune(self._rows, op)
            case _:
                return self._apply_to_namespace(op)

    def _apply_to_namespace(self, op: NamespaceOp) -> bool:
        match op:
            case Snapshot():
                return snapshots.add(self._transaction, self._context, op, self._rows.policy)
            case Unsnapshot():
                return snapshots.remove(self._transaction, op, self._rows.policy)
            case Purge():
                return purging.purge(self._transaction, self._context, self._rows.policy, op.entries)
            case Retire():
                return self._retire(op)
            case TrashPolicy() | VersionPolicy():
                return self._set_policy(op)
            case Member():
                return self._add_member(op)
            case Namespace():
                return self._set_namespace(op)
            case Retracted():
                return False
            case _:
                assert_never(op)

    def remove(self, op: Place, *, leaves_trace: bool) -> bool:
        """Apply a Place into the trash and the Purge of that entry at once."""
        return EntryMover(self._rows).place(
            op, local=False, removal=Removal.LOGGED if leaves_trace else Removal.TRACELESS
        )

    def _make(self, op: Make, local: bool) -> bool:
        known = None if op.node in self._context.fresh else self._rows.find(op.node)
        if known is None:
            # Only a later version of this program, or an attacker, writes other kinds.
            if op.kind not in _KINDS:
                return False
            self._rows.add(op, local=local)
            return True
        ino, _, known_local = known
        if known_local and not local:
            # A local node is published: the same node id becomes part of the log, and its row loses the mark ``local``.
            self._rows.flush()
            self._publish(ino)
            # They contain the mark.
            self._context.found_nodes.clear()
            self._context.found_empty.clear()
            self._context.changes.nodes.add(ino)
            self._context.touched.add(ino)
            return True
        return self._make_placeholder_real(op, ino)

    def _publish(self, ino: Inode) -> None:
        context = self._context
        author = {"machine": context.machine, "author": context.author, "sequence": context.sequence}
        place = {"inode": ino, "position": context.position, "time": context.time}
        self._transaction.execute(_PUBLISH, {**author, **place})
        self._transaction.execute(history.SET_SINCE_OF_FIELDS, {"inode": ino, "position": context.position})

    def _make_placeholder_real(self, op: Make, ino: Inode) -> bool:
        """Set the attributes of a placeholder, a directory known only from its entries, and remove it from ``lost+found``."""
        row = self._transaction.one(_DROP_PLACEHOLDER_ENTRY, {"id": op.node})
        if row is None:
            return False
        # The directory vanishes from ``lost+found``; that is too rare to record in detail.
        self._context.changes.everything = True
        self._transaction.execute(_DECREMENT_LINKS, {"inode": row[0]})
        times = {"mtime": op.time, "ctime": op.time, "btime": op.time}
        self._transaction.execute(_SET_MADE, {"inode": ino, "mode": op.mode, "uid": op.uid, "gid": op.gid, **times})
        return True

    def _write(self, op: Write) -> bool:
        context = self._context
        new = self._rows.new.get(op.node)
        if new is not None:
            if new.row["kind"] != FILE:
                return False
            replaced, ino = new.row["manifest"], new.ino
            new.row.update(self._content(op))
        else:
            known = self._replace_content(op)
            if known is None:
                return False
            ino, replaced, old = known
            values = self._content(op)
            if old is not None:
                values.update(old)
            self._transaction.defer(NODE_UPDATES, (ino, values, 0))
            context.changes.amend(ino, {name: values[name] for name in _CACHED_OF_CONTENT})
            # Long manifests have a table of their own; the cache does not keep them.
            context.changes.written[ino] = op.manifest if values["manifest"] is None else None
        context.touched.add(ino)
        context.written.add(ino)
        history.drop_manifest(self._transaction, ino, replaced)
        return True

    def _replace_content(self, op: Write) -> tuple[Inode, int | None, dict[str, int] | None] | None:
        """Keep a file's present content if it is a version or a snapshot shows it.

        Return the inode, the number of a manifest that may be unused now, and the new content's place in the file's history;
        None if that stays. Return None if the node is not a file.
        """
        rows = self._rows
        if op.node in self._context.found_empty and not rows.policy.last_pinned:
            # The change has just seen that the file is empty: there is nothing to keep, and no query is needed.
            self._context.found_empty.discard(op.node)
            return self._context.found_nodes[op.node][0], None, {"burst": self._context.time}
        row = self._transaction.one(_CONTENT_STATE, {"id": op.node})
        if row is None or row[1] != FILE:
            return None
        old, context = ContentState(*row), self._context
        # A second write in one group replaces what nobody has seen.
        if old.ino in context.written:
            return old.ino, old.manifest, None
        is_same = old.tag == op.tag
        is_version = rows.policy.is_version(old, context.machine, context.time, same=is_same, restores=op.restores)
        is_kept = self._keep_content(old, is_version)
        place = {"burst": context.time, "version": old.version + 1} if is_version else None
        if old.size == 0:  # a burst begins with the first save, not with the creation of the file
            place = {"burst": context.time}
        return old.ino, None if is_kept else old.manifest, place

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
            "author": context.author,
            "seq": context.sequence,
        }

    def _keep_content(self, old: ContentState, is_version: bool) -> bool:
        """Copy the old content to the past if it is a version or a snapshot shows it; return whether the past has it."""
        transaction, position, policy = self._transaction, self._context.position, self._rows.policy
        if old.ino in self._context.touched:
            # An earlier operation of the group changed the node, and copied its row if a snapshot shows it.
            is_there = history.keep_as_version(transaction, old.ino, position, kept=is_version)
        else:
            is_there = False
        if not is_there and (is_version or policy.pins(old)):
            history.close_content(transaction, old, position, kept=is_version)
            is_there = True
        if is_version:
            self._context.versioned.add(old.ino)
        return is_there

    def _set_attributes(self, op: Attr) -> bool:
        values = {name: op.values[name] for name in _LOGGED_ATTRIBUTES if name in op.values}
        if not values:
            return False
        # POSIX: a change of attributes changes ctime.
        values.setdefault("ctime", self._context.time)
        new = self._rows.new.get(op.node)
        if new is not None:
            new.row.update(values)
            return True
        known = self._rows.find(op.node)
        if known is None:
            return False
        self._rows.keep_pinned(known[0])
        self._rows.update(known[0], values)
        return True

    def _set_field(self, op: Field) -> bool:
        known = self._rows.find(op.node)
        if known is None:
            return False
        ino, context, pinned = known[0], self._context, self._rows.policy.last_pinned
        context.fields.forget(ino, op.field)
        if pinned and (ino, op.field) not in context.touched_fields:
            history.close_field(self._transaction, ino, op.field, context.position, pinned)
            context.touched_fields.add((ino, op.field))
        if op.value is None:
            self._transaction.execute(_DROP_FIELD, {"ino": ino, "field": op.field})
        else:
            row = {"ino": ino, "field": op.field, "value": op.value, "since": context.position}
            self._transaction.execute(_SET_FIELD, row)
        # A new node was created at the same time, so its ctime is right already.
        if op.node not in self._rows.new:
            self._rows.keep_pinned(ino)
            self._rows.update(ino, {"ctime": context.time})
        return True

    def _retire(self, op: Retire) -> bool:
        states = {"stored": _STORED, "is_retired": _RETIRED, "position": self._context.position}
        changed = [self._transaction.execute(_RETIRE, {"pack": name, **states}).rowcount for name in op.packs]
        return any(changed)

    def _set_namespace(self, op: Namespace) -> bool:
        """Record the namespace's name; its root directory gets the namespace's creation time."""
        self._context.changes.everything = True
        settings.put(self._transaction, settings.NAMESPACE, (op.name, op.mode, op.time))
        times = dict.fromkeys(("mtime", "ctime", "btime"), op.time)
        self._rows.update(Inode(ROOT_INODE), times)
        return True

    def _set_policy(self, op: TrashPolicy | VersionPolicy) -> bool:
        if isinstance(op, VersionPolicy):
            return settings.change(self._transaction, settings.VERSION_POLICY, op.max_versions)
        self._rows.policy.retention_days = op.retention_days
        return settings.change(self._transaction, settings.TRASH_POLICY, op.retention_days)

    def _add_member(self, op: Member) -> bool:
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
    rows = NodeRows(transaction, context, policy, inodes)
    applier = OperationApplier(rows)
    changed = 0
    for op in group.ops:
        changed += applier.apply(op)
        context.sequence += 1
    rows.flush()
    return changed
