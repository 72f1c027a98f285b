"""Hybrid logical clock stamps (Kulkarni et al., "Logical Physical Clocks", 2014), as one 64-bit integer.

A stamp is ``milliseconds since 1970 << 16 | counter``. Stamps order causally related groups correctly, and stay close to
the wall clock.
"""

from tgdav.clock import Clock

_COUNTER_BITS = 16


def next_stamp(last: int, now_ns: int) -> int:
    """Return the stamp after ``last`` at the wall-clock time ``now_ns``: the clock's, but at least ``last + 1``."""
    return max(last + 1, (now_ns // 1_000_000) << _COUNTER_BITS)


def stamp_time_ns(stamp: int) -> int:
    """Return the wall-clock part of a stamp in nanoseconds since 1970."""
    return (stamp >> _COUNTER_BITS) * 1_000_000


class StampSource:
    """Returns increasing stamps, greater than all those observed from other machines."""

    def __init__(self, clock: Clock, last: int = 0) -> None:
        self._clock = clock
        self.last = last

    def next(self) -> int:
        """Return a stamp greater than all returned or observed before."""
        self.last = next_stamp(self.last, self._clock.now_ns())
        return self.last

    def observe(self, stamp: int) -> None:
        """Record a stamp of another machine."""
        self.last = max(self.last, stamp)
