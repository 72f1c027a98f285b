"""A long history, with as many messages of the user's own in it as blobs: labels alone are read, and all of them."""

import base64
from collections.abc import Callable

import pytest

from tests.blobs.calls import ids, put
from tests.blobs.conftest import name_of
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tgdav.blobs.telegram import TelegramStore
from tgdav.blobs.telegram.history import Density
from tgdav.blobs.telegram.messages import PAGE

AT_ONCE = 5000


@pytest.fixture
def store(open_store: Callable[..., TelegramStore]) -> TelegramStore:
    return open_store(patience=10.0)


def plant(server: Server, account: TelegramAccount, blobs: int) -> list[int]:
    """Put blobs into the history, each after a message of the user's own; return the blobs' ids."""
    data = base64.b64encode(b"sealed").decode()
    planted: list[int] = []
    for numbers in _batches(blobs):
        entries = []
        for number in numbers:
            entries.append({"text": f"words of the user's own, {number}"})
            entries.append({"text": f"label-{number}", "name": name_of(number).hex(), "data": data})
        planted += server.plant(account.phone, entries, account.channel, account.channel is not None)[1::2]
    return planted


def _batches(count: int) -> list[range]:
    return [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]


def check(server: Server, account: TelegramAccount, store: TelegramStore, blobs: int) -> None:
    """All blobs are listed, in order and with their labels, for little more requests than there are pages."""
    planted = plant(server, account, blobs)
    before = server.statistics()["calls"].get("messages.getHistory", 0)
    found = [*store.list()]
    calls = server.statistics()["calls"]
    assert [info.id for info in found] == planted
    assert [info.label for info in found] == [f"label-{number}" for number in range(blobs)]
    assert calls["messages.getHistory"] - before <= 1.4 * 2 * blobs / PAGE + 3
    assert "upload.getFile" not in calls
    assert "messages.getMessages" not in calls
    assert ids(store, after=planted[-1] - 1) == planted[-1:]
    assert ids(store, after=planted[blobs // 2]) == planted[blobs // 2 + 1 :]


@pytest.mark.parametrize("account", ["me", "channel"], indirect=True)
class TestALongHistory:
    def test_is_listed_by_its_labels(self, server: Server, account: TelegramAccount, store: TelegramStore) -> None:
        check(server, account, store, 1000)

    @pytest.mark.torture
    def test_of_a_hundred_thousand_blobs(self, server: Server, account: TelegramAccount, store: TelegramStore) -> None:
        check(server, account, store, 100_000)

    def test_with_holes_is_whole(self, server: Server, account: TelegramAccount, store: TelegramStore) -> None:
        where = (account.channel, account.channel is not None)
        planted = plant(server, account, 600)
        gone = planted[100:350]
        server.delete(account.phone, list(range(gone[0] - 1, gone[-1] + 1)), *where)
        last = put(store, 5000).id
        assert ids(store) == [*planted[:100], *planted[350:], last]

    def test_may_be_left_in_the_middle(self, server: Server, account: TelegramAccount, store: TelegramStore) -> None:
        planted = plant(server, account, 600)
        listing = store.list()
        assert [next(listing).id for _ in range(70)] == planted[:70]
        listing.close()  # type: ignore[attr-defined]
        assert ids(store, after=planted[-2]) == planted[-1:]


def test_few_messages_among_many_ids_are_looked_for_in_wide_spans() -> None:
    density = Density()
    density.record(100, 100)
    assert density.width == PAGE
    for _ in range(10):
        density.record(2, 1000)
    assert 40_000 < density.width < 50_000
    for _ in range(40):
        density.record(0, 10_000_000)
    assert density.width == 1_000_000
