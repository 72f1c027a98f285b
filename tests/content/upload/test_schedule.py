from typing import Any

import msgspec

from tgdav.content.upload.schedule import (
    FIRST_INTERVAL,
    LAST_BACKOFF,
    LAST_INTERVAL,
    Decision,
    Situation,
    decide,
    next_backoff,
    next_interval,
)

BUSY = Situation(
    now=100.0,
    row_count=3,
    row_bytes=3000,
    idle_packs=1,
    touched=98.0,
    since=90.0,
    interval=5.0,
    limit=1_000_000,
    flush=False,
    is_space_low=False,
)


def decided(**changes: Any) -> Decision:
    return decide(msgspec.structs.replace(BUSY, **changes))


def test_nothing_is_done_while_content_arrives() -> None:
    assert decided() == Decision(False, False, 3.0)


def test_quiet_age_a_flush_and_low_space_each_close_all() -> None:
    everything = Decision(True, True, 0.0)
    assert decided(now=103.0) == everything
    assert decided(touched=389.0, now=390.0) == everything
    assert decided(flush=True) == everything
    assert decided(is_space_low=True) == everything


def test_rows_for_a_full_pack_are_packed_alone() -> None:
    assert decided(row_bytes=1_000_000) == Decision(True, False, 3.0)


def test_nothing_is_done_if_nothing_is_staged() -> None:
    assert decided(row_count=0, row_bytes=0, idle_packs=0, flush=True) == Decision(False, False, LAST_INTERVAL)


def test_intervals_double_while_little_arrives() -> None:
    interval, seen = FIRST_INTERVAL, []
    for _ in range(8):
        interval = next_interval(interval, 1000, 1_000_000)
        seen.append(interval)
    assert seen == [10, 20, 40, 80, 160, 300, 300, 300]
    assert next_interval(300, 125_000, 1_000_000) == FIRST_INTERVAL


def test_backoff_doubles_and_respects_the_store() -> None:
    backoff, seen = 0.0, []
    for _ in range(9):
        backoff = next_backoff(backoff, None)
        seen.append(backoff)
    assert seen == [1, 2, 4, 8, 16, 32, 60, 60, LAST_BACKOFF]
    assert next_backoff(0.0, 400.0) == 400.0
