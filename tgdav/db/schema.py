"""The schema of a namespace's local database, version 2. Each column has a comment with its meaning.

``tgdav.db.migrations`` creates the schema in a new database and migrates older ones to it.

Rows have validity intervals. ``since`` is the position (this machine's order of applied groups) from which a row is valid. The
tables ``nodes``, ``entries`` and ``fields`` contain the current state; when a later group closes a row, it moves to the
``*_past`` table with ``until``, the position that closed it, if history keeps it. The state as of position P: current rows
with ``since <= P`` and past rows with ``since <= P < until``.

New columns are appended to their tables and have defaults: an older program may have left statements and rows in its redo log,
and those must still be executed after the migration.

Times are nanoseconds since 1970 UTC. Ids are the 16- or 32-byte values of ``tgdav.ids``; ``ino`` and the other integer keys
are this machine's own: no operation names them, only a checkpoint carries them, sealed, within its own rows.
"""

from sqlalchemy import BLOB, INTEGER, TEXT, Column, Index, MetaData, PrimaryKeyConstraint, Table, text

VERSION = 2
ROOT_INODE = 1
TRASH_INODE = 2
"""The parent of every deleted entry; not reachable by path."""
PURGED_INODE = 0
"""The parent of purged entries until the sweep has removed their rows. No node has this number."""

metadata = MetaData()


def _node_columns() -> list[Column[object]]:
    return [
        Column("since", INTEGER, nullable=False, comment="position from which this state holds"),
        Column("kind", INTEGER, nullable=False, comment="tgdav.metadata.types.Kind"),
        Column("mode", INTEGER, nullable=False, comment="permission bits, 0o7777; the type is in kind"),
        Column("uid", INTEGER, nullable=False, comment="owner's user number"),
        Column("gid", INTEGER, nullable=False, comment="owner's group number"),
        Column("rdev", INTEGER, nullable=False, comment="device number of a device node, else 0"),
        Column("size", INTEGER, nullable=False, comment="bytes of content; a symlink's target length; 0 for others"),
        Column("mtime", INTEGER, nullable=False, comment="content changed; on a folder, also moved by its entries"),
        Column("ctime", INTEGER, nullable=False, comment="any attribute changed"),
        Column("btime", INTEGER, nullable=False, comment="created"),
        Column("tag", BLOB, comment="16-byte content tag of a file, NULL for other kinds"),
        Column("content", BLOB, comment="manifest of up to INLINE_EXTENTS extents, or a symlink's target; else NULL"),
        Column("manifest", INTEGER, comment="manifests.no of a longer manifest, else NULL"),
        Column("writer", BLOB, comment="16-byte machine that wrote the content, NULL for other kinds"),
        Column("written", INTEGER, nullable=False, comment="its author's wall clock at the last content write"),
    ]


def _content_columns() -> list[Column[object]]:
    return [
        _added("burst", "its author's wall clock at the first save of the burst that made the content, ns; 0: unknown"),
        _added("author", "authors.no of the content's writer; 0: unknown"),
        _added("seq", "sequence number of the operation that wrote the content; 0: unknown, or never logged"),
        _added("version", "number of the content in the file's history, from 1; all saves of a burst have the same", 1),
    ]


def _added(name: str, comment: str, default: int = 0) -> Column[object]:
    """Return a column that an earlier version of the schema did not have."""
    return Column(name, INTEGER, nullable=False, server_default=text(str(default)), comment=comment)


settings = Table(
    "settings",
    metadata,
    Column("key", TEXT, primary_key=True, comment="name of a local setting or counter"),
    Column("value", BLOB, nullable=False, comment="its value, msgpack"),
    comment="what this machine remembers beside the tree; never leaves it",
)

nodes = Table(
    "nodes",
    metadata,
    Column("ino", INTEGER, primary_key=True, comment="this machine's number for the node; 1 root, 2 trash"),
    Column("id", BLOB, nullable=False, unique=True, comment="16-byte node id in the log"),
    *_node_columns(),
    Column(
        "nlink", INTEGER, nullable=False, comment="entries not in the trash, nor below it; a folder: 2 + sub-folders"
    ),
    Column("atime", INTEGER, nullable=False, comment="last read, local, never logged"),
    Column("dirty", INTEGER, nullable=False, comment="overlay counter while an overlay has unflushed writes, else 0"),
    Column("local", INTEGER, nullable=False, comment="1: junk that stays on this machine, never logged"),
    *_content_columns(),
    Index("nodes_local", "ino", sqlite_where=text("local = 1")),
    comment="inodes as they are now",
)

nodes_past = Table(
    "nodes_past",
    metadata,
    Column("ino", INTEGER, nullable=False, comment="nodes.ino"),
    Column("until", INTEGER, nullable=False, comment="position that closed this state"),
    *_node_columns(),
    *_content_columns(),
    Column("id", BLOB, comment="nodes.id; NULL in rows of programs that did not keep it"),
    _added("kept", "1: an earlier version of the file; 0: a state that only snapshots need", 1),
    PrimaryKeyConstraint("ino", "until"),
    sqlite_with_rowid=False,
    comment="earlier states of inodes: versions, and what snapshots pin",
)

entries = Table(
    "entries",
    metadata,
    Column("parent", INTEGER, nullable=False, comment="nodes.ino of the folder"),
    Column("name", BLOB, nullable=False, comment="1 to 255 bytes as given, no NUL, no slash"),
    Column("id", BLOB, nullable=False, comment="16-byte entry id in the log"),
    Column("ino", INTEGER, nullable=False, comment="nodes.ino it names"),
    Column("since", INTEGER, nullable=False, comment="position from which it holds"),
    Column("stamp", INTEGER, nullable=False, comment="stamp of the place that put it here"),
    Column("nfc", BLOB, comment="the name in Unicode NFC where that differs, else NULL"),
    Column("origin", BLOB, comment="in the trash: msgpack [parent's node id, time deleted in ns]; else NULL"),
    Column("local", INTEGER, nullable=False, comment="1: a junk entry, never logged"),
    Column("deleted", INTEGER, comment="in the trash: when it was deleted, ns; else NULL"),
    _added("by", "authors.no of the machine that put it here; 0: unknown"),
    PrimaryKeyConstraint("parent", "name", "id"),
    Index("entries_id", "id", unique=True),
    Index("entries_ino", "ino"),
    Index("entries_nfc", "parent", "nfc", sqlite_where=text("nfc IS NOT NULL")),
    Index("entries_deleted", "deleted", sqlite_where=text("deleted IS NOT NULL")),
    sqlite_with_rowid=False,
    comment="directory entries as they are now",
)

entries_past = Table(
    "entries_past",
    metadata,
    Column("parent", INTEGER, nullable=False, comment="as in entries"),
    Column("name", BLOB, nullable=False, comment="as in entries"),
    Column("id", BLOB, nullable=False, comment="as in entries"),
    Column("until", INTEGER, nullable=False, comment="position that closed it"),
    Column("ino", INTEGER, nullable=False, comment="as in entries"),
    Column("since", INTEGER, nullable=False, comment="as in entries"),
    _added("stamp", "as in entries"),
    Column("nfc", BLOB, comment="as in entries"),
    _added("by", "as in entries"),
    PrimaryKeyConstraint("parent", "name", "id", "until"),
    Index("entries_past_id", "id"),
    Index("entries_past_ino", "ino"),
    sqlite_with_rowid=False,
    comment="earlier places of entries",
)

fields = Table(
    "fields",
    metadata,
    Column("ino", INTEGER, nullable=False, comment="nodes.ino"),
    Column("field", BLOB, nullable=False, comment="b'x:' + xattr name, or b'p:' + '{namespace}name' of a property"),
    Column("value", BLOB, nullable=False, comment="its value"),
    Column("since", INTEGER, nullable=False, comment="position from which it holds"),
    PrimaryKeyConstraint("ino", "field"),
    sqlite_with_rowid=False,
    comment="extended attributes and WebDAV properties as they are now",
)

fields_past = Table(
    "fields_past",
    metadata,
    Column("ino", INTEGER, nullable=False, comment="nodes.ino"),
    Column("field", BLOB, nullable=False, comment="as in fields"),
    Column("until", INTEGER, nullable=False, comment="position that closed it"),
    Column("value", BLOB, nullable=False, comment="as in fields"),
    Column("since", INTEGER, nullable=False, comment="as in fields"),
    PrimaryKeyConstraint("ino", "field", "until"),
    sqlite_with_rowid=False,
    comment="earlier values of fields",
)

manifests = Table(
    "manifests",
    metadata,
    Column("no", INTEGER, primary_key=True, comment="named by nodes.manifest"),
    Column("data", BLOB, nullable=False, comment="encoded manifest, tgdav.content.format.manifest"),
    comment="manifests too long to stand in their node's row",
)

chunks = Table(
    "chunks",
    metadata,
    Column("no", INTEGER, primary_key=True, comment="in order of arrival"),
    Column("id", BLOB, nullable=False, unique=True, comment="32-byte chunk id"),
    Column("length", INTEGER, nullable=False, comment="bytes of plaintext"),
    Column("stored", INTEGER, nullable=False, comment="bytes when sealed"),
    Column("codec", INTEGER, nullable=False, comment="0 raw, 1 LZ4 block"),
    Column("epoch", INTEGER, nullable=False, comment="epoch of the namespace key that seals it"),
    Column("pack", INTEGER, comment="packs.no that holds it; NULL while it is staged as a row"),
    Column("offset", INTEGER, nullable=False, comment="of its sealed bytes in the pack; 0 while staged as a row"),
    Column("data", BLOB, comment="the sealed bytes while staged as a row, else NULL"),
    Column("local", INTEGER, nullable=False, comment="1: named by junk alone, never packed"),
    Index("chunks_staged", "no", sqlite_where=text("data IS NOT NULL AND local = 0")),
    Index("chunks_pack", "pack", sqlite_where=text("pack IS NOT NULL")),
    comment="where each known chunk is",
)

packs = Table(
    "packs",
    metadata,
    Column("no", INTEGER, primary_key=True, comment="named by chunks.pack"),
    Column("name", BLOB, nullable=False, unique=True, comment="16-byte blob name, made before the first byte"),
    Column(
        "state",
        INTEGER,
        nullable=False,
        comment="tgdav.content.pack_table.PackState: open, closed, sent, stored, retired",
    ),
    Column("epoch", INTEGER, nullable=False, comment="key epoch of its index"),
    Column("file", TEXT, comment="file name in the staging folder while it lies there, else NULL"),
    Column(
        "end", INTEGER, nullable=False, comment="bytes of chunks that a commit names; an open file is cut here at start"
    ),
    Column("size", INTEGER, nullable=False, comment="whole size once closed, else 0"),
    Column("hash", BLOB, comment="32-byte BLAKE3 of the whole file once closed"),
    Column("label", TEXT, comment="sealed label once closed, sent as it is"),
    Column("blob", INTEGER, comment="store id once stored"),
    Column("announced", INTEGER, comment="number of the segment that carries its index; NULL: none yet"),
    Column("damaged", INTEGER, nullable=False, comment="1: found missing or bad; its chunks are not known"),
    Column("created", INTEGER, nullable=False, comment="time of the first byte, ns"),
    Column("retired", INTEGER, comment="log position of the group that retired it; NULL: not retired"),
    comment="packs from their first byte on",
)

log = Table(
    "log",
    metadata,
    Column("position", INTEGER, primary_key=True, comment="order in which groups were applied here"),
    Column("machine", BLOB, nullable=False, comment="16-byte author"),
    Column("incarnation", BLOB, nullable=False, comment="author's incarnation, 8 bytes big-endian"),
    Column("sequence", INTEGER, nullable=False, comment="number of the group's first operation"),
    Column("count", INTEGER, nullable=False, comment="operations in the group"),
    Column("stamp", INTEGER, nullable=False, comment="hybrid logical clock: milliseconds << 16 | counter"),
    Column("time", INTEGER, nullable=False, comment="author's wall clock, ns"),
    Column("ops", BLOB, nullable=False, comment="encoded operations, tgdav.crdt.ops"),
    Column("segment", INTEGER, comment="number of the own segment that carries it; NULL: not yet sealed into one"),
    comment="groups of operations, own ones until their segment is stored and a checkpoint covers them",
)

segments = Table(
    "segments",
    metadata,
    Column("incarnation", BLOB, nullable=False, comment="author's incarnation, 8 bytes big-endian"),
    Column("number", INTEGER, nullable=False, comment="1, 2, 3 … within the incarnation"),
    Column("machine", BLOB, nullable=False, comment="16-byte author"),
    Column("name", BLOB, nullable=False, unique=True, comment="16-byte blob name"),
    Column("hash", BLOB, nullable=False, comment="32-byte BLAKE3 of its exact bytes"),
    Column("size", INTEGER, nullable=False, comment="bytes"),
    Column("first", INTEGER, nullable=False, comment="first operation's sequence"),
    Column("last", INTEGER, nullable=False, comment="last operation's sequence"),
    Column("last_stamp", INTEGER, nullable=False, comment="stamp of its last group"),
    Column("position", INTEGER, nullable=False, comment="log position of its last group here"),
    Column("file", TEXT, comment="file in the staging folder with its exact bytes; NULL when dropped"),
    Column("label", TEXT, nullable=False, comment="sealed label, sent as it is"),
    Column("blob", INTEGER, comment="store id once stored"),
    PrimaryKeyConstraint("incarnation", "number"),
    sqlite_with_rowid=False,
    comment="segments sealed here or applied from the store; the hash chain",
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("number", INTEGER, primary_key=True, comment="1, 2, 3 … within the namespace"),
    Column("base", INTEGER, comment="number of the full checkpoint it builds on; NULL: it is full"),
    Column("position", INTEGER, nullable=False, comment="log position that it holds the state of"),
    Column("segment", INTEGER, nullable=False, comment="last own segment it includes"),
    Column("parts", INTEGER, nullable=False, comment="how many parts"),
    Column("bytes", INTEGER, nullable=False, comment="size of all parts"),
    Column("state", INTEGER, nullable=False, comment="0 sealed, 1 stored whole, 2 superseded and deleted"),
    Column("created", INTEGER, nullable=False, comment="time, ns"),
    comment="checkpoints made or used here",
)

checkpoint_parts = Table(
    "checkpoint_parts",
    metadata,
    Column("number", INTEGER, nullable=False, comment="checkpoints.number"),
    Column("part", INTEGER, nullable=False, comment="1 … parts; the last is the root part, sent last"),
    Column("name", BLOB, nullable=False, unique=True, comment="16-byte blob name"),
    Column("hash", BLOB, nullable=False, comment="32-byte BLAKE3 of its exact bytes"),
    Column("size", INTEGER, nullable=False, comment="bytes"),
    Column("file", TEXT, comment="file in the staging folder; NULL once stored"),
    Column("label", TEXT, nullable=False, comment="sealed label, sent as it is"),
    Column("blob", INTEGER, comment="store id once stored"),
    PrimaryKeyConstraint("number", "part"),
    sqlite_with_rowid=False,
    comment="parts of checkpoints",
)

blobs = Table(
    "blobs",
    metadata,
    Column("id", INTEGER, primary_key=True, comment="the store's number"),
    Column("name", BLOB, nullable=False, comment="16-byte blob name"),
    Column("kind", INTEGER, nullable=False, comment="tgdav.crypto.label.BlobKind; 0: vault header"),
    Column("size", INTEGER, nullable=False, comment="bytes"),
    Column("hash", BLOB, comment="BLAKE3 of its bytes where known: 32 bytes, or the 16 a label carries"),
    Column("gone", INTEGER, nullable=False, comment="1: deleted on purpose, its absence is no damage"),
    Index("blobs_name", "name"),
    comment="every blob of the vault that this machine knows to be in the store",
)

machines = Table(
    "machines",
    metadata,
    Column("machine", BLOB, primary_key=True, comment="16-byte machine id"),
    Column("name", TEXT, nullable=False, comment="what its user calls it"),
    Column("public_key", BLOB, nullable=False, comment="Ed25519, 32 bytes"),
    Column("incarnation", BLOB, nullable=False, comment="its latest incarnation, 8 bytes"),
    Column("epoch", INTEGER, nullable=False, comment="writer epoch it was made writer in; 0: never"),
    Column("last_sequence", INTEGER, nullable=False, comment="its last operation applied here"),
    Column("last_stamp", INTEGER, nullable=False, comment="stamp of that operation"),
    Column("last_segment", INTEGER, nullable=False, comment="number of its last segment applied here"),
    sqlite_with_rowid=False,
    comment="members of the namespace",
)

damage = Table(
    "damage",
    metadata,
    Column("blob", TEXT, primary_key=True, comment="hex blob name, or the role of a local file"),
    Column("kind", TEXT, nullable=False, comment="pack, segment, checkpoint, gap, header, staging, database …"),
    Column("reason", TEXT, nullable=False, comment="what failed, in plain words"),
    Column("found", INTEGER, nullable=False, comment="time, ns"),
    comment="damage met by reads and checks, until a later look finds it whole",
)

locks = Table(
    "locks",
    metadata,
    Column("token", TEXT, primary_key=True, comment="WebDAV lock token"),
    Column("ino", INTEGER, nullable=False, comment="nodes.ino it locks"),
    Column("expires", INTEGER, nullable=False, comment="time, ns"),
    Column("data", BLOB, nullable=False, comment="owner, scope, depth …: the WebDAV front end's own record"),
    comment="WebDAV locks; local",
)

overlays = Table(
    "overlays",
    metadata,
    Column("ino", INTEGER, primary_key=True, comment="nodes.ino"),
    Column("file", TEXT, nullable=False, unique=True, comment="file in the overlay folder"),
    Column("salt", BLOB, nullable=False, comment="16 bytes that make the file's own key"),
    comment="files of dirty writes that fsync made durable; the file itself says how far; adopted at start",
)

pins = Table(
    "pins",
    metadata,
    Column("id", BLOB, primary_key=True, comment="16-byte snapshot id in the log"),
    Column("position", INTEGER, comment="it shows the state as of this position"),
    Column("name", TEXT, nullable=False, comment="the snapshot's name"),
    Column("time", INTEGER, nullable=False, comment="its author's wall clock, ns"),
    Column("files", INTEGER, comment="number of files in it; NULL: not counted yet"),
    Column("bytes", INTEGER, comment="bytes of their contents; NULL: not counted yet"),
    Column(
        "new_bytes", INTEGER, comment="bytes of contents that the snapshot before does not have; NULL: not counted yet"
    ),
    Column("settled", INTEGER, nullable=False, comment="1: no file was being written"),
    Column("author", INTEGER, nullable=False, comment="authors.no of the machine that made it"),
    Index("pins_position", "position"),
    sqlite_with_rowid=False,
    comment="snapshots",
)

predecessors = Table(
    "predecessors",
    metadata,
    Column("entry", BLOB, nullable=False, comment="entries.id of the entry that replaced another file of its name"),
    Column("position", INTEGER, nullable=False, comment="position at which it replaced it"),
    Column("ino", INTEGER, nullable=False, comment="nodes.ino of the replaced file: its content as of position - 1"),
    Column("id", BLOB, nullable=False, comment="entries.id by which that file was named"),
    PrimaryKeyConstraint("entry", "position", "ino"),
    Index("predecessors_id", "id"),
    Index("predecessors_ino", "ino"),
    sqlite_with_rowid=False,
    comment="earlier files of a name, whose contents are versions of the file that has the name now",
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("id", BLOB, primary_key=True, comment="16-byte node id"),
    Column("parent", BLOB, comment="node id of the directory that it was in; NULL: nothing in the trash can need it"),
    Column("name", BLOB, comment="its name there; NULL likewise"),
    Index("tombstones_named", "id", sqlite_where=text("name IS NOT NULL")),
    sqlite_with_rowid=False,
    comment="purged directories: their ids, which may be derived from parent and name, are never used again",
)

authors = Table(
    "authors",
    metadata,
    Column("no", INTEGER, primary_key=True, comment="this machine's number for it, from 1"),
    Column("machine", BLOB, nullable=False, comment="16-byte machine id"),
    Column("incarnation", BLOB, nullable=False, unique=True, comment="8 bytes big-endian"),
    comment="incarnations that wrote what the tree contains",
)

chains = Table(
    "chains",
    metadata,
    Column("incarnation", BLOB, primary_key=True, comment="8 bytes big-endian"),
    Column("machine", BLOB, nullable=False, comment="16-byte author"),
    Column("number", INTEGER, nullable=False, comment="number of its last segment applied or stored"),
    Column("hash", BLOB, nullable=False, comment="32-byte BLAKE3 of that segment"),
    Column("sequence", INTEGER, nullable=False, comment="largest number of an operation in the chain so far"),
    Column("stamp", INTEGER, nullable=False, comment="largest stamp of a group in it so far"),
    Column("position", INTEGER, nullable=False, comment="largest log position here of a group in it so far"),
    _added("trimmed", "number of its last segment that no checkpoint needs; it and those before may be deleted"),
    sqlite_with_rowid=False,
    comment="the head of each chain of segments; it stays when the rows of the segments are deleted",
)
