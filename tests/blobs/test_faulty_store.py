"""The misbehaving stores do misbehave, say so, and do the same again from the same seed."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.blobs.calls import content, ids, put
from tests.blobs.conftest import name_of
from tests.support.faulty_store import (
    Alternating,
    AwayStore,
    CorruptingStore,
    FailingStore,
    First,
    LosingStore,
    LostAnswerStore,
    ReorderingStore,
    RepeatingStore,
    RollingBackStore,
    Seeded,
    SlowStore,
    TearingStore,
    only,
)
from tgdav.blobs import BytesSource
from tgdav.blobs.memory import MemoryStore
from tgdav.errors import BlobMissing, StoreUnavailable


class TestSchedules:
    def test_first(self) -> None:
        schedule = First(2, "read")
        assert [schedule("read") for _ in range(4)] == [True, True, False, False]
        assert not schedule("append")

    def test_alternating(self) -> None:
        schedule = Alternating()
        assert [schedule("read") for _ in range(4)] == [True, False, True, False]

    def test_seeded_is_the_same_again_and_bounded(self) -> None:
        runs = []
        for _ in range(2):
            schedule = Seeded(5, 0.9, in_a_row=2)
            runs.append([schedule("read") for _ in range(300)])
        assert runs[0] == runs[1]
        assert all(not all(runs[0][start : start + 3]) for start in range(298))
        assert sum(runs[0]) > 100


def test_failing_does_nothing() -> None:
    store = FailingStore(MemoryStore(), First(1, "append"), retry_after=3.0)
    with pytest.raises(StoreUnavailable) as caught:
        put(store, 1)
    assert caught.value.retry_after == 3.0
    assert (ids(store), store.faults) == ([], {"append": 1})


def test_lost_answer_does_it() -> None:
    store = LostAnswerStore(MemoryStore(), First(1, "append", "delete"))
    with pytest.raises(StoreUnavailable):
        put(store, 1)
    assert ids(store) == [1]
    with pytest.raises(StoreUnavailable):
        store.delete([put(store, 1).id])
    assert (ids(store), store.faults) == ([], {"append": 1, "delete": 1})


def test_tearing_sends_a_half_and_leaves_nothing() -> None:
    store = TearingStore(MemoryStore(), First(1))
    told: list[int] = []
    with pytest.raises(StoreUnavailable, match="after 5 bytes"):
        store.append(name_of(1), BytesSource(bytes(10)), "x", progress=told.append)
    assert (told, ids(store), store.faults) == ([5], [], {"append": 1})


def test_slow_waits_for_the_gate() -> None:
    store = SlowStore(MemoryStore(), only("append"))
    with ThreadPoolExecutor(1) as threads:
        append = threads.submit(put, store, 1)
        assert store.waiting.acquire(timeout=10)
        assert (append.done(), ids(store)) == (False, [])
        store.gate.set()
        assert append.result(10).id == 1
    assert store.faults == {"append": 1}


def test_losing_acknowledges_and_loses() -> None:
    store = LosingStore(MemoryStore(), First(1))
    lost, kept = put(store, 1), put(store, 2)
    assert (store.lost, ids(store), store.faults) == ({lost.id}, [kept.id], {"append": 1})
    with pytest.raises(BlobMissing):
        store.read(lost.id, 0, 1)


def test_repeating_lists_twice() -> None:
    store = RepeatingStore(MemoryStore(), First(2))
    for number in range(3):
        put(store, number)
    assert (ids(store), store.faults) == ([1, 1, 2, 2, 3], {"list": 2})


def test_reordering_lists_all_in_another_order() -> None:
    orders = []
    for _ in range(2):
        store = ReorderingStore(MemoryStore(), seed=3)
        for number in range(20):
            put(store, number)
        orders.append(ids(store))
    assert orders[0] == orders[1] != sorted(orders[0])
    assert sorted(orders[0]) == [*range(1, 21)]
    assert store.faults == {"list": 1}


def test_flipping_changes_one_bit() -> None:
    store = CorruptingStore(MemoryStore(), First(1))
    info = put(store, 1, bytes(1000))
    wrong = int.from_bytes(content(store, info), "big")
    assert wrong.bit_count() == 1
    assert (content(store, info), store.faults) == (bytes(1000), {"read": 1})


def test_truncating_shortens() -> None:
    store = CorruptingStore(MemoryStore(), how="truncate")
    assert content(store, put(store, 1, b"abc")) == b"ab"


def test_swapping_gives_another_blobs_bytes() -> None:
    store = CorruptingStore(MemoryStore(), how="swap")
    info = put(store, 1, b"abc")
    assert (content(store, info), store.faults) == (b"abc", {})
    put(store, 2, b"12345")
    assert (store.read(info.id, 1, 2), store.faults) == (b"23", {"read": 1})


def test_away_until_told() -> None:
    store = AwayStore(MemoryStore())
    info = put(store, 1)
    store.away = True
    for call in (lambda: content(store, info), lambda: ids(store), lambda: store.delete([info.id])):
        with pytest.raises(StoreUnavailable):
            call()
    store.away = False
    assert (content(store, info), store.faults) == (b"sealed", {"read": 1, "list": 1, "delete": 1})


def test_rolling_back_hides_the_new_and_brings_back_the_deleted() -> None:
    store = RollingBackStore(MemoryStore())
    first, second = put(store, 1, b"1"), put(store, 2, b"2")
    mark = store.mark()
    third = put(store, 3, b"3")
    store.delete([first.id])
    assert ids(store) == [second.id, third.id]
    store.roll_back(mark)
    assert ids(store) == [first.id, second.id]
    assert content(store, first) == b"1"
    assert store.find(name_of(3)) is None
    with pytest.raises(BlobMissing):
        store.read(third.id, 0, 1)
    again = put(store, 3, b"again")
    assert again.id > third.id
    assert (ids(store), store.faults) == ([first.id, second.id, again.id], {"roll-back": 1})
