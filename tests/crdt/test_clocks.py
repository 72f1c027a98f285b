from hypothesis import given
from hypothesis import strategies as st

from tests.support.platform import ManualClock
from tgdav.crdt.clocks import StampSource, next_stamp, stamp_time_ns

TIME = st.integers(0, 4_000_000_000_000_000_000)


@given(TIME, TIME)
def test_a_stamp_is_after_the_last_and_not_before_the_clock(last_time: int, now: int) -> None:
    last = last_time // 1_000_000 << 16
    stamp = next_stamp(last, now)
    assert stamp > last
    assert stamp_time_ns(stamp) >= now // 1_000_000 * 1_000_000
    assert stamp < 1 << 63, "it fits SQLite's integers"


def test_stamps_of_one_millisecond_count_on() -> None:
    source = StampSource(ManualClock(5_000_000))
    assert [source.next() for _ in range(3)] == [5 << 16, (5 << 16) + 1, (5 << 16) + 2]
    assert stamp_time_ns(source.last) == 5_000_000


def test_a_clock_set_back_does_not_set_stamps_back() -> None:
    clock = ManualClock(5_000_000)
    source = StampSource(clock)
    first = source.next()
    clock.set_wall(1_000_000)
    assert source.next() == first + 1
    clock.set_wall(9_000_000)
    assert source.next() == 9 << 16


def test_stamps_of_others_are_smaller_than_the_next_one() -> None:
    source = StampSource(ManualClock(5_000_000), last=7)
    source.observe(100 << 16)
    source.observe(50 << 16)
    assert source.next() == (100 << 16) + 1
