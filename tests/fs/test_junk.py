"""Files that become junk, or are junk no longer, in unusual ways: what is no junk always reaches the store, and a join."""

from pathlib import Path

import pytest

from tests.support.vaults import Vault, content, make_folder, put, read, rows
from tgdav.errors import NotFound
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind
from tgdav.volume.volume import Volume

DATA, MORE = content(1, 70_000), b"written after the rename"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


def renamed_while_open(volume: Volume, old: bytes, new: bytes) -> None:
    fs = volume.fs
    handle = fs.open(fs.create(fs.root, old, Kind.FILE, 0o644, Owner()).inode, writable=True)
    handle.write(0, DATA)
    fs.rename(fs.root, old, fs.root, new)
    handle.write(len(DATA), MORE)
    handle.close()


def test_a_file_that_is_renamed_from_a_junk_name_while_it_is_open(vault: Vault) -> None:
    with vault.opened() as volume:
        renamed_while_open(volume, b"._file", b"file")
        volume.sync(wait=True)
        assert volume.pending()["operations"] == 0
        assert volume.check(read_data=100.0, drill=True)["ok"]
    vault.join("second")
    with vault.opened("second") as second:
        assert read(second, "file") == DATA + MORE


def test_a_file_that_is_renamed_to_a_junk_name_while_it_is_open(vault: Vault) -> None:
    with vault.opened() as volume:
        renamed_while_open(volume, b"file", b"._file")
        volume.sync(wait=True)
        assert read(volume, "._file") == DATA + MORE
        assert volume.check(read_data=100.0, drill=True)["ok"]
    vault.join("second")
    with vault.opened("second") as second, pytest.raises(NotFound):
        read(second, "._file")


def test_an_upload_to_a_junk_name_of_a_file_that_is_in_the_store(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "file", content(2, 50_000))
        volume.fs.link(volume.fs.resolve([b"file"]).inode, volume.fs.root, b"._file", durable=True)
        put(volume, "._file", DATA)
        put(volume, "other", content(3, 4000))
        volume.sync(wait=True)
        assert volume.pending()["operations"] == 0, "what is logged later is not held up by content that never leaves"
    vault.join("second")
    with vault.opened("second") as second:
        assert read(second, "file") == DATA
        assert read(second, "other") == content(3, 4000)


def test_a_junk_file_with_two_names_of_which_one_becomes_an_ordinary_name(vault: Vault) -> None:
    with vault.opened() as volume:
        fs = volume.fs
        put(volume, "._one", DATA)
        fs.link(fs.resolve([b"._one"]).inode, fs.root, b"._two", durable=True)
        fs.rename(fs.root, b"._two", fs.root, b"file", durable=True)
        assert rows(volume, "SELECT nlink, local FROM nodes WHERE kind = 1") == [(2, 0)]
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        assert volume.check(read_data=100.0, drill=True)["ok"]
    vault.join("second")
    with vault.opened("second") as second:
        assert second.check(read_data=100.0)["ok"]
        assert read(second, "file") == DATA


def test_junk_in_a_deleted_directory_stays_until_the_directory_is_purged(vault: Vault) -> None:
    with vault.opened() as volume:
        make_folder(volume, "directory")
        put(volume, "directory/file", DATA)
        put(volume, "directory/.DS_Store", b"junk")
        volume.sync(wait=True)
        volume.fs.remove_tree(volume.fs.root, b"directory", durable=True)
        volume.fs.sweep_local()
        assert volume.check()["ok"]
    with vault.opened() as volume:
        assert volume.check()["ok"], "nor does a restart sweep it"
        (deleted,) = volume.fs.trash.items()
        volume.fs.trash.restore(deleted.entry.hex().encode())
        assert read(volume, "directory/.DS_Store") == b"junk"
        volume.fs.remove_tree(volume.fs.root, b"directory", durable=True)
        volume.fs.trash.empty()
        assert rows(volume, "SELECT count(*) FROM nodes") == [(2,)]
        assert volume.check()["ok"]
