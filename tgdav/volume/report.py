"""The objects of ``status``, ``cache``, ``snapshots``, ``diff``, ``trash`` and the metrics."""

from typing import Any

import msgspec

from tgdav.check.findings import left_out_report, uuid_text
from tgdav.content.pack_table import waiting_packs
from tgdav.db.database import Database
from tgdav.fs.trash import TrashItem
from tgdav.metadata.difference import CHANGED, Difference, path_of
from tgdav.metadata.snapshots import SnapshotRow
from tgdav.metadata.versions import Version
from tgdav.threads import failure_counts, last_failure
from tgdav.volume.volume import Volume
from tgdav.wording import describe_damage, iso_time, shown_path, utc_time_after

USUAL_CHUNK = 1024 * 1024
"""Bytes that a writer of a large file wants at once."""


def deleted(item: TrashItem) -> dict[str, Any]:
    """Return an entry of ``trash list``."""
    path, time = shown_path(item.path), iso_time(item.deleted)
    return {"id": item.entry.hex(), "path": path, "deleted": time, "bytes": item.bytes}


def status(volume: Volume) -> dict[str, Any]:
    """Return the ``status`` object."""
    volume.stores.probe()
    reach = volume.stores.reachability()
    files, size = volume.fs.totals()
    shown = cache(volume)
    damage = _damage(volume.database)
    waiting, reason = volume.stores.backoff
    problem = volume.stores.account.problem if volume.stores.account else None
    date, sent = volume.upload_stats.today()
    errors = (
        volume.database.writer.refusal,
        None if problem is None else str(problem),
        volume.background.last_error,
        volume.content.uploader.last_error,
        last_failure(),
        volume.stores.account.clock_problem if volume.stores.account else None,
        None if reach.reachable else reach.last_error,
        describe_damage(**damage[-1]) if damage else None,
    )
    return {
        "store": {
            "backend": volume.stores.store.traits.backend,
            "reachable": reach.reachable and problem is None,
            "waiting_seconds": waiting,
            "waiting_for": reason if waiting else None,
            "waiting_until": utc_time_after(volume.platform.clock.now_ns(), waiting) if waiting else None,
        },
        "account": volume.account_expiry and volume.account_expiry.report(),
        "sent_today": {"date": date, **sent},
        "pending": volume.pending(),
        "staging": _staging(volume),
        "cache": {"bytes": shown["bytes"], "max_bytes": shown["max_bytes"]},
        "machines": _machines(volume.database),
        "files": files,
        "bytes": size,
        "last_error": next(filter(None, errors), None),
        "clock_ahead_seconds": _clock_ahead(volume),
        "clock_problem": volume.stores.account.clock_problem if volume.stores.account else None,
        "thread_failures": failure_counts(),
        "read_only": volume.read_only_reason,
        "namespace": volume.namespace_name,
        "machine": uuid_text(volume.log.machine_id),
        "damage": damage,
        "left_out": left_out_report(volume.database),
    }


def _staging(volume: Volume) -> dict[str, Any]:
    """Return what waits here against its bound, and whether writers get no more until some of it is stored."""
    usage = volume.content.staging_usage()
    return {"bytes": usage.used, "max_bytes": usage.limit, "full": usage.is_full}


def _clock_ahead(volume: Volume) -> float | None:
    account = volume.stores.account
    return None if account is None or account.clock_ahead is None else round(account.clock_ahead, 1)


def cache(volume: Volume) -> dict[str, Any]:
    """Return the ``cache`` object."""
    return msgspec.structs.asdict(volume.content.reader.cache.statistics())


def snapshot(row: SnapshotRow) -> dict[str, Any]:
    """Return the object of a snapshot."""
    return {
        "name": row.name,
        "time": iso_time(row.time),
        "files": row.files,
        "bytes": row.bytes,
        "new_bytes": row.new_bytes,
        "machine": row.machine,
        "settled": row.settled,
    }


def version(found: Version) -> dict[str, Any]:
    """Return the object of a version."""
    return {
        "number": found.number,
        "time": iso_time(found.time),
        "bytes": found.attributes.size,
        "machine": found.machine,
        "current": found.is_current,
    }


def difference(found: Difference, top: bytes = b"") -> dict[str, Any]:
    """Return the object of a path that differs, below the path ``top``."""
    return {
        "path": shown_path(path_of(found.names, top)),
        "change": found.change,
        "from": None if found.source is None else shown_path(path_of(found.source, top)),
        "bytes": found.size,
        "modified": found.modified or found.change == CHANGED,
    }


def counters(volume: Volume) -> dict[str, Any]:
    """Return counters since the start: ``store`` by operation, ``cache`` hits and misses; and ``queue``: packs waiting now."""
    shown = cache(volume)
    with volume.database.reading() as connection:
        queue = len(waiting_packs(connection))
    return {
        "store": {name: msgspec.structs.asdict(count) for name, count in volume.stores.counting.counts().items()},
        "cache": {"hits": shown["hits"], "misses": shown["misses"]},
        "queue": queue,
    }


def _machines(database: Database) -> list[dict[str, Any]]:
    with database.reading() as connection:
        found = connection.all("SELECT machine, name, epoch FROM machines ORDER BY epoch")
    return [{"id": uuid_text(machine), "name": name, "epoch": epoch} for machine, name, epoch in found]


def _damage(database: Database) -> list[dict[str, str]]:
    with database.reading() as connection:
        found = connection.all("SELECT blob, kind, reason FROM damage ORDER BY found")
    return [{"blob": blob, "kind": kind, "reason": reason} for blob, kind, reason in found]
