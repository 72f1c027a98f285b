"""The drill rebuilds from the store alone, from each of two checkpoints, and tells every difference from the live state."""

from pathlib import Path

import pytest

from tests.support.vaults import Vault, content, folder_of, make_folder, name_of, put, rows
from tgdav.check import drill
from tgdav.errors import WriterReplaced
from tgdav.fs.api import Owner
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.volume.volume import Volume


def furnish(volume: Volume, *, checkpoints: int = 2) -> None:
    """Files, directories, links, attributes, properties, trash and versions, around and between some checkpoints."""
    make_folder(volume, "directory")
    put(volume, "directory/file", content(1, 90_000), {b"{urn:a}b": b"value"})
    put(volume, ".DS_Store", b"junk")
    for number in range(checkpoints):
        put(volume, f"file-{number}", content(number, 50_000))
        put(volume, "changed", content(10 + number, 5000))
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
    fs = volume.fs
    inode = fs.resolve([b"directory", b"file"]).inode
    fs.set_attributes(inode, AttributeChange(mode=0o640, mtime=1_234_567_890_123_456_789), durable=True)
    fs.link(inode, fs.root, b"hard link", durable=True)
    fs.create(fs.root, b"symlink", Kind.SYMLINK, 0o777, Owner(), target=b"directory/file", durable=True)
    put(volume, "gone", content(4, 10_000))
    fs.remove_tree(fs.root, b"gone", durable=True)
    put(volume, "directory/.DS_Store", b"more junk")
    volume.sync(wait=True)


@pytest.mark.parametrize(("checkpoints", "starts"), [(0, [None]), (1, [1, None]), (3, [3, 2])])
def test_a_rebuild_equals_the_live_state(volume: Volume, checkpoints: int, starts: list[int | None]) -> None:
    furnish(volume, checkpoints=checkpoints)
    found = volume.check(drill=True)
    assert found["ok"], found
    assert [each["checkpoint"] for each in found["drills"]] == starts
    assert not any((volume.paths.state / "drill").iterdir())


def test_what_is_not_sent_is_applied_on_top(volume: Volume) -> None:
    furnish(volume)
    put(volume, "unsent", content(20, 70_000))
    volume.fs.rename(*folder_of(volume, "directory"), *folder_of(volume, "renamed"), durable=True)
    blobs = set(volume.stores.store.list())
    found = volume.check(drill=True)
    assert found["ok"], found
    assert [each["unsent"] for each in found["drills"]] == [2, 2]
    assert set(volume.stores.store.list()) == blobs, "a drill writes nothing to the store"


def test_segments_that_are_stored_meanwhile(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(volume)
    run, puts = drill.Rebuilder.run, []

    def slow(self: drill.Rebuilder) -> object:
        result = run(self)
        puts.append(put(volume, f"while-{len(puts)}", content(30 + len(puts), 60_000)))
        volume.sync(wait=True)
        return result

    monkeypatch.setattr(drill.Rebuilder, "run", slow)
    found = volume.check(drill=True)
    assert found["ok"], found
    assert len(puts) == 2


HARMS = {
    "UPDATE nodes SET mode = mode + 1 WHERE ino = {file}": "attributes differs: mode",
    "UPDATE nodes SET tag = zeroblob(16) WHERE ino = {file}": "attributes differs: tag",
    "UPDATE entries SET name = x'41' WHERE ino = {file}": "name differs: name",
    "DELETE FROM entries WHERE ino = {file}": "name only in the rebuilt state",
    "UPDATE fields SET value = x'41' WHERE ino = {file}": "extended attribute or property differs: value",
    "DELETE FROM fields WHERE ino = {file}": "extended attribute or property only in the rebuilt state",
    "INSERT INTO fields (ino, field, value, since) VALUES ({file}, x'783a61', x'41', 1)": "missing in the rebuilt state",
    "UPDATE entries SET origin = NULL WHERE parent = 2": "name differs: origin",
    "DELETE FROM entries WHERE parent = 2": "name only in the rebuilt state",
    "UPDATE machines SET epoch = 7": "machine differs: epoch",
    "DELETE FROM settings WHERE key = 'namespace'": "setting only in the rebuilt state",
}


@pytest.mark.parametrize("harm", HARMS)
def test_every_difference_is_told(volume: Volume, harm: str) -> None:
    furnish(volume)
    inode = volume.fs.resolve([b"directory", b"file"]).inode
    volume.database.writer.run(lambda t: t.execute(harm.format(file=inode)))
    found = volume.check(drill=True)
    assert not found["ok"]
    drills = [each for each in found["damage"] if each["kind"] == "drill"]
    assert len(drills) == 2
    for each in found["drills"]:
        assert not each["ok"]
        assert any(HARMS[harm] in text for text in each["differences"]), each
    if harm.startswith("UPDATE nodes"):
        assert drills[0]["paths"] == ["/directory/file", "/hard link"]


def test_a_lost_segment(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    put(volume, "last", content(20, 70_000))
    volume.sync(wait=True)
    (name,) = [row[0] for row in rows(volume, "SELECT name FROM segments ORDER BY number DESC LIMIT 1")]
    vault.blob(name).unlink()
    found = volume.check(drill=True)
    assert {each["kind"] for each in found["damage"]} == {"segment", "drill"}
    for each in found["drills"]:
        assert "/last: attributes missing in the rebuilt state" in each["differences"]


def test_a_damaged_checkpoint(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    (older,) = [row[0] for row in rows(volume, "SELECT name FROM checkpoint_parts WHERE number = 1")]
    blob = vault.blob(older)
    whole = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    found = volume.check(drill=True)
    newest, damaged = found["drills"]
    assert not damaged["ok"]
    assert any(name_of(blob) in text for text in damaged["problems"])
    assert newest["checkpoint"] == 2
    assert name_of(blob) in {each["blob"] for each in found["damage"]}


def test_a_replaced_machine_has_nothing_to_compare(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    vault.join("second")
    with vault.opened("second") as second:
        second.sync(wait=True)
        assert second.check(drill=True)["ok"]
    with pytest.raises(WriterReplaced):
        volume.check(drill=True)


def test_what_a_killed_drill_left_is_removed(vault: Vault) -> None:
    with vault.opened() as volume:
        left = volume.paths.state / "drill" / "0123"
    left.mkdir(parents=True)
    (left / "state.db").write_bytes(b"left")
    with vault.opened() as volume:
        assert not left.parent.exists()
        assert volume.check(drill=True)["ok"]
        directory: Path = left.parent
        assert directory.stat().st_mode & 0o777 == 0o700
