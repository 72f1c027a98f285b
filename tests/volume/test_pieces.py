"""The small pieces of a volume, each by itself."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.platform import FailingDisk, ManualClock, RecordingDisk
from tests.support.vaults import Vault, content, put, rows
from tests.support.volumes import PASSPHRASE, configuration, places
from tgdav.blobs.directory import DirectoryStore
from tgdav.crypto import slots
from tgdav.crypto.passphrase import Passphrase
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.errors import AccessError, DamageError, LocalFailure, NoSpace, UsageError, VaultInUse
from tgdav.platform import Platform
from tgdav.vault import state_dir
from tgdav.vault.lock import LoginLock, StateLock
from tgdav.vault.state_dir import LocalNamespace, LocalVault, make_folder, write_file
from tgdav.vault.stores import open_store
from tgdav.vault.unlock import key_file_passphrase, unlock_store
from tgdav.volume import report
from tgdav.volume.capacity import UNLIMITED, disk_capacity
from tgdav.volume.initialize import create_vault, join_vault
from tgdav.volume.volume import Volume


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_folders_are_private_and_durable(tmp_path: Path) -> None:
    disk = RecordingDisk()
    make_folder(tmp_path / "a" / "b" / "c", disk)
    assert [mode(tmp_path / each) for each in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert disk.names("sync_directory") == [tmp_path.name, "a", "b"]
    make_folder(tmp_path / "a" / "b", disk)
    assert len(disk.calls) == 3


def test_a_file_is_written_synced_renamed_synced(tmp_path: Path) -> None:
    disk = RecordingDisk()
    write_file(tmp_path / "file", b"content", disk)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert mode(tmp_path / "file") == 0o600
    assert [call.call for call in disk.calls] == ["write", "sync", "rename", "sync_directory"]


@pytest.mark.parametrize(("call", "error", "raised"), [
    ("write", errno.ENOSPC, NoSpace), ("write", errno.EDQUOT, NoSpace), ("sync", errno.EIO, LocalFailure),
    ("rename", errno.EIO, LocalFailure), ("sync_directory", errno.EIO, LocalFailure),
])  # fmt: skip
def test_a_failing_disk_leaves_the_old_file_or_the_new(
    tmp_path: Path, call: str, error: int, raised: type[Exception]
) -> None:
    write_file(tmp_path / "file", b"old", SystemDisk())
    disk = FailingDisk()
    disk.fail(call, error)
    with pytest.raises(raised):
        write_file(tmp_path / "file", b"new", disk)
    assert (tmp_path / "file").read_bytes() in (b"old", b"new")
    disk.fail("sync_directory", errno.EIO)
    with pytest.raises(LocalFailure):
        make_folder(tmp_path / "x" / "y", disk)


# ---- lock, key file --------------------------------------------------------------------------------------------------


def test_one_process_owns_the_state(tmp_path: Path) -> None:
    lock = StateLock(tmp_path / "lock")
    with pytest.raises(VaultInUse, match=rf"another tgdav process \(process {os.getpid()}\) has this vault open"):
        StateLock(tmp_path / "lock")
    lock.release()
    lock.release()
    StateLock(tmp_path / "lock").release()
    assert mode(tmp_path / "lock") == 0o600
    with pytest.raises(LocalFailure):
        StateLock(tmp_path / "nowhere" / "lock")


def test_a_login_is_used_by_one_process_whatever_others_put_in_its_way(tmp_path: Path) -> None:
    """Anybody can make a folder, or a link, of the name where temporary files go: the next place is taken then."""
    link, own, open_one = tmp_path / "link", tmp_path / "own", tmp_path / "open"
    link.symlink_to(tmp_path, target_is_directory=True)
    open_one.mkdir()
    open_one.chmod(0o777)
    (open_one / "file-of-anybody").touch()
    foreign = tmp_path / "foreign" if os.geteuid() == 0 else Path("/usr")
    if os.geteuid() == 0:
        foreign.mkdir(mode=0o700)
        os.chown(foreign, 65534, 65534)
    places = (link, foreign, open_one, own)
    lock = LoginLock("session", places)
    assert mode(own) == 0o700
    with pytest.raises(VaultInUse, match="another tgdav process uses this Telegram login"):
        LoginLock("session", places)
    LoginLock("another session", places).release()
    lock.release()
    LoginLock("session", places).release()
    assert not list(foreign.glob("*.login"))
    assert not list(tmp_path.glob("*.login"))


def test_a_folder_of_our_own_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o755)
    LoginLock("session", (folder,)).release()
    assert mode(folder) == 0o700


def test_key_file(tmp_path: Path) -> None:
    platform, path = Platform.system(), tmp_path / "folder" / "key"
    assert key_file_passphrase(path, platform, make=False) is None
    made = key_file_passphrase(path, platform, make=True)
    assert made is not None
    assert len(made) == 64
    assert mode(path) == 0o600
    assert key_file_passphrase(path, platform, make=True) == made
    path.write_text(f"\ufeff{made}\r\n", encoding="utf-8", newline="")
    assert key_file_passphrase(path, platform, make=True) == made
    path.write_text("")
    with pytest.raises(DamageError):
        key_file_passphrase(path, platform, make=True)


# ---- local state -----------------------------------------------------------------------------------------------------


def test_local_state(vault: Vault, volume: Volume) -> None:
    state = places(vault.folder).state
    assert state_dir.vault_exists(state)
    assert state_dir.load_header(state) == volume.header
    saved = state_dir.load_vault(state, volume.vault_keys)
    assert saved.machine_name == volume.log.machine_name
    assert saved.namespace(None).name == saved.namespace("default").name == "default"
    with pytest.raises(UsageError):
        saved.namespace("another")
    other = LocalVault(b"sealed", "name", (LocalNamespace(saved.namespaces[0].id, "n", b"box"),))
    state_dir.save_vault(state, other, volume.vault_keys, SystemEntropy(), SystemDisk())
    assert state_dir.load_vault(state, volume.vault_keys) == other


def test_no_local_state(tmp_path: Path, volume: Volume) -> None:
    assert not state_dir.vault_exists(tmp_path / "none")
    with pytest.raises(UsageError):
        state_dir.load_header(tmp_path / "none")
    with pytest.raises(UsageError):
        state_dir.load_vault(tmp_path / "none", volume.vault_keys)


@pytest.mark.parametrize("file", ["vault", "header"])
def test_damaged_local_state(vault: Vault, volume: Volume, file: str) -> None:
    path = places(vault.folder).state / file
    whole = path.read_bytes()
    for place in range(0, len(whole), max(len(whole) // 50, 1)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DamageError):
            state_dir.load_header(path.parent) if file == "header" else state_dir.load_vault(
                path.parent, volume.vault_keys
            )
    path.write_bytes(whole)


# ---- space, stores ---------------------------------------------------------------------------------------------------


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


def test_stores(vault: Vault) -> None:
    config = configuration(vault.folder)
    stores = open_store(config, places(vault.folder), vault.platform)
    assert stores.store.traits.backend == "directory"
    assert len(list(stores.store.list())) == len(vault.blobs())
    with pytest.raises(UsageError, match="api_id"):
        open_store(configuration(vault.folder, storage={"backend": "telegram"}), places(vault.folder), vault.platform)


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_a_wrong_passphrase_costs_one_run(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    key = slots._wrapping_key
    monkeypatch.setattr(slots, "_wrapping_key", lambda *arguments: runs.append(1) or key(*arguments))
    for sections in ({}, {"storage": {"directory": {"path": "/nowhere"}}}):
        with pytest.raises(AccessError, match="wrong passphrase"):
            Volume.open(
                places(vault.folder),
                configuration(vault.folder, **sections),
                Passphrase("wrong"),
                platform=vault.platform,
            )
    assert len(runs) == 2
    with vault.opened():
        pass


def test_unlocking_a_store(vault: Vault, volume: Volume) -> None:
    store = volume.stores.store
    assert unlock_store(store, store.list(), Passphrase(PASSPHRASE))[0] == volume.master
    with pytest.raises(UsageError):
        unlock_store(store, [], Passphrase(PASSPHRASE))
    headers = [path for path in vault.blobs() if path.stat().st_size == 65536][:2]
    for path in headers:
        path.write_bytes(b"\0" * 65536)
    with pytest.raises(DamageError):
        unlock_store(store, store.list(), Passphrase(PASSPHRASE))


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
    with pytest.raises(DamageError, match="database is gone"):
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


# ---- making and joining ----------------------------------------------------------------------------------------------


def test_no_second_vault(vault: Vault, tmp_path: Path) -> None:
    config, platform = configuration(vault.folder), Platform.system()
    with pytest.raises(UsageError, match="here already"):
        create_vault(places(vault.folder), config, PASSPHRASE, platform=platform)
    with pytest.raises(UsageError, match="holds a vault already"):
        create_vault(places(vault.folder, "second"), config, PASSPHRASE, platform=platform)
    with pytest.raises(UsageError, match="here already"):
        join_vault(places(vault.folder), config, Passphrase(PASSPHRASE), platform=platform)
    empty = DirectoryStore.create(tmp_path / "store", disk=SystemDisk(), clock=ManualClock(), entropy=SystemEntropy())
    empty.close()
    with pytest.raises(UsageError, match="holds no vault"):
        join_vault(places(tmp_path), configuration(tmp_path), Passphrase(PASSPHRASE), platform=platform)
    with pytest.raises(AccessError):
        join_vault(places(vault.folder, "third"), config, Passphrase("wrong"), platform=platform)


def test_a_header_without_a_log(vault: Vault) -> None:
    for path in vault.blobs()[2:]:
        path.unlink()
    with pytest.raises(DamageError, match="nothing of its log"):
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


# ---- status ----------------------------------------------------------------------------------------------------------


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
