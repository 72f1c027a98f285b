"""A clock that is wrong, or is set while the program runs: requests still work, and status shows it."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from telethon.network import mtprotostate

from tests.blobs.calls import BLOCK, content, put
from tests.crash.machines import put as put_file
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tests.support.waiting import wait_for
from tests.telegram.volume_storm import new_machine
from tgdav.blobs.telegram import TelegramStore
from tgdav.blobs.telegram.mtproto import state
from tgdav.cli.commands.status import _status_lines
from tgdav.volume import background, report

DAY = 86_400.0
HOUR = 3600.0
WITHIN = -200.0
"""A clock that is so little behind is tolerated, and measured as right again some messages later."""


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_a_wrong_clock_is_measured(server: Server, account: TelegramAccount, ahead: float) -> None:
    server.skew(-ahead)
    store = account.open()
    assert content(store, put(store, 1)) == b"sealed"
    assert store._session.clock_ahead == pytest.approx(ahead, abs=20)
    store.close()


def test_a_right_clock_is_measured(store: TelegramStore) -> None:
    put(store, 1)
    assert store._session.clock_ahead == pytest.approx(0.0, abs=20)


class SetClock:
    """The clock of the MTProto connection, ours and Telethon's, which is set ``ahead`` seconds ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now_ns(self) -> int:
        return time.time_ns() + int(self.ahead * 1e9)

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    made = SetClock()
    monkeypatch.setattr(state, "_CLOCK", made)
    monkeypatch.setattr(mtprotostate, "time", made)
    return made


@pytest.mark.parametrize("size", [10, 3 * BLOCK])
@pytest.mark.parametrize("ahead", [HOUR, DAY, -HOUR, -2 * DAY, WITHIN, 60.0])
def test_a_clock_that_is_set_meanwhile_costs_no_response(
    server: Server, account: TelegramAccount, clock: SetClock, ahead: float, size: int
) -> None:
    """Neither the response to the next message, small or large, nor the connection, which would fail after its patience."""
    store = account.open(patience=20.0)
    data = bytes(range(256)) * (size // 256 + 1)
    info = put(store, 1, data)
    connections = server.statistics()["connections"]
    with ThreadPoolExecutor(1) as pool:
        for number, each in enumerate((ahead, 0.0), 2):
            clock.ahead = each
            read = pool.submit(content, store, info)
            assert wait_for(read.done, what="the answer")
            assert read.result() == data
            if ahead != WITHIN:
                assert store._session.clock_ahead == pytest.approx(each, abs=20)
            sent = pool.submit(put, store, number, data)
            assert wait_for(sent.done, what="the answer to sending")
            assert sent.result().size == len(data)
    assert server.statistics()["connections"] == connections
    store.close()


def test_a_response_is_accepted_after_the_clock_was_set(
    server: Server, account: TelegramAccount, clock: SetClock
) -> None:
    """Although no message was sent since, from which the server or this program could have learnt it."""
    store = account.open(patience=20.0)
    info = put(store, 1)
    server.set_line(latency=1.0)
    with ThreadPoolExecutor(1) as pool:
        asked = server.statistics()["calls"].get("upload.getFile", 0)
        read = pool.submit(content, store, info)
        wait_for(lambda: server.statistics()["calls"].get("upload.getFile", 0) > asked)
        clock.ahead = -HOUR
        assert wait_for(read.done, what="the answer")
        assert read.result() == b"sealed"
    store.close()


def test_status_and_log_say_so_until_it_is_right(
    tmp_path: Path,
    server: Server,
    account: TelegramAccount,
    clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(background, "TICK_SECONDS", 0.05)
    caplog.set_level(logging.WARNING)
    machine = new_machine(tmp_path, "home", account)
    machine.create()
    for ahead, words in ((DAY, " s ahead of Telegram's"), (-DAY, " s behind Telegram's")):
        caplog.clear()
        clock.ahead = ahead
        with machine.opened() as volume:
            volume.start()
            found = wait_for(lambda: (said := report.status(volume))["clock_problem"] and said)
            assert words in found["clock_problem"]
            assert words in found["last_error"]
            shown = {**found, "store": {**found["store"], "place": "Telegram"}}
            assert found["clock_ahead_seconds"] == pytest.approx(ahead, abs=20)
            assert any(label == "clock" and words in text for label, text in _status_lines(shown, verbose=False))
            wait_for(lambda words=words: words in caplog.text, what="the log to say it without being asked")
            clock.ahead = 0.0
            put_file(volume, "file", b"data")
            volume.sync(wait=True)
            assert report.status(volume)["clock_problem"] is None
            assert report.status(volume)["last_error"] is None
            wait_for(lambda: "right again" in caplog.text)
        assert len([record for record in caplog.records if "clock" in record.getMessage()]) == 2
