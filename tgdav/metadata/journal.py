"""The journal: the only way to change a namespace's tree.

A change is one group of operations. One transaction applies the group and logs it, so the tree and the log always agree,
whatever interrupts the program.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeVar

from sqlalchemy import bindparam, func, insert, select, update

from tgdav.clock import Clock
from tgdav.crdt.clocks import StampSource
from tgdav.crdt.ops import ROOT, TRASH, Group, Make, Op, encode_ops
from tgdav.db import Database, Inserts, Syncable, Transaction, compiled
from tgdav.db.connection import Row
from tgdav.db.schema import ROOT_INODE, TRASH_INODE, authors, chains, entries, log, machines, nodes
from tgdav.entropy import Entropy
from tgdav.errors import LocalFailure, NoSpace, ReadOnly
from tgdav.ids import ContentTag, Incarnation, Inode, MachineId, NodeId, Position
from tgdav.metadata import snapshots
from tgdav.metadata.apply import apply_group
from tgdav.metadata.change import Change, IdSource
from tgdav.metadata.context import FieldCache, GroupContext, LiveDirectories
from tgdav.metadata.fresh_nodes import FreshNodes
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.node_rows import NEW_NODES, InodeCounter, NewNode, NodeRows
from tgdav.metadata.tree_cache import DIRECTORY_LIMIT, TreeCache, TreeChanges, TreeView
from tgdav.metadata.types import Kind

T = TypeVar("T")

_EMPTY_MANIFEST = b""

_l, _h, _m = log.c, chains.c, machines.c
LAST_POSITION = """SELECT max((SELECT coalesce(max(position), 0) FROM log),
 (SELECT coalesce(max(position), 0) FROM chains))"""
"""Groups are deleted from the log once their segment is stored; the head of their chain then has the last position."""
_LAST_LOGGED = compiled(select(_l.stamp).order_by(_l.position.desc()).limit(1))
_LAST_OWN = compiled(
    select(_l.sequence + _l.count - 1, _l.stamp)
    .where(_l.machine == bindparam("machine"), _l.incarnation == bindparam("incarnation"))
    .order_by(_l.position.desc())
    .limit(1)
)
_LAST_SENT = compiled(select(_h.sequence, _h.stamp).where(_h.incarnation == bindparam("incarnation")))
_LAST_SEEN = compiled(select(func.coalesce(func.max(_m.last_stamp), 0)))
_NEW_GROUPS = Inserts(log, number=3)
_SET_APPLIED = compiled(
    update(machines)
    .where(_m.machine == bindparam("author"), _m.incarnation == bindparam("run"))
    .values(
        last_sequence=func.max(_m.last_sequence, bindparam("sequence")),
        last_stamp=func.max(_m.last_stamp, bindparam("stamp")),
    )
)
_NAMES = compiled(
    select(entries.c.name, entries.c.id, entries.c.ino)
    .where(entries.c.parent == bindparam("parent"))
    .limit(bindparam("most"))
)
_AUTHOR = compiled(select(authors.c.no).where(authors.c.incarnation == bindparam("run")))
_ADD_AUTHOR = compiled(insert(authors), ("machine", "incarnation"))
_HAS_ROOT = compiled(select(nodes.c.ino).where(nodes.c.ino == ROOT_INODE))


class ContentTagger(Protocol):
    """What the journal needs of the namespace's keys."""

    def content_tag(self, manifest: bytes, /) -> ContentTag:
        """Return the tag of an encoded manifest."""
        ...


class _Ends(NamedTuple):
    """The end of the log: the last position, and this machine's last sequence number."""

    position: int = 0
    sequence: int = 0


class Journal:
    """A namespace's journal on this machine. Thread-safe.

    ``read_only`` is None, or the reason why changes are refused. ``history`` decides which earlier states are kept; its fields
    may be changed at any time between changes. ``cache`` contains the tree as of the last change.
    """

    def __init__(
        self,
        database: Database,
        keys: ContentTagger,
        machine: MachineId,
        incarnation: Incarnation,
        clock: Clock,
        entropy: Entropy,
        history: HistoryPolicy,
    ) -> None:
        """Continue the log, or create the root directory in a new database. Raises LocalFailure, NoSpace."""
        self.history = history
        self.read_only: str | None = None
        self._writer = database.writer
        self._machine = machine
        self._incarnation = incarnation
        self._clock = clock
        self._entropy = entropy
        self._empty_tag = keys.content_tag(_EMPTY_MANIFEST)
        self._stamps = StampSource(clock)
        self._ends = _Ends()
        self._generation = -1
        self.cache = TreeCache(lambda: database.writer.is_concluding)
        self._view = TreeView(self.cache)
        self._directories = LiveDirectories()
        self._fields = FieldCache()
        self.fresh = FreshNodes()
        self._writer.on_loss(self._clear_cache)
        self._ids, self._inodes, self._author = self._writer.run(self._open)

    def change(
        self,
        work: Callable[[Change], T],
        *,
        durable: bool = False,
        sync: Sequence[Syncable] = (),
        lazy: bool = False,
        nowait: bool = False,
    ) -> T:
        """Make one change: call ``work``, commit and log all that it emitted or nothing; return its result.

        ``work`` may run in another thread that is making changes, and is called at most once. ``sync``, ``durable``, ``lazy``
        and ``nowait`` are those of ``Writer.run``. Raises what ``work`` raises, ReadOnly, LocalFailure, NoSpace.
        """

        def job(transaction: Transaction) -> T:
            return self._change(transaction, work)

        return self._writer.run(job, durable=durable, sync=sync, lazy=lazy, nowait=nowait)

    def apply_groups(
        self,
        machine: MachineId,
        incarnation: Incarnation,
        groups: Iterable[Group],
        *,
        segment: int | None = None,
        record: Callable[[Transaction], None] | None = None,
        durable: bool = False,
    ) -> None:
        """Apply another machine's groups and log them as part of ``segment``, in one transaction.

        Groups are applied in the given order, also those that were applied before. ``record`` runs in the same transaction: the
        caller records there which segments are applied, and checks that before the next call. Raises what ``record`` raises,
        LocalFailure, NoSpace.
        """
        self._writer.run(
            lambda transaction: self._apply_groups(transaction, machine, incarnation, groups, segment, record),
            durable=durable,
        )

    def cache_directory(self, directory: Inode) -> None:
        """Cache all names of a directory, unless it is very large."""

        def read(transaction: Transaction) -> None:
            rows = transaction.all(_NAMES, {"parent": directory, "most": DIRECTORY_LIMIT + 1})
            if len(rows) <= DIRECTORY_LIMIT:
                transaction.when_done(lambda: self.cache.add_directory(directory, rows))

        # Lookups must succeed even if writing is impossible; the cache then knows less.
        with suppress(LocalFailure, NoSpace):
            self._writer.run(read, lazy=True)

    # ---- inside the writer ---------------------------------------------------------------------------------------

    def _open(self, transaction: Transaction) -> tuple[IdSource, InodeCounter, int]:
        if transaction.one(_HAS_ROOT) is None:
            self._make_root(transaction)
        author = _number_of_author(transaction, self._machine, self._incarnation)
        return IdSource(self._entropy.bytes(8)), InodeCounter(transaction), author

    def _make_root(self, transaction: Transaction) -> None:
        """Create the root and the trash. They are in no log, so their times are the same on every machine: 0."""
        context = self._context(self._machine, 0, 0, 0)
        for ino, node, mode in ((ROOT_INODE, ROOT, 0o755), (TRASH_INODE, TRASH, 0o700)):
            make = Make(NodeId(node), Kind.DIRECTORY, mode, 0, 0, 0, 0)
            transaction.defer(NEW_NODES, NewNode.of(make, Inode(ino), context, local=False).values)

    def _change(self, transaction: Transaction, work: Callable[[Change], T]) -> T:
        if self.read_only is not None:
            raise ReadOnly(self.read_only)
        self._read_ends(transaction)
        ends = self._ends
        position, stamp, now = Position(ends.position + 1), self._stamps.next(), self._clock.file_time_ns()
        context = GroupContext(
            self._machine, position, stamp, now, self._empty_tag, True, self._author, ends.sequence + 1,
            self._directories, self._fields,
        )  # fmt: skip
        seconds = self._clock.monotonic()
        change = Change(
            NodeRows(transaction, context, self.history, self._inodes),
            self._ids, self._entropy, self._view, self.fresh, seconds,
        )  # fmt: skip
        policy = self.history
        before = policy.last_pinned, policy.last_snapshot, policy.retention_days
        try:
            result = work(change)
            ops = change.finish()
        except BaseException:
            self._fields.clear()  # it may contain values that the failed change wrote itself
            policy.last_pinned, policy.last_snapshot, policy.retention_days = before
            self._inodes.on_rollback()
            raise
        # A change without operations uses no position: positions in the log have no gaps.
        if ops:
            _log(transaction, context, self._incarnation, ends.sequence + 1, ops, None)
            self._ends = _Ends(ends.position + 1, ends.sequence + len(ops))
            if context.made is not None:
                self.fresh.add(context.made, position, seconds)
            if context.replacing is not None:
                self.fresh.keep(context.replacing, seconds)
            if context.left is not None:
                self.fresh.keep_directories(context.left)
        self._publish(transaction, context.changes)
        return result

    def _publish(self, transaction: Transaction, changes: TreeChanges) -> None:
        """Show a change to later changes of its transaction, and to the cache before its caller gets the result."""

        def apply_changes() -> None:
            self._view.clear()
            self.cache.apply_changes(changes)

        self._view.add(changes)
        transaction.when_done(apply_changes)

    def _clear_cache(self) -> None:
        """Forget changes that the cache applied and that could not be committed."""
        self._view.clear()
        self.cache.apply_changes(TreeChanges(everything=True))

    def _apply_groups(
        self,
        transaction: Transaction,
        machine: MachineId,
        incarnation: Incarnation,
        groups: Iterable[Group],
        segment: int | None,
        record: Callable[[Transaction], None] | None,
    ) -> None:
        self._read_ends(transaction)
        self._directories.clear()
        self._fields.clear()
        # The groups may have moved any directory and set any field; finding out which would cost more than the caches save.
        position, last = self._ends.position, None
        author = _number_of_author(transaction, machine, incarnation)
        for group in groups:
            position, last = position + 1, group
            context = self._context(machine, position, group.stamp, group.time)
            context.author, context.sequence = author, group.sequence
            apply_group(transaction, context, group, self.history, self._inodes)
            _log(transaction, context, incarnation, group.sequence, group.ops, segment)
        if last is not None:
            self._record_applied(transaction, machine, incarnation, last)
        if record is not None:
            record(transaction)
        # A segment changes so much that filling the cache again is cheaper than updating it.
        self._publish(transaction, TreeChanges(everything=True))
        sequence = self._ends.sequence
        if last is not None and (machine, incarnation) == (self._machine, self._incarnation):
            sequence = last.sequence + len(last.ops) - 1
        self._ends = _Ends(position, sequence)

    def _record_applied(
        self, transaction: Transaction, machine: MachineId, incarnation: Incarnation, group: Group
    ) -> None:
        values = {"author": machine, "run": incarnation.to_bytes(8, "big"), "stamp": group.stamp}
        transaction.execute(_SET_APPLIED, {**values, "sequence": group.sequence + len(group.ops) - 1})
        # A later change of this machine must have a larger stamp than every change that it has seen.
        self._stamps.observe(group.stamp)

    def _context(self, machine: MachineId, position: int, stamp: int, time: int) -> GroupContext:
        return GroupContext(machine, Position(position), stamp, time, self._empty_tag)

    def _read_ends(self, transaction: Transaction) -> None:
        """Read the end of the log at the first change, and again after a transaction was rolled back."""
        # The generation changes when a transaction is rolled back; otherwise the end of the log is known.
        if transaction.generation == self._generation:
            return
        self._directories.clear()
        self._fields.clear()
        self._view.clear()
        self.fresh.clear()
        # Own groups may be gone from the log already, once a segment that contains them is stored.
        own = {"machine": self._machine, "incarnation": self._incarnation.to_bytes(8, "big")}
        logged = transaction.one(_LAST_OWN, own) or (0, 0)
        sent = transaction.one(_LAST_SENT, {"incarnation": own["incarnation"]}) or (0, 0)
        others = (_number(transaction.one(_LAST_LOGGED)), _number(transaction.one(_LAST_SEEN)))
        self._ends = _Ends(_number(transaction.one(LAST_POSITION)), max(logged[0], sent[0]))
        self._stamps.observe(max(logged[1], sent[1], *others))
        snapshots.read_policy(transaction, self.history)
        self._inodes.on_rollback()
        self._generation = transaction.generation


def _number_of_author(transaction: Transaction, machine: MachineId, incarnation: Incarnation) -> int:
    key = {"run": incarnation.to_bytes(8, "big")}
    row = transaction.one(_AUTHOR, key)
    if row is None:
        transaction.execute(_ADD_AUTHOR, {"machine": machine, "incarnation": key["run"]})
        row = transaction.one(_AUTHOR, key)
    return _number(row)


def _number(row: Row | None) -> int:
    return int(row[0]) if row else 0


def _log(
    transaction: Transaction,
    context: GroupContext,
    incarnation: Incarnation,
    sequence: int,
    ops: tuple[Op, ...],
    segment: int | None,
) -> None:
    first = (context.position, context.machine, incarnation.to_bytes(8, "big"), sequence, len(ops))
    transaction.defer(_NEW_GROUPS, (*first, context.stamp, context.time, encode_ops(ops), segment))
