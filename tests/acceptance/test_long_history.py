"""A vault among very many messages: joining it by the real program reads their labels, and no content but the log's.

The history is put into the server directly: genuine labels, each after a message of the user's own.
"""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.mtproto.harness import PHONE, ServerProcess
from tests.support.server import Home, Server
from tests.support.telegram_home import blobs, log_in, telegram_config
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.crypto.passphrase import Passphrase
from tgdav.entropy import SystemEntropy
from tgdav.ids import BlobName, Incarnation, MachineId, NamespaceId
from tgdav.vault.state_dir import load_vault
from tgdav.vault.unlock import unlock_local

LATENCY = 0.06
AT_ONCE = 5000
PAGE = 100
FEW = 30
"""Pages: the newest ones are looked through before the first upload."""
CONTENT = b"sealed"
FILE = bytes(range(256)) * 1000


@pytest.fixture
def telegram(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "telegram", seed=12, latency=LATENCY) as running:
        yield running


def entries(keys: VaultKeys, namespace: NamespaceId, count: int) -> Iterator[dict[str, str]]:
    """A pack of the vault after each message of the user's own."""
    entropy = SystemEntropy()
    machine, data = MachineId(entropy.bytes(16)), base64.b64encode(CONTENT).decode()
    for number in range(count):
        name = BlobName(entropy.bytes(16))
        label = Label(
            kind=BlobKind.PACK,
            namespace=namespace,
            machine=machine,
            incarnation=Incarnation(1),
            body_hash=entropy.bytes(32),
            size=len(CONTENT),
        )
        yield {"text": f"words of the user's own, {number}"}
        yield {"text": encode_label(label, keys, name, entropy), "name": name.hex(), "data": data}


def plant(telegram: ServerProcess, home: Home, count: int) -> None:
    state = home.path / "state"
    keys = unlock_local(state, Passphrase(home.passphrase))
    batch: list[dict[str, str]] = []
    for entry in entries(keys, load_vault(state, keys).namespaces[0].id, count):
        batch.append(entry)
        if len(batch) == AT_ONCE:
            telegram.plant(PHONE, batch)
            batch = []
    if batch:
        telegram.plant(PHONE, batch)


def put(home: Home, name: str) -> None:
    with Server(home) as server:
        with server.client() as client:
            assert client.request("PUT", f"/{name}", body=FILE).status == 201
        home.run("sync", "--wait", timeout=600)
        server.terminate()


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.torture)])
def test_joining_reads_labels_only(telegram: ServerProcess, tmp_path: Path, count: int) -> None:
    home = Home(tmp_path, config=telegram_config(telegram))
    log_in(home)
    home.run("init")
    put(home, "before")
    small = sum(blob["size"] for blob in blobs(telegram)), len(blobs(telegram))
    plant(telegram, home, count)
    put(home, "after")

    other = home.beside("other", config=telegram_config(telegram))
    log_in(other)
    before, began = telegram.statistics(), time.monotonic()
    cpu = psutil.Process().cpu_times()
    assert "Joined. This machine is now the writer (epoch 2)" in other.run("init", "--join", timeout=1200).stdout
    used = psutil.Process().cpu_times()
    now = telegram.statistics()
    calls = {name: now["calls"][name] - before["calls"].get(name, 0) for name in now["calls"]}
    read = now["file_bytes_downloaded"] - before["file_bytes_downloaded"]
    spent = used.children_user + used.children_system - cpu.children_user - cpu.children_system
    print(
        f"{count} blobs: joined in {time.monotonic() - began:.1f} s, {spent:.1f} s of CPU; {read} bytes of files read, "
        f"{calls['upload.getFile']} times; {calls['messages.getHistory']} pages"
    )
    assert read <= 2 * small[0]
    assert calls["upload.getFile"] <= 2 * small[1]
    assert calls["messages.getHistory"] <= 1.4 * 2 * count / PAGE + FEW, "the history was read more than once"
    other.run("sync", "--wait")
    assert telegram.statistics()["calls"]["messages.getHistory"] - now["calls"]["messages.getHistory"] <= FEW
    with Server(other) as server, server.client() as client:
        assert client.request("GET", "/before").body == FILE
        assert client.request("GET", "/after").body == FILE
        server.terminate()
