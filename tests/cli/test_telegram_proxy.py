"""The way to Telegram through a proxy, and never round it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Machine
from tests.mtproto.harness import PHONE, Server
from tests.support.server import Home
from tests.support.socks5 import Socks5Proxy
from tests.support.telegram_home import log_in, telegram_config

SECRET = "let me through"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "telegram", seed=6) as running:
        yield running


def behind(server: Server, proxy: Socks5Proxy, folder: Path, password: str = SECRET) -> Machine:
    address = f"socks5://me:{password.replace(' ', '%20')}@127.0.0.1:{proxy.port}"
    return Machine(folder, config=telegram_config(server, more=f"  proxy: {address}\n"))


def test_everything_goes_through_it(server: Server, tmp_path: Path) -> None:
    with Socks5Proxy("me", SECRET) as proxy:
        home = behind(server, proxy, tmp_path)
        log_in(home)
        home.run("init")
        home.run("sync", "--wait")
        assert len(proxy.visits) == server.statistics()["connections"]
        assert set(proxy.visits) == {("127.0.0.1", server.port)}


def test_a_proxy_that_refuses_or_is_away_is_not_gone_round(server: Server, tmp_path: Path) -> None:
    with Socks5Proxy("me", "another") as proxy:
        home = behind(server, proxy, tmp_path)
        refused = log_in(home, check=False)
        assert refused.code == 5
        assert proxy.refused >= 1
    away = Home.run(home, "-vv", "auth", "--phone", f"+{PHONE}", check=False)
    assert away.code == 5
    assert "telethon" in away.stderr
    for said in (refused.stderr, away.stderr):
        assert "unexpected" not in said
        assert SECRET not in said
    assert server.statistics()["connections"] == 0
