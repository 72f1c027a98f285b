"""Creating, opening and closing a volume; its status and free space."""

import os
from pathlib import Path

import pytest

from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.platform import ManualClock
from tests.support.vaults import Vault, content, put, rows
from tests.support.volumes import PASSPHRASE, configuration, places
from tgdav.blobs.directory import DirectoryStore
from tgdav.crypto.passphrase import Passphrase
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.errors import AccessError, DamageError, LocalFailure, UsageError, VaultInUse
from tgdav.platform import Platform
from tgdav.vault.stores import open_store
from tgdav.volume import report
from tgdav.volume.capacity import UNLIMITED, disk_capacity
from tgdav.volume.initialize import create_vault, join_vault
from tgdav.volume.volume import Volume


def test_space(vault: Vault) -> None:
    where = places(vault.folder).for_config(configuration(vault.folder))
    bounded = open_store(configuration(vault.folder), places(vault.folder), vault.platform).bounded
    total, free = disk_capacity(where, lambda: 1000, bounded)()
    assert total == free + 1000
    assert 0 < free < UNLIMITED
    assert disk_capacity(where, lambda: 1000, None)() == (UNLIMITED, UNLIMITED - 1000)
    nowhere = places(vault.folder / "nowhere")
    assert disk_capacity(nowhere, lambda: 1000, bounded)() == (UNLIMITED, 0)


@pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")
def test_the_space_of_a_store_that_hangs_is_the_last_known(vault: Vault, tmp_path: Path) -> None:
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk") as disk:
        config = configuration(disk.path)
        where = places(disk.path).for_config(config)
        where.store.mkdir()
        bounded = open_store(config, where, vault.platform).bounded
        assert bounded is not None
        space = disk_capacity(where, lambda: 1000, bounded)
        before = space()
        disk.hang()
        assert space() == before
        assert bounded.is_stuck
        assert space() == before


def test_a_vault_is_opened_by_one_process(vault: Vault, volume: Volume) -> None:
    with pytest.raises(VaultInUse):
        vault.open()
    volume.close()
    volume.close()
    vault.open().close()


def test_what_fails_to_open_leaves_nothing_locked(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LocalFailure("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr("tgdav.replication.outbox.remove_leftovers", fail)
        with pytest.raises(LocalFailure):
            vault.open()
    database = next((vault.folder / "home" / "state").glob("*.db"))
    database.rename(vault.folder / "away")
    with pytest.raises(DamageError, match="database is missing"):
        vault.open()
    (vault.folder / "away").rename(database)
    vault.open().close()


def test_leftovers_of_the_outbox_go(vault: Vault) -> None:
    litter = vault.folder / "home" / "state" / "outbox" / "litter.log"
    litter.write_bytes(b"x")
    with vault.opened():
        assert not litter.exists()
    os.rename(litter.parent, vault.folder / "gone")
    with vault.opened() as volume:
        put(volume, "file", b"x")
        volume.sync(wait=True)


def test_no_second_vault(vault: Vault, tmp_path: Path) -> None:
    config, platform = configuration(vault.folder), Platform.system()
    with pytest.raises(UsageError, match="here already"):
        create_vault(places(vault.folder), config, PASSPHRASE, platform=platform)
    with pytest.raises(UsageError, match="already has a vault"):
        create_vault(places(vault.folder, "second"), config, PASSPHRASE, platform=platform)
    with pytest.raises(UsageError, match="here already"):
        join_vault(places(vault.folder), config, Passphrase(PASSPHRASE), platform=platform)
    empty = DirectoryStore.create(tmp_path / "store", disk=SystemDisk(), clock=ManualClock(), entropy=SystemEntropy())
    empty.close()
    with pytest.raises(UsageError, match="has no vault"):
        join_vault(places(tmp_path), configuration(tmp_path), Passphrase(PASSPHRASE), platform=platform)
    with pytest.raises(AccessError):
        join_vault(places(vault.folder, "third"), config, Passphrase("wrong"), platform=platform)


def test_a_header_without_a_log(vault: Vault) -> None:
    for path in vault.blobs()[2:]:
        path.unlink()
    with pytest.raises(DamageError, match="no segment of its log"):
        vault.join("second")


def test_an_interrupted_init_is_finished_by_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    config, platform = configuration(tmp_path), Platform(ManualClock(), SystemEntropy(), SystemDisk())
    with monkeypatch.context() as patched:
        patched.setattr("tgdav.vault.create.save_local", die)
        with pytest.raises(KeyboardInterrupt):
            create_vault(places(tmp_path), config, PASSPHRASE, platform=platform)
    with monkeypatch.context() as patched:
        patched.setattr(Volume, "sync", die)
        with pytest.raises(KeyboardInterrupt):
            create_vault(places(tmp_path), config, PASSPHRASE, platform=platform)
    volume = Volume.open(places(tmp_path), config, Passphrase(PASSPHRASE), platform=platform)
    assert volume.read_only_reason is None, "nobody else can be the writer of a vault that no store knows"
    put(volume, "file", b"x")
    volume.sync(wait=True)
    assert volume.check(read_data=100.0)["ok"]
    volume.close()


def test_status(vault: Vault, volume: Volume) -> None:
    put(volume, "file", content(1, 50_000))
    found = report.status(volume)
    resting = {"waiting_seconds": 0.0, "waiting_for": None, "waiting_until": None}
    assert found["store"] == {"backend": "directory", "reachable": True, **resting}
    assert (found["files"], found["bytes"], found["read_only"], found["last_error"]) == (1, 50_000, None, None)
    assert found["pending"]["bytes"] >= 50_000
    assert found["pending"]["operations"] > 0
    assert [(each["id"], each["epoch"]) for each in found["machines"]] == [(found["machine"], 1)]
    assert found["damage"] == []
    volume.sync(wait=True)
    assert report.status(volume)["pending"] == {"bytes": 0, "operations": 0}


def test_a_webdav_password_is_made_once(vault: Vault) -> None:
    with vault.opened() as volume:
        made, is_new = volume.webdav_password()
        assert is_new
        assert volume.webdav_password() == (made, False)
        assert rows(volume, "SELECT count(*) FROM settings WHERE key = 'webdav.password'") == [(1,)]
    with vault.opened() as volume:
        assert volume.webdav_password() == (made, False)
