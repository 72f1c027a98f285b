"""What a file system uses: allocated bytes, totals, and how far files have been uploaded."""

import threading
from collections.abc import Callable

from tgdav.clock import Clock
from tgdav.content.format.manifest import RECORD
from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.content.store import ContentStore, UploadState
from tgdav.db.database import Database
from tgdav.errors import NotFound
from tgdav.fs.files.open_file import OpenFile
from tgdav.ids import ContentTag, Inode
from tgdav.metadata import queries
from tgdav.metadata.tree_cache import TreeCache
from tgdav.metadata.types import Attributes

SMALL = 64 * 1024
"""Files up to this size, bytes, count as allocated completely: looking for holes would cost more than it saves."""

_MAX_CONTENTS = 20_000
"""Contents whose allocated bytes are cached."""

_HOLE = bytes(32)

_SHARE = 100
"""Counting a million files takes about a second; at most this part of the time is spent on it."""
_QUICK_SECONDS = 0.005
"""A count that takes less is not cached."""

_IS_LOGGED = """SELECT 1 FROM nodes n LEFT JOIN entries e ON e.ino = n.ino WHERE n.ino = ?
AND max(n.since, coalesce(e.since, 0)) <= (SELECT coalesce(max(position), 0) FROM chains)
AND NOT EXISTS (SELECT 1 FROM log WHERE segment IS NULL AND position = max(n.since, coalesce(e.since, 0)))"""
"""Whether a node's newest change is in a stored segment."""


class AllocatedBytes:
    """The bytes of files without holes, as ``du`` counts them. Caches by content tag, whose content never changes.

    Thread-safe: the dictionary is the only shared state.
    """

    def __init__(self, database: Database, cache: TreeCache) -> None:
        self._database, self._cache = database, cache
        self._by_tag: dict[ContentTag, int] = {}

    def of(self, node: Attributes, find: Callable[[Inode], OpenFile | None]) -> int:
        """Return a node's allocated bytes, with the unflushed writes of its open file, which ``find`` returns.

        A file that is not empty has at least one: programs do not read a file without blocks.
        """
        if not node.is_file:
            return 0
        if node.size <= SMALL:
            return node.size
        file = find(node.inode)
        if file is not None and (unflushed := file.unflushed_bytes) is not None:
            visible, written = unflushed
            return max(min(node.size, min(visible, self._committed(node)) + written), 1)
        return max(self._committed(node), 1)

    def _committed(self, node: Attributes) -> int:
        if node.tag is None:
            return node.size
        known = self._by_tag.get(node.tag)
        if known is not None:
            return known
        tag, encoded = self._content(node.inode)
        if tag is not None:
            if len(self._by_tag) >= _MAX_CONTENTS:
                self._by_tag.clear()
            self._by_tag[tag] = data_bytes(encoded)
        return data_bytes(encoded)

    def _content(self, inode: Inode) -> tuple[ContentTag | None, bytes]:
        """Return a file's tag and encoded manifest; no tag if the content changes meanwhile."""
        cached = self._cache.content(inode)
        if cached is not None:
            return cached[0].tag, cached[1]
        with self._database.autocommit_reader() as connection:
            before = queries.attributes(connection, inode)
            encoded = queries.manifest(connection, inode)
            after = queries.attributes(connection, inode)
        # Each statement of this connection sees the latest commit, so the content may change between them.
        is_same = before is not None and after is not None and before.tag == after.tag
        return before.tag if is_same and before else None, encoded


def data_bytes(encoded: bytes) -> int:
    """Return how many bytes of an encoded manifest's content are not holes."""
    return sum(length for length, chunk in RECORD.iter_unpack(encoded) if chunk != _HOLE)


class CachedTotals:
    """Counts of files and bytes for ``df`` and quotas, which are requested often. Thread-safe.

    A slow count is cached for a hundred times as long as it took.
    """

    def __init__(self, count: Callable[[], tuple[int, int]], clock: Clock) -> None:
        self._count, self._clock = count, clock
        self._lock = threading.Lock()
        self._valid_until = 0.0
        self._last: tuple[int, int] | None = None

    def get(self) -> tuple[int, int]:
        """Return (files, allocated bytes)."""
        with self._lock:
            began = self._clock.monotonic()
            if self._last is None or began >= self._valid_until:
                # Under the lock: several threads that ask at once share one count.
                self._last = self._count()
                took = self._clock.monotonic() - began
                self._valid_until = began + (took * _SHARE if took > _QUICK_SECONDS else 0.0)
            return self._last


def upload_state(database: Database, content: ContentStore, inode: Inode) -> UploadState:
    """Return how far a node without unflushed writes has been uploaded, content and log. Raises NotFound."""
    with database.reading() as connection:
        attributes = queries.attributes(connection, inode)
        if attributes is None:
            raise NotFound
        # Content that stays on this machine is never uploaded.
        if attributes.local:
            return UploadState.LOCAL
        encoded = queries.manifest(connection, inode) if attributes.is_file else b""
        is_logged = connection.one(_IS_LOGGED, (inode,)) is not None
    chunks = [each.chunk for each in decode_manifest(encoded).extents if each.chunk] if encoded else []
    state = content.state_of(chunks)
    # The chunks may be stored while the operation that names them still waits for its segment.
    return UploadState.UPLOADING if state == UploadState.STORED and not is_logged else state
