"""Telegram's FLOOD_WAITs: how long, for which requests, and on which connections."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from telethon.tl import functions, types

from tests.blobs.calls import content, put
from tests.blobs.conftest import MovedClock, name_of
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tgdav.blobs import BytesSource
from tgdav.blobs.retry import RetryPolicy, RetryStore
from tgdav.blobs.telegram.errors import TransportFlood
from tgdav.blobs.telegram.flood_waits import CONNECT_BACKOFF, MAX_JITTER, MIN_INTERVAL, FloodWaits, RequestWindow
from tgdav.blobs.telegram.rate_limit import RateLimitedStore
from tgdav.blobs.telegram.transfers import PART_BYTES
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy
from tgdav.errors import StoreRejected, StoreUnavailable

SEND, HISTORY = functions.messages.SendMediaRequest, functions.messages.GetHistoryRequest
PART = functions.upload.SaveBigFilePartRequest
HISTORY_START = functions.messages.GetHistoryRequest(types.InputPeerSelf(), 0, None, 0, 1, 0, 0, 0)
SENDING_WAITS = "Telegram limits the rate: FLOOD_WAIT of messages.sendMedia; sending waits, reading works"
FLOOD = StoreUnavailable("Telegram requires a wait of 300 s", retry_after=300.0)
REFUSED = TransportFlood("Telegram refuses connections for a while", retry_after=120.0)
BROKEN = StoreUnavailable("the connection to Telegram broke")


class Chance:
    """Entropy whose numbers are always the same share of the largest."""

    def __init__(self, share: float) -> None:
        self._share = share

    def bytes(self, count: int) -> bytes:
        return int(self._share * 2 ** (8 * count)).to_bytes(count, "big")


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def flood_waits(clock: MovedClock) -> FloodWaits:
    return FloodWaits(clock, Chance(0.0))


class TestFloodWaits:
    def test_of_a_method_do_not_hold_for_other_methods_and_connections(self, flood_waits: FloodWaits) -> None:
        """Although the connection may have ended directly after the response."""
        flood_waits.record(SEND, 2, FLOOD)
        with pytest.raises(StoreUnavailable):
            flood_waits.check(SEND)
        flood_waits.check(HISTORY)
        flood_waits.check_connection(2)

    def test_of_a_connection_do_not_hold_for_methods_and_other_connections(self, flood_waits: FloodWaits) -> None:
        flood_waits.record(SEND, 2, REFUSED)
        with pytest.raises(StoreUnavailable, match="refuses connections"):
            flood_waits.check_connection(2)
        flood_waits.check(SEND)
        flood_waits.check_connection(4)

    def test_are_not_extended_by_further_refusals_of_the_same_kind(
        self, flood_waits: FloodWaits, clock: MovedClock
    ) -> None:
        for _ in range(16):
            flood_waits.record(SEND, 2, REFUSED)
            flood_waits.record(SEND, 2, FLOOD)
        assert flood_waits.longest() == (300.0, SENDING_WAITS)
        clock.seconds += 120.0
        flood_waits.check_connection(2)
        clock.seconds += 180.0
        flood_waits.check(SEND)
        assert flood_waits.longest() == (0.0, "")

    def test_are_not_cut_short_by_a_later_shorter_one(self, flood_waits: FloodWaits) -> None:
        flood_waits.record(SEND, 2, FLOOD)
        flood_waits.record(SEND, 2, StoreUnavailable("wait", retry_after=1.0))
        flood_waits.record_refusal(2, REFUSED)
        flood_waits.record_refusal(2, BROKEN)
        for check, asked in (
            (lambda: flood_waits.check(SEND), 300.0),
            (lambda: flood_waits.check_connection(2), 120.0),
        ):
            with pytest.raises(StoreUnavailable) as refusal:
                check()
            assert refusal.value.retry_after == asked

    def test_report_the_remaining_time(self, flood_waits: FloodWaits, clock: MovedClock) -> None:
        flood_waits.record_refusal(2, FLOOD)
        clock.seconds += 280.0
        with pytest.raises(StoreUnavailable, match="20 s") as refusal:
            flood_waits.check_connection(2)
        assert refusal.value.retry_after == 20.0

    def test_of_a_broken_connection_are_short_and_name_no_time(
        self, flood_waits: FloodWaits, clock: MovedClock
    ) -> None:
        flood_waits.record_refusal(2, BROKEN)
        with pytest.raises(StoreUnavailable) as refusal:
            flood_waits.check_connection(2)
        assert refusal.value.retry_after is None
        clock.seconds += CONNECT_BACKOFF
        flood_waits.check_connection(2)

    def test_are_longer_than_required_by_a_small_random_part(self, clock: MovedClock) -> None:
        lengths = []
        for share in (0.0, 0.5, 0.999):
            flood_waits = FloodWaits(clock, Chance(share))
            for request, seconds in ((SEND, 1.0), (HISTORY, 60.0), (PART, 3000.0)):
                flood_waits.record(request, 2, StoreUnavailable("wait", retry_after=seconds))
                lengths.append(flood_waits.remaining(request) - seconds)
        assert lengths == [0.0, 0.0, 0.0, *map(pytest.approx, (0.1, 3.0, 5.0, 0.2, 6.0, 10.0), [0.02] * 6)]

    def test_name_the_direction_that_works(self, flood_waits: FloodWaits, clock: MovedClock) -> None:
        flood_waits.record(PART, 2, StoreUnavailable("wait", retry_after=5.0))
        assert flood_waits.longest()[1].endswith("of upload.saveBigFilePart; sending waits, reading works")
        clock.seconds += 5.0
        flood_waits.record(HISTORY, 2, FLOOD)
        assert flood_waits.longest()[1].endswith("of messages.getHistory; reading waits, sending works")
        flood_waits.record(SEND, 2, FLOOD)
        assert "works" not in flood_waits.longest()[1]


class TestRequestWindow:
    def test_halves_once_per_flood_wait_and_recovers_slowly(self, clock: MovedClock) -> None:
        window = RequestWindow(16, clock)
        clock.seconds += 1.0
        for _ in range(16):
            window.on_flood_wait(5.0)
        assert window.width == 8
        clock.seconds += 5.0
        window.on_flood_wait(5.0)
        assert window.width == 4
        widths = []
        for _ in range(4 + 5 + 6):
            window.on_success()
            widths.append(window.width)
        assert (widths[0], widths[-1]) == (4, 7)

    def test_stays_within_its_bounds(self, clock: MovedClock) -> None:
        window = RequestWindow(4, clock)
        for _ in range(10):
            clock.seconds += 10.0
            window.on_flood_wait(5.0)
        assert window.width == 1
        for _ in range(100):
            window.on_success()
        assert window.width == 4


def test_after_a_flood_wait_fewer_parts_are_sent_in_vain(server: Server, account: TelegramAccount) -> None:
    """Those of a whole window at the first, of half a window at the second, whichever upload meets it."""
    store = account.open(parts_in_flight=16)
    server.set_line(latency=0.3)  # all of a window is in flight when its first part is handled
    in_vain = []
    for number in range(2):
        before = server.statistics()["violations"].get("called during a flood wait", 0)
        server.arm("flood_wait", "upload.saveBigFilePart", after=2, seconds=1)
        store.append(name_of(number), BytesSource(bytes(40 * PART_BYTES)), "label")
        in_vain.append(server.statistics()["violations"].get("called during a flood wait", 0) - before)
    assert in_vain[0] > 8
    assert in_vain[1] < 11
    assert in_vain[1] < in_vain[0]
    store.close()


def test_a_flood_wait_of_sending_leaves_the_store_reachable(server: Server, account: TelegramAccount) -> None:
    inner = account.open()
    store = RetryStore(
        inner,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        stop=threading.Event(),
        policy=RetryPolicy(give_up_after=0.1),
    )
    info = put(store, 1)
    server.arm("flood_wait", "messages.sendMedia", seconds=300)
    with pytest.raises(StoreUnavailable):
        put(store, 2)
    assert store.reachability().reachable
    assert inner._session.unreachable_reason is None
    assert content(store, info) == b"sealed"
    store.close()


def test_one_refusal_of_the_transport_is_one_wait_for_all_uploads(server: Server, account: TelegramAccount) -> None:
    """Three uploads, each with a window of parts in flight, see the end of the one connection."""
    inner = account.open(transport_backoff=120.0, parts_in_flight=4)
    store = RateLimitedStore(inner, clock=SystemClock(), stop=threading.Event())
    server.set_line(latency=0.3)  # all of a window has arrived when its first part is handled
    server.arm("transport_429", "upload.saveBigFilePart", after=16)

    def append(number: int) -> float:
        with pytest.raises(StoreUnavailable) as refusal:
            store.append(name_of(number), BytesSource(bytes(60 * PART_BYTES)), "label")
        return refusal.value.retry_after or 0.0

    with ThreadPoolExecutor(3) as threads:
        asked = [*threads.map(append, range(3))]
    assert all(100 < rest <= 120 for rest in asked), asked
    assert store.backoff[0] <= 120
    assert store.interval == MIN_INTERVAL
    assert server.statistics()["connections"] == 1
    store.close()


@pytest.mark.parametrize("rounds", range(4))
def test_a_refusal_is_reported_although_the_connection_is_closed_meanwhile(
    server: Server, account: TelegramAccount, rounds: int
) -> None:
    """In whichever round of the event loop it is closed, between the refusal's arrival and Telethon's report of it."""
    session = account.session(transport_backoff=120.0)
    session.invoke(HISTORY_START)
    (connection,) = session._connections.values()
    server.arm("transport_429", "messages.getHistory")

    async def hang_up() -> None:
        while connection._connection.refusal is None:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        for _ in range(rounds):
            await asyncio.sleep(0)
        await connection.close()

    assert session._loop is not None
    hanging_up = asyncio.run_coroutine_threadsafe(hang_up(), session._loop)
    for request in (HISTORY_START, functions.updates.GetStateRequest()):
        with pytest.raises(StoreUnavailable, match="refuses connections") as refusal:
            session.invoke(request)
        assert 100 < (refusal.value.retry_after or 0.0) <= 120
    hanging_up.result(10)
    assert server.statistics()["connections"] == 1
    session.close()


def test_nothing_is_asked_again_during_a_flood_wait_by_the_next_login(server: Server, account: TelegramAccount) -> None:
    flood_waits = FloodWaits(SystemClock())
    first, second = (account.open(flood_waits=flood_waits) for _ in range(2))
    put(first, 1)
    server.arm("flood_wait", "messages.sendMedia", seconds=300)
    for store in (first, second):
        with pytest.raises(StoreUnavailable) as refusal:
            put(store, 2)
        assert 290 < (refusal.value.retry_after or 0) <= 300 + MAX_JITTER
        store.close()
    assert "called during a flood wait" not in server.statistics()["violations"]


def test_a_refused_connection_is_not_reported_as_new(server: Server, account: TelegramAccount) -> None:
    """Otherwise a listener that sends requests at each new connection would do so for a banned account for ever."""
    session = account.session()
    changes: list[None] = []
    session.set_handlers(None, lambda: changes.append(None))
    server.set_status(account.phone, "banned")
    with pytest.raises(StoreRejected):
        session.invoke(HISTORY_START)
    session.close()
    assert changes == []


@pytest.mark.parametrize("kind", ["transport_404", "auth_key_unregistered"])
def test_a_login_outlives_the_end_of_its_copy_in_another_data_centre(
    server: Server, account: TelegramAccount, kind: str
) -> None:
    store = account.open()
    server.arm("other_dc", "messages.sendMedia")
    info = put(store, 1)
    server.arm(kind, "auth.importAuthorization")
    assert content(store, info) == b"sealed"
    assert server.fault_counts()[kind] == 1
    store.close()
