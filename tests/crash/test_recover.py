"""The machine is lost, the store is not: everything comes back, with the passphrase or the recovery key alone."""

import re
import shutil
from pathlib import Path

import pytest

from tests.crash.machines import CHEAP, PASSPHRASE, Machine, clean, content, folder_of, make_folder, path_of, put, tree
from tests.support.corpus import digests, make_tree
from tests.support.server import Home
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import parse_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError, WriterReplaced
from tgdav.fs.api import Owner
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.volume.volume import Volume

FILES = make_tree(7, 60, not_utf8=True, most=120_000)


def furnish(volume: Volume, *, checkpoints: bool) -> None:
    """A tree with odd names, times, properties, links, and a past: replaced, renamed and deleted files."""
    for path, data in FILES.items():
        _put_deep(volume, path, data)
    make_folder(volume, "kept")
    put(volume, "kept/file", content(1, 150_000), {b"{DAV:}displayname": b"<x/>", b"{urn:a}b": b"value"})
    inode = volume.fs.resolve(path_of("kept/file")).inode
    volume.fs.set_attributes(inode, AttributeChange(mode=0o640, mtime=1_234_567_890_123_456_789), durable=True)
    volume.fs.link(inode, volume.fs.root, b"hard link", durable=True)
    volume.fs.create(volume.fs.root, b"link", Kind.SYMLINK, 0o777, Owner(), target=b"kept/file", durable=True)
    volume.sync(wait=True)
    if checkpoints:
        assert volume.replicator.checkpoint()
    put(volume, "kept/replaced", content(2, 80_000))
    put(volume, "kept/replaced", content(3, 90_000))
    put(volume, "gone", content(4, 10_000))
    volume.fs.remove_tree(volume.fs.root, b"gone", durable=True)
    volume.fs.rename(*folder_of(volume, "kept/replaced"), *folder_of(volume, "renamed"), durable=True)
    volume.sync(wait=True)


def _put_deep(volume: Volume, path: bytes, data: bytes) -> None:
    *folders, name = path.split(b"/")
    parent = volume.fs.root
    for folder in folders:
        entries = {entry.name: entry.attributes.inode for entry in volume.fs.list_directory(parent)}
        if folder not in entries:
            entries[folder] = volume.fs.create(parent, folder, Kind.DIRECTORY, 0o755, Owner()).inode
        parent = entries[folder]
    with volume.fs.upload(parent, name, owner=Owner()) as upload:
        upload.write(data)
        upload.commit()


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("by", ["passphrase", "recovery key"])
def test_everything_comes_back(quick_path: Path, by: str, checkpoints: bool) -> None:
    machine = Machine(quick_path, "lost")
    created = machine.create()
    with machine.opened() as volume:
        furnish(volume, checkpoints=checkpoints)
        before = tree(volume)
        assert {path: each.content for path, each in before.items()}.items() >= digests(FILES).items()
    shutil.rmtree(machine.home)
    secret: Secret = Passphrase(PASSPHRASE) if by == "passphrase" else parse_recovery_key(created.recovery_key)
    found = Machine(quick_path, "found")
    joined = found.join(secret)
    assert (joined.epoch, joined.replaced, joined.damage) == (2, "lost", [])
    with found.opened(secret) as volume:
        assert tree(volume) == before
        clean(volume)
        put(volume, "new", b"the joined machine writes")
        volume.sync(wait=True)
        after = tree(volume)
    third = Machine(quick_path, "third")
    assert third.join().epoch == 3
    with third.opened() as volume:
        assert tree(volume) == after


def test_a_wrong_secret_recovers_nothing(quick_path: Path) -> None:
    Machine(quick_path, "first").create()
    other = Machine(quick_path, "second")
    with pytest.raises(AccessError):
        other.join(Passphrase("wrong"))
    assert other.join().epoch == 2


def test_the_old_passphrase_ends_with_passwd(quick_path: Path) -> None:
    machine = Machine(quick_path, "first")
    machine.create()
    with machine.opened() as volume:
        volume.change_passphrase("another one")
        key = volume.new_recovery_key()
    for number, secret in enumerate((Passphrase("another one"), parse_recovery_key(key))):
        Machine(quick_path, f"joined-{number}").join(secret)
    with pytest.raises(AccessError):
        Machine(quick_path, "refused").join()


def test_who_is_replaced_keeps_what_it_did_not_send(quick_path: Path) -> None:
    first, second = Machine(quick_path, "first"), Machine(quick_path, "second")
    first.create()
    with first.opened() as volume:
        put(volume, "shared", content(1, 5000))
        volume.sync(wait=True)
        put(volume, "unsent", content(2, 5000))
        assert second.join().replaced == "first"
        with pytest.raises(WriterReplaced, match="second"):
            volume.sync(wait=True)
        assert volume.read_only_reason is not None
        assert "second" in volume.read_only_reason
        assert volume.pending()["operations"] > 0
        shown = tree(volume)
    with first.opened() as volume:
        assert tree(volume) == shown
        assert volume.read_only_reason is not None
        assert volume.pending()["operations"] > 0
    with second.opened() as volume:
        assert set(tree(volume)) == {b"shared"}
        clean(volume)


def test_with_the_commands_as_they_are_written(tmp_path: Path) -> None:
    """The walk-through: init, serve, PUT, sync; a second machine joins while the first serves; then the first is lost."""
    first = Home(tmp_path, "a", config="version: 2\nmachine: {name: alpha}\n" + CHEAP)
    made = first.run("init", "--backend", "directory", "--path", str(tmp_path / "store")).stdout
    key = re.search(r"recovery key: ([A-Z0-9-]+)", made)
    assert key is not None
    bytes_ = content(5, 2_000_000)
    with first.server() as server, server.client() as client:
        assert client.request("PUT", "/photo.jpg", body=bytes_).status == 201
        assert first.run("--json", "sync", "--wait").json()["pending"] == {"bytes": 0, "operations": 0}
        assert client.request("PUT", "/unsent", body=b"unsent").status == 201
        second = first.beside("b", config="version: 2\nmachine: {name: beta}\n" + CHEAP)
        told = second.run("init", "--join", "--backend", "directory", "--path", str(tmp_path / "store")).stdout
        assert "Joined. This machine is now the writer (epoch 2), replacing alpha" in told
        assert first.run("sync", check=False).code != 0
        refused = client.request("PUT", "/later", body=b"later")
        assert refused.status == 403
        assert b"beta" in refused.body
        assert client.request("GET", "/unsent").body == b"unsent"
        assert first.run("--json", "status").json()["pending"]["operations"] > 0
    shutil.rmtree(first.path)
    shutil.rmtree(second.path)
    third = first.beside("c", config="version: 2\n" + CHEAP)
    third.variables |= {"TGDAV_PASSPHRASE": None, "TGDAV_RECOVERY_KEY": key[1]}
    third.run("init", "--join", "--backend", "directory", "--path", str(tmp_path / "store"))
    third.variables = {}
    third.run("check", "--read-data")
    with third.server() as server, server.client() as client:
        assert client.request("GET", "/photo.jpg").body == bytes_
        assert client.request("GET", "/unsent").status == 404
