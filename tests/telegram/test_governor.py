"""One limiter for all: what it learns, and who goes first."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.blobs.calls import content, put
from tests.blobs.conftest import MovedClock, name_of
from tests.mtproto.harness import Server
from tests.support.faulty_store import SlowStore
from tests.support.telegram import TelegramAccount
from tgdav.blobs import BytesSource
from tgdav.blobs.memory import MemoryBlobs, MemoryStore
from tgdav.blobs.telegram import TelegramSettings, rate_limit
from tgdav.blobs.telegram.flood_waits import MAX_JITTER
from tgdav.blobs.telegram.rate_limit import MAX_INTERVAL, MIN_INTERVAL, Pace, RateLimitedStore
from tgdav.blobs.telegram.transfers import PART_BYTES
from tgdav.clock import SystemClock
from tgdav.errors import StoreUnavailable

IN_FLIGHT = TelegramSettings(1, "x").parts_in_flight


class TestPace:
    def test_is_free_until_somebody_complains(self) -> None:
        pace = Pace()
        for _ in range(100):
            pace.take(5.0)
        assert pace.wait(5.0) == 0

    def test_rests_as_long_as_asked(self) -> None:
        pace = Pace()
        pace.flooded(100.0, 7.0)
        assert (pace.wait(100.0), pace.wait(106.0), pace.wait(108.0)) == (7.0, 1.0, 0.0)

    def test_keeps_its_distance_afterwards(self) -> None:
        pace = Pace()
        pace.flooded(0.0, 1.0)
        pace.take(2.0)
        assert pace.wait(2.0) == pytest.approx(pace.distance)

    def test_grows_with_complaints_to_a_bound(self) -> None:
        pace = Pace()
        distances = []
        for number in range(20):
            pace.flooded(number * 10.0, 1.0)
            distances.append(pace.distance)
        assert distances == sorted(distances)
        assert distances[-1] == MAX_INTERVAL

    def test_counts_one_complaint_once_for_all_that_were_under_way(self) -> None:
        pace = Pace()
        for after in range(5):
            pace.flooded(after / 10, 7.0)
        assert pace.distance == MIN_INTERVAL
        assert pace.wait(0.4) == 7.0

    def test_eases_until_it_is_free_again(self) -> None:
        pace = Pace(distance=MAX_INTERVAL)
        for _ in range(200):
            pace.passed()
        assert pace.distance == 0


class Parts(BytesSource):
    """Counts the parts that are begun; ``under_way`` is set once some of them were answered."""

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


class TestGovernor:
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

    def test_an_upload_lets_a_read_go_first(self, stop: threading.Event) -> None:
        blobs = MemoryBlobs()
        info = put(MemoryStore(blobs), 1)
        slow = SlowStore(MemoryStore(blobs))
        store = RateLimitedStore(slow, clock=SystemClock(), stop=stop)
        with ThreadPoolExecutor(2) as threads:
            read = threads.submit(content, store, info)
            assert slow.waiting.acquire(timeout=10)
            upload = threads.submit(put, store, 2)
            assert not slow.waiting.acquire(timeout=0.3), "the upload did not wait for the read"
            slow.gate.set()
            assert read.result(10) == b"sealed"
            assert upload.result(10).name == name_of(2)

    def test_a_read_overtakes_an_upload_under_way(
        self, server: Server, account: TelegramAccount, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From a read's first byte to its last no part of a large upload is begun, but for the one being begun."""
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

    def test_hands_a_long_rest_to_whoever_retries(
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
        assert store.distance > 0
        store.close()
