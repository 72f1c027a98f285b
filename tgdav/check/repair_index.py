"""Repairs the local index of chunks: the indexes of the packs in the store say where each chunk is."""

from tgdav.check.chunk_search import ChunkSearch, IndexedPack
from tgdav.check.content_check import unknown_chunks
from tgdav.check.context import CheckContext
from tgdav.check.findings import Repair
from tgdav.content.chunk_table import StoredPack, put_in_pack, record_stored_pack
from tgdav.content.format.chunk import IndexEntry
from tgdav.db.transaction import Transaction
from tgdav.wording import counted

_FORGET = """DELETE FROM chunks WHERE id = ? AND data IS NULL
AND (pack IS NULL OR pack NOT IN (SELECT no FROM packs))"""
_KNOWN = "SELECT no FROM packs WHERE name = ?"
# The next segment announces the pack: until then nobody else need know it.
_UNANNOUNCED = "UPDATE packs SET announced = NULL WHERE name = ?"


def repair_index(context: CheckContext, *, dry_run: bool) -> list[Repair]:
    """Find the chunks that contents name and the database does not know, and record them where the store has them.

    Raises StoreUnavailable, LocalFailure, NoSpace.
    """
    with context.database.reading() as connection:
        missing = unknown_chunks(connection)
    total, search = len(missing), ChunkSearch(context)
    for pack in search.packs(missing):
        entries = [each for each in pack.entries if each.id in missing and search.sealed(pack, each) is not None]
        missing -= {each.id for each in entries}
        if entries and not dry_run:
            context.database.writer.run(lambda t, p=pack, e=entries: _record(t, p, e), durable=True)  # type: ignore[misc]
    if len(missing) == total:
        return []
    action = f"{total - len(missing)} of {counted(total, 'unknown chunk')} are in packs of the store; the index names them again"
    return [Repair("chunks", "database", action, not missing and not dry_run)]


def _record(transaction: Transaction, pack: IndexedPack, entries: list[IndexEntry]) -> None:
    info, label = pack.found.info, pack.found.label
    transaction.executemany(_FORGET, [(entry.id,) for entry in entries])
    row = transaction.one(_KNOWN, (info.name,))
    if row is not None:
        for entry in entries:
            put_in_pack(transaction, entry, row[0], replace=True)
        return
    stored = StoredPack(
        name=info.name,
        epoch=pack.epoch,
        size=info.size,
        digest=label.body_hash,
        label=info.label,
        blob=info.id,
        segment=0,
    )
    record_stored_pack(transaction, stored, entries)
    transaction.execute(_UNANNOUNCED, (info.name,))
