"""A store that hangs, as a network mount without its server does: all that needs no store works, and the program can end."""

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.mounts import CONFIG
from tests.support.server import ConnectionCut, Home, Server
from tests.support.vaults import put
from tests.support.volumes import PASSPHRASE, copy_folder, new_vault, open_volume

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")

SIZE = 300_000
QUOTA = b'<propfind xmlns="DAV:"><prop><quota-available-bytes/><quota-used-bytes/></prop></propfind>'


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ForgetfulDisk]:
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def server(disk: ForgetfulDisk, tmp_path: Path) -> Iterator[Server]:
    new_vault(tmp_path / "vault")
    volume = open_volume(tmp_path / "vault")
    put(volume, "stored", random.randbytes(SIZE))
    volume.sync(wait=True)
    volume.content.reader.clear()
    volume.close()
    copy_folder(tmp_path / "vault" / "store", disk.path / "store")
    home = Home(tmp_path / "vault", config=CONFIG.format(store=disk.path / "store"), passphrase=PASSPHRASE)
    with Server(home) as server:
        yield server
        disk.answer()


@pytest.mark.timeout(180)
def test_quota_status_writes_and_the_end_need_no_store(disk: ForgetfulDisk, server: Server) -> None:
    with server.client() as client, server.client() as reader:
        disk.hang()
        reader.send(reader.head("GET", "/stored"))
        assert client.request("PROPFIND", "/", {"Depth": "0"}, QUOTA).status == 207
        status = server.home.run("--json", "status").json()
        assert not status["store"]["reachable"]
        assert "does not respond" in status["last_error"]
        assert client.request("PUT", "/waiting", body=random.randbytes(SIZE)).status == 201
        server.terminate(60)
        assert "waiting for unfinished calls to the store" in server.output
        with suppress(ConnectionCut):
            assert reader.read_response().status == 503
    disk.answer()
    server.start()
    with server.client() as client:
        assert [len(client.request("GET", path).body) for path in ("/stored", "/waiting")] == [SIZE, SIZE]
