"""What ``status`` says, and noting what lies in the store."""

from typing import TYPE_CHECKING, Any

import msgspec

from tgdav.blobs.contract import BlobInfo
from tgdav.db.database import Database
from tgdav.db.writer import Transaction
from tgdav.ids import BlobId
from tgdav.replication import rows

if TYPE_CHECKING:
    from tgdav.volume.volume import Volume


def status(volume: "Volume") -> dict[str, Any]:
    """Return the ``status`` object."""
    reach = volume.stores.retrying.reachability()
    files, size = volume.fs.totals()
    shown = cache(volume)
    return {
        "store": {
            "backend": volume.stores.store.traits.backend,
            "reachable": reach.reachable,
            "waiting_seconds": reach.waiting_seconds,
        },
        "pending": volume.pending(),
        "cache": {"bytes": shown["bytes"], "max_bytes": shown["max_bytes"]},
        "machines": _machines(volume.database),
        "files": files,
        "bytes": size,
        "last_error": volume.last_error or volume.content.uploader.last_error or reach.last_error or None,
        "read_only": volume.read_only_reason,
        "namespace": volume.namespace_name,
        "machine": volume.log.machine_id.hex(),
        "damage": _damage(volume.database),
    }


def cache(volume: "Volume") -> dict[str, Any]:
    """Return the ``cache`` object."""
    return msgspec.structs.asdict(volume.content.reading.cache.statistics())


def _machines(database: Database) -> list[dict[str, Any]]:
    with database.reading() as connection:
        found = connection.all("SELECT machine, name, epoch FROM machines ORDER BY epoch")
    return [{"id": machine.hex(), "name": name, "epoch": epoch} for machine, name, epoch in found]


def _damage(database: Database) -> list[dict[str, Any]]:
    with database.reading() as connection:
        found = connection.all("SELECT blob, kind, reason FROM damage ORDER BY found")
    return [{"blob": blob, "kind": kind, "reason": reason} for blob, kind, reason in found]


def note_headers(database: Database, copies: list[BlobInfo], deleted: list[BlobId]) -> None:
    """Remember which header copies lie in the store, and which were deleted on purpose."""
    with database.reading() as connection:
        known = {row[0] for row in connection.all("SELECT id FROM blobs WHERE kind = ? AND gone = 0", (rows.HEADER,))}
    new = [rows.blob_row(info.id, info.name, rows.HEADER, info.size, None) for info in copies if info.id not in known]
    if not new and not deleted:
        return

    def work(transaction: Transaction) -> None:
        transaction.executemany(rows.INSERT_BLOB, new)
        transaction.executemany("UPDATE blobs SET gone = 1 WHERE id = ?", [(each,) for each in deleted])

    database.writer.run(work, durable=True)
