"""What Telegram asks to wait for: how long, with what, and who else has to."""

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
from tgdav.blobs.telegram.flood_waits import CONNECT_BACKOFF, MAX_JITTER, FloodWaits, Window
from tgdav.blobs.telegram.rate_limit import MIN_INTERVAL, RateLimitedStore
from tgdav.blobs.telegram.transfers import PART_BYTES
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy
from tgdav.errors import StoreRejected, StoreUnavailable

SEND, HISTORY = functions.messages.SendMediaRequest, functions.messages.GetHistoryRequest
PART = functions.upload.SaveBigFilePartRequest
HISTORY_START = functions.messages.GetHistoryRequest(types.InputPeerSelf(), 0, None, 0, 1, 0, 0, 0)
SENDING_RESTS = "Telegram asks for rest: FLOOD_WAIT of messages.sendMedia; sending waits, reading works"
FLOOD = StoreUnavailable("Telegram asks for 300 s of rest", retry_after=300.0)
REFUSED = TransportFlood("Telegram refuses connections for a while", retry_after=120.0)
BROKEN = StoreUnavailable("the connection to Telegram broke")


class Chance:
    """An entropy whose numbers are the same share of the largest."""

    def __init__(self, share: float) -> None:
        self._share = share

    def bytes(self, count: int) -> bytes:
        return int(self._share * 2 ** (8 * count)).to_bytes(count, "big")


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def rests(clock: MovedClock) -> FloodWaits:
    return FloodWaits(clock, Chance(0.0))


class TestRests:
    def test_of_a_method_leave_other_methods_and_the_lines_alone(self, rests: FloodWaits) -> None:
        """Although the line may have ended right behind the answer."""
        rests.note(SEND, 2, FLOOD)
        with pytest.raises(StoreUnavailable):
            rests.check(SEND)
        rests.check(HISTORY)
        rests.check_line(2)

    def test_of_a_line_leave_methods_and_other_lines_alone(self, rests: FloodWaits) -> None:
        rests.note(SEND, 2, REFUSED)
        with pytest.raises(StoreUnavailable, match="refuses connections"):
            rests.check_line(2)
        rests.check(SEND)
        rests.check_line(4)

    def test_are_as_long_as_asked_however_many_were_asked(self, rests: FloodWaits, clock: MovedClock) -> None:
        for _ in range(16):
            rests.note(SEND, 2, REFUSED)
            rests.note(SEND, 2, FLOOD)
        assert rests.longest() == (300.0, SENDING_RESTS)
        clock.seconds += 120.0
        rests.check_line(2)
        clock.seconds += 180.0
        rests.check(SEND)
        assert rests.longest() == (0.0, "")

    def test_are_not_cut_short_by_a_later_shorter_one(self, rests: FloodWaits) -> None:
        rests.note(SEND, 2, FLOOD)
        rests.note(SEND, 2, StoreUnavailable("wait", retry_after=1.0))
        rests.note_line(2, REFUSED)
        rests.note_line(2, BROKEN)
        for check, asked in ((lambda: rests.check(SEND), 300.0), (lambda: rests.check_line(2), 120.0)):
            with pytest.raises(StoreUnavailable) as refusal:
                check()
            assert refusal.value.retry_after == asked

    def test_say_what_is_left(self, rests: FloodWaits, clock: MovedClock) -> None:
        rests.note_line(2, FLOOD)
        clock.seconds += 280.0
        with pytest.raises(StoreUnavailable, match="20 s") as refusal:
            rests.check_line(2)
        assert refusal.value.retry_after == 20.0

    def test_of_a_broken_line_are_short_and_ask_for_nothing(self, rests: FloodWaits, clock: MovedClock) -> None:
        rests.note_line(2, BROKEN)
        with pytest.raises(StoreUnavailable) as refusal:
            rests.check_line(2)
        assert refusal.value.retry_after is None
        clock.seconds += CONNECT_BACKOFF
        rests.check_line(2)

    def test_are_longer_than_asked_by_chance_and_not_by_much(self, clock: MovedClock) -> None:
        lengths = []
        for share in (0.0, 0.5, 0.999):
            rests = FloodWaits(clock, Chance(share))
            for request, seconds in ((SEND, 1.0), (HISTORY, 60.0), (PART, 3000.0)):
                rests.note(request, 2, StoreUnavailable("wait", retry_after=seconds))
                lengths.append(rests.left(request) - seconds)
        assert lengths == [0.0, 0.0, 0.0, *map(pytest.approx, (0.1, 3.0, 5.0, 0.2, 6.0, 10.0), [0.02] * 6)]

    def test_say_which_direction_works(self, rests: FloodWaits, clock: MovedClock) -> None:
        rests.note(PART, 2, StoreUnavailable("wait", retry_after=5.0))
        assert rests.longest()[1].endswith("of upload.saveBigFilePart; sending waits, reading works")
        clock.seconds += 5.0
        rests.note(HISTORY, 2, FLOOD)
        assert rests.longest()[1].endswith("of messages.getHistory; reading waits, sending works")
        rests.note(SEND, 2, FLOOD)
        assert "works" not in rests.longest()[1]


class TestWindow:
    def test_halves_once_a_complaint_and_recovers_slowly(self, clock: MovedClock) -> None:
        window = Window(16, clock)
        clock.seconds += 1.0
        for _ in range(16):
            window.refused(5.0)
        assert window.width == 8
        clock.seconds += 5.0
        window.refused(5.0)
        assert window.width == 4
        widths = []
        for _ in range(4 + 5 + 6):
            window.passed()
            widths.append(window.width)
        assert (widths[0], widths[-1]) == (4, 7)

    def test_stays_within_its_bounds(self, clock: MovedClock) -> None:
        window = Window(4, clock)
        for _ in range(10):
            clock.seconds += 10.0
            window.refused(5.0)
        assert window.width == 1
        for _ in range(100):
            window.passed()
        assert window.width == 4


def test_after_a_flood_wait_fewer_parts_are_sent_in_vain(server: Server, account: TelegramAccount) -> None:
    """Those of a whole window at the first, of half a window at the second, whichever upload meets it."""
    store = account.open(parts_in_flight=16)
    server.set_line(latency=0.3)  # all of a window is on its way when its first part is looked at
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


def test_one_refusal_of_the_transport_is_one_rest_for_all_uploads(server: Server, account: TelegramAccount) -> None:
    """Three uploads with a window of parts each meet the end of the one connection."""
    inner = account.open(transport_backoff=120.0, parts_in_flight=4)
    store = RateLimitedStore(inner, clock=SystemClock(), stop=threading.Event())
    server.set_line(latency=0.3)  # all of a window has arrived when its first part is looked at
    server.arm("transport_429", "upload.saveBigFilePart", after=16)

    def append(number: int) -> float:
        with pytest.raises(StoreUnavailable) as refusal:
            store.append(name_of(number), BytesSource(bytes(60 * PART_BYTES)), "label")
        return refusal.value.retry_after or 0.0

    with ThreadPoolExecutor(3) as threads:
        asked = [*threads.map(append, range(3))]
    assert all(100 < rest <= 120 for rest in asked), asked
    assert store.backoff[0] <= 120
    assert store.distance == MIN_INTERVAL
    assert server.statistics()["connections"] == 1
    store.close()


@pytest.mark.parametrize("rounds", range(4))
def test_a_refusal_is_heard_although_somebody_else_hangs_up(
    server: Server, account: TelegramAccount, rounds: int
) -> None:
    """Whichever round of the loop the line is closed in, between the refusal's arrival and Telethon's telling of it."""
    session = account.session(transport_backoff=120.0)
    session.invoke(HISTORY_START)
    (line,) = session._connections.values()
    server.arm("transport_429", "messages.getHistory")

    async def hang_up() -> None:
        while line._connection.refusal is None:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        for _ in range(rounds):
            await asyncio.sleep(0)
        await line.close()

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
    rests = FloodWaits(SystemClock())
    first, second = (account.open(flood_waits=rests) for _ in range(2))
    put(first, 1)
    server.arm("flood_wait", "messages.sendMedia", seconds=300)
    for store in (first, second):
        with pytest.raises(StoreUnavailable) as refusal:
            put(store, 2)
        assert 290 < (refusal.value.retry_after or 0) <= 300 + MAX_JITTER
        store.close()
    assert "called during a flood wait" not in server.statistics()["violations"]


def test_who_waits_for_a_line_is_not_called_for_one_that_was_refused(server: Server, account: TelegramAccount) -> None:
    """Else whoever asks again when the line changes would knock at a banned account's door without end."""
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
