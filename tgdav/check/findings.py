"""What a check found, and how findings are shown."""

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from tgdav.db.database import Database
from tgdav.replication.intake import LeftOut, left_out
from tgdav.wording import shown_path, utc_time_after


class Finding(msgspec.Struct):
    """Damage: a blob's name in hex (or the role of a local file), its kind, the reason, and the affected paths."""

    blob: str
    kind: str
    reason: str
    paths: list[str] = []


class Repair(msgspec.Struct, frozen=True):
    """What was done about a finding, or with ``--dry-run`` would be. ``done``: it is whole again."""

    blob: str
    kind: str
    action: str
    done: bool


class Findings:
    """Findings by blob; the first finding of a blob is kept."""

    def __init__(self) -> None:
        self._by_blob: dict[str, Finding] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(list(self._by_blob.values()))

    def __bool__(self) -> bool:
        return bool(self._by_blob)

    def add(self, blob: str, kind: str, reason: str, paths: Iterable[bytes] = ()) -> None:
        """Add a finding, or paths to the one that is there."""
        finding = self._by_blob.setdefault(blob, Finding(blob, kind, reason, []))
        finding.paths.extend(shown_path(path) for path in paths)

    def names(self, *kinds: str) -> list[str]:
        """Return the blobs of some kinds."""
        return [each.blob for each in self._by_blob.values() if each.kind in kinds]

    def drop(self, blobs: Iterable[str]) -> None:
        """Remove the findings of these blobs."""
        for blob in blobs:
            self._by_blob.pop(blob, None)


def left_out_report(database: Database) -> list[dict[str, Any]]:
    """Return ``left_out``: what replaced machines wrote and does not count, in the form of ``left_out_objects``."""
    with database.reading() as connection:
        return left_out_objects(left_out(connection))


def left_out_objects(found: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """Return an object for each machine: id, name, number of operations, and the time of the last one (ISO 8601)."""
    return [
        {
            "id": uuid_text(each.machine),
            "name": each.name,
            "changes": each.changes,
            "last": utc_time_after(each.last, 0.0),
        }
        for each in found
    ]


def uuid_text(machine: bytes) -> str:
    """Return a machine's id as the configuration writes it."""
    return str(uuid.UUID(bytes=machine))
