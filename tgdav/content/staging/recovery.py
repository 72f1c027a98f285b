"""What an earlier run left in staging, recovered at start."""

import logging
from collections.abc import Mapping

from tgdav.content import chunk_table, pack_table
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentContext
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.errors import DamageError
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName

_log = logging.getLogger(__name__)


def recover(context: ContentContext) -> None:
    """Cut open packs back to what commits reference and reuse them; remove unreferenced files; count what is staged.

    Closed packs need nothing: they are sent by name. An open pack whose file is missing or too short is damage. Its chunks
    are no longer known, so content that has them is stored anew. Raises LocalFailure, NoSpace.
    """
    with context.database.reading() as connection:
        rows = pack_table.waiting_packs(connection)
        count, size = chunk_table.staged_total(connection)
        counts = {row.no: len(chunk_table.entries(connection, row.no)) for row in rows if row.state == PackState.OPEN}
    files = context.staging.files()
    # Nothing else writes to the directory yet, so a file without a row is left over from a stream that never committed.
    for file in files.keys() - {row.file for row in rows}:
        _log.info("removing an unreferenced staging file")
        context.staging.remove(file)
        failpoint("content.after-sweep")
    context.quota.charge(size + sum(files[row.file] for row in rows if row.file in files))
    context.backlog.add(count, size)
    for row in rows:
        if row.state == PackState.OPEN and not row.damaged:
            _reopen(context, row, files, counts[row.no])


def _reopen(context: ContentContext, row: PackRow, files: dict[str, int], count: int) -> None:
    assert row.file is not None
    length = files.get(row.file)
    if length is None or length < row.end:
        _record_damage(context, row, "is gone" if length is None else f"has {length} bytes of {row.end}")
        return
    pack = context.staging.reopen(row.name, row.epoch, row.file)
    pack.restore(end=row.end, length=length, count=count, created=row.created)
    pack.cut(row.end)  # what follows may be torn
    context.open_packs.release(pack)


def _record_damage(context: ContentContext, row: PackRow, reason: str) -> None:
    error = DamageError(f"the staged file of an open pack {reason}", blob=row.name.hex())
    _log.error("%s", error.message)
    now = context.clock.now_ns()
    context.database.writer.run(
        lambda transaction: pack_table.record_pack_damage(transaction, row, "staging", error.message, now)
    )


_UNSENT = "SELECT no, name, label FROM packs WHERE state < 3 AND file IS NOT NULL AND damaged = 0"
_REOPEN = "UPDATE packs SET name = ?, state = 0, size = 0, hash = NULL, label = NULL WHERE no = ?"


def rename_unsent(transaction: Transaction, stored: Mapping[BlobName, str], entropy: Entropy) -> int:
    """Give a new name to each staged pack whose name another pack in the store has; return how many there were.

    ``stored``: labels by name. Such a pack is open again, up to what commits reference: seals bind chunks to their ids, so
    the chunks stay valid, and the index is written anew. Call it before the content store is opened.
    """
    renamed = [
        (entropy.bytes(16), number)
        for number, name, label in transaction.all(_UNSENT)
        if name in stored and stored[BlobName(name)] != label
    ]
    transaction.executemany(_REOPEN, renamed)
    return len(renamed)
