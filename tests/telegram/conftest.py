"""A server that misbehaves on command, and accounts on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tgdav.blobs.telegram import TelegramSettings, TelegramStore


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "telegram", seed=3) as running:
        yield running
        violations = running.statistics()["violations"]
        under_way = violations.pop("called during a flood wait", 0)
        assert under_way < TelegramSettings(1, "x").parts_in_flight * running.fault_counts().get("flood_wait", 0) + 1
        assert violations == {}


@pytest.fixture
def account(server: Server, request: pytest.FixtureRequest) -> TelegramAccount:
    """An account whose blobs are in Saved Messages, or in a channel if the test is parametrized so."""
    return TelegramAccount(server, channel=getattr(request, "param", "me") == "channel", patience=1.5)


@pytest.fixture
def open_store(account: TelegramAccount) -> Iterator[Callable[..., TelegramStore]]:
    """Opens stores with fresh logins; all are closed at the end."""
    opened: list[TelegramStore] = []

    def open_one(**changes: object) -> TelegramStore:
        opened.append(account.open(**changes))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., TelegramStore]) -> TelegramStore:
    return open_store()
