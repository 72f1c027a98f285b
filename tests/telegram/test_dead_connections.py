"""A connection on which nothing is received any more, and no new one works: it is reported, and nothing waits for ever."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.blobs.calls import BLOCK, content, put
from tests.crash.machines import put as put_file
from tests.crash.machines import read
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tests.support.waiting import wait_for
from tests.telegram.volume_storm import new_machine
from tgdav.blobs.telegram import TelegramSettings
from tgdav.blobs.telegram import settings as settings_module
from tgdav.blobs.telegram.transfers import MAX_ATTEMPTS
from tgdav.config import Config
from tgdav.errors import StoreError, StoreUnavailable
from tgdav.volume import report
from tgdav.volume import volume as volume_module
from tgdav.volume.volume import Volume


def fall_silent(server: Server) -> None:
    server.accept_silently()
    server.silence_connections()


@pytest.fixture
def volume(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volume]:
    """A volume whose connections have a patience of half a second; one file is in the store alone."""
    original = settings_module.telegram_settings

    def impatient(config: Config) -> TelegramSettings:
        return msgspec.structs.replace(original(config), patience=0.5)

    monkeypatch.setattr(settings_module, "telegram_settings", impatient)
    machine = new_machine(tmp_path, "home", TelegramAccount(server))
    machine.create()
    with machine.opened() as opened:
        put_file(opened, "file", bytes(range(256)) * 4096)
        opened.sync(wait=True)
        opened.content.reader.clear()
        yield opened


class Reading(threading.Thread):
    """Reads the file; ``failed`` holds the exception."""

    def __init__(self, volume: Volume) -> None:
        super().__init__()
        self._volume, self.failed = volume, list[Exception]()
        self.start()

    def run(self) -> None:
        try:
            read(self._volume, "file")
        except Exception as error:
            self.failed.append(error)


def test_status_shows_it_while_the_first_read_still_waits(server: Server, volume: Volume) -> None:
    fall_silent(server)
    reading = Reading(volume)
    found = wait_for(lambda: not (said := report.status(volume))["store"]["reachable"] and said)
    assert "did not respond" in str(found["last_error"])
    assert reading.is_alive(), "the read tries once more, on a new connection"
    server.accept_silently(False)
    reading.join(30)
    assert reading.failed == []
    assert report.status(volume)["store"]["reachable"]
    assert report.status(volume)["last_error"] is None


def test_stopping_waits_for_no_connection(server: Server, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    account = volume.stores.account
    assert account is not None
    session = account._session
    assert session is not None
    monkeypatch.setattr(session, "settings", msgspec.structs.replace(session.settings, patience=3600.0))
    for line in session._connections.values():
        line._settings = session.settings
    monkeypatch.setattr(volume_module, "GRACE_SECONDS", 0.1)
    fall_silent(server)
    reading = Reading(volume)
    wait_for(lambda: session._pending)
    volume.disconnect_soon()
    reading.join(30)
    assert not reading.is_alive()
    assert isinstance(reading.failed[0], StoreError)


def test_a_transfer_gives_up_at_the_second_silence(server: Server, account: TelegramAccount) -> None:
    store = account.open(patience=0.2)
    info = put(store, 1, bytes(BLOCK))
    before = server.statistics()["connections"]
    fall_silent(server)
    with pytest.raises(StoreUnavailable):
        content(store, info)
    assert server.statistics()["connections"] - before < MAX_ATTEMPTS - 1
    assert store._session.unreachable_reason is not None
    server.accept_silently(False)

    def is_read() -> bool:
        with suppress(StoreUnavailable):
            return content(store, info) == bytes(BLOCK)
        return False

    wait_for(is_read)
    assert store._session.unreachable_reason is None
    store.close()
