"""After how many days without use Telegram deletes the account: requested daily, shown and warned of by ``status``."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.machines import Machine
from tests.mtproto.harness import Server
from tests.support.platform import ManualClock
from tests.support.telegram import TelegramAccount
from tests.telegram.volume_storm import new_machine
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.platform import Platform
from tgdav.volume import report
from tgdav.volume.account_expiry import AGAIN_SECONDS, ASK_SECONDS
from tgdav.volume.volume import Volume

ASKED = "account.getAccountTTL"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000 * 10**9)


@pytest.fixture
def machine(tmp_path: Path, account: TelegramAccount, clock: ManualClock) -> Machine:
    made = new_machine(tmp_path, "home", account)
    made.platform = lambda: Platform(clock, SystemEntropy(), SystemDisk())  # type: ignore[method-assign]
    made.create()
    return made


@pytest.fixture
def volume(machine: Machine) -> Iterator[Volume]:
    with machine.opened() as opened:
        yield opened


def told(volume: Volume) -> Any:
    return report.status(volume)["account"]


def times_asked(server: Server) -> int:
    return int(server.statistics()["calls"].get(ASKED, 0))


def test_it_is_requested_once_a_day(server: Server, machine: Machine, clock: ManualClock) -> None:
    with machine.opened() as volume:
        assert told(volume) is None
        volume.background.tick()
        volume.background.tick()
        assert told(volume) == {
            "deleted_after_days": 183,
            "days_left": 183,
            "not_before": "2027-07-17",
            "warning": None,
        }
    clock.advance(ASK_SECONDS - 10)
    with machine.opened() as volume:
        volume.background.tick()
        assert times_asked(server) == 1
        clock.advance(10)
        volume.background.tick()
        assert times_asked(server) == 2


def test_a_short_time_is_warned_of(
    server: Server, volume: Volume, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    server.set_rules(account_days=31)
    with caplog.at_level(logging.WARNING):
        volume.background.tick()
    assert "deletes the account after 31 days without use: choose a longer time" in caplog.text
    assert "choose a longer time" in told(volume)["warning"]


def test_the_remaining_days_decrease_while_telegram_is_unreachable(
    server: Server, volume: Volume, clock: ManualClock
) -> None:
    life = volume.account_expiry
    assert life is not None
    life.refresh_if_due()
    server.stop_listening()
    for days, left, warns in ((100, 83, False), (53, 30, True), (31, 0, True)):
        clock.advance(days * 86_400)
        life.refresh_if_due()
        assert (told(volume)["days_left"], told(volume)["warning"] is not None) == (left, warns)
    server.listen_again()
    clock.advance(AGAIN_SECONDS)
    life.refresh_if_due()
    assert told(volume)["days_left"] == 183


def test_an_unknown_error_of_the_request_is_ignored(server: Server, volume: Volume, clock: ManualClock) -> None:
    server.arm("error", ASKED, code=400, text="SOMETHING_NEW")
    volume.background.tick()
    assert (times_asked(server), told(volume)) == (1, None)
    found = report.status(volume)
    assert (found["last_error"], found["store"]["reachable"]) == (None, True)
    clock.advance(AGAIN_SECONDS)
    volume.background.tick()
    assert told(volume)["days_left"] == 183
