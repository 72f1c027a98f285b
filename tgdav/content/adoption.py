"""Taking in packs that another machine, or this one in an earlier life, has stored: what their indexes say."""

from collections.abc import Iterable

from tgdav.content import index
from tgdav.content.types import IndexEntry, PackState
from tgdav.db.transaction import Transaction
from tgdav.ids import BlobId, BlobName

_PUT_PACK = """INSERT INTO packs
(name, state, epoch, file, end, size, hash, label, blob, announced, damaged, created)
VALUES (?, ?, ?, NULL, 0, ?, ?, ?, ?, ?, ?, 0)
ON CONFLICT (name) DO UPDATE SET announced = excluded.announced RETURNING no"""


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
) -> None:
    """Note a pack and its chunks. ``blob`` None: the store does not have it, so its chunks are not known for sound.

    A later index wins over an earlier one, unless its pack is lost: what was stored anew is read from there.
    """
    row = transaction.one(
        _PUT_PACK, (name, int(PackState.STORED), epoch, size, digest, label, blob, segment, int(blob is None))
    )
    assert row is not None, "RETURNING gives a row"
    for entry in entries:
        index.put_in_pack(transaction, entry, int(row[0]), replace=blob is not None)
