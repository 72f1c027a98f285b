"""An open vault learns at once of changes by other machines and of the end of its login, and shows what it waits for.

Without notifications each of these would wait for the next check, minutes later.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash.machines import PASSPHRASE, Machine, put
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tests.support.waiting import wait_for
from tests.telegram.volume_storm import account_of, new_login, new_machine
from tgdav.blobs.telegram.updates import UpdateWatcher
from tgdav.crypto.passphrase import Passphrase
from tgdav.errors import AccessError
from tgdav.volume import report
from tgdav.volume.volume import Volume

both = pytest.mark.parametrize("account", ["me", "channel"], indirect=True)


@pytest.fixture
def machine(tmp_path: Path, account: TelegramAccount) -> Machine:
    made = new_machine(tmp_path, "home", account)
    made.create()
    return made


@pytest.fixture
def volume(machine: Machine) -> Iterator[Volume]:
    """An open volume whose background work has started and is idle."""
    with machine.opened() as opened:
        opened.start()
        wait_for(lambda: _watch(opened).caught_up.is_set(), what="the watch to begin")
        yield opened


def _watch(volume: Volume) -> UpdateWatcher:
    store = account_of(volume)._store
    assert store is not None
    assert store._watch is not None
    return store._watch


@both
def test_being_replaced_as_the_writer(tmp_path: Path, account: TelegramAccount, volume: Volume) -> None:
    new_machine(tmp_path, "other", account).join()
    wait_for(lambda: "machine other is the writer" in (volume.read_only_reason or ""))
    assert "machine other is the writer" in report.status(volume)["last_error"]


@both
def test_a_new_passphrase(tmp_path: Path, account: TelegramAccount, machine: Machine, volume: Volume) -> None:
    before = (machine.places.state / "header").read_bytes()
    other = new_machine(tmp_path, "other", account)
    other.join()
    with other.opened() as theirs:
        theirs.change_passphrase("another")
    wait_for(lambda: (machine.places.state / "header").read_bytes() != before)
    volume.close()
    with pytest.raises(AccessError):
        machine.open(Passphrase(PASSPHRASE))
    machine.open(Passphrase("another")).close()


def test_what_syncing_waits_for(server: Server, account: TelegramAccount, volume: Volume) -> None:
    put(volume, "file", b"some content")
    server.arm("flood_wait", "messages.sendMedia", seconds=8)
    stages: list[str] = []
    volume.sync(wait=True, progress=lambda stage, _done, _total: stages.append(stage))
    assert any("Telegram limits the rate: FLOOD_WAIT of messages.sendMedia" in stage for stage in stages)


@pytest.mark.parametrize("method", ["messages.sendMedia", "messages.getHistory"])
def test_syncing_without_waiting_ends_at_a_flood_wait(
    server: Server, volume: Volume, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """The result has the reason and the time; the log has it once, however often ``sync`` is run."""
    put(volume, "file", bytes(range(256)) * 400)
    server.arm("flood_wait", method, seconds=500)
    found = [volume.sync(wait=False) for _ in range(3)]
    for each in found:
        assert 480 < each["waiting_seconds"] < 520
        assert f"FLOOD_WAIT of {method}" in each["waiting_for"]
        assert each["waiting_until"] > "2"
        assert each["pending"]["operations"] > 0
    assert server.statistics()["violations"].get("called during a flood wait", 0) == 0
    assert [
        each.message for each in caplog.records if each.levelno >= logging.WARNING and "FLOOD_WAIT" in each.message
    ][1:] == []
    assert report.status(volume)["store"]["reachable"]


def test_syncing_waits_for_a_flood_wait_of_the_log_too(server: Server, volume: Volume) -> None:
    put(volume, "file", b"some content")
    volume.content.flush(10)
    server.arm("flood_wait", "messages.sendMedia", seconds=22)
    stages: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(volume.sync, wait=True, progress=lambda stage, _done, _total: stages.append(stage))
        wait_for(lambda: any("sending waits" in stage for stage in stages) or done.done())
        assert not done.done()
        volume.background._stop.set()
        assert done.result(30)["waiting_seconds"] > 0


@both
def test_the_end_of_the_login(server: Server, tmp_path: Path, account: TelegramAccount, volume: Volume) -> None:
    server.end_logins(account.phone, "401 SESSION_REVOKED")
    server.drop_connections()
    wait_for(lambda: "tgdav auth" in (report.status(volume)["last_error"] or ""))
    volume.log_in(new_login(account))
    assert report.status(volume)["last_error"] is None
    new_machine(tmp_path, "other", account).join()
    wait_for(lambda: "machine other is the writer" in (volume.read_only_reason or ""), what="news by the new login")
