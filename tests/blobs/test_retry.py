"""The retrying store: how long it waits, when it gives up, and what it reports about the inner store."""

import threading
from collections.abc import Iterator
from math import inf

import pytest

from tests.blobs.calls import MISSING, ids, put
from tests.blobs.conftest import MovedClock, SeededEntropy, name_of
from tests.support.faulty_store import AwayStore, FailingStore, First, LostAnswerStore, TearingStore, always
from tests.support.waiting import wait_for
from tgdav.blobs import BlobInfo, BlobStore, BytesSource
from tgdav.blobs.counting import CountingStore
from tgdav.blobs.interface import START
from tgdav.blobs.memory import MemoryStore
from tgdav.blobs.retry import RetryPolicy, RetryStore, next_wait
from tgdav.clock import SystemClock
from tgdav.errors import BlobMissing, StoreRejected, StoreUnavailable
from tgdav.ids import BlobId


def make(inner: BlobStore, clock: MovedClock, **policy: float) -> RetryStore:
    stop = threading.Event()
    return RetryStore(
        inner, clock=clock, entropy=SeededEntropy(), stop=stop, wait=clock.wait, policy=RetryPolicy(**policy)
    )


class TestNextWait:
    POLICY = RetryPolicy(first_wait=1.0, longest_wait=30.0)

    def test_doubles_up_to_the_longest(self) -> None:
        waits = [next_wait(self.POLICY, failures, None, 0.0) for failures in range(1, 9)]
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]

    def test_half_of_it_is_random(self) -> None:
        assert next_wait(self.POLICY, 3, None, 0.5) == 3.0

    def test_never_ends_before_the_store_said(self) -> None:
        assert next_wait(self.POLICY, 1, 17.0, 0.0) == 17.5

    def test_after_very_many_failures(self) -> None:
        assert next_wait(self.POLICY, 10**9, None, 0.0) == 15.0


class TestRetrying:
    def test_asks_again_until_it_is_answered(self) -> None:
        failing, clock = FailingStore(MemoryStore(), First(5, "append")), MovedClock()
        put(make(failing, clock), 1)
        assert failing.faults == {"append": 5}
        assert len(clock.waits) == 5
        assert clock.waits == sorted(clock.waits)

    def test_waits_differ_between_machines(self) -> None:
        waits = []
        for seed in (1, 2):
            clock, failing = MovedClock(), FailingStore(MemoryStore(), First(3))
            stop = threading.Event()
            put(RetryStore(failing, clock=clock, entropy=SeededEntropy(seed), stop=stop, wait=clock.wait), 1)
            waits.append(clock.waits)
        assert waits[0] != waits[1]

    def test_honours_the_time_that_the_store_names(self) -> None:
        clock = MovedClock()
        put(make(FailingStore(MemoryStore(), First(1), retry_after=20.0), clock), 1)
        assert 20.0 < clock.waits[0] < 21.0

    def test_gives_up_in_time_with_the_last_error(self) -> None:
        clock = MovedClock()
        store = make(FailingStore(MemoryStore()), clock, give_up_after=10.0)
        with pytest.raises(StoreUnavailable, match="failed on purpose"):
            put(store, 1)
        assert 5.0 < sum(clock.waits) <= 10.0

    def test_does_not_begin_a_wait_that_ends_too_late(self) -> None:
        clock = MovedClock()
        store = make(FailingStore(MemoryStore(), retry_after=300.0), clock, give_up_after=60.0)
        with pytest.raises(StoreUnavailable) as caught:
            put(store, 1)
        assert caught.value.retry_after == 300.0
        assert clock.waits == []

    def test_does_not_repeat_what_is_permanent(self) -> None:
        counting, clock = CountingStore(MemoryStore()), MovedClock()
        store = make(counting, clock)
        with pytest.raises(BlobMissing):
            store.read(MISSING, 0, 1)
        with pytest.raises(StoreRejected):
            put(store, 1, label="not a label")
        assert (counting.counts()["read"].calls, counting.counts()["append"].calls, clock.waits) == (1, 1, [])

    def test_a_lost_answer_makes_no_second_blob(self) -> None:
        lost = LostAnswerStore(MemoryStore(), First(4))
        store = make(lost, MovedClock())
        info = put(store, 1)
        assert lost.faults["append"] == 4
        assert ids(store) == [info.id]

    def test_a_listing_goes_on_where_it_broke(self) -> None:
        inner = MemoryStore()
        given = [put(inner, number).id for number in range(40)]
        torn = TearingStore(inner, First(10))
        assert ids(make(torn, MovedClock())) == given
        assert torn.faults["list"] >= 4

    def test_a_listing_that_cannot_begin_again_at_first(self) -> None:
        """A store whose ``list`` raises at the call itself, not while iterating."""

        class Inner(MemoryStore):
            calls = 0

            def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
                self.calls += 1
                if self.calls in (2, 3):
                    raise StoreUnavailable("not at all")
                return self._break_off(after) if self.calls == 1 else super().list(after)

            def _break_off(self, after: BlobId) -> Iterator[BlobInfo]:
                yield from [*super().list(after)][:2]
                raise StoreUnavailable("half-way")

        inner = Inner()
        given = [put(inner, number).id for number in range(5)]
        assert ids(make(inner, MovedClock())) == given
        assert inner.calls == 4


class TestStopping:
    def test_when_asked_to_stop_it_waits_no_more(self) -> None:
        clock, stop = MovedClock(), threading.Event()
        stop.set()
        store = RetryStore(FailingStore(MemoryStore()), clock=clock, entropy=SeededEntropy(), stop=stop)
        with pytest.raises(StoreUnavailable):
            put(store, 1)

    def test_what_works_still_works_after_stop(self) -> None:
        stop = threading.Event()
        stop.set()
        store = RetryStore(MemoryStore(), clock=MovedClock(), entropy=SeededEntropy(), stop=stop)
        assert put(store, 1).id == 1

    def test_a_wait_is_interrupted(self) -> None:
        stop = threading.Event()
        policy = RetryPolicy(first_wait=1000.0, longest_wait=1000.0, give_up_after=inf)
        inner = FailingStore(MemoryStore(), always)
        store = RetryStore(inner, clock=SystemClock(), entropy=SeededEntropy(), stop=stop, policy=policy)
        raised: list[StoreUnavailable] = []

        def append() -> None:
            try:
                put(store, 1)
            except StoreUnavailable as error:
                raised.append(error)

        thread = threading.Thread(target=append)
        thread.start()
        wait_for(lambda: store.reachability().waiting_seconds > 0)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
        assert len(raised) == 1
        assert inner.faults == {"append": 1}


class TestReachability:
    def test_before_any_call(self) -> None:
        state = make(MemoryStore(), MovedClock()).reachability()
        assert (state.reachable, state.waiting_seconds, state.last_error) == (True, 0.0, "")

    def test_while_away_and_back(self) -> None:
        away = AwayStore(MemoryStore())
        store = make(away, MovedClock(), give_up_after=1.0)
        away.away = True
        with pytest.raises(StoreUnavailable):
            store.find(name_of(1))
        state = store.reachability()
        assert (state.reachable, state.last_error) == (False, "the store is away on purpose")
        away.away = False
        store.append(name_of(1), BytesSource(b""), "x")
        assert store.reachability().reachable

    def test_while_waiting(self) -> None:
        seen: list[float] = []
        clock = MovedClock()
        store: RetryStore

        def wait(seconds: float) -> bool:
            seen.append(store.reachability().waiting_seconds / seconds)
            return clock.wait(seconds)

        inner = FailingStore(MemoryStore(), First(2, "append"))
        store = RetryStore(inner, clock=clock, entropy=SeededEntropy(), stop=threading.Event(), wait=wait)
        put(store, 1)
        assert seen == pytest.approx([1.0, 1.0])
        assert store.reachability().waiting_seconds == 0.0
