"""Telegram is unreachable: local files are served, and writes succeed until staging is full; then it is reachable again."""

import errno
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.crash.machines import Machine
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tests.support.telegram_home import assert_nothing_twice
from tests.support.waiting import wait_for
from tests.telegram.volume_storm import new_machine
from tests.webdav.client import Client, ShiftedClock
from tgdav.cli.commands.status import _status_lines
from tgdav.content.staging.quota import WAIT_SECONDS
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.errors import NoSpace
from tgdav.platform import Platform
from tgdav.volume import report
from tgdav.volume.volume import Volume
from tgdav.webdav import WebOptions, WebServer

MIB = 1024 * 1024
BOUND = 24 * MIB
FOR_WRITERS = BOUND * 3 // 4
"""Without the reserve for deletes and the uploader."""
WAITS = "a writer waits for staging space"
Result = TypeVar("Result")


class Drive:
    """A machine whose drive is served over WebDAV, with a clock that can be advanced."""

    def __init__(self, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
        self.clock, self._caplog = ShiftedClock(), caplog
        self.machine = machine
        machine.platform = lambda: Platform(self.clock, SystemEntropy(), SystemDisk())  # type: ignore[method-assign]

    @contextmanager
    def served(self) -> Iterator[tuple[Volume, Client]]:
        with self.machine.opened() as volume:
            volume.start()
            web = WebServer(volume.fs, WebOptions(port=0, store_wait=0.0), None, self.clock, SystemEntropy())
            with Client(web.start()) as client:
                yield volume, client
            web.stop()

    def patiently(self, write: Callable[[], Result]) -> Result:
        """Write; if that waits for space, advance the clock to the end of the wait."""
        self._caplog.clear()
        with ThreadPoolExecutor(1) as pool:
            answer: Future[Result] = pool.submit(write)
            wait_for(lambda: answer.done() or WAITS in self._caplog.text, 30, what="an answer, or waiting for space")
            if not answer.done():
                self.clock.shift += WAIT_SECONDS
            return answer.result(30)

    def fill(self, client: Client) -> list[int]:
        """Upload files until one is refused; return the numbers of the acknowledged ones."""
        for number in range(100):
            reply = self.patiently(lambda number=number: client("PUT", f"/{number}", data(number)))  # type: ignore[misc]
            if reply.status != 201:
                assert (reply.status, reply.error()) == (507, "quota-not-exceeded")
                assert client("GET", f"/{number}").status == 404
                return [*range(number)]
        raise AssertionError("there is no bound")


def data(number: int) -> bytes:
    return random.Random(number).randbytes(MIB)


def all_there(client: Client, numbers: list[int]) -> bool:
    return all(client("GET", f"/{number}").body == data(number) for number in numbers)


@pytest.fixture
def drive(tmp_path: Path, account: TelegramAccount, caplog: pytest.LogCaptureFixture) -> Drive:
    caplog.set_level("DEBUG", "tgdav.content.staging.quota")
    machine = new_machine(tmp_path, "home", account)
    with (machine.home / "config.yaml").open("a") as file:
        file.write(f"staging: {{max_size_gb: {BOUND / 1024**3}}}\n")
    machine.create()
    return Drive(machine, caplog)


def write_open_file(volume: Volume) -> None:
    """Write as a mount does."""
    found = volume.fs.resolve([b"0"])
    handle = volume.fs.open(found.inode, writable=True)
    try:
        for offset in range(0, BOUND, MIB):
            handle.write(MIB + offset, data(offset))
        handle.fsync()
    finally:
        handle.close()


def test_to_the_bound_and_back(server: Server, drive: Drive, tmp_path: Path, account: TelegramAccount) -> None:
    with drive.served() as (volume, client):
        assert client("PUT", "/stored", data(1000)).status == 201
        volume.sync(wait=True)
        assert not report.status(volume)["staging"]["full"]
        server.stop_listening()
        kept = drive.fill(client)
        assert (FOR_WRITERS - 4 * MIB) // MIB <= len(kept) < BOUND // MIB
        assert client("GET", "/stored").body == data(1000)
        assert all_there(client, kept)
        with pytest.raises(NoSpace) as refused:
            drive.patiently(lambda: write_open_file(volume))
        assert refused.value.errno == errno.ENOSPC
        wait_for(lambda: not report.status(volume)["store"]["reachable"], what="status to say that Telegram is away")
        found = report.status(volume)
        assert found["staging"]["full"]
        shown = _status_lines({**found, "store": {**found["store"], "place": "Telegram"}}, verbose=False)
        assert any("writes fail until some of it is uploaded" in text for _, text in shown)
        assert found["staging"]["bytes"] <= BOUND
        assert found["pending"]["bytes"] > len(kept) * MIB
        assert client("MKCOL", "/folder").status == 201
        assert client("MOVE", "/1", Destination="/folder/1").status == 201
        assert client("DELETE", "/2").status == 204
        kept = [number for number in kept if number not in (1, 2)]

    with drive.served() as (volume, client):
        assert client("GET", "/stored").body == data(1000)
        assert all_there(client, kept)
        assert client("GET", "/folder/1").body == data(1)
        server.listen_again()
        drive.clock.shift += 600
        wait_for(lambda: not any(volume.pending().values()) or _hurry(drive), 60, what="the queue to drain by itself")
        wait_for(lambda: report.status(volume)["store"]["reachable"], what="status to say that Telegram is back")
        assert not report.status(volume)["staging"]["full"]
        assert client("PUT", "/after", data(2000)).status == 201
        volume.sync(wait=True)
        assert all_there(client, kept)
        assert volume.check(read_data=100.0)["ok"]
    assert_nothing_twice(server, account.phone)
    read_elsewhere(new_machine(tmp_path, "other", account), kept)


def _hurry(drive: Drive) -> bool:
    """Advance the clock, so that waiting takes less time."""
    drive.clock.shift += 0.1
    return False


def read_elsewhere(other: Machine, kept: list[int]) -> None:
    """All acknowledged files are in Telegram."""
    assert not other.join().damage
    with other.opened() as volume:
        for number in (*kept, 1000, 2000):
            name = {1000: b"stored", 2000: b"after"}.get(number, str(number).encode())
            found = volume.fs.resolve([name])
            handle = volume.fs.open(found.inode)
            assert handle.read(0, found.size) == data(number)
            handle.close()


def test_it_starts_without_telegram(server: Server, drive: Drive) -> None:
    with drive.served() as (volume, client):
        assert client("PUT", "/1000", data(1000)).status == 201
        volume.sync(wait=True)
    server.stop_listening()
    with drive.served() as (volume, client):
        assert all_there(client, [1000])
        assert client("PUT", "/1", data(1)).status == 201
        wait_for(lambda: not report.status(volume)["store"]["reachable"], what="status to say that Telegram is away")
        assert report.status(volume)["last_error"]
    with drive.served() as (volume, client):
        assert all_there(client, [1, 1000])
        server.listen_again()
        volume.sync(wait=True)
        assert report.status(volume)["last_error"] is None
