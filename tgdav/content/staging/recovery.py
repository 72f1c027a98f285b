"""What an earlier run left in staging, taken over at start."""

import logging
from collections.abc import Mapping

from tgdav.content import chunk_table, pack_table
from tgdav.content.pack_table import PackRow, PackState
from tgdav.content.staging.context import ContentCore
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.errors import DamageError
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName

_log = logging.getLogger(__name__)


def take_over(core: ContentCore) -> None:
    """Cut open packs to what commits name and offer them again, remove files that no row names, count what is there.

    Closed packs need nothing: they are sent by name. An open pack that is gone or too short is damage; its chunks are no
    longer known, so content that holds them is stored anew. Raises LocalFailure, NoSpace.
    """
    with core.database.reading() as connection:
        rows = pack_table.waiting_packs(connection)
        count, size = chunk_table.staged_total(connection)
        counts = {row.no: len(chunk_table.entries(connection, row.no)) for row in rows if row.state == PackState.OPEN}
    files = core.staging.files()
    for file in files.keys() - {row.file for row in rows}:
        _log.info("removing a staging file that nothing names")
        core.staging.remove(file)
        failpoint("content.after-sweep")
    core.space.charge(size + sum(files[row.file] for row in rows if row.file in files))
    core.backlog.add(count, size)
    for row in rows:
        if row.state == PackState.OPEN and not row.damaged:
            _reopen(core, row, files, counts[row.no])


def _reopen(core: ContentCore, row: PackRow, files: dict[str, int], count: int) -> None:
    assert row.file is not None
    length = files.get(row.file)
    if length is None or length < row.end:
        _note_damage(core, row, "is gone" if length is None else f"has {length} bytes of {row.end}")
        return
    pack = core.staging.reopen(row.name, row.epoch, row.file)
    pack.adopt(end=row.end, length=length, count=count, created=row.created)
    pack.cut(row.end)
    core.pool.give_back(pack)


def _note_damage(core: ContentCore, row: PackRow, reason: str) -> None:
    error = DamageError(f"the staged file of an open pack {reason}", blob=row.name.hex())
    _log.error("%s", error.message)
    now = core.clock.now_ns()

    def note(transaction: Transaction) -> None:
        pack_table.mark_bad(transaction, row.no)
        pack_table.note_damage(transaction, error.blob, "staging", error.message, now)

    core.database.writer.run(note)


_UNSENT = "SELECT no, name, label FROM packs WHERE state < 3 AND file IS NOT NULL AND damaged = 0"
_OPEN_AGAIN = "UPDATE packs SET name = ?, state = 0, size = 0, hash = NULL, label = NULL WHERE no = ?"


def rename_unsent(transaction: Transaction, stored: Mapping[BlobName, str], entropy: Entropy) -> int:
    """Give a fresh name to each staged pack whose name has another pack in the store already; return how many there were.

    ``stored``: labels by name. Such a pack is open again, up to what commits name: seals bind chunks to their ids, and the
    index is written anew. To be called before the content store is opened.
    """
    taken = [
        (entropy.bytes(16), number)
        for number, name, label in transaction.all(_UNSENT)
        if name in stored and stored[BlobName(name)] != label
    ]
    transaction.executemany(_OPEN_AGAIN, taken)
    return len(taken)
