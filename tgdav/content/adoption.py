"""Taking in packs that another machine, or this one in an earlier life, has stored: what their indexes say."""

from collections.abc import Iterable, Mapping

from tgdav.content import index
from tgdav.content.types import IndexEntry, PackState
from tgdav.db.transaction import Transaction
from tgdav.entropy import Entropy
from tgdav.ids import BlobId, BlobName

_PUT_PACK = """INSERT INTO packs
(name, state, epoch, file, end, size, hash, label, blob, announced, damaged, created)
VALUES (?, ?, ?, NULL, 0, ?, ?, ?, ?, ?, ?, 0)
ON CONFLICT (name) DO UPDATE SET announced = excluded.announced RETURNING no"""

_UNSTAGE = """UPDATE chunks SET pack = ?, offset = ?, stored = ?, codec = ?, epoch = ?, data = NULL
WHERE id = ? AND data IS NOT NULL AND local = 0"""


def record_stored_pack(
    transaction: Transaction,
    *,
    name: BlobName,
    epoch: int,
    size: int,
    digest: bytes,
    label: str,
    blob: BlobId | None,
    segment: int,
    entries: Iterable[IndexEntry],
    takes_rows: bool = False,
) -> None:
    """Note a pack and its chunks. ``blob`` None: the store does not have it, so its chunks are not known for sound.

    A later index wins over an earlier one, unless its pack is lost: what was stored anew is read from there. ``takes_rows``:
    chunks that are staged as rows need not be sent any more; only while the content store is not open, which counts them.
    """
    row = transaction.one(
        _PUT_PACK, (name, int(PackState.STORED), epoch, size, digest, label, blob, segment, int(blob is None))
    )
    assert row is not None, "RETURNING gives a row"
    for entry in entries:
        if takes_rows and blob is not None:
            transaction.execute(_UNSTAGE, (int(row[0]), entry.offset, entry.stored, entry.codec, entry.epoch, entry.id))
        index.put_in_pack(transaction, entry, int(row[0]), replace=blob is not None)


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
