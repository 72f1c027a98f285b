"""Which versions go when there are too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.metadata.retention import thin

MINUTE, HOUR, DAY = 60, 3_600, 86_400
NOW = 1_800_000_000 // (7 * DAY) * (7 * DAY)
"""The beginning of a week, so that a day or a week ago is the beginning of one."""
_NS = 1_000_000_000


def left(ages: list[int], most: int) -> list[int]:
    """Return the ages (s) of the contents that stay."""
    gone = thin([(NOW - age) * _NS for age in ages], most, NOW * _NS)
    assert len(gone) == len(set(gone))
    return [age for index, age in enumerate(ages) if index not in gone]


@pytest.mark.parametrize(
    ("ages", "most", "expected"),
    [
        ([], 3, []),
        ([30, 20, 10], 3, [30, 20, 10]),
        ([30, 20, 10], 0, []),
        ([30, 20, 10], 1, [10]),
        ([30, 20, 10], 2, [30, 10]),
        # Of the last ten minutes all stay while others can go.
        ([5 * HOUR, 4 * HOUR, 3 * HOUR, 50, 40, 30, 20, 10], 6, [5 * HOUR, 50, 40, 30, 20, 10]),
        # Hourly for a day: one of each hour stays, those whose neighbours are closest for their age go first.
        (
            [3 * HOUR - 1, 3 * HOUR - 2, 3 * HOUR - 3, 2 * HOUR - 1, 2 * HOUR - 2, HOUR - 1, 10],
            4,
            [3 * HOUR - 1, 2 * HOUR - 1, HOUR - 1, 10],
        ),
        # Daily for thirty days.
        ([3 * DAY, 3 * DAY - HOUR, 3 * DAY - 2 * HOUR, 2 * DAY, 2 * DAY - HOUR, 10], 3, [3 * DAY, 2 * DAY - HOUR, 10]),
        # Weekly before that.
        ([70 * DAY, 69 * DAY, 68 * DAY, 63 * DAY, 62 * DAY, 10], 3, [70 * DAY, 62 * DAY, 10]),
        # The oldest stays, then the newest alone.
        ([900 * DAY, 10 * DAY, 5 * DAY, DAY], 2, [900 * DAY, DAY]),
        ([900 * DAY, 10 * DAY, 5 * DAY, DAY], 1, [DAY]),
        # A clock that was set back.
        ([10, -HOUR, 20], 2, [10, 20]),
    ],
)
def test_table(ages: list[int], most: int, expected: list[int]) -> None:
    assert left(ages, most) == expected


@given(
    st.lists(st.integers(-DAY, 400 * DAY), max_size=40).map(lambda ages: sorted(ages, reverse=True)), st.integers(0, 41)
)
def test_the_number_is_exact_and_the_ends_stay(ages: list[int], most: int) -> None:
    kept = left(list(dict.fromkeys(ages)), most)
    every = list(dict.fromkeys(ages))
    assert len(kept) == min(len(every), most)
    assert not kept or kept[-1] == every[-1]
    assert len(kept) < 2 or kept[0] == every[0]


@given(st.lists(st.integers(0, 400 * DAY), min_size=1, max_size=30, unique=True), st.integers(1, 30))
def test_saving_once_more_lets_one_go(ages: list[int], most: int) -> None:
    """A file at its limit loses one version with each save, as the operations of each save show it."""
    kept = left(sorted(ages, reverse=True), most)
    assert len(left([*kept, 0] if kept[-1] else kept, most)) <= most


def test_over_months_the_past_gets_coarser_and_is_never_lost() -> None:
    """A file saved every three hours for half a year, with ten versions: they reach back to its beginning."""
    times: list[int] = []
    for now in range(0, 180 * DAY, 3 * HOUR):
        times.append(now)
        gone = thin([each * _NS for each in times], 10, now * _NS)
        times = [each for index, each in enumerate(times) if index not in gone]
    ages = [180 * DAY - each for each in times]
    assert len(ages) == 10
    assert ages[0] == 180 * DAY
    assert sum(age <= 2 * DAY for age in ages) >= 3
    assert sum(age > 20 * DAY for age in ages) >= 3
