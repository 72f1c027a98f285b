"""The drill rebuilds from the store alone, from each of two checkpoints, and tells every difference from the live state."""

import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash.damaging import any_seed
from tests.crash.machines import MINUTES
from tests.support.vaults import Vault, content, folder_of, make_folder, name_of, put, rows
from tgdav.check import drill
from tgdav.errors import TgdavError, WriterReplaced
from tgdav.fs.api import Owner
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.volume.volume import Volume


def furnish(volume: Volume, *, checkpoints: int = 2) -> None:
    """Files, directories, links, attributes, properties, trash, versions, snapshots around and between some checkpoints."""
    make_folder(volume, "directory")
    put(volume, "directory/file", content(1, 90_000), {b"{urn:a}b": b"value"})
    put(volume, ".DS_Store", b"junk")
    for number in range(checkpoints):
        put(volume, f"file-{number}", content(number, 50_000))
        put(volume, "changed", content(10 + number, 5000), {b"{urn:a}number": b"%d" % number})
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        volume.make_snapshot(f"snapshot-{number}")
    fs = volume.fs
    inode = fs.resolve([b"directory", b"file"]).inode
    fs.set_attributes(inode, AttributeChange(mode=0o640, mtime=1_234_567_890_123_456_789), durable=True)
    fs.link(inode, fs.root, b"hard link", durable=True)
    fs.create(fs.root, b"symlink", Kind.SYMLINK, 0o777, Owner(), target=b"directory/file", durable=True)
    volume.make_snapshot("last")
    put(volume, "gone", content(4, 10_000))
    put(volume, "directory/file", content(5, 30_000), {b"{urn:a}b": b"another"})
    fs.rename(*folder_of(volume, "symlink"), *folder_of(volume, "directory/renamed"), durable=True)
    volume.sync(wait=True)  # what was never sent would not go to the trash
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
    if checkpoints:
        assert {row[0] for row in rows(volume, "SELECT kept FROM nodes_past")} == {0, 1}
        assert rows(volume, "SELECT 1 FROM entries_past")
        assert rows(volume, "SELECT 1 FROM fields_past")


def test_what_is_not_sent_is_applied_on_top(volume: Volume) -> None:
    furnish(volume)
    put(volume, "unsent", content(20, 70_000))
    volume.fs.rename(*folder_of(volume, "directory"), *folder_of(volume, "renamed"), durable=True)
    blobs = set(volume.stores.store.list())
    found = volume.check(drill=True)
    assert found["ok"], found
    assert [each["unsent"] for each in found["drills"]] == [2, 2]
    assert set(volume.stores.store.list()) == blobs, "a drill writes nothing to the store"


NAMES = ("a", "b", "c", ".DS_Store", "._d", "Thumbs.db")


class History:
    """Random changes of a small tree, with snapshots, pushes and checkpoints in between."""

    def __init__(self, vault: Vault, volume: Volume, seed: int) -> None:
        self.vault, self.volume, self.random = vault, volume, random.Random(seed)
        self.snapshots = 0
        self.steps = [self.put, self.put, self.put, self.mkdir, self.rename, self.rename, self.remove, self.link]
        self.steps += [self.attributes, self.property, self.snapshot, self.unsnapshot, self.sync, self.checkpoint]
        self.steps += [self.restore, self.purge, self.collect]

    def run(self, count: int) -> None:
        for _ in range(count):
            self.vault.clock.advance(self.random.choice((0.1, 3.0, 100.0)))
            with suppress(TgdavError):
                self.random.choice(self.steps)()

    def place(self) -> tuple[Inode, bytes]:
        fs = self.volume.fs
        folders = [fs.root]
        folders += [each.attributes.inode for each in fs.list_directory(fs.root) if each.attributes.is_directory]
        return self.random.choice(folders), self.random.choice(NAMES).encode()

    def found(self) -> Inode:
        return self.volume.fs.lookup(*self.place()).inode

    def put(self) -> None:
        with self.volume.fs.upload(*self.place(), owner=Owner()) as upload:
            upload.write(self.random.randbytes(self.random.choice((0, 10, 3000, 50_000))))
            upload.commit()

    def mkdir(self) -> None:
        self.volume.fs.create(*self.place(), Kind.DIRECTORY, 0o755, Owner())

    def rename(self) -> None:
        self.volume.fs.rename(*self.place(), *self.place())

    def remove(self) -> None:
        self.volume.fs.remove_tree(*self.place())

    def link(self) -> None:
        self.volume.fs.link(self.found(), *self.place())

    def attributes(self) -> None:
        self.volume.fs.set_attributes(self.found(), AttributeChange(mode=self.random.randrange(0o777)))

    def property(self) -> None:
        value = self.random.choice((None, b"1", b"2"))
        self.volume.fs.set_properties(self.found(), {b"{urn:a}b": value})

    def snapshot(self) -> None:
        self.snapshots += 1
        self.volume.make_snapshot(f"snapshot-{self.snapshots}")
        self.volume.list_snapshots()  # does the upkeep

    def unsnapshot(self) -> None:
        self.volume.snapshots.delete(f"snapshot-{self.random.randrange(self.snapshots + 1)}")

    def restore(self) -> None:
        deleted = list(self.volume.fs.trash.items())
        if deleted:
            self.volume.fs.trash.restore(self.random.choice(deleted).entry.hex().encode())

    def purge(self) -> None:
        self.volume.fs.trash.empty(self.vault.clock.now_ns() - self.random.choice((0, 500)) * 10**9)

    def collect(self) -> None:
        self.volume.gc()

    def sync(self) -> None:
        self.volume.sync(wait=True)

    def checkpoint(self) -> None:
        self.sync()
        self.volume.replicator.checkpoint()


@pytest.mark.parametrize("seed", range(8))
def test_random_histories(vault: Vault, seed: int) -> None:
    drill_history(vault, seed)


@pytest.mark.torture
def test_random_histories_for_a_long_time(tmp_path: Path) -> None:
    end, count = time.monotonic() + MINUTES * 60 / 6, 0
    first = any_seed()
    while time.monotonic() < end:
        drill_history(Vault(tmp_path / str(count)), first + count)
        shutil.rmtree(tmp_path / str(count))
        count += 1
    print(f"\ndrill: {count} histories from seed {first}")


def drill_history(vault: Vault, seed: int) -> None:
    with vault.opened() as volume:
        history = History(vault, volume, seed)
        for _ in range(3):
            history.run(60)
            found = volume.check(drill=True)
            assert found["ok"], (seed, found)


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
    "UPDATE settings SET value = x'05' WHERE key = 'policy.versions'": "setting differs: value",
    "DELETE FROM pins WHERE name = 'last'": "snapshot only in the rebuilt state",
    "UPDATE pins SET name = 'other' WHERE name = 'last'": "snapshot differs: name",
    "UPDATE pins SET position = 1 WHERE name = 'last'": "snapshot differs: order",
    "DELETE FROM nodes_past WHERE kept = 1": "versions only in the rebuilt state",
    "UPDATE nodes_past SET version = 9 WHERE kept = 1": "versions differs: versions",
    "UPDATE nodes_past SET tag = zeroblob(16) WHERE kept = 1": "versions differs: versions",
    "DELETE FROM nodes_past WHERE kept = 0": "in snapshots: attributes differs: states",
    "UPDATE nodes_past SET mode = 0": "in snapshots: attributes differs: states",
    "UPDATE nodes SET since = 1 WHERE ino = {file}": "in snapshots: attributes differs: states",
    "DELETE FROM entries_past": "in snapshots: name only in the rebuilt state",
    "UPDATE entries_past SET name = x'41'": "in snapshots: name differs: states",
    "DELETE FROM fields_past": "in snapshots: extended attribute or property differs: states",
    "UPDATE fields_past SET value = x'41'": "in snapshots: extended attribute or property differs: states",
    "INSERT INTO tombstones (id) VALUES (zeroblob(16))": "purged directory missing in the rebuilt state",
    "INSERT INTO predecessors SELECT id, 1, ino, id FROM entries WHERE ino = {file} LIMIT 1": (
        "earlier files of a name missing in the rebuilt state"
    ),
    "UPDATE nodes SET author = 77 WHERE ino = {file}": "attributes differs: author",
    "UPDATE entries SET by = 77 WHERE ino = {file}": "name differs: author",
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
    if harm.startswith("UPDATE nodes SET mode"):
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
