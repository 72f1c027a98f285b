"""What the tree shows to a change that is being made: the cache, and what changes before it in the same transaction did.

Used in the writer's turn alone. No change is committed beside it, so what the cache knows is what the database holds; only
what earlier changes of the same transaction touched is asked of the database.
"""

from tgdav.ids import Inode
from tgdav.metadata.tree_cache import UNKNOWN, TreeCache, TreeChanges, Unknown
from tgdav.metadata.types import Attributes, DirectoryEntry


class TreeView:
    """See the module. ``add`` takes in a change that stands, ``clear`` begins with nothing uncommitted."""

    def __init__(self, cache: TreeCache) -> None:
        self._cache = cache
        self._names: set[tuple[Inode, bytes]] = set()
        self._nodes: set[Inode] = set()
        self._everything = False

    def find(self, parent: Inode, name: bytes) -> DirectoryEntry | Unknown | None:
        """Return what a name shows, None if it is known to show nothing."""
        if self._everything or (parent, name) in self._names:
            return UNKNOWN
        entry = self._cache.find(parent, name)
        if isinstance(entry, DirectoryEntry) and entry.attributes.inode in self._nodes:
            return UNKNOWN
        return entry

    def node(self, inode: Inode) -> Attributes | None:
        """Return a node's attributes, None if the database has to be asked."""
        return None if self._everything or inode in self._nodes else self._cache.node(inode)

    def add(self, changes: TreeChanges) -> None:
        """Take in what a change did, so that later ones of its transaction ask the database about it."""
        self._everything |= changes.everything
        self._names |= changes.names
        self._nodes.update(changes.nodes, changes.contents, changes.amended)

    def clear(self) -> None:
        """The transaction is over: the cache has taken in what it did, or nothing of it stands."""
        self._everything = False
        self._names.clear()
        self._nodes.clear()
