"""A machine is set up, used, lost and replaced, each step as a user types it."""

import re
import shutil
import uuid
from pathlib import Path

from tests.cli.conftest import CHEAP, Machine
from tests.support.server import Home, Server
from tests.support.volumes import copy_folder

PHOTO = bytes(range(256)) * 2000


def test_every_step_works_as_written(tmp_path: Path) -> None:
    home = Home(tmp_path, "a")
    store = str(tmp_path / "store")
    made = home.run("init", "--backend", "directory", "--path", store)
    assert re.search(r"^vault created in ", made.stdout, re.M)
    assert re.search(r"^recovery key: ([0-9A-Z]{5}-){13}[0-9A-Z]{5}$", made.stdout, re.M)
    config = (home.path / "config.yaml").read_text()
    assert store in config

    with Server(home) as server:
        with server.client() as client:
            assert client.request("PUT", "/photo.jpg", body=PHOTO).status == 201
        synced = home.run("--json", "sync", "--wait")
        assert synced.json()["pending"] == {"bytes": 0, "operations": 0}
        server.terminate()

    shutil.rmtree(home.path)
    home.path.mkdir()
    (home.path / "config.yaml").write_text(config)
    joined = home.run("init", "--join")
    assert re.search(r"^Joined\. This machine is now the writer \(epoch 2\), replacing .+$", joined.stdout, re.M)
    checked = home.run("--json", "check", "--read-data").json()
    assert checked["ok"]
    assert checked["damage"] == []
    assert checked["bytes_read"] >= len(PHOTO) // 100
    with Server(home) as server, server.client() as client:
        assert client.request("GET", "/photo.jpg").body == PHOTO
        server.terminate()


def test_the_recovery_key_is_enough(tmp_path: Path) -> None:
    config = f"storage: {{directory: {{path: {tmp_path / 'store'}}}}}\n{CHEAP}"
    home = Machine(tmp_path, "a", config=config)
    key = home.run("--json", "init").json()["recovery_key"]
    with Server(home) as server, server.client() as client:
        assert client.request("PUT", "/file", body=b"content").status == 201
        home.run("sync", "--wait")

    other = home.beside("b", config=config, variables={"TGDAV_PASSPHRASE": None, "TGDAV_RECOVERY_KEY": key})
    recovered = other.run("--json", "recover").json()
    assert recovered["epoch"] == 2
    assert recovered["damage"] == []
    assert {"id", "name", "last_operation", "last_sequence"} <= set(recovered["machines"][0])
    machine = recovered["machines"][0]["id"]
    assert str(uuid.UUID(machine)) == machine

    changed = other.run("passwd", input="a new passphrase\n")
    assert "passphrase changed" in changed.stdout
    again = other.beside("c", config=config, passphrase="a new passphrase")
    assert "epoch 3" in again.run("init", "--join").stdout
    assert machine in [each["id"] for each in again.run("--json", "status").json()["machines"]]
    assert home.beside("d", config=config).run("init", "--join", check=False).code == 3


def test_a_home_restored_from_a_backup_continues(tmp_path: Path) -> None:
    config = f"storage: {{directory: {{path: {tmp_path / 'store'}}}}}\n{CHEAP}"
    home = Machine(tmp_path, "a", config=config)
    home.run("init")
    with Server(home) as server, server.client() as client:
        assert client.request("PUT", "/before", body=b"before").status == 201
        home.run("sync", "--wait")
    copy_folder(home.path, tmp_path / "backup")
    with Server(home) as server, server.client() as client:
        assert client.request("PUT", "/after", body=PHOTO).status == 201
        home.run("sync", "--wait")
    shutil.rmtree(home.path)
    shutil.move(tmp_path / "backup", home.path)
    with Server(home) as server, server.client() as client:
        assert client.request("GET", "/before").body == b"before"
        assert client.request("GET", "/after").body == PHOTO
        assert client.request("PUT", "/new", body=b"new").status == 201
        home.run("sync", "--wait")
        server.terminate()
    assert home.run("--json", "check", "--read-data").json()["ok"]
    other = home.beside("b", config=config)
    assert "epoch 3" in other.run("init", "--join").stdout
    with Server(other) as server, server.client() as client:
        for path, body in (("/before", b"before"), ("/after", PHOTO), ("/new", b"new")):
            assert client.request("GET", path).body == body
