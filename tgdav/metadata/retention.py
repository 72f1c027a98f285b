"""Decides which earlier contents of a file go when there are more than the policy allows. Pure."""

from collections import Counter
from collections.abc import Sequence

RECENT_NS = 600_000_000_000
"""Younger contents go last."""
_HOUR, _DAY, _WEEK = 3_600_000_000_000, 86_400_000_000_000, 604_800_000_000_000
_STEPS = ((_DAY, _HOUR), (30 * _DAY, _DAY))
"""(age, interval): up to that age one content of each interval is kept as long as possible; of older ones one of each week."""


def thin(times: Sequence[int], most: int, now: int) -> list[int]:
    """Return the indexes of the contents that go, so that at most ``most`` stay, in the order in which they go.

    ``times`` (ns) are those at which the contents were written, the oldest first; the last one stays unless ``most`` is 0.
    Contents go that share an hour (of the last day), a day (of the last 30) or a week with another one; then others; then those
    of the last ten minutes; the oldest goes last. Of several, the one goes whose neighbours are closest for its age.
    """
    if most == 0:
        return list(range(len(times)))
    left, gone = list(range(len(times))), []
    intervals = [_interval(time, now) for time in times]
    shared = Counter(intervals)
    while len(left) > most:
        # The newest is no candidate.
        at = min(range(len(left) - 1), key=lambda at: _rank(times, left, at, now, shared[intervals[left[at]]] > 1))
        gone.append(left.pop(at))
        shared[intervals[gone[-1]]] -= 1
    return gone


def _rank(times: Sequence[int], left: Sequence[int], at: int, now: int, is_shared: bool) -> tuple[int, float]:
    """Return what sorts the candidate ``left[at]``: the one that goes first has the smallest."""
    age = now - times[left[at]]
    if at == 0:
        return 3, 0.0
    order = 2 if age < RECENT_NS else 0 if is_shared else 1
    gap = times[left[at + 1]] - times[left[at - 1]]
    return order, gap / max(age, 1)


def _interval(time: int, now: int) -> tuple[int, int]:
    """Return the hour, day or week (UTC) that a content is in."""
    length = next((length for age, length in _STEPS if now - time < age), _WEEK)
    return length, time // length
