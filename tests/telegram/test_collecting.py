"""Garbage collection in a Telegram chat: messages of dead packs and old parts of the log go, the user's own stay."""

from pathlib import Path
from typing import Any

import pytest

from tests.crash.machines import content, put, read
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tests.support.telegram_home import assert_nothing_twice, blobs
from tests.telegram.volume_storm import new_machine


def chat_of(account: TelegramAccount) -> dict[str, Any]:
    return {} if account.channel is None else {"peer": account.channel, "channel": True}


@pytest.mark.parametrize("account", ["me", "channel"], indirect=True)
def test_garbage_leaves_the_chat(server: Server, account: TelegramAccount, tmp_path: Path) -> None:
    machine = new_machine(tmp_path, "home", account)
    machine.create()
    with machine.opened() as volume:
        put(volume, "kept", content(1, 200_000))
        for number in range(6):
            put(volume, "overwritten", content(10 + number, 300_000))
            volume.sync(wait=True)
            assert volume.replicator.checkpoint()
        names = {message["name"] for message in blobs(server, account.phone, **chat_of(account))}
        found = volume.gc()
        assert found["packs_deleted"] >= 4, found
        left = {message["name"] for message in blobs(server, account.phone, **chat_of(account))}
        assert len(left) < len(names) - 6, "packs, checkpoints and segments are deleted"
        assert_nothing_twice(server, account.phone, **chat_of(account))
        assert read(volume, "overwritten") == content(15, 300_000)
        checked = volume.check(read_data=100.0, drill=True)
        assert checked["ok"], checked
    other = new_machine(tmp_path, "other", account)
    assert not other.join().damage
    with other.opened() as volume:
        assert read(volume, "kept") == content(1, 200_000)
        assert volume.check(read_data=100.0)["ok"]
