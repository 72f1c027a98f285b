"""Delete blobs from the store on purpose, so that neither a crash nor a store that gave their ids to others does harm."""

from collections.abc import Iterator, Mapping

from tgdav.blobs.interface import BlobStore
from tgdav.db.database import Database
from tgdav.failpoints import failpoint
from tgdav.ids import BlobId, BlobName

_NEAR = 1000
"""Ids that are less apart are looked up by one listing."""
_TOGETHER = 100
"""Blobs that one call deletes; as many as one request to Telegram takes."""
_GONE = "UPDATE blobs SET gone = 1 WHERE id = ? AND name = ?"

Places = Mapping[BlobId, BlobName]
"""Blobs by their ids in the store."""


def present(store: BlobStore, wanted: Places) -> dict[BlobId, int]:
    """Return the sizes of those blobs that the store has under their ids. Raises StoreUnavailable."""
    found = {}
    for ids in _clusters(sorted(wanted)):
        for info in store.list(BlobId(ids[0] - 1)):
            if info.id > ids[-1]:
                break
            if wanted.get(info.id) == info.name:
                found[info.id] = info.size
    return found


def _clusters(ids: list[BlobId]) -> Iterator[list[BlobId]]:
    """Split sorted ids where they are far apart. Pure."""
    cluster: list[BlobId] = []
    for each in ids:
        if cluster and each - cluster[-1] > _NEAR:
            yield cluster
            cluster = []
        cluster.append(each)
    if cluster:
        yield cluster


def delete_blobs(database: Database, store: BlobStore, doomed: Places) -> None:
    """Delete blobs; they are no longer expected in the store as soon as the first may be deleted.

    Can be repeated after a crash. Raises StoreUnavailable, LocalFailure, NoSpace.
    """
    database.writer.run(lambda transaction: transaction.executemany(_GONE, doomed.items()), durable=True)
    failpoint("deletion.recorded")
    # A store that was copied or set back may have another blob under an id.
    there = sorted(present(store, doomed))
    for start in range(0, len(there), _TOGETHER):
        store.delete(there[start : start + _TOGETHER])
        failpoint("deletion.deleted")
