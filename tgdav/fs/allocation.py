"""How many bytes of a file are data: what ``du`` counts, where holes cost nothing."""

from collections.abc import Callable

from tgdav.content.format.manifest import RECORD
from tgdav.db.database import Database
from tgdav.fs.files.open_file import OpenFile
from tgdav.ids import ContentTag, Inode
from tgdav.metadata import queries
from tgdav.metadata.tree_cache import TreeCache
from tgdav.metadata.types import Attributes

SMALL = 64 * 1024
"""Files up to this size, bytes, count whole: looking for holes in them would cost more than it tells."""

LIMIT = 20_000
"""Contents remembered; when there are more, all are forgotten."""

_HOLE = bytes(32)


class Allocations:
    """Counts once for each content, which never changes. Thread-safe: the dictionary alone is shared."""

    def __init__(self, database: Database, cache: TreeCache) -> None:
        self._database, self._cache = database, cache
        self._known: dict[ContentTag, int] = {}

    def of(self, node: Attributes, find: Callable[[Inode], OpenFile | None]) -> int:
        """Return the bytes of a node that are no hole, with the unflushed writes of its open file, if ``find`` has it; at least
        one of any file that is not empty: programs take a file of no blocks for one that need not be read."""
        if not node.is_file:
            return 0
        if node.size <= SMALL:
            return node.size
        file = find(node.inode)
        if file is not None and (unflushed := file.unflushed_bytes) is not None:
            floor, added = unflushed
            return max(min(node.size, min(floor, self._settled(node)) + added), 1)
        return max(self._settled(node), 1)

    def _settled(self, node: Attributes) -> int:
        if node.tag is None:
            return node.size
        known = self._known.get(node.tag)
        if known is not None:
            return known
        tag, encoded = self._content(node.inode)
        if tag is not None:
            if len(self._known) >= LIMIT:
                self._known.clear()
            self._known[tag] = data_bytes(encoded)
        return data_bytes(encoded)

    def _content(self, inode: Inode) -> tuple[ContentTag | None, bytes]:
        """Return the encoded manifest that a file has now, with its tag; without it if it changes at this moment."""
        cached = self._cache.content(inode)
        if cached is not None:
            return cached[0].tag, cached[1]
        with self._database.autocommit_reader() as connection:
            before = queries.attributes(connection, inode)
            encoded = queries.manifest(connection, inode)
            after = queries.attributes(connection, inode)
        is_same = before is not None and after is not None and before.tag == after.tag
        return before.tag if is_same and before else None, encoded


def data_bytes(encoded: bytes) -> int:
    """Return how many bytes of an encoded manifest's content are in chunks."""
    return sum(length for length, chunk in RECORD.iter_unpack(encoded) if chunk != _HOLE)
