"""The SQL of the log's way to the store: statements and the few queries around them."""

from typing import Any

from tgdav.ids import Incarnation

HEADER = 0
"""``blobs.kind`` of a vault header; the other kinds are ``tgdav.crypto.label.BlobKind``."""

UNSENT = """SELECT position, sequence, count, stamp, time, ops FROM log WHERE segment IS NULL
ORDER BY position LIMIT ?"""
STORED_CHUNKS = """SELECT c.id FROM chunks c JOIN packs p ON p.no = c.pack
WHERE p.state = 3 AND p.damaged = 0 AND c.id IN ({})"""
NEW_PACKS = """SELECT no, name, size, hash, epoch FROM packs
WHERE state = 3 AND announced IS NULL ORDER BY no"""
PACK_CHUNKS = "SELECT id, offset, stored, length, codec, epoch FROM chunks WHERE pack = ? ORDER BY offset"
MARK_LOG = "UPDATE log SET segment = ? WHERE segment IS NULL AND position <= ?"
MARK_PACKS = "UPDATE packs SET announced = ? WHERE no = ?"
INSERT_SEGMENT = """INSERT INTO segments
(incarnation, number, machine, name, hash, size, first, last, last_stamp, position, file, label, blob)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
LAST_SEGMENT = "SELECT number, hash FROM segments WHERE incarnation = ? ORDER BY number DESC LIMIT 1"
SEALED_SEGMENTS = """SELECT incarnation, number, name, hash, file, label, size FROM segments
WHERE blob IS NULL AND file IS NOT NULL ORDER BY number"""
SEGMENT_BY_NAME = """SELECT incarnation, number, name, hash, file, label, size, blob FROM segments
WHERE name = ? AND file IS NOT NULL"""
BLOB_GONE = "UPDATE blobs SET gone = 1 WHERE id = ?"
SEGMENT_STORED = "UPDATE segments SET blob = ? WHERE incarnation = ? AND number = ?"
FORGET_LOG = "DELETE FROM log WHERE segment IS NOT NULL AND segment <= ?"
INSERT_BLOB = "INSERT OR REPLACE INTO blobs (id, name, kind, size, hash, gone) VALUES (?, ?, ?, ?, ?, 0)"
PENDING_OPERATIONS = """SELECT
 (SELECT coalesce(sum(count), 0) FROM log WHERE segment IS NULL) +
 (SELECT coalesce(sum(last - first + 1), 0) FROM segments WHERE blob IS NULL AND file IS NOT NULL)"""


def incarnation_key(incarnation: Incarnation) -> bytes:
    """Return an incarnation as the tables hold it."""
    return incarnation.to_bytes(8, "big")


def blob_row(blob: int, name: bytes, kind: int, size: int, hash_: bytes | None) -> tuple[Any, ...]:
    """Return the parameters of INSERT_BLOB."""
    return (blob, name, int(kind), size, hash_)
