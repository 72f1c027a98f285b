"""The local state of a vault: directories, locks, the key file, the sealed files, and what unlocks it."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.platform import FailingDisk, RecordingDisk
from tests.support.vaults import Vault
from tests.support.volumes import PASSPHRASE, configuration, places
from tgdav.crypto import slots
from tgdav.crypto.passphrase import Passphrase
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.errors import AccessError, DamageError, LocalFailure, NoSpace, UsageError, VaultInUse
from tgdav.platform import Platform
from tgdav.vault import state_dir
from tgdav.vault.lock import LoginLock, StateLock
from tgdav.vault.state_dir import LocalNamespace, LocalVault, make_directory, write_file
from tgdav.vault.stores import open_store
from tgdav.vault.unlock import key_file_passphrase, unlock_store
from tgdav.volume.volume import Volume


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_private_and_durable(tmp_path: Path) -> None:
    disk = RecordingDisk()
    make_directory(tmp_path / "a" / "b" / "c", disk)
    assert [mode(tmp_path / each) for each in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert disk.names("sync_directory") == [tmp_path.name, "a", "b"]
    make_directory(tmp_path / "a" / "b", disk)
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
        make_directory(tmp_path / "x" / "y", disk)


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


def test_stores(vault: Vault) -> None:
    config = configuration(vault.folder)
    stores = open_store(config, places(vault.folder), vault.platform)
    assert stores.store.traits.backend == "directory"
    assert len(list(stores.store.list())) == len(vault.blobs())
    with pytest.raises(UsageError, match="api_id"):
        open_store(configuration(vault.folder, storage={"backend": "telegram"}), places(vault.folder), vault.platform)


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
