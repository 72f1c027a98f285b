"""What ``status`` says."""

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from tgdav.content.pack_table import waiting_packs
from tgdav.db.database import Database
from tgdav.replication.intake import LeftOut, left_out
from tgdav.threads import failure_counts, last_failure
from tgdav.volume.findings import described

if TYPE_CHECKING:
    from tgdav.volume.volume import Volume

USUAL_CHUNK = 1024 * 1024
"""Bytes that a writer of a large file wants at once."""


def status(volume: "Volume") -> dict[str, Any]:
    """Return the ``status`` object."""
    volume.stores.probe()
    reach = volume.stores.reachability()
    files, size = volume.fs.totals()
    shown = cache(volume)
    damage = _damage(volume.database)
    waiting, reason = volume.stores.rest
    problem = volume.stores.account.problem if volume.stores.account else None
    date, sent = volume.budget.today()
    errors = (
        volume.database.writer.refusal,
        None if problem is None else str(problem),
        volume.housekeeping.last_error,
        volume.content.uploader.last_error,
        last_failure(),
        volume.stores.account.clock_problem if volume.stores.account else None,
        None if reach.reachable else reach.last_error,
        described(**damage[-1]) if damage else None,
    )
    return {
        "store": {
            "backend": volume.stores.store.traits.backend,
            "reachable": reach.reachable and problem is None,
            "waiting_seconds": waiting,
            "waiting_for": reason if waiting else None,
            "waiting_until": moment(volume.platform.clock.now_ns(), waiting) if waiting else None,
        },
        "account": volume.account_life and volume.account_life.report(),
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
        "machine": _uuid(volume.log.machine_id),
        "damage": damage,
        "left_out": left_out_report(volume.database),
    }


def _staging(volume: "Volume") -> dict[str, Any]:
    """Return what waits here against its bound, and whether writers get no more until some of it is stored."""
    usage = volume.content.staging_usage()
    return {"bytes": usage.used, "max_bytes": usage.limit, "full": usage.is_full}


def _clock_ahead(volume: "Volume") -> float | None:
    account = volume.stores.account
    return None if account is None or account.clock_ahead is None else round(account.clock_ahead, 1)


def moment(now_ns: int, seconds: float) -> str:
    """Return when a wait ends, as ISO 8601 writes it, in UTC."""
    return datetime.fromtimestamp(now_ns / 1e9 + seconds, UTC).isoformat(timespec="seconds")


def cache(volume: "Volume") -> dict[str, Any]:
    """Return the ``cache`` object."""
    return msgspec.structs.asdict(volume.content.reader.cache.statistics())


def counters(volume: "Volume") -> dict[str, Any]:
    """Return what was counted since the start: ``store`` by operation, ``cache`` hits and misses; ``queue``: packs now."""
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
    return [{"id": _uuid(machine), "name": name, "epoch": epoch} for machine, name, epoch in found]


def left_out_report(database: Database) -> list[dict[str, Any]]:
    """Return ``left_out``: what replaced machines made that does not count, as ``left_out_objects`` gives it."""
    with database.reading() as connection:
        return left_out_objects(left_out(connection))


def left_out_objects(found: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """Return one object a machine: its id and name, how many operations, and the time of the last one (ISO 8601)."""
    return [
        {"id": _uuid(each.machine), "name": each.name, "changes": each.changes, "last": moment(each.last, 0.0)}
        for each in found
    ]


def _uuid(machine: bytes) -> str:
    """Return a machine's id as the configuration writes it."""
    return str(uuid.UUID(bytes=machine))


def _damage(database: Database) -> list[dict[str, str]]:
    with database.reading() as connection:
        found = connection.all("SELECT blob, kind, reason FROM damage ORDER BY found")
    return [{"blob": blob, "kind": kind, "reason": reason} for blob, kind, reason in found]
