"""Delete what the newest two checkpoints have made superfluous: older checkpoints, and the segments before the older of the two.

Before a checkpoint is sealed, ``mark`` records up to which segment of each chain it and later ones need none: those that the
checkpoint before it includes. Once it is stored, ``trim`` deletes them from the store, and then their rows. Of each chain the
last segment stays: it tells a restored backup, or another machine, how far the chain goes.
"""

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.crypto.label import BlobKind
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.failpoints import failpoint
from tgdav.ids import BlobId, BlobName, NamespaceId
from tgdav.metadata import settings
from tgdav.replication import sql
from tgdav.replication.blob_listing import BlobListing, LabelledBlob
from tgdav.replication.checkpoint import LAST_NUMBER
from tgdav.replication.deletion import delete_blobs, present

_MARK = """UPDATE chains SET trimmed = max(trimmed, coalesce((SELECT max(s.number) FROM segments s
 WHERE s.incarnation = chains.incarnation AND s.number < chains.number AND s.blob IS NOT NULL AND s.position <= ?), 0))"""
_KEPT = "SELECT number, base, position FROM checkpoints WHERE state = 1 ORDER BY number DESC LIMIT 2"
_PARTS = "SELECT name, size, blob FROM checkpoint_parts WHERE number = ?"
_OLD_CHECKPOINTS = "SELECT number FROM checkpoints WHERE number < ? OR state = 2"
_OLD_SEGMENTS = """SELECT s.incarnation, s.number, s.name FROM segments s JOIN chains c ON c.incarnation = s.incarnation
WHERE s.number <= c.trimmed AND s.number < c.number AND s.position <= ? AND s.blob IS NOT NULL"""
_PLACES = "SELECT id FROM blobs WHERE name = ?"
_IS_DAMAGED = "SELECT 1 FROM damage WHERE kind IN ('checkpoint', 'segment', 'gap', 'database') LIMIT 1"
_FORGET_SEGMENT = "DELETE FROM segments WHERE incarnation = ? AND number = ?"
_FORGET_PARTS = "DELETE FROM checkpoint_parts WHERE number = ?"
_FORGET_CHECKPOINT = "DELETE FROM checkpoints WHERE number = ?"
_FORGET_BLOB = "DELETE FROM blobs WHERE name = ? AND gone = 1"
_SEGMENTS = "SELECT incarnation, number, name FROM segments WHERE blob IS NOT NULL"
_STORED_PARTS = "SELECT number, name FROM checkpoint_parts WHERE blob IS NOT NULL"
_SUPERSEDE = "UPDATE checkpoints SET state = 2 WHERE number = ?"
_DELETABLE = """SELECT name FROM blobs WHERE gone = 0 AND kind IN (2, 3)
UNION SELECT b.name FROM blobs b JOIN packs p ON p.name = b.name WHERE b.gone = 0 AND p.state = 4"""
"""Blobs of segments, of checkpoints and of retired packs."""
_FORGET_PLACE = "UPDATE blobs SET gone = 1 WHERE name = ?"
_SET_TRIMMED = "UPDATE chains SET trimmed = max(trimmed, ?) WHERE incarnation = ?"
_TRIMMED = "SELECT incarnation, trimmed FROM chains WHERE trimmed > 0"
_ADD_SEGMENT = """INSERT OR IGNORE INTO segments
(incarnation, number, machine, name, hash, size, first, last, last_stamp, position, file, label, blob)
VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0, 0, NULL, ?, ?)"""
_ADD_CHECKPOINT = """INSERT OR IGNORE INTO checkpoints (number, base, position, segment, parts, bytes, state, created)
VALUES (?, NULL, 0, 0, ?, ?, 2, 0)"""
_ADD_PART = """INSERT OR IGNORE INTO checkpoint_parts (number, part, name, hash, size, file, label, blob)
VALUES (?, ?, ?, ?, ?, NULL, ?, ?)"""


class Superfluous(msgspec.Struct):
    """What may be deleted: ``segments`` (incarnation, number), ``checkpoints`` by number, and the names of their blobs."""

    segments: list[tuple[bytes, int]] = []
    checkpoints: list[int] = []
    blobs: list[BlobName] = []

    def __bool__(self) -> bool:
        return bool(self.segments or self.checkpoints)


def mark(transaction: Transaction) -> None:
    """Record which segments the next checkpoint does not need: those that the newest stored one includes."""
    last = transaction.one(sql.LAST_CHECKPOINT)
    if last is not None:
        transaction.execute(_MARK, (last[0],))


def superfluous(connection: Connection) -> Superfluous:
    """Return what may be deleted: nothing while there are fewer than two checkpoints, or while a part of the log is damaged."""
    found = Superfluous()
    kept = connection.all(_KEPT)
    if len(kept) < 2 or connection.one(_IS_DAMAGED) is not None:
        return found
    (_, newest_base, _), (older, older_base, position) = kept
    numbers = {row[0] for row in connection.all(_OLD_CHECKPOINTS, (older,))} - {newest_base, older_base}
    for number in sorted(numbers):
        found.checkpoints.append(number)
        found.blobs += [BlobName(name) for name, _, blob in connection.all(_PARTS, (number,)) if blob is not None]
    for incarnation, number, name in connection.all(_OLD_SEGMENTS, (position,)):
        found.segments.append((incarnation, number))
        found.blobs.append(BlobName(name))
    return found


def trim(database: Database, store: BlobStore) -> int:
    """Delete what is superfluous; return how many blobs. Can be repeated after a crash.

    Nothing is deleted if the store does not have the two checkpoints whole. Raises StoreUnavailable, LocalFailure, NoSpace.
    """
    with database.reading() as connection:
        found = superfluous(connection)
        if not found or not _has_both(connection, store):
            return 0
        doomed = {BlobId(row[0]): name for name in found.blobs for row in connection.all(_PLACES, (name,))}
    delete_blobs(database, store, doomed)

    def forget(transaction: Transaction) -> None:
        transaction.executemany(_FORGET_SEGMENT, found.segments)
        transaction.executemany(_FORGET_PARTS, [(number,) for number in found.checkpoints])
        transaction.executemany(_FORGET_CHECKPOINT, [(number,) for number in found.checkpoints])
        transaction.executemany(_FORGET_BLOB, [(name,) for name in found.blobs])

    database.writer.run(forget, durable=True)
    failpoint("trimming.forgotten")
    return len(doomed)


def _has_both(connection: Connection, store: BlobStore) -> bool:
    """Whether the store has every part of the two newest checkpoints, and of those that they are based on."""
    numbers = {number for row in connection.all(_KEPT) for number in row[:2] if number is not None}
    parts = [part for number in numbers for part in connection.all(_PARTS, (number,))]
    found = present(store, {BlobId(blob): BlobName(name) for name, _, blob in parts})
    return all(found.get(BlobId(blob)) == size for _, size, blob in parts)


# ---- what another machine, or this one in a lost future, has trimmed -------------------------------------------------


def adopt(transaction: Transaction, listing: BlobListing, namespace: NamespaceId, number: int) -> None:
    """Record what was trimmed, and what is still to be deleted, by whoever wrote the store's newest checkpoint.

    ``number`` is that of the newest checkpoint that this state knows. If the store has a later one, any segment that this state
    includes may have been deleted.
    """
    checkpoints = listing.of(namespace, BlobKind.CHECKPOINT)
    segments = listing.of(namespace, BlobKind.SEGMENT)
    last = max((found.label.number for found in checkpoints), default=0)
    settings.put(transaction, LAST_NUMBER, max(last, settings.get(transaction, LAST_NUMBER, 0)))
    if last > number:
        _forget_deleted(transaction, {found.info.name for found in listing.found})
    _add_superfluous_segments(transaction, segments)
    _add_other_checkpoints(transaction, checkpoints)


def _forget_deleted(transaction: Transaction, there: set[BlobName]) -> None:
    for incarnation, number, name in transaction.all(_SEGMENTS):
        if name not in there:
            transaction.execute(_SET_TRIMMED, (number, incarnation))
            transaction.execute(_FORGET_SEGMENT, (incarnation, number))
    broken = {number for number, name in transaction.all(_STORED_PARTS) if name not in there}
    transaction.executemany(_SUPERSEDE, [(number,) for number in broken])
    deleted = [(name,) for (name,) in transaction.all(_DELETABLE) if name not in there]
    transaction.executemany(_FORGET_PLACE, deleted)


def _add_superfluous_segments(transaction: Transaction, segments: list[LabelledBlob]) -> None:
    """Add rows of segments that are trimmed but not deleted yet: so they are known, and the next trimming deletes them."""
    trimmed: dict[bytes, int] = dict(transaction.all(_TRIMMED))
    for found in segments:
        label, info = found.label, found.info
        key = sql.incarnation_key(label.incarnation)
        if label.number <= trimmed.get(key, 0):
            row = (key, label.number, label.machine, info.name, label.body_hash, label.size, info.label, info.id)
            transaction.execute(_ADD_SEGMENT, row)


def _add_other_checkpoints(transaction: Transaction, parts: list[LabelledBlob]) -> None:
    """Add rows of checkpoints that this state was not built from: so the next trimming deletes them."""
    for found in parts:
        label, info = found.label, found.info
        transaction.execute(_ADD_CHECKPOINT, (label.number, label.parts, label.size))
        transaction.execute(
            _ADD_PART, (label.number, label.part, info.name, label.body_hash, label.size, info.label, info.id)
        )
