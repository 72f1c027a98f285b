"""Automatic snapshots: which are due and which go, as a table; and over days of a volume's life."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.vaults import Vault, put
from tgdav.errors import WriterReplaced
from tgdav.volume.snapshot_schedule import ScheduledSnapshots, kind_of, period_name, plan

NOW = "2026-12-01T10:30"


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("hourly", "hourly-2026-12-01T10"),
        ("daily", "daily-2026-12-01"),
        ("weekly", "weekly-2026-W49"),
        ("monthly", "monthly-2026-12"),
    ],
)
def test_names(kind: str, name: str) -> None:
    assert period_name(kind, ns(NOW)) == name
    assert kind_of(name) == kind


def test_a_week_at_the_turn_of_the_year_has_its_own_year() -> None:
    assert period_name("weekly", ns("2027-01-01T00:00")) == "weekly-2026-W53"


NAMED_BY_HAND = [
    *("hourly", "hourly-", "daily-2026-12-1", "daily-2026-13-01", "weekly-2026-49", "weekly-2026-W54"),
    *("monthly-2026-12-01", "hourly-2026-12-01T24", "my-hourly-2026-12-01T10", "daily-2026-12-01 ", "yearly-2026"),
]


@pytest.mark.parametrize("name", NAMED_BY_HAND)
def test_other_names_are_the_users(name: str) -> None:
    assert kind_of(name) is None


H08, H09, H10 = (f"hourly-2026-12-01T{hour}" for hour in ("08", "09", "10"))
FUTURE = "hourly-2031-01-01T00"
TABLE = [
    # keep, existing, unchanged, made, deleted
    ({}, [H08], [], [], []),
    ({"hourly": 0}, [H08, H09], [], [], []),
    ({"hourly": 2}, [], [], [H10], []),
    ({"hourly": 2}, [H10], [], [], []),
    ({"hourly": 2}, [H08], [], [H10], []),
    ({"hourly": 2}, [H08, H09], [], [H10], [H08]),
    ({"hourly": 1}, [H09], [], [H10], [H09]),
    # Fewer are kept than before.
    ({"hourly": 1}, [H08, H09, H10], [], [], [H08, H09]),
    # Nothing has changed since.
    ({"hourly": 2}, [H08, H09], [H09], [], []),
    ({"hourly": 2, "daily": 1}, [H09], [H09], ["daily-2026-12-01"], []),
    # However long the machine slept: one.
    ({"hourly": 3}, ["hourly-2020-01-01T00"], [], [H10], []),
    # The clock was ahead: the age never counts, and only one goes.
    ({"hourly": 3}, [H08, H09, FUTURE], [], [H10], [H08]),
    # It is behind now.
    ({"hourly": 2}, [FUTURE], [], [H10], []),
    # What the user named stays, whatever it is called.
    ({"hourly": 1}, ["mine", "hourly-mine", H09, "other"], [], [H10], [H09]),
    (
        {"hourly": 1, "daily": 1, "weekly": 1, "monthly": 1},
        [],
        [],
        [H10, "daily-2026-12-01", "weekly-2026-W49", "monthly-2026-12"],
        [],
    ),
]


@pytest.mark.parametrize(("keep", "existing", "unchanged", "made", "deleted"), TABLE)
def test_what_is_due(
    keep: dict[str, int], existing: list[str], unchanged: list[str], made: list[str], deleted: list[str]
) -> None:
    assert plan(keep, existing, unchanged, ns(NOW)) == (made, deleted)


class Automatic:
    """A volume whose schedule runs when the test says so."""

    def __init__(self, folder: Path, **keep: int) -> None:
        self.vault = Vault(folder, snapshots={"schedule": keep})
        self.volume = self.vault.open()
        self.vault.clock.set_wall(ns(NOW))
        self.count = 0

    def change(self) -> None:
        self.count += 1
        put(self.volume, f"file{self.count}", b"x")

    def run(self, time: str) -> list[str]:
        """Run the schedule at a time of that day; return the names that exist then."""
        self.vault.clock.set_wall(ns(time if "-" in time else f"2026-12-01T{time}"))
        schedule: ScheduledSnapshots = self.volume._schedule
        schedule.run()
        return [each.name for each in self.volume.snapshots.listed()]


def test_a_day(tmp_path: Path) -> None:
    each = Automatic(tmp_path, hourly=2, daily=5)
    daily = "daily-2026-12-01"
    assert each.run("10:30") == [H10, daily]
    assert each.run("10:40") == [H10, daily]
    # Nothing has changed; not even by the snapshots.
    assert each.run("11:00") == [H10, daily]
    each.change()
    assert each.run("12:00") == [H10, daily, "hourly-2026-12-01T12"]
    each.change()
    assert each.run("13:00") == [daily, "hourly-2026-12-01T12", "hourly-2026-12-01T13"]
    afternoon = each.run("14:00")
    assert afternoon == [daily, "hourly-2026-12-01T12", "hourly-2026-12-01T13"]
    # The daily one is due: there was a change since the last of its kind, though not since the last hour.
    assert each.run("2026-12-02T01:00") == [*afternoon, "daily-2026-12-02"]
    assert each.run("2026-12-03T01:00")[-1] == "daily-2026-12-02"
    each.volume.close()
    each.volume = each.vault.open()
    assert each.run("2026-12-03T02:00")[-1] == "daily-2026-12-02"
    each.change()
    # After a year asleep: one of each kind.
    assert each.run("2027-12-03T02:00")[-2:] == ["hourly-2027-12-03T02", "daily-2027-12-03"]
    each.volume.close()


def test_a_change_beside_a_run_counts(tmp_path: Path) -> None:
    each = Automatic(tmp_path, hourly=5, daily=5)
    each.run("10:00")
    make = each.volume.snapshots.make

    def interrupted(name: str) -> object:
        made = make(name)
        each.change()
        return made

    each.change()
    each.volume.snapshots.make = interrupted  # type: ignore[method-assign,assignment]
    each.run("11:00")
    each.volume.snapshots.make = make  # type: ignore[method-assign]
    assert each.run("12:00")[-1] == "hourly-2026-12-01T12"
    each.volume.close()


def test_a_replaced_machine_makes_none(tmp_path: Path) -> None:
    each = Automatic(tmp_path, hourly=5)
    each.change()
    each.volume.sync(wait=True)
    each.vault.join("other")
    with pytest.raises(WriterReplaced):
        each.volume.replicator.poll()
    assert each.volume.read_only_reason is not None
    each.vault.clock.advance(100)
    each.volume.background.tick()
    assert not each.volume.snapshots.listed()
    each.volume.close()
