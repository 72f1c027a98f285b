"""Checks contents: every file's manifest, present or earlier, is whole and fits its size and tag, and its chunks are known."""

from collections.abc import Callable, Collection
from contextlib import suppress

from tgdav.check.problem import Problems, State
from tgdav.content.chunk_set import ChunkSet
from tgdav.content.format.manifest import decode
from tgdav.db.connection import Connection, Row
from tgdav.errors import DamageError
from tgdav.ids import ChunkId
from tgdav.metadata.types import FILE, SYMLINK

ContentTagger = Callable[[bytes], bytes]

# A stored pack that is damaged or lost has a finding of its own.
_SOUND_CHUNKS = """SELECT c.id FROM chunks c LEFT JOIN packs p ON p.no = c.pack
WHERE c.data IS NOT NULL OR p.state = 3 OR (p.state < 3 AND p.damaged = 0) ORDER BY c.id"""
_STATES = """SELECT n.ino, n.since, {until}, n.kind, n.size, n.tag, n.content, n.manifest, m.data, n.author
FROM {table} n LEFT JOIN manifests m ON m.no = n.manifest"""
PRESENT = _STATES.format(until="NULL", table="nodes")
PAST = _STATES.format(until="n.until", table="nodes_past")
_KINDS = range(1, 8)


def check_contents(connection: Connection, tag_of: ContentTagger, problems: Problems) -> None:
    """Add what is wrong to ``problems``. ``tag_of`` returns the tag of an encoded manifest."""
    known = ChunkSet(row[0] for row in connection.each(_SOUND_CHUNKS))
    authors = {0, *(row[0] for row in connection.all("SELECT no FROM authors"))}
    for query in (PRESENT, PAST):
        for row in connection.each(query):
            what = _wrong(row, tag_of, known, authors)
            if what is not None:
                problems.add(what, State(*row[:3]))


def _wrong(row: Row, tag_of: ContentTagger, known: ChunkSet, authors: Collection[int]) -> str | None:
    _, _, _, kind, size, tag, content, number, _, author = row
    if author not in authors:
        return "contents have an unknown author"
    if kind == FILE:
        return _wrong_file(row, tag_of, known)
    if kind not in _KINDS:
        return "nodes are of an unknown kind"
    if number is not None or tag is not None or (content is not None and kind != SYMLINK):
        return "directories or special files have content"
    if size != len(content or b""):
        return "symbolic links have another length than their target"
    return None


def _wrong_file(row: Row, tag_of: ContentTagger, known: ChunkSet) -> str | None:
    _, _, _, _, size, tag, short, number, long, _ = row
    if number is not None and long is None:
        return "files name a missing manifest"
    if number is not None and short is not None:
        return "files have two manifests"
    encoded = long if number is not None else short or b""
    try:
        manifest = decode(encoded)
    except DamageError:
        return "files have a manifest that cannot be read"
    if manifest.size != size:
        return "files have another size than their manifest"
    if tag != tag_of(encoded):
        return "files have another tag than their manifest"
    if any(chunk not in known for chunk in manifest.chunk_ids()):
        return UNKNOWN_CHUNKS
    return None


UNKNOWN_CHUNKS = "files name chunks that are nowhere"


def unknown_chunks(connection: Connection) -> set[ChunkId]:
    """Return the chunks that contents name and the database does not know, or only in a pack that is gone."""
    known = ChunkSet(row[0] for row in connection.each(_SOUND_CHUNKS))
    unknown = set[ChunkId]()
    for query in (PRESENT, PAST):
        for row in connection.each(query):
            with suppress(DamageError):  # a manifest that cannot be read is a problem of its own
                chunks = decode(row[8] if row[7] is not None else row[6] or b"").chunk_ids() if row[3] == FILE else ()
                unknown.update(chunk for chunk in chunks if chunk not in known)
    return unknown
