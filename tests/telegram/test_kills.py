"""A process that is killed during an append: the next one continues, and there is one blob."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.blobs.calls import content, ids
from tests.blobs.conftest import name_of
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tests.support.waiting import wait_for
from tests.telegram.appending import Task
from tgdav.blobs.telegram import TelegramStore, TelegramTestServer

ROOT = Path(__file__).parents[2]
SIZE = 1024 * 1024 + 7
LARGE = 11 * 1024 * 1024 + 7
"""Is uploaded as one of Telegram's big files."""


@pytest.fixture
def task(server: Server, account: TelegramAccount) -> Task:
    where = server.test_server
    place = TelegramTestServer(where.address, where.port, where.dc, server.public_key)
    return Task(place, server.session(account.phone), account.peer, name_of(1), SIZE)


def start(task: Task) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.telegram.appending"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(task))
    process.stdin.close()
    process.stdin = None
    return process


def killed_when(task: Task, happened: Callable[[], bool]) -> None:
    with start(task) as process:
        wait_for(happened, 30.0)
        process.kill()
        assert process.wait() != 0


def finished(task: Task) -> int:
    with start(task) as process:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return int(said)


def calls(server: Server, method: str) -> int:
    found: int = server.statistics()["calls"].get(method, 0)
    return found


class TestKilled:
    def check(self, server: Server, task: Task, store: TelegramStore) -> None:
        """The next process stores the blob, there is one, and the message was made once."""
        blob_id = finished(task)
        assert ids(store) == [blob_id]
        assert content(store, next(store.list())) == task.data()
        assert server.statistics()["messages_sent"] == 1

    def test_while_parts_are_uploaded(self, server: Server, task: Task, store: TelegramStore) -> None:
        task = msgspec.structs.replace(task, size=LARGE)
        server.set_line(latency=0.05, bandwidth=20e6)
        killed_when(task, lambda: calls(server, "upload.saveBigFilePart") >= 5)
        assert calls(server, "messages.sendMedia") == 0
        server.set_line(latency=0.0, bandwidth=0.0)
        self.check(server, task, store)

    @pytest.mark.parametrize(("account", "rule"), [("me", "first"), ("channel", "error")], indirect=["account"])
    def test_between_the_message_and_its_response(
        self, server: Server, task: Task, store: TelegramStore, rule: str
    ) -> None:
        server.set_rules(repeat_random_id=rule)
        server.arm("lost_answer", "messages.sendMedia")
        killed_when(task, lambda: server.statistics()["messages_sent"] == 1)
        self.check(server, task, store)

    @pytest.mark.parametrize(("account", "rule"), [("me", "error"), ("channel", "first")], indirect=["account"])
    def test_with_many_messages_of_the_user_since(
        self, server: Server, account: TelegramAccount, task: Task, store: TelegramStore, rule: str
    ) -> None:
        """More messages than the first append reads: the ``random_id`` prevents a second message."""
        server.set_rules(repeat_random_id=rule)
        server.arm("lost_answer", "messages.sendMedia")
        killed_when(task, lambda: server.statistics()["messages_sent"] == 1)
        server.plant(account.phone, [{"text": "own"}] * 2100, account.channel, account.channel is not None)
        self.check(server, task, store)


@pytest.mark.parametrize("rule", ["first", "error"])
def test_a_name_deleted_by_one_process_is_appended_anew_by_the_next(
    server: Server, task: Task, store: TelegramStore, rule: str
) -> None:
    server.set_rules(repeat_random_id=rule)
    task = msgspec.structs.replace(task, size=5)
    for _ in range(2):
        blob_id = finished(task)
        assert ids(store) == [blob_id]
        assert content(store, next(store.list())) == task.data()
        store.delete([next(store.list()).id])
