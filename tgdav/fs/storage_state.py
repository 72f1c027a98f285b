"""How far a file's bytes and name have gone on their way into the store."""

from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.content.store import ContentStore
from tgdav.db.database import Database
from tgdav.errors import NotFound
from tgdav.ids import Inode
from tgdav.metadata import queries

_LOGGED = """SELECT 1 FROM nodes n LEFT JOIN entries e ON e.ino = n.ino WHERE n.ino = ?
AND max(n.since, coalesce(e.since, 0)) <= (SELECT coalesce(max(position), 0) FROM segments WHERE blob IS NOT NULL)
AND NOT EXISTS (SELECT 1 FROM log WHERE segment IS NULL AND position = max(n.since, coalesce(e.since, 0)))"""


def storage_state(database: Database, content: ContentStore, inode: Inode) -> str:
    """Return ``local``, ``uploading`` or ``stored`` for a node without unflushed writes. Raises NotFound."""
    with database.reading() as connection:
        attributes = queries.attributes(connection, inode)
        if attributes is None:
            raise NotFound
        if attributes.local:
            return "local"
        encoded = queries.manifest(connection, inode) if attributes.is_file else b""
        logged = connection.one(_LOGGED, (inode,)) is not None
    chunks = [each.chunk for each in decode_manifest(encoded).extents if each.chunk] if encoded else []
    state = content.state_of(chunks)
    return "uploading" if state == "stored" and not logged else state
