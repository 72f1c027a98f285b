"""How long a lock holds while the wall clock is wrong, or is put right."""

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.support.platform import ManualClock, SeededEntropy
from tgdav.fs.api import FileSystem
from tgdav.webdav.dates import SECOND
from tgdav.webdav.locks import MAX_TIMEOUT, Lock, LockDetails, LockTable

DAYS = 2 * 24 * 3600
DETAILS = LockDetails((b"f",), True, False, "user", b"", MAX_TIMEOUT)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fs(clock: ManualClock) -> FileSystem:
    return ModelFileSystem(clock)


def taken(table: LockTable, fs: FileSystem) -> Lock:
    return table.add([fs.root], DETAILS)


@pytest.mark.parametrize("wrong", [DAYS, -DAYS])
def test_a_clock_that_is_put_right_changes_no_locks_time(fs: FileSystem, clock: ManualClock, wrong: int) -> None:
    right = clock.now_ns()
    clock.set_wall(right + wrong * SECOND)
    table = LockTable(fs, clock, SeededEntropy())
    lock = taken(table, fs)
    clock.set_wall(right)
    assert table.seconds_left(lock) == MAX_TIMEOUT
    clock.advance(MAX_TIMEOUT - 1)
    assert table.live()
    clock.advance(1)
    assert not table.live()


def test_a_lock_that_was_kept_holds_no_longer_than_it_was_taken_for(fs: FileSystem, clock: ManualClock) -> None:
    right = clock.now_ns()
    clock.set_wall(right + DAYS * SECOND)
    taken(LockTable(fs, clock, SeededEntropy()), fs)
    clock.set_wall(right)
    table = LockTable(fs, clock, SeededEntropy())
    (lock,) = table.live()
    assert table.seconds_left(lock) == MAX_TIMEOUT
    clock.advance(MAX_TIMEOUT)
    assert not table.live()


def test_a_lock_that_was_kept_goes_on_where_it_was(fs: FileSystem, clock: ManualClock) -> None:
    taken(LockTable(fs, clock, SeededEntropy()), fs)
    clock.advance(600)
    table = LockTable(fs, clock, SeededEntropy())
    assert table.seconds_left(table.live()[0]) == MAX_TIMEOUT - 600
