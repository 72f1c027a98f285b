"""Which chunks are in use: the one function and the one list of sources that garbage collection relies on.

A chunk is live if one of these refers to it:

- a file's content as it is now, in the tree, in the trash, or without a name; junk of this machine too (``nodes``)
- an earlier content: a version, or what a snapshot shows (``nodes_past``)
- a long manifest, whichever of them names it (``manifests``)
- a group of operations that is not in a stored segment yet (``log``): its segment may leave only while the store has its chunks
- an open file, whose unflushed writes lie over a content that may have been replaced
- an open reader, of a file that may have been deleted
- a running stream, or one that ran since the pins began to be recorded (``content.is_pinned``)

The same decides which chunks that are staged as rows, or belong to junk, are deleted before they are ever in a pack.
"""

from array import array
from collections.abc import Iterable

from tgdav.content.chunk_set import ChunkSet
from tgdav.content.format.manifest import Manifest, chunk_prefixes
from tgdav.content.store import ContentStore
from tgdav.crdt.ops import Write, decode_ops
from tgdav.db.connection import Connection
from tgdav.fs.files.open_files import OpenFiles
from tgdav.ids import ChunkId

# Symbolic links keep their target in ``content``.
_CONTENTS = """SELECT content FROM nodes WHERE kind = 1 AND content IS NOT NULL
UNION ALL SELECT content FROM nodes_past WHERE kind = 1 AND content IS NOT NULL
UNION ALL SELECT data FROM manifests"""
_LOGGED = "SELECT ops FROM log"


class LiveChunks:
    """The chunks in use, those among them that a stream has pinned since. A false match only keeps a chunk."""

    def __init__(self, chunks: ChunkSet, content: ContentStore) -> None:
        self._chunks, self._content = chunks, content

    def __contains__(self, chunk: object) -> bool:
        return isinstance(chunk, bytes) and (chunk in self._chunks or self._content.is_pinned(ChunkId(chunk)))

    def __len__(self) -> int:
        return len(self._chunks)


def live_chunks(connection: Connection, content: ContentStore, files: OpenFiles) -> LiveChunks:
    """Return the chunks in use, by one consistent read.

    The pins must be recorded (``content.record_pins``) since before that read began: new content may use a chunk that nothing
    else did. Raises DamageError (a manifest, or the log, cannot be read).
    """
    prefixes = array("Q")
    for (manifest,) in connection.each(_CONTENTS):
        prefixes.extend(chunk_prefixes(manifest))
    for (ops,) in connection.each(_LOGGED):
        for op in decode_ops(ops):
            if isinstance(op, Write):
                prefixes.extend(chunk_prefixes(op.manifest))
    for each in (*files.open_manifests(), *content.reader.open_manifests()):
        prefixes.extend(_prefixes(each))
    return LiveChunks(ChunkSet.of_prefixes(prefixes), content)


def _prefixes(manifest: Manifest) -> Iterable[int]:
    return (int.from_bytes(chunk[:8], "big") for chunk in manifest.chunk_ids())
