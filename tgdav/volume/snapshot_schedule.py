"""Automatic snapshots: which ones are due and which ones are deleted for them (pure), and the task that does it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from tgdav.clock import Clock
from tgdav.db import Database
from tgdav.errors import UsageError
from tgdav.fs.snapshots import Snapshots
from tgdav.metadata import settings
from tgdav.metadata.journal import LAST_POSITION

SEEN = "snapshots.seen"
"""A local setting: the last position after the latest run, and a position since which only runs have changed something."""
KINDS = ("hourly", "daily", "weekly", "monthly")
_NAMES = {"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m"}
"""How the name of a snapshot continues after its kind: the period of time that it stands for, in UTC."""


class Plan(NamedTuple):
    """Names of the snapshots to make and to delete now."""

    make: Sequence[str]
    delete: Sequence[str]


def period_name(kind: str, time_ns: int) -> str:
    """Return the name of the snapshot of this kind at a time in ns since 1970: ``hourly-2026-12-01T10``."""
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return f"{kind}-{moment.strftime(_NAMES[kind])}"


def kind_of(name: str) -> str | None:
    """Return the kind of a name that the schedule gives, None for any other."""
    kind, _, period = name.partition("-")
    if kind not in KINDS:
        return None
    # %G and %V are valid with a weekday only.
    text, form = (f"{period}-1", f"{_NAMES[kind]}-%u") if kind == "weekly" else (period, _NAMES[kind])
    try:
        parsed = datetime.strptime(text, form)
    except ValueError:
        return None
    # strptime accepts digits that strftime does not write, such as a month without its zero.
    return kind if parsed.strftime(_NAMES[kind]) == period else None


def plan(keep: Mapping[str, int], existing: Iterable[str], unchanged: Iterable[str], now_ns: int) -> Plan:
    """Decide what to do now.

    ``keep``: how many snapshots of each kind are kept; 0: that kind is off, and what exists of it stays. ``existing``: names of
    all snapshots, the oldest first. ``unchanged``: names of those since which nothing has changed.

    One snapshot of a kind is due when there is none of the present period, however many periods were missed; not if the last
    one of its kind shows the same. The age of a snapshot never matters for what is deleted: a clock that jumps could delete
    all. What the user named is never deleted.
    """
    made: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in existing:
        kind = kind_of(name)
        if kind is not None:
            made[kind].append(name)
    make, delete = [], []
    same = frozenset(unchanged)
    for kind in KINDS:
        most, names = keep.get(kind, 0), made[kind]
        if not most:
            continue
        due = period_name(kind, now_ns)
        if due not in names and not (names and names[-1] in same):
            make.append(due)
        excess = len(names) + (make[-1:] == [due]) - most
        delete += names[: max(0, excess)]
    return Plan(make, delete)


class ScheduledSnapshots:
    """Makes and deletes the automatic snapshots of one namespace. ``keep``: how many of each kind are kept."""

    def __init__(self, snapshots: Snapshots, database: Database, clock: Clock, keep: Mapping[str, int]) -> None:
        self._snapshots, self._database, self._clock, self._keep = snapshots, database, clock, keep

    def run(self) -> None:
        """Do what is due now. Raises as ``Snapshots.make``."""
        if not any(self._keep.values()):
            return
        existing = self._snapshots.listed()
        last, changed = self._look()
        unchanged = [each.name for each in existing if each.position >= changed]
        found = plan(self._keep, [each.name for each in existing], unchanged, self._clock.now_ns())
        for name in found.make:
            self._snapshots.make(name)
        for name in found.delete:
            with suppress(UsageError):  # the user has deleted it meanwhile
                self._snapshots.delete(name)
        self._remember(last, last + len(found.make) + len(found.delete), changed)

    def _look(self) -> tuple[int, int]:
        """Return the last position, and one since which only this class has changed something."""
        with self._database.reading() as connection:
            last = _number(connection.one(LAST_POSITION))
            seen, changed = settings.get(connection, SEEN, (-1, 0))
        return last, changed if last == seen else last

    def _remember(self, before: int, expected: int, changed: int) -> None:
        with self._database.reading() as connection:
            last = _number(connection.one(LAST_POSITION))
            known = settings.get(connection, SEEN)
        # Somebody else changed something meanwhile: the next run finds that out from the position before.
        value = (expected if last == expected else before, changed)
        if known != list(value):
            self._database.writer.run(lambda transaction: settings.put(transaction, SEEN, value))


def _number(row: Sequence[int] | None) -> int:
    return row[0] if row else 0
