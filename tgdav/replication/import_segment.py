"""Apply segments of other machines, or of an earlier incarnation of this one: their operations and packs."""

from collections.abc import Collection, Mapping

from tgdav.blobs.interface import BlobInfo
from tgdav.content.chunk_table import StoredPack, record_stored_pack
from tgdav.content.format.chunk import IndexEntry
from tgdav.crdt.ops import Retire
from tgdav.db.transaction import Transaction
from tgdav.ids import BlobName
from tgdav.metadata.journal import LAST_POSITION, Journal
from tgdav.replication import sql
from tgdav.replication.format.segment import PackIndex
from tgdav.replication.log_reader import OpenedSegment


def import_segment(
    journal: Journal,
    opened: OpenedSegment,
    packs: Mapping[BlobName, BlobInfo],
    applied: Collection[int] | None = None,
) -> list[BlobName]:
    """Apply a segment's groups and record its packs, in one transaction; return the packs that the store does not have.

    ``packs`` are those that it has. ``applied`` are sequence numbers of groups that are applied here and were unsent, like
    their chunks; it may be given only while the content store is not open.

    The caller decides whether the segment counts. Raises LocalFailure, NoSpace.
    """
    segment = opened.segment
    waited = applied or ()
    sent = [group.sequence for group in segment.groups if group.sequence in waited]
    groups = [group for group in segment.groups if group.sequence not in waited]

    def record(transaction: Transaction) -> None:
        for index in segment.packs:
            _record_pack(transaction, index, segment.number, packs.get(index.name), takes_rows=applied is not None)
        # The position tells a checkpoint up to which segment its state reaches.
        position = (transaction.one(LAST_POSITION) or (0,))[0]
        # Packs are recorded after the groups are applied, so one that the same segment retires was not known then.
        retired = [
            (position, name) for group in groups for op in group.ops if isinstance(op, Retire) for name in op.packs
        ]
        transaction.executemany(sql.RETIRE_PACK, retired)
        transaction.execute(sql.INSERT_SEGMENT, _row(opened, position))
        transaction.execute(sql.SET_CHAIN, (sql.incarnation_key(segment.incarnation), segment.number))
        # The store has these operations: remove them from the log of unsent ones.
        incarnation = sql.incarnation_key(segment.incarnation)
        transaction.execute(sql.FORGET_CARRIED, (incarnation, segment.number))
        transaction.executemany(sql.FORGET_UNSENT, [(incarnation, sequence) for sequence in sent])

    journal.apply_groups(
        segment.machine, segment.incarnation, groups, segment=segment.number, record=record, durable=True
    )
    return [index.name for index in segment.packs if index.name not in packs]


def _record_pack(
    transaction: Transaction, index: PackIndex, segment: int, place: BlobInfo | None, *, takes_rows: bool
) -> None:
    pack = StoredPack(
        name=index.name,
        epoch=index.epoch,
        size=index.size,
        digest=index.hash,
        label=place.label if place else "",
        blob=place.id if place else None,
        segment=segment,
    )
    entries = (IndexEntry(e.id, e.offset, e.stored, e.length, e.codec, e.epoch) for e in index.entries)
    record_stored_pack(transaction, pack, entries, takes_rows=takes_rows)


def _row(opened: OpenedSegment, position: int) -> tuple[object, ...]:
    segment, found = opened.segment, opened.found
    first, last = segment.groups[0], segment.groups[-1]
    return (
        sql.incarnation_key(segment.incarnation),
        segment.number,
        segment.machine,
        found.info.name,
        opened.hash,
        found.info.size,
        first.sequence,
        last.sequence + len(last.ops) - 1,
        last.stamp,
        position,
        None,
        found.info.label,
        found.info.id,
    )
