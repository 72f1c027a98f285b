"""When staged content is packed, closed and sent. Pure: the uploader describes the situation and acts on the decision."""

import msgspec

FIRST_INTERVAL = 5.0
LAST_INTERVAL = 300.0
_LITTLE = 8
"""Closing less than one part in so many of a full pack counts as little."""
FIRST_BACKOFF = 1.0
LAST_BACKOFF = 60.0


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What is staged and not closed. Times are monotonic seconds, sizes bytes.

    ``touched``: when something was last added; ``since``: when the first of it was added; ``limit``: size of a full pack.
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
    is_space_low: bool


class Decision(msgspec.Struct, frozen=True):
    """``pack_rows``: move the rows to packs; ``close``: close every idle pack; ``wait``: seconds until the next decision."""

    pack_rows: bool
    close: bool
    wait: float


def decide(situation: Situation) -> Decision:
    """Decide what to do.

    All is closed after ``interval`` seconds without additions, when the first addition is 5 min old, for a flush, and when
    space is low. Rows that fill a whole pack are packed at once.
    """
    s = situation
    if not s.row_count and not s.idle_packs:
        return Decision(False, False, LAST_INTERVAL)
    due = min(s.touched + s.interval, s.since + LAST_INTERVAL)
    if s.flush or s.is_space_low or s.now >= due:
        return Decision(bool(s.row_count), True, 0.0)
    return Decision(s.row_bytes >= s.limit, False, due - s.now)


def next_interval(interval: float, closed: int, limit: int) -> float:
    """Return the next interval after ``closed`` bytes were closed: twice as long if that was little."""
    if closed * _LITTLE < limit:
        return min(interval * 2, LAST_INTERVAL)
    return FIRST_INTERVAL


def next_backoff(backoff: float, retry_after: float | None) -> float:
    """Return the seconds to wait after one more failure, at least ``retry_after``, which the store requested."""
    doubled = min(max(backoff * 2, FIRST_BACKOFF), LAST_BACKOFF)
    return max(doubled, retry_after or 0.0)
