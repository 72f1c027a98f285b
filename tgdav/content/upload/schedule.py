"""When staged content is packed, closed and sent. Pure: the uploader asks, and does what it is told."""

import msgspec

FIRST_INTERVAL = 5.0
LAST_INTERVAL = 300.0
_LITTLE = 8
"""A closing of less than this part of a full pack counts as little."""
FIRST_BACKOFF = 1.0
LAST_BACKOFF = 60.0


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in staging and is not closed. Times are monotonic seconds, sizes bytes.

    ``touched``: when something was last added; ``since``: when the first of it came.
    """

    now: float
    row_count: int
    row_bytes: int
    idle_packs: int
    touched: float
    since: float
    interval: float
    limit: int
    flush: bool
    pressed: bool


class Decision(msgspec.Struct, frozen=True):
    """``move``: pack the rows; ``close``: close every idle pack; ``wait``: seconds until it is worth asking again."""

    move: bool
    close: bool
    wait: float


def decide(situation: Situation) -> Decision:
    """Say what to do.

    All goes when it was quiet for ``interval``, when the first of it is 5 min old, when someone asked, or when space runs
    short. Rows for a whole pack are packed at once.
    """
    s = situation
    if not s.row_count and not s.idle_packs:
        return Decision(False, False, LAST_INTERVAL)
    due = min(s.touched + s.interval, s.since + LAST_INTERVAL)
    if s.flush or s.pressed or s.now >= due:
        return Decision(bool(s.row_count), True, 0.0)
    return Decision(s.row_bytes >= s.limit, False, due - s.now)


def next_interval(interval: float, closed: int, limit: int) -> float:
    """Return how long to wait for quiet next time, after ``closed`` bytes went: twice as long if that was little."""
    if closed * _LITTLE < limit:
        return min(interval * 2, LAST_INTERVAL)
    return FIRST_INTERVAL


def next_backoff(backoff: float, asked: float | None) -> float:
    """Return how long to leave the store alone after one more failure; ``asked`` is what it asked for, seconds."""
    doubled = min(max(backoff * 2, FIRST_BACKOFF), LAST_BACKOFF)
    return max(doubled, asked or 0.0)
