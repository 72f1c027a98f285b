"""Long tests run first, on all workers; no test is lost by the order."""

from pathlib import Path

import pytest

from tests.support.long_first import arranged, read_durations, write_durations


def test_each_worker_begins_with_its_part_of_the_long_ones() -> None:
    items = {name: name for name in "abcdefghij"}
    durations = {"j": 9.0, "b": 50.0, "e": 10.0, "gone": 99.0}
    assert "".join(arranged(items, durations, 2)) == "bjacd" + "efghi"


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 100])
def test_no_test_is_lost(count: int, workers: int) -> None:
    items = {str(number): number for number in range(count)}
    durations = {str(number): float(number) for number in range(0, count, 3)}
    assert sorted(arranged(items, durations, workers)) == list(range(count))


def test_without_durations_the_order_stays() -> None:
    assert list(arranged({name: name for name in "abcde"}, {}, 3)) == list("abcde")


def test_durations_are_stored_the_longest_first(tmp_path: Path) -> None:
    write_durations({"short": 0.5, "long": 3.0, "longest [a b]": 30.0}, tmp_path / "durations")
    assert list(read_durations(tmp_path / "durations").items()) == [("longest [a b]", 30.0), ("long", 3.0)]
    assert read_durations(tmp_path / "none") == {}
