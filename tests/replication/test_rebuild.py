"""Rebuilding from the store: everything comes back, and what is lost is named while the rest comes back all the same."""

import uuid
from pathlib import Path

import pytest

from tests.support.corpus import make_tree
from tests.support.vaults import (
    Vault,
    assert_same,
    content,
    folder_of,
    key_of,
    make_folder,
    name_of,
    put,
    read,
    rows,
    state,
)
from tgdav.crdt.membership import Base
from tgdav.crypto.label import BlobKind
from tgdav.errors import DamageError
from tgdav.fs.api import Owner
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.replication.blob_listing import BlobListing, LabelledBlob
from tgdav.replication.intake import Intake
from tgdav.replication.log_reader import LogReader
from tgdav.volume import report
from tgdav.volume.volume import Volume


def segment_names(volume: Volume) -> list[bytes]:
    query = "SELECT name FROM segments WHERE incarnation = ? ORDER BY number"
    return [row[0] for row in rows(volume, query, (key_of(volume),))]


def several(volume: Volume, count: int = 4, size: int = 40_000) -> list[bytes]:
    """Send a folder and a file in it by a segment of their own, several times; return the segments' names."""
    for number in range(count):
        make_folder(volume, f"folder-{number}")
        put(volume, f"folder-{number}/file", content(number, size))
        volume.sync(wait=True)
    return segment_names(volume)[-count:]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_all_kinds_of_things_come_back(vault: Vault, volume: Volume, checkpointed: bool) -> None:
    fs = volume.fs
    tree = make_tree(3, 40)
    for path, data in tree.items():
        folder = fs.root
        *above, name = path.split(b"/")
        for part in above:
            if not any(entry.name == part for entry in fs.list_directory(folder)):
                fs.create(folder, part, Kind.DIRECTORY, 0o750, Owner(7, 8))
            folder = fs.lookup(folder, part).inode
        with fs.upload(folder, name, owner=Owner(1000, 1001)) as upload:
            upload.write(data)
            upload.commit(mtime=1_234_567_890_123_456_789, properties=lambda _: {b"{ns}color": b"red"})
    fs.create(fs.root, b"link", Kind.SYMLINK, 0o777, Owner(), target=b"some/where \xff")
    fs.create(fs.root, b"pipe", Kind.FIFO, 0o600, Owner())
    fs.create(fs.root, b"device", Kind.CHARACTER_DEVICE, 0o660, Owner(), rdev=0x0501)
    some = fs.resolve(next(iter(tree)).split(b"/"))
    fs.link(some.inode, fs.root, b"second name")
    fs.set_xattr(some.inode, b"user.note", b"\0binary\xff")
    fs.set_attributes(some.inode, AttributeChange(mode=0o4711, uid=5, gid=6, mtime=-1_000_000_007))
    volume.sync(wait=True)  # what was never sent would not go to the trash
    fs.remove_tree(*folder_of(volume, "pipe"))
    volume.sync(wait=True)
    if checkpointed:
        assert volume.replicator.checkpoint()
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert_same(volume, second)
        assert second.check(read_data=100.0)["ok"]
        for path, data in tree.items():
            found = second.fs.resolve(path.split(b"/"))
            handle = second.fs.open(found.inode)
            assert handle.read(0, found.size + 1) == data
            handle.close()
        assert second.fs.resolve([b"second name"]).nlink == 2
        assert second.fs.resolve([b"device"]).rdev == 0x0501
        assert second.fs.read_link(second.fs.resolve([b"link"]).inode) == b"some/where \xff"


def test_a_damaged_segment_in_the_middle(vault: Vault, volume: Volume) -> None:
    names = several(volume)
    put(volume, "folder-1/later", b"later")
    volume.sync(wait=True)
    blob = vault.blob(names[1])
    blob.unlink()
    blob.write_bytes(b"x" * 70_000)
    joined = vault.join("second")
    number = rows(volume, "SELECT number FROM segments WHERE name = ?", (names[1],))[0][0]
    machine = uuid.UUID(bytes=volume.log.machine_id)
    assert any(names[1].hex() in line for line in joined.damage)
    wanted = f"segment {number} of the log of machine {volume.log.machine_name} ({machine}) is missing"
    assert any(line.startswith(wanted) and "check --repair" in line for line in joined.damage)
    with vault.opened("second") as second:
        shown = {entry.name for entry in second.fs.list_directory(second.fs.root)}
        assert shown == {b"folder-0", b"folder-2", b"folder-3", b"lost+found"}
        (lost,) = second.fs.list_directory(second.fs.resolve([b"lost+found"]).inode)
        assert [entry.name for entry in second.fs.list_directory(lost.attributes.inode)] == [b"later"]
        assert read(second, "folder-3/file") == content(3, 40_000)
        assert {each["kind"] for each in report.status(second)["damage"]} == {"segment", "gap"}


def test_several_missing_segments_are_named(vault: Vault, volume: Volume) -> None:
    names = several(volume)
    for name in names[1:3]:
        vault.blob(name).unlink()
    first = rows(volume, "SELECT number FROM segments WHERE name = ?", (names[1],))[0][0]
    (line,) = vault.join("second").damage
    machine = f"machine {volume.log.machine_name} ({uuid.UUID(bytes=volume.log.machine_id)})"
    assert line.startswith(f"segments {first} to {first + 1} of the log of {machine} are missing")


def test_a_gap_is_told_until_a_rebuild_finds_none(vault: Vault, volume: Volume) -> None:
    names = several(volume)
    lost = vault.blob(names[1])
    kept = lost.read_bytes()
    lost.unlink()
    (line,) = vault.join("second").damage
    with vault.opened("second") as second:
        for whole in (False, True):
            if whole:
                lost.write_bytes(kept)
            found = second.check(read_data=100.0)
            assert not found["ok"]
            assert [(each["kind"], each["reason"]) for each in found["damage"]] == [("gap", line)]
            assert report.status(second)["last_error"] == line
    assert vault.join("third").damage == []
    with vault.opened("third") as third:
        assert third.check()["ok"]


def test_a_lost_end_is_told_by_who_wrote_after_it(vault: Vault, volume: Volume) -> None:
    several(volume)
    last = segment_names(volume)[-1]
    vault.join("second")
    vault.blob(last).unlink()
    ((first, end),) = rows(volume, "SELECT first, last FROM segments WHERE name = ?", (last,))
    (line,) = vault.join("third").damage
    machine = f"machine {volume.log.machine_name} ({uuid.UUID(bytes=volume.log.machine_id)})"
    assert line.startswith(f"operations {first} to {end} of the log of {machine} are missing")
    with vault.opened("third") as third:
        assert [each["kind"] for each in report.status(third)["damage"]] == ["gap"]


def test_the_beginning_of_the_log_is_lost(vault: Vault, volume: Volume) -> None:
    several(volume)
    vault.blob(segment_names(volume)[0]).unlink()
    joined = vault.join("second")
    assert (joined.epoch, len(joined.damage)) == (2, 1)
    with vault.opened("second") as second:
        assert read(second, "folder-3/file") == content(3, 40_000)


def test_a_checkpoint_makes_up_for_lost_segments(vault: Vault, volume: Volume) -> None:
    names = several(volume)
    assert volume.replicator.checkpoint()
    put(volume, "after", b"after")
    volume.sync(wait=True)
    for name in names:
        vault.blob(name).unlink()
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert_same(volume, second)


def test_a_lost_pack_is_damage_until_it_is_back(vault: Vault) -> None:
    volume = vault.open()
    for checkpointed in (False, True):
        path = f"file-{checkpointed}"
        put(volume, path, content(9 + checkpointed, 90_000))
        volume.sync(wait=True)
        if checkpointed:
            assert volume.replicator.checkpoint()
        (pack,) = rows(volume, "SELECT name FROM packs WHERE state = 3 ORDER BY no DESC LIMIT 1")
        blob = vault.blob(pack[0])
        blob.rename(vault.folder / blob.name)
        home = f"second-{checkpointed}"
        assert [line for line in vault.join(home).damage if f"pack {pack[0].hex()}" in line]
        with vault.opened(home) as second:
            with pytest.raises(DamageError, match="the store has lost a pack"):
                read(second, path)
            assert [each["kind"] for each in report.status(second)["damage"]] == ["pack"], (
                "reading it is no other damage"
            )
            found = second.check()
            assert [(each["blob"], each["paths"]) for each in found["damage"]] == [(pack[0].hex(), [f"/{path}"])]
            assert report.status(second)["damage"]
            (vault.folder / blob.name).rename(blob)
            assert second.check()["ok"]
            assert not report.status(second)["damage"]
            assert read(second, path) == content(9 + checkpointed, 90_000)
        volume.close()
        volume = vault.open(home)
    volume.close()


def test_segments_appended_again_are_taken_where_they_belong(vault: Vault, volume: Volume) -> None:
    names = several(volume)
    put(volume, "folder-1/later", b"later")
    volume.sync(wait=True)
    blob = vault.blob(names[1])
    blob.unlink()
    assert volume.check(repair=True)["repaired"] == [names[1].hex()]
    assert vault.blobs()[-1] == vault.blob(names[1]), "it is the newest blob now"
    assert volume.check(read_data=100.0)["ok"]
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert_same(volume, second)


def test_equal_copies_count_once_and_stand_in_for_each_other(vault: Vault, volume: Volume) -> None:
    names = several(volume)
    newest = int(vault.blobs()[-1].name[:16])
    for number, name in enumerate(names, 1):
        blob = vault.blob(name)
        copy = blob.with_name(f"{newest + number:016d}" + blob.name[16:])
        copy.write_bytes(blob.read_bytes())
        copy.chmod(0o600)
        blob.unlink() if number == 2 else None
        if number == 3:
            blob.unlink()
            blob.write_bytes(b"bad")
    joined = vault.join("second")
    assert not joined.damage
    with vault.opened("second") as second:
        assert len(segment_names(second)) == 1
        there = {table: rows_ for table, rows_ in state(second.database).items() if table in ("nodes", "entries")}
        assert there.items() <= state(volume.database).items()


def test_foreign_files_are_ignored(vault: Vault, volume: Volume) -> None:
    several(volume, 1)
    (vault.store / "holiday.jpg").write_bytes(b"not ours")
    blob = vault.blobs()[-2]
    odd = blob.name[:17] + "ff" * 16 + "-" + "A" * 172
    (vault.store / odd).write_bytes(b"\0" * 1000)
    assert volume.check(read_data=100.0)["ok"]
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert second.check(read_data=100.0)["ok"]


def test_an_interrupted_join_is_begun_anew(vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    several(volume, 2)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for where in (
        "tgdav.replication.rebuild.begin_log",
        "tgdav.vault.create.save_local",
        "tgdav.vault.join.save_header",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(where, die)
            with pytest.raises(KeyboardInterrupt):
                vault.join("second")
    assert vault.join("second").epoch == 2
    with vault.opened("second") as second:
        assert_same(volume, second)


def test_the_order_of_chains(vault: Vault, volume: Volume) -> None:
    several(volume, 3)
    survey = BlobListing(volume.stores.store.list(), volume.vault_keys)
    found = survey.of(volume.log.namespace, BlobKind.SEGMENT)
    moved: list[LabelledBlob] = [found[0], *found[2:], found[1]]
    for shown, missing in ((moved, 0), (moved[1:], 1)):
        intake = Intake(LogReader(volume.stores.store, volume.vault_keys, volume.log.keys), Base())
        intake.open_all(shown)
        judged = intake.judge()
        assert [link.number for link in judged.order] == [each.label.number for each in found[missing:]]
        assert (len(judged.gaps), intake.troubles) == (missing, [])


def test_names_in_the_store(vault: Vault, volume: Volume) -> None:
    several(volume, 1)
    known = {row[0].hex() for row in rows(volume, "SELECT name FROM blobs WHERE gone = 0")}
    assert known == {name_of(path) for path in vault.blobs()}
    assert all(isinstance(path, Path) for path in vault.blobs())
