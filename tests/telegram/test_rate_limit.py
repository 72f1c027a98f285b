"""The rate limit: what pace it learns, and that uploads yield to reads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.blobs.calls import content, put
from tests.blobs.conftest import MovedClock, name_of
from tests.mtproto.harness import Server
from tests.support.faulty_store import SlowStore
from tests.support.telegram import TelegramAccount
from tests.support.waiting import wait_for
from tgdav.blobs import BytesSource
from tgdav.blobs.memory import MemoryBlobs, MemoryStore
from tgdav.blobs.telegram import TelegramSettings, rate_limit
from tgdav.blobs.telegram.flood_waits import MAX_INTERVAL, MAX_JITTER, MIN_INTERVAL, Pace
from tgdav.blobs.telegram.rate_limit import RateLimitedStore
from tgdav.blobs.telegram.transfers import PART_BYTES
from tgdav.clock import SystemClock
from tgdav.errors import StoreUnavailable

IN_FLIGHT = TelegramSettings(1, "x").parts_in_flight


class TestPace:
    def test_is_unlimited_before_a_flood_wait(self) -> None:
        pace = Pace()
        for _ in range(100):
            pace.reserve(5.0)
        assert pace.wait(5.0) == 0

    def test_waits_as_long_as_required(self) -> None:
        pace = Pace()
        pace.on_flood_wait(100.0, 7.0)
        assert (pace.wait(100.0), pace.wait(106.0), pace.wait(108.0)) == (7.0, 1.0, 0.0)

    def test_keeps_an_interval_afterwards(self) -> None:
        pace = Pace()
        pace.on_flood_wait(0.0, 1.0)
        pace.reserve(2.0)
        assert pace.wait(2.0) == pytest.approx(pace.interval)

    def test_interval_grows_with_flood_waits_up_to_a_bound(self) -> None:
        pace = Pace()
        intervals = []
        for number in range(20):
            pace.on_flood_wait(number * 10.0, 1.0)
            intervals.append(pace.interval)
        assert intervals == sorted(intervals)
        assert intervals[-1] == MAX_INTERVAL

    def test_refusals_of_requests_in_flight_count_as_one_flood_wait(self) -> None:
        pace = Pace()
        for after in range(5):
            pace.on_flood_wait(after / 10, 7.0)
        assert pace.interval == MIN_INTERVAL
        assert pace.wait(0.4) == 7.0

    def test_recovers_until_it_is_unlimited_again(self) -> None:
        pace = Pace(interval=MAX_INTERVAL)
        for _ in range(200):
            pace.on_success()
        assert pace.interval == 0


class Parts(BytesSource):
    """Counts the parts that are read; ``under_way`` is set once some of them were answered."""

    def __init__(self, size: int) -> None:
        super().__init__(bytes(size))
        self.count, self.under_way = 0, threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        self.count += length > 1
        if self.count > IN_FLIGHT + 2:
            self.under_way.set()
        return super().read(offset, length)


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


class TestRateLimitedStore:
    def test_runs_no_more_uploads_at_once_than_allowed(self, stop: threading.Event) -> None:
        running, most, lock = 0, 0, threading.Lock()

        class Watched(BytesSource):
            def read(self, offset: int, length: int) -> bytes:
                nonlocal running, most
                with lock:
                    running += offset == 0
                    most = max(most, running)
                data = super().read(offset, length)
                with lock:
                    running -= offset > 0
                return data

        store = RateLimitedStore(MemoryStore(), clock=SystemClock(), stop=stop, uploads=2)
        with ThreadPoolExecutor(8) as threads:
            [*threads.map(lambda n: store.append(name_of(n), Watched(b"x"), "l"), range(40))]
        assert most <= 2

    def test_an_upload_yields_to_a_read(self, stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rate_limit, "MAX_YIELD_SECONDS", 600.0)
        blobs = MemoryBlobs()
        info = put(MemoryStore(blobs), 1)
        slow = SlowStore(MemoryStore(blobs))
        store = RateLimitedStore(slow, clock=SystemClock(), stop=stop)
        with ThreadPoolExecutor(2) as threads:
            read = threads.submit(content, store, info)
            assert slow.waiting.acquire(timeout=10)
            upload = threads.submit(put, store, 2)
            # The upload either waits on the condition or has reached the inner store: no wall clock decides which.
            wait_for(lambda: store._changed._waiters or slow.faults["append"])  # type: ignore[attr-defined]
            assert not slow.faults["append"], "the upload did not yield to the read"
            slow.gate.set()
            assert read.result(60) == b"sealed"
            assert upload.result(60).name == name_of(2)

    def test_a_running_upload_yields_to_a_read(
        self, server: Server, account: TelegramAccount, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While a read runs, no part of a large upload is started, except for one that is being started."""
        monkeypatch.setattr(rate_limit, "MAX_YIELD_SECONDS", 30.0)
        store = RateLimitedStore(account.open(patience=10.0), clock=SystemClock(), stop=stop)
        info = store.append(name_of(1), BytesSource(bytes(range(256)) * 4096), "label")
        begun = Parts(60 * PART_BYTES)
        server.set_line(latency=0.2)
        with ThreadPoolExecutor(2) as threads:
            upload = threads.submit(store.append, name_of(2), begun, "label")
            assert begun.under_way.wait(20)
            before = begun.count
            assert content(store, info)[:4] == bytes(range(4))
            meanwhile = begun.count - before
            assert upload.result(60).size == begun.size
        assert meanwhile <= 2
        assert before < 50, "the upload was over before the read"
        store.close()

    def test_raises_a_long_wait_for_the_caller_to_retry(
        self, server: Server, account: TelegramAccount, stop: threading.Event
    ) -> None:
        inner, clock = account.open(), MovedClock()
        store = RateLimitedStore(inner, clock=clock, stop=stop)
        server.arm("flood_wait", "messages.sendMedia", seconds=300)
        with pytest.raises(StoreUnavailable):
            put(store, 1)
        sent = server.statistics()["calls"]
        assert 290 < store.backoff[0] <= 300 + MAX_JITTER
        with pytest.raises(StoreUnavailable):
            put(store, 2)
        assert server.statistics()["calls"] == sent
        assert store.interval > 0
        store.close()
