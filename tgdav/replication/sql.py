"""SQL statements of replication, and how their parameters are encoded."""

from typing import Any

from tgdav.ids import Incarnation

HEADER = 0
"""``blobs.kind`` of a vault header; the other kinds are ``tgdav.crypto.label.BlobKind``."""

# ---- pushing -------------------------------------------------------------------------------------------------------

# x'90' is a group of which nothing is left to send.
UNSENT = """SELECT position, sequence, count, stamp, time, ops FROM log WHERE segment IS NULL AND ops != x'90'
ORDER BY position LIMIT ?"""
OLDEST_UNSENT = "SELECT min(position) FROM log WHERE segment IS NULL AND ops != x'90'"
NEWEST_UNSENT = """SELECT position, ops FROM log WHERE segment IS NULL AND position >= ? AND ops != x'90'
ORDER BY position DESC LIMIT ?"""
REPLACE_OPS = "UPDATE log SET ops = ? WHERE position = ? AND segment IS NULL"
# The last row has the last sequence number, position and stamp.
FORGET_RETRACTED = """DELETE FROM log WHERE segment IS NULL AND ops = x'90'
AND position < (SELECT max(position) FROM log)"""
STORED_CHUNKS = """SELECT c.id FROM chunks c JOIN packs p ON p.no = c.pack
WHERE p.state = 3 AND p.damaged = 0 AND c.id IN ({})"""
COMING_CHUNKS = """SELECT c.id FROM chunks c LEFT JOIN packs p ON p.no = c.pack
WHERE (c.data IS NOT NULL OR (p.damaged = 0 AND p.state < 4)) AND c.id IN ({})"""
NEW_PACKS = """SELECT no, name, size, hash, epoch FROM packs
WHERE state = 3 AND announced IS NULL ORDER BY no"""
PACK_CHUNKS = "SELECT id, offset, stored, length, codec, epoch FROM chunks WHERE pack = ? ORDER BY offset"
MARK_LOG = "UPDATE log SET segment = ? WHERE position = ?"
MARK_PACKS = "UPDATE packs SET announced = ? WHERE no = ?"
INSERT_SEGMENT = """INSERT INTO segments
(incarnation, number, machine, name, hash, size, first, last, last_stamp, position, file, label, blob)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
# A group that waited for its content may be in a later segment than groups after it: the head has the largest numbers so far.
SET_CHAIN = """INSERT INTO chains (incarnation, machine, number, hash, sequence, stamp, position)
SELECT incarnation, machine, number, hash, last, last_stamp, position FROM segments WHERE incarnation = ? AND number = ?
ON CONFLICT (incarnation) DO UPDATE SET
 hash = iif(excluded.number > number, excluded.hash, hash), number = max(number, excluded.number),
 sequence = max(sequence, excluded.sequence), stamp = max(stamp, excluded.stamp), position = max(position, excluded.position)"""
CHAINS = "SELECT incarnation, machine, number, hash, sequence FROM chains ORDER BY incarnation"
LAST_SEGMENT = "SELECT number, hash FROM chains WHERE incarnation = ?"
OTHERS_APPLIED = """SELECT machine, incarnation, sequence, number, hash FROM chains
WHERE incarnation != ? ORDER BY incarnation"""
SEALED_SEGMENTS = """SELECT incarnation, number, name, hash, file, label, size FROM segments
WHERE blob IS NULL AND file IS NOT NULL ORDER BY number"""
SEGMENT_BY_NAME = """SELECT incarnation, number, name, hash, file, label, size, blob FROM segments
WHERE name = ? AND file IS NOT NULL"""
BLOB_GONE = "UPDATE blobs SET gone = 1 WHERE id = ?"
SEGMENT_STORED = "UPDATE segments SET blob = ? WHERE incarnation = ? AND number = ?"
SEGMENT_LOST = "UPDATE segments SET blob = NULL WHERE incarnation = ? AND number = ?"
LOGGED_IN = "SELECT count(*) FROM log WHERE segment = ?"
DROP_SEGMENT = "DELETE FROM segments WHERE incarnation = ? AND number = ? AND blob IS NULL"
UNMARK_LOG = "UPDATE log SET segment = NULL WHERE segment = ?"
UNMARK_PACKS = "UPDATE packs SET announced = NULL WHERE announced = ?"
FORGET_LOG = "DELETE FROM log WHERE segment IS NOT NULL AND segment <= ?"
INSERT_BLOB = "INSERT OR REPLACE INTO blobs (id, name, kind, size, hash, gone) VALUES (?, ?, ?, ?, ?, 0)"
RECORD_BLOB = """INSERT INTO blobs (id, name, kind, size, hash, gone) VALUES (?, ?, ?, ?, ?, 0)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, kind = excluded.kind, size = excluded.size, hash = excluded.hash,
gone = 0 WHERE blobs.name != excluded.name"""
PENDING_OPERATIONS = """SELECT
 (SELECT coalesce(sum(count), 0) FROM log WHERE segment IS NULL AND ops != x'90') +
 (SELECT coalesce(sum(last - first + 1), 0) FROM segments WHERE blob IS NULL AND file IS NOT NULL)"""

# ---- applying -----------------------------------------------------------------------------------------------------

RETIRE_PACK = "UPDATE packs SET state = 4, retired = ? WHERE name = ? AND state = 3"
FORGET_CARRIED = "DELETE FROM log WHERE incarnation = ? AND segment = ?"
KNOWN_SEGMENT = "SELECT 1 FROM segments WHERE name = ?"
HEADS = "SELECT incarnation, number, machine, hash, sequence, stamp FROM chains"
APPLIED = """SELECT s.incarnation, s.number, s.machine, coalesce(c.trimmed, 0)
FROM segments s LEFT JOIN chains c ON c.incarnation = s.incarnation
WHERE s.number > coalesce(c.trimmed, 0) ORDER BY s.incarnation, s.number"""
MEMBERS = "SELECT machine, name, public_key, incarnation, epoch FROM machines"
GAPS = "SELECT blob, kind, reason FROM damage WHERE kind = 'gap' ORDER BY found, blob"
FORGET_GAP = "DELETE FROM damage WHERE kind = 'gap' AND blob = ?"
SEGMENT_AT = "SELECT 1 FROM segments WHERE incarnation = ? AND number = ?"
FIRST_STORED = "SELECT min(blob) FROM segments WHERE incarnation = ? AND blob IS NOT NULL"
UNSTORE_AFTER = "UPDATE segments SET blob = NULL WHERE incarnation = ? AND last > ? AND file IS NOT NULL"
DROP_CHAIN = "DELETE FROM chains WHERE incarnation = ?"
RESTORE_CHAIN = """INSERT INTO chains (incarnation, machine, number, hash, sequence, stamp, position)
SELECT s.incarnation, s.machine, s.number, s.hash, t.last, t.stamp, t.position FROM segments s JOIN
 (SELECT incarnation, max(number) AS number, max(last) AS last, max(last_stamp) AS stamp, max(position) AS position
  FROM segments WHERE incarnation = ? AND blob IS NOT NULL) t USING (incarnation, number)"""
KNOWN_BLOB = "SELECT id, size FROM blobs WHERE name = ? AND gone = 0 ORDER BY id LIMIT 1"
FORGET_PLACES = "UPDATE blobs SET gone = 1 WHERE name = ?"
MOVED_SEGMENT = "UPDATE segments SET blob = ? WHERE name = ? AND blob IS NOT NULL"
MOVED_PART = "UPDATE checkpoint_parts SET blob = ? WHERE name = ? AND blob IS NOT NULL"
MOVED_PACK = "UPDATE packs SET blob = ?, damaged = 0 WHERE name = ? AND state = 3"
LAST_OWN = """SELECT max((SELECT coalesce(max(sequence + count - 1), 0) FROM log WHERE incarnation = ?),
 coalesce((SELECT sequence FROM chains WHERE incarnation = ?), 0))"""
NEWEST_BLOB = "SELECT id, name FROM blobs WHERE gone = 0 AND kind != 0 ORDER BY id DESC LIMIT 1"
STORED_PACKS = "SELECT no, name, size, hash, blob, damaged FROM packs WHERE state = 3"
PLACE_PACK = "UPDATE packs SET blob = ?, damaged = ? WHERE no = ?"

# ---- resuming a restored state ------------------------------------------------------------------------------

FORGET_UNSENT = "DELETE FROM log WHERE incarnation = ? AND sequence = ? AND segment IS NULL"
FORGET_POSITION = "DELETE FROM log WHERE position = ?"
OWN_UNSENT = """SELECT position, sequence, stamp, time, ops FROM log
WHERE machine = ? AND incarnation = ? AND segment IS NULL AND ops != x'90' ORDER BY position"""
OWN_MEMBER = "SELECT incarnation, epoch FROM machines WHERE machine = ?"
LAST_STAMP = """SELECT max(
 (SELECT coalesce(max(stamp), 0) FROM log),
 (SELECT coalesce(max(stamp), 0) FROM chains),
 (SELECT coalesce(max(last_stamp), 0) FROM machines))"""
WAITING_CHECKPOINTS = "SELECT number FROM checkpoints WHERE state = 0"
OVERLAID = "SELECT o.ino, n.id FROM overlays o JOIN nodes n ON n.ino = o.ino"
DROP_OVERLAY = "DELETE FROM overlays WHERE ino = ?"
IS_CLEAN = "UPDATE nodes SET dirty = 0 WHERE ino = ?"
CHUNK_PACK = "SELECT p.name FROM chunks c JOIN packs p ON p.no = c.pack WHERE c.id = ?"
IS_DIRECTORY = "SELECT 1 FROM nodes WHERE id = ? AND kind = 2"

# ---- checkpoints ---------------------------------------------------------------------------------------------------

SEALED, STORED, GIVEN_UP = 0, 1, 2
"""``checkpoints.state``."""
ENDS = """SELECT
 coalesce((SELECT number FROM chains WHERE incarnation = ?), 0),
 coalesce((SELECT max(number) FROM checkpoints), 0)"""
SOUND_CHECKPOINT = """SELECT c.state = 1 AND NOT EXISTS
 (SELECT 1 FROM checkpoint_parts p JOIN damage d ON d.blob = lower(hex(p.name)) WHERE p.number = c.number)
FROM checkpoints c WHERE c.number = ?"""
INSERT_CHECKPOINT = """INSERT OR REPLACE INTO checkpoints (number, base, position, segment, parts, bytes, state, created)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
INSERT_PART = """INSERT OR REPLACE INTO checkpoint_parts (number, part, name, hash, size, file, label, blob)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
WAITING_PARTS = """SELECT number, part, name, hash, file, label, size FROM checkpoint_parts
WHERE blob IS NULL AND file IS NOT NULL ORDER BY number, part"""
PART_FILES = "SELECT file FROM checkpoint_parts WHERE number = ? AND file IS NOT NULL"
PART_STORED = "UPDATE checkpoint_parts SET blob = ?, file = NULL WHERE number = ? AND part = ?"
CHECKPOINT_STORED = """UPDATE checkpoints SET state = 1 WHERE number = ? AND state = 0 AND NOT EXISTS
 (SELECT 1 FROM checkpoint_parts WHERE number = ? AND blob IS NULL)"""
DROP_PART_FILES = "UPDATE checkpoint_parts SET file = NULL WHERE number = ?"
GIVE_UP_CHECKPOINT = "UPDATE checkpoints SET state = 2 WHERE number = ?"
LAST_CHECKPOINT = "SELECT position, bytes FROM checkpoints WHERE state = 1 ORDER BY position DESC, number DESC LIMIT 1"
COVERED_FILES = """SELECT file FROM segments WHERE blob IS NOT NULL AND file IS NOT NULL
AND position <= (SELECT max(position) FROM checkpoints WHERE state = 1)"""
FORGET_FILE = "UPDATE segments SET file = NULL WHERE file = ?"
LOG_SINCE = """SELECT coalesce(sum(size), 0), count(*), coalesce(min(last_stamp), 0) FROM segments
WHERE blob IS NOT NULL AND position > ?"""


def incarnation_key(incarnation: Incarnation) -> bytes:
    """Return an incarnation as it is stored in the tables."""
    return incarnation.to_bytes(8, "big")


def incarnation_of(key: bytes) -> Incarnation:
    """Return the incarnation of a column's value."""
    return Incarnation(int.from_bytes(key, "big"))


def blob_row(blob: int, name: bytes, kind: int, size: int, hash_: bytes | None) -> tuple[Any, ...]:
    """Return the parameters of INSERT_BLOB."""
    return (blob, name, int(kind), size, hash_)
