"""Appends of another session of the account are reported: by updates, and by requests where updates fail."""

import base64
from collections.abc import Callable

import pytest
from telethon.tl import types

from tests.blobs.calls import content, put
from tests.blobs.conftest import name_of
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tests.support.waiting import wait_for
from tgdav.blobs import BytesSource
from tgdav.blobs.telegram import TelegramStore
from tgdav.errors import StoreUnavailable
from tgdav.ids import BlobId
from tgdav.threads import failure_counts, last_failure

LONG = 3600.0
pytestmark = pytest.mark.parametrize("account", ["me", "channel"], indirect=True)


class Listener:
    """A store of another session, and the ids that its watcher reported."""

    def __init__(self, store: TelegramStore, silence: float = LONG) -> None:
        self.store = store
        self.heard: list[BlobId] = []
        watch = store.watch(lambda info: self.heard.append(info.id), silence=silence, retry=0.05)
        wait_for(watch.caught_up.is_set, what="the watcher to start")

    def hears(self, *ids: BlobId) -> None:
        wait_for(lambda: len(self.heard) >= len(ids), what="all blobs were heard of")
        assert self.heard == [*ids]


@pytest.fixture
def writer(open_store: Callable[..., TelegramStore]) -> TelegramStore:
    return open_store(patience=5.0)


@pytest.fixture
def listener(writer: TelegramStore, open_store: Callable[..., TelegramStore]) -> Listener:
    put(writer, 0)
    return Listener(open_store(patience=5.0))


def test_blobs_of_others_are_reported_at_once(
    server: Server, account: TelegramAccount, writer: TelegramStore, listener: Listener
) -> None:
    method = "updates.getDifference" if account.channel is None else "updates.getChannelDifference"
    wait_for(lambda: method in server.statistics()["calls"], what="the listener has looked once, its line being new")
    before = server.statistics()["calls"][method]
    server.noise(account.phone, 3, account.channel, account.channel is not None)
    listener.hears(*(put(writer, number, b"data").id for number in range(1, 4)))
    assert server.statistics()["calls"][method] == before


def test_own_blobs_are_not_reported(writer: TelegramStore, listener: Listener) -> None:
    put(listener.store, 1)
    last = put(writer, 2)
    listener.hears(last.id)


def test_a_reported_blob_can_be_read(writer: TelegramStore, listener: Listener) -> None:
    info = put(writer, 1, b"some data")
    listener.hears(info.id)
    assert content(listener.store, info) == b"some data"


@pytest.mark.parametrize("fault", ["update_lost", "update_late", "updates_too_long"])
def test_a_gap_is_closed_by_a_request(server: Server, writer: TelegramStore, listener: Listener, fault: str) -> None:
    server.arm(fault)
    listener.hears(*[put(writer, number).id for number in (1, 2)])
    assert server.fault_counts()[fault] == 1


def test_a_lost_update_is_found_after_silence(
    server: Server, writer: TelegramStore, open_store: Callable[..., TelegramStore]
) -> None:
    listener = Listener(open_store(patience=5.0), silence=0.2)
    server.arm("update_lost")
    listener.hears(put(writer, 1).id)


def test_a_broken_connection_is_replaced_and_missed_blobs_are_reported(
    server: Server, writer: TelegramStore, listener: Listener
) -> None:
    for number in (1, 2):
        server.drop_connections()
        source = BytesSource(b"data")
        stored: list[BlobId] = []

        def try_to_append(number: int = number, source: BytesSource = source, stored: list[BlobId] = stored) -> bool:
            try:
                stored.append(writer.append(name_of(number), source, "label").id)
            except StoreUnavailable:
                return False
            return True

        wait_for(try_to_append, what="the writer is back")
        wait_for(lambda: listener.heard[-1:] == stored[:1], what="the listener is back")  # noqa: B023
    assert len(listener.heard) == 2


def test_history_is_read_if_events_are_no_longer_kept(
    server: Server, account: TelegramAccount, writer: TelegramStore, listener: Listener
) -> None:
    planted = [
        {"text": "label", "name": name_of(10 + number).hex(), "data": base64.b64encode(b"x").decode()}
        for number in range(150)
    ]
    ids = server.plant(account.phone, planted, account.channel, account.channel is not None)
    last = put(writer, 1)
    listener.hears(*ids, last.id)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [0, 1])
def test_an_invalid_response_is_skipped(
    server: Server, account: TelegramAccount, writer: TelegramStore, listener: Listener, after: int
) -> None:
    """To the request for the difference, once and twice; the history has the missed blobs."""
    before = failure_counts().get("telegram-watch", 0)
    method = "updates.getDifference" if account.channel is None else "updates.getChannelDifference"
    wait_for(lambda: method in server.statistics()["calls"], what="the listener has looked once, its line being new")
    server.arm("odd_answer", method, count=1 + after)
    server.arm("updates_too_long", count=1 + after)
    listener.hears(*(put(writer, number).id for number in range(1, 2 + after)))
    last = put(writer, 9)
    wait_for(lambda: listener.heard[-1:] == [last.id], what="updates are heard of again")
    assert failure_counts()["telegram-watch"] > before


def test_an_invalid_update_is_skipped_and_recorded(writer: TelegramStore, listener: Listener) -> None:
    before = failure_counts().get("telegram-watch", 0)
    listener.store._session._handle_update(types.Updates(None, [], [], None, 0))
    wait_for(lambda: failure_counts().get("telegram-watch", 0) > before)
    assert "telegram-watch: TypeError" in (last_failure() or "")
    listener.hears(put(writer, 1).id)
    wait_for(lambda: last_failure() is None)


def test_it_ends_with_the_store(server: Server, writer: TelegramStore, listener: Listener) -> None:
    listener.store.close()
    put(writer, 1)
    assert listener.heard == []
