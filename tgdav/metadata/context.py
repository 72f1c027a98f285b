"""State that the operations of one group share while they are applied, and what the journal remembers between groups."""

from collections.abc import Callable

import msgspec

from tgdav.ids import ContentTag, EntryId, Inode, MachineId, NodeId, Position
from tgdav.metadata.tree_cache import TreeChanges
from tgdav.metadata.types import Attributes

_MAX_DIRECTORIES = 10_000
_MAX_FIELDS = 10_000


class GroupContext(msgspec.Struct):
    """The group that is being applied.

    ``machine`` is its author, ``author`` the number of its incarnation in ``authors``, ``sequence`` the number of the operation
    that is applied next. ``stamp`` orders it among all groups, ``time`` (ns) is its wall-clock time, ``position`` its place
    in this machine's log. ``empty_tag`` is the tag of a file without content. In a group of this machine (``is_own``) an unknown
    directory is an error of the caller; in another machine's group it is a gap in the log.

    ``fresh`` holds ids that were just made, so that no query is needed to see that they are unknown. ``touched`` (nodes) and
    ``touched_fields`` are those whose state before this group is already in the past tables, or need not be kept; ``written``
    are files whose content this group has set, ``versioned`` those that have a version more.
    ``new_directories`` are reachable from the root. ``changes`` collects what the tree cache must apply. ``found_nodes``
    (inode, kind, local), ``found_empty`` (files without content) and ``found_entries`` (directory, name, inode) are results of
    the change's own queries that it has not changed since. ``made`` are the logged nodes that this group makes, ``replacing``
    the entries that replace others or are replaced, ``left`` the directories from which entries went to the trash; None: none.
    """

    machine: MachineId
    position: Position
    stamp: int
    time: int
    empty_tag: ContentTag
    is_own: bool = False
    author: int = 0
    sequence: int = 0
    directories: "LiveDirectories" = msgspec.field(default_factory=lambda: LiveDirectories())
    fields: "FieldCache" = msgspec.field(default_factory=lambda: FieldCache())
    fresh: set[bytes] = msgspec.field(default_factory=set)
    touched: set[Inode] = msgspec.field(default_factory=set)
    written: set[Inode] = msgspec.field(default_factory=set)
    versioned: set[Inode] = msgspec.field(default_factory=set)
    touched_fields: set[tuple[Inode, bytes]] = msgspec.field(default_factory=set)
    changes: TreeChanges = msgspec.field(default_factory=TreeChanges)
    new_directories: set[Inode] = msgspec.field(default_factory=set)
    found_nodes: dict[NodeId, tuple[Inode, int, bool]] = msgspec.field(default_factory=dict)
    found_empty: set[NodeId] = msgspec.field(default_factory=set)
    found_entries: dict[EntryId, tuple[Inode, bytes, Inode]] = msgspec.field(default_factory=dict)
    made: list[Inode] | None = None
    replacing: list[EntryId] | None = None
    left: list[Inode] | None = None

    def keep_versions_of(self, *entries: EntryId) -> None:
        """Record entries that replace others or are replaced."""
        self.replacing = [*(self.replacing or ()), *entries]


class LiveDirectories:
    """Directories known to be reachable from the root; cleared as soon as any directory moves.

    Used only inside the writer. Times and link counts of the attributes may be out of date; ids and kinds never change.
    """

    def __init__(self) -> None:
        self._by_inode: dict[Inode, Attributes] = {}
        self._by_node: dict[NodeId, Inode] = {}

    def get(self, inode: Inode) -> Attributes | None:
        """Return a directory if it is known to be reachable."""
        return self._by_inode.get(inode)

    def inode_of(self, node: NodeId) -> Inode | None:
        """Return the inode of a directory if it is known to be reachable."""
        return self._by_node.get(node)

    def add(self, directory: Attributes) -> None:
        """Remember a directory that this transaction found to be reachable."""
        # Clearing is simpler than eviction, and refilling costs one query per directory.
        if len(self._by_inode) >= _MAX_DIRECTORIES:
            self.clear()
        self._by_inode[directory.inode] = directory
        self._by_node[directory.node] = directory.inode

    def clear(self) -> None:
        """Forget all; call this when a directory moves or a transaction is rolled back."""
        self._by_inode.clear()
        self._by_node.clear()


class FieldCache:
    """Values of fields that were queried (None: the field does not exist), and new nodes, which have no fields.

    Used only inside the writer. Every change of a field calls ``forget``.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[Inode, bytes], bytes | None] = {}
        self._without_fields: set[Inode] = set()

    def get(self, inode: Inode, field: bytes, query: Callable[[], bytes | None]) -> bytes | None:
        """Return the value of a field; call ``query`` if it is not cached."""
        if inode in self._without_fields:
            return None
        if (inode, field) not in self._values:
            if len(self._values) >= _MAX_FIELDS:
                self._values.clear()
            self._values[inode, field] = query()
        return self._values[inode, field]

    def add_new(self, inode: Inode) -> None:
        """Remember that a node is new and has no fields."""
        # Forgetting a new node is harmless: its fields are queried then.
        if len(self._without_fields) >= _MAX_FIELDS:
            self._without_fields.clear()
        self._without_fields.add(inode)

    def forget(self, inode: Inode, field: bytes) -> None:
        """Forget a field that is being set or removed."""
        self._without_fields.discard(inode)
        self._values.pop((inode, field), None)

    def clear(self) -> None:
        """Forget all; call this when another machine's groups are applied or a transaction is rolled back."""
        self._values.clear()
        self._without_fields.clear()
