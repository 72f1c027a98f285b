"""A restore makes the tree, or a part of it, as the snapshot shows it, whatever happened since and where it is interrupted."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.vaults import Vault, content, make_folder, put, read
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import FileSystemError, ReadOnly, UsageError, WriterReplaced
from tgdav.failpoints import installed
from tgdav.fs import restoring
from tgdav.fs.api import Owner, RenameFlag
from tgdav.ids import Inode, Position
from tgdav.metadata import as_of, queries, settings
from tgdav.metadata.difference import NOW
from tgdav.metadata.restore_plan import Planner
from tgdav.metadata.types import AttributeChange, Attributes, Kind
from tgdav.metadata.versions import versions_of
from tgdav.volume.volume import Volume

State = dict[bytes, tuple[Any, ...]]


def silent(_stage: str, _done: int, _total: int) -> None:
    return


class Drive:
    """A volume with short calls. Each moves the clock, so that no two saves are one burst."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.vault = Vault(folder, **sections)
        self.volume = self.vault.open()

    def reopen(self) -> None:
        self.volume.close()
        self.volume = self.vault.open()

    def tick(self) -> None:
        self.vault.clock.advance(10)

    def put(self, path: str, data: bytes) -> None:
        self.tick()
        put(self.volume, path, data)

    def mkdir(self, path: str) -> None:
        self.tick()
        make_folder(self.volume, path)

    def node(self, path: str) -> Attributes:
        return self.volume.fs.resolve([name for name in path.encode().split(b"/") if name])

    def place(self, path: str) -> tuple[Inode, bytes]:
        above, _, name = path.rpartition("/")
        return self.node(above).inode, name.encode()

    def move(self, old: str, new: str) -> None:
        self.tick()
        self.volume.fs.rename(*self.place(old), *self.place(new), replace_tree=True)

    def remove(self, path: str) -> None:
        self.tick()
        self.volume.fs.remove_tree(*self.place(path))

    def link(self, old: str, new: str) -> None:
        self.tick()
        self.volume.fs.link(self.node(old).inode, *self.place(new))

    def snapshot(self, name: str) -> Position:
        self.tick()
        made = self.volume.snapshots.make(name).position
        self.tick()
        return made

    def restore(self, name: str, path: str = "", to: str | None = None) -> restoring.Restored:
        self.tick()
        return self.volume.restorer.restore(name, names(path), None if to is None else names(to), silent)

    def state(self, at: Position = NOW, path: str = "") -> State:
        return state(self.volume, at, path)


def names(path: str) -> tuple[bytes, ...]:
    return tuple(name for name in path.encode().split(b"/") if name)


def state(volume: Volume, at: Position = NOW, path: str = "") -> State:
    """Return all that a restore brings back, by path; names of one file have its first name in common."""
    found: State = {}
    first: dict[Inode, bytes] = {}
    with volume.database.reading() as c:
        top = as_of.attributes(c, at, Inode(ROOT_INODE))
        for name in names(path):
            assert top is not None
            entry = as_of.find_entry(c, at, top.inode, name)
            if entry is None:
                return {}
            top = entry.attributes
        assert top is not None
        below = [(b"/".join(parts), entry.attributes) for parts, entry in as_of.walk(c, at, top.inode)]
        for shown, node in [(b"", top), *below]:
            kept = (node.kind, node.mode, node.uid, node.gid, node.rdev, node.size, node.mtime, node.btime, node.tag)
            fields = as_of.fields(c, at, [node.inode], b"").get(node.inode, {})
            target = as_of.manifest(c, at, node.inode)
            found[shown] = (*kept, target, tuple(sorted(fields.items())), first.setdefault(node.inode, shown))
    return found


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path)
    yield made
    made.volume.close()


@pytest.fixture
def full(drive: Drive) -> Drive:
    """A drive with a bit of everything, and a snapshot ``then``."""
    drive.mkdir("d")
    drive.mkdir("d/e")
    for path in ("a", "b", "d/x", "d/e/y", "d/e/z"):
        drive.put(path, path.encode() * 50_000)
    drive.link("a", "d/a2")
    fs = drive.volume.fs
    fs.create(fs.root, b"link", Kind.SYMLINK, 0o777, Owner(), target=b"d/e")
    fs.set_xattr(drive.node("b").inode, b"user.a", b"1")
    fs.set_properties(drive.node("d").inode, {b"{ns}p": b"<p/>"})
    fs.set_attributes(drive.node("d/x").inode, AttributeChange(mode=0o600, mtime=5))
    drive.snapshot("then")
    return drive


def check(drive: Drive, name: str = "then", path: str = "", to: str | None = None) -> restoring.Restored:
    """Restore, and compare with the snapshot."""
    at = drive.volume.snapshots.find(name).position
    wanted = drive.state(at, path)
    done = drive.restore(name, path, to)
    found = drive.state(NOW, path if to is None else to)
    assert found == wanted
    assert drive.state(at, path) == wanted
    return done


def test_nothing_to_do(full: Drive) -> None:
    assert check(full) == restoring.Restored(0, 0)


def test_everything_changed(full: Drive) -> None:
    fs = full.volume.fs
    full.put("a", b"other")
    full.remove("b")
    full.put("new", b"new")
    full.move("d/e", "e2")
    full.put("e2/new", b"newer")
    full.remove("link")
    fs.set_xattr(full.node("a").inode, b"user.b", b"2")
    fs.set_properties(full.node("d").inode, {b"{ns}p": None, b"{ns}q": b"<q/>"})
    fs.set_attributes(full.node("d").inode, AttributeChange(mode=0o700))
    done = check(full)
    assert done.removed == 2
    assert read(full.volume, "d/a2") == b"a" * 50_000
    # The new content is a version, and new names are in the trash.
    with full.volume.database.reading() as c:
        assert [each.attributes.size for each in versions_of(c, full.node("a").inode)] == [50_000, 5, 50_000]
    assert {item.path for item in full.volume.fs.trash.items()} >= {b"/new", b"/d/e/new"}


def test_a_deleted_tree_comes_back_as_it_was(full: Drive) -> None:
    inode = full.node("d/e/y").inode
    full.remove("d")
    check(full)
    assert full.node("d/e/y").inode == inode


def test_a_new_tree_of_the_same_name(full: Drive) -> None:
    full.remove("d")
    full.mkdir("d")
    full.put("d/x", b"another")
    full.put("d/more", b"more")
    full.put("d/e", b"a file now")
    check(full)


def test_file_and_directory_exchanged(full: Drive) -> None:
    full.move("d", "tmp")
    full.move("a", "d")
    full.move("tmp", "a")
    check(full)


def test_names_exchanged(full: Drive) -> None:
    fs = full.volume.fs
    fs.rename(*full.place("a"), *full.place("b"), flags=RenameFlag.EXCHANGE)
    inode = full.node("b").inode

    def numbers() -> list[int]:
        with full.volume.database.reading() as c:
            return [each.number for each in versions_of(c, inode)]

    before = numbers()
    check(full)
    assert read(full.volume, "a") == b"a" * 50_000
    assert full.node("a").inode == inode
    assert full.volume.fs.trash.items() == []
    assert numbers() == before


def test_directories_turned_inside_out(full: Drive) -> None:
    full.move("d/e", "e")
    full.move("d", "e/d")
    check(full)


def test_new_directories_go_to_the_trash_as_a_whole(full: Drive) -> None:
    full.mkdir("new")
    full.mkdir("new/er")
    full.put("new/er/x", b"x")
    full.put("d/e/new", b"y")
    check(full)
    assert {item.path for item in full.volume.fs.trash.items()} == {b"/new", b"/d/e/new"}


def test_a_path_that_is_there_keeps_its_entry(full: Drive) -> None:
    def entries() -> list[Any]:
        with full.volume.database.reading() as c:
            return [queries.entries_of(c, full.node(path).inode) for path in ("b", "d")]

    before = entries()
    full.put("b", b"other")
    full.put("d/x", b"other")
    check(full, path="b")
    check(full, path="d")
    assert entries() == before
    assert full.volume.fs.trash.items() == []


def test_a_saved_file_keeps_its_history(full: Drive) -> None:
    """Saved by renaming another one over it: its content comes back in place."""
    full.put("b.tmp", b"new b")
    full.move("b.tmp", "b")
    inode = full.node("b").inode
    check(full)
    assert full.node("b").inode == inode
    assert [item.path for item in full.volume.fs.trash.items() if item.path.startswith(b"/b")] in (
        [],
        [b"/b (restored)"],
    )


def test_purged_things_are_made_anew(full: Drive) -> None:
    full.remove("d")
    full.remove("b")
    full.put("a", b"")
    full.volume.fs.trash.empty()
    check(full)
    assert read(full.volume, "d/e/y") == b"d/e/y" * 50_000
    full.put("a", b"shared")
    assert read(full.volume, "d/a2") == b"shared"
    check(full)


def test_junk_is_left_alone(full: Drive) -> None:
    full.put("d/.DS_Store", b"junk")
    full.move("b", "._b")
    check(full)
    assert read(full.volume, "d/.DS_Store") == b"junk"
    assert read(full.volume, "b") == read(full.volume, "._b") == b"b" * 50_000


def test_one_path(full: Drive) -> None:
    full.put("a", b"other")
    full.put("d/x", b"other")
    full.put("d/e/new", b"new")
    full.remove("d/e/y")
    check(full, path="d/e")
    assert read(full.volume, "a") == b"other"
    assert read(full.volume, "d/x") == b"other"
    check(full, path="d/x")
    assert read(full.volume, "a") == b"other"


def test_one_path_whose_directories_are_gone(full: Drive) -> None:
    mode = full.node("d").mode
    full.remove("d")
    check(full, path="d/e/y")
    assert list(full.state()) == [b"", b"a", b"b", b"d", b"d/e", b"d/e/y", b"link"]
    assert full.node("d").mode == mode


def test_what_moved_out_of_the_path_stays_where_it_is(full: Drive) -> None:
    full.move("d/e", "elsewhere")
    full.move("d/x", "x")
    full.put("x", b"changed there")
    check(full, path="d")
    assert read(full.volume, "x") == b"changed there"
    assert read(full.volume, "elsewhere/y") == b"d/e/y" * 50_000
    assert full.node("elsewhere/y").inode != full.node("d/e/y").inode


def test_the_path_itself_moved(full: Drive) -> None:
    full.move("d", "d2")
    check(full, path="d/e")
    full.remove("d2/e/y")
    check(full, path="d")
    assert full.node("d2/e/z").inode != full.node("d/e/z").inode


def test_another_thing_has_the_path(full: Drive) -> None:
    full.move("d", "d2")
    full.put("d", b"a file")
    with pytest.raises(UsageError, match="/d is not a directory"):
        full.restore("then", "d/e")
    check(full, path="d")


def test_a_copy(full: Drive) -> None:
    full.remove("d/e/y")
    before = full.state()
    done = check(full, path="d", to="deep/er/copy")
    assert done == restoring.Restored(6, 0)
    now = full.state()
    assert {path: now[path] for path in before if path} == {path: before[path] for path in before if path}
    check(full, to="all")
    check(full, path="a", to="a-of-then")
    assert full.volume.pending()["bytes"] < 800_000


def test_a_copy_goes_over_nothing(full: Drive) -> None:
    for to in ("a", "d", ""):
        with pytest.raises(UsageError, match="exists"):
            full.restore("then", "b", to)
    with pytest.raises(UsageError, match="/a is not a directory"):
        full.restore("then", "b", "a/b")
    for to in (".snapshots", ".DS_Store", "d/._x", "x" * 256):
        with pytest.raises(UsageError):
            full.restore("then", "b", to)


def test_what_does_not_exist(full: Drive) -> None:
    with pytest.raises(UsageError, match="no snapshot 'none'"):
        full.restore("none")
    with pytest.raises(UsageError, match="has no /d/none"):
        full.restore("then", "d/none")


def test_dry_run_tells_what_is_done(full: Drive) -> None:
    full.put("a", b"other")
    full.remove("d/e")
    full.put("new", b"1")
    before = full.state()
    found = full.volume.restorer.differences("then", (), None)
    assert [(each.change, b"/".join(each.names)) for each in found] == [
        ("changed", b"a"), ("changed", b"d/a2"), ("removed", b"d/e"), ("removed", b"d/e/y"), ("removed", b"d/e/z"),
        ("added", b"new")
    ]  # fmt: skip
    assert full.state() == before
    assert full.restore("then") == restoring.Restored(5, 1)


def test_open_files_follow(full: Drive) -> None:
    full.put("b", b"second")
    handle = full.volume.fs.open(full.node("b").inode, writable=True)
    handle.write(0, b"third!")
    told: list[Any] = []
    full.volume.fs.on_change(lambda *notice: told.append(notice))
    check(full, path="b")
    inode = full.node("b").inode
    assert handle.read(0, 5) == b"bbbbb"
    assert (inode, None, None) in told
    handle.write(0, b"4")
    handle.close()
    full.volume.fs.flush_all()
    assert read(full.volume, "b")[:3] == b"4bb"
    with full.volume.database.reading() as c:
        assert queries.attributes(c, inode).size == 50_000  # type: ignore[union-attr]


def test_what_is_written_while_it_runs_is_not_lost(full: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    full.put("b", b"second")
    handle = full.volume.fs.open(full.node("b").inode, writable=True)
    plan = Planner.plan

    def planned(planner: Planner) -> Any:
        found = plan(planner)
        full.tick()
        handle.write(0, b"third, at the last moment")
        return found

    monkeypatch.setattr(Planner, "plan", planned)
    full.restore("then", "b")
    handle.close()
    assert read(full.volume, "b") == b"b" * 50_000
    with full.volume.database.reading() as c:
        sizes = [each.attributes.size for each in versions_of(c, full.node("b").inode)]
    assert sizes == [50_000, 6, 25, 50_000]


def test_a_burst_is_not_lost(full: Drive) -> None:
    """What was saved a moment ago becomes a version, too."""

    full.put("b", b"first")
    full.volume.fs.sync()
    full.volume.restorer.restore("then", (b"b",), None, silent)
    with full.volume.database.reading() as c:
        sizes = [each.attributes.size for each in versions_of(c, full.node("b").inode)]
    assert sizes == [50_000, 5, 50_000]


def test_a_replaced_machine_restores_nothing(full: Drive) -> None:
    full.put("a", b"other")
    full.volume.sync(wait=True)
    full.vault.join("other")
    with pytest.raises(WriterReplaced):
        full.volume.replicator.poll()
    with pytest.raises(ReadOnly):
        full.restore("then")
    assert read(full.volume, "a") == b"other"


# ---- interrupted -----------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def spoil(drive: Drive) -> None:
    """Change much of a full drive."""
    drive.put("a", b"other")
    drive.remove("b")
    drive.mkdir("b")
    drive.put("b/in", b"in the way")
    drive.move("d/e", "e2")
    drive.put("e2/new", b"new")
    drive.remove("e2/y")
    drive.put("d/e", b"a file now")
    drive.put("z", b"z")
    drive.remove("link")
    drive.volume.fs.trash.empty()
    drive.volume.fs.set_attributes(drive.node("d").inode, AttributeChange(mode=0o711))


@pytest.mark.parametrize(("path", "to"), [("", None), ("d", None), ("b", None), ("d", "new/copy")])
def test_interrupted_anywhere_it_is_finished_later(
    full: Drive, monkeypatch: pytest.MonkeyPatch, path: str, to: str | None
) -> None:
    monkeypatch.setattr(restoring, "STEPS", 1)
    at = full.volume.snapshots.find("then").position
    wanted = full.state(at, path)
    number = 0
    is_done = False
    while not is_done:
        spoil(full)
        number += 1
        seen = 0

        def stop(name: str, number: int = number) -> None:
            nonlocal seen
            if name.startswith("restore."):
                seen += 1
                if seen == number:
                    raise Stopped

        with installed(stop), suppress(Stopped):
            full.restore("then", path, to)
        is_done = seen < number
        full.reopen()
        full.tick()
        full.volume.restorer.resume()
        assert full.state(NOW, path if to is None else to) == wanted
        assert not full.volume.restorer.may_be_pending
        if to is not None:
            full.remove(to.split("/")[0])
        full.restore("then")
    assert number >= 5


def test_a_process_killed_in_each_part_of_it(full: Drive) -> None:
    wanted = full.state(full.volume.snapshots.find("then").position)
    number, code = 0, -9
    while code == -9:
        spoil(full)
        number += 1
        full.tick()
        full.volume.close()
        arguments = [str(full.vault.folder), str(full.vault.clock.now_ns()), str(number)]
        code = subprocess.run([sys.executable, "-m", "tests.fs.restore_worker", *arguments], check=False).returncode
        full.volume = full.vault.open()
        full.tick()
        full.volume.restorer.resume()
        assert full.state() == wanted
        full.tick()
    assert code == 0
    assert number > 5


def test_background_work_finishes_it(full: Drive) -> None:
    full.put("a", b"other")

    def stop(name: str) -> None:
        if name == "restore.begun":
            raise Stopped

    with installed(stop), pytest.raises(Stopped):
        full.restore("then")
    full.reopen()
    assert read(full.volume, "a") == b"other"
    full.tick()
    full.volume.background.tick()
    assert read(full.volume, "a") == b"a" * 50_000
    with full.volume.database.reading() as c:
        assert settings.get(c, restoring.PENDING) is None


def test_without_its_snapshot_an_interrupted_restore_is_dropped(full: Drive) -> None:
    full.put("a", b"other")

    def stop(name: str) -> None:
        if name == "restore.begun":
            raise Stopped

    with installed(stop), pytest.raises(Stopped):
        full.restore("then")
    full.volume.snapshots.delete("then")
    full.volume.restorer.resume()
    assert not full.volume.restorer.may_be_pending
    assert read(full.volume, "a") == b"other"


# ---- at random -------------------------------------------------------------------------------------------------------


class Vandal:
    """Changes a drive at random, through the file system."""

    def __init__(self, drive: Drive, seed: int) -> None:
        self.drive, self.random = drive, random.Random(seed)

    def paths(self, *kinds: Kind) -> list[str]:
        return [path.decode() for path, kept in self.drive.state().items() if kept[0] in kinds]

    def step(self) -> None:
        drive, pick, fs = self.drive, self.random, self.drive.volume.fs
        directory = pick.choice(self.paths(Kind.DIRECTORY))
        new = f"{directory}/{pick.choice('abcd')}".lstrip("/")
        some = pick.choice(self.paths(Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK))
        files = self.paths(Kind.FILE)
        act = pick.choice(
            ["put"] * 3 + ["mkdir"] * 2 + ["move"] * 3 + ["remove", "set", "xattr", "link", "symlink", "empty"]
        )
        with suppress(FileSystemError):
            if act == "put":
                drive.put(new, pick.choice([b"", content(pick.randrange(9), pick.randrange(1, 3000))]))
            elif act == "mkdir":
                drive.mkdir(new)
            elif act == "symlink":
                fs.create(*drive.place(new), Kind.SYMLINK, 0o777, Owner(), target=new.encode())
            elif act == "empty" and pick.randrange(3) == 0:
                fs.trash.empty()
            elif some and act == "move":
                drive.move(some, new)
            elif some and act == "remove":
                drive.remove(some)
            elif act == "set":
                fs.set_attributes(
                    drive.node(some).inode, AttributeChange(mode=pick.randrange(0o777), mtime=pick.randrange(99))
                )
            elif act == "xattr":
                fs.set_xattr(drive.node(some).inode, b"user.a", bytes([pick.randrange(3)]))
            elif files and act == "link":
                drive.link(pick.choice(files), new)
        drive.tick()


def wreck(folder: Path, seed: int, steps: int, **sections: dict[str, Any]) -> int:
    """Change at random, make snapshots, restore some of them or parts of them, also interrupted; return how many."""
    drive = Drive(folder, **sections)
    vandal = Vandal(drive, seed)
    pick = vandal.random
    known: dict[str, State] = {}
    restores = 0
    for number in range(steps):
        vandal.step()
        act = pick.randrange(12)
        if act == 0:
            at = drive.snapshot(f"s{number}")
            known[f"s{number}"] = drive.state(at)
            assert drive.state() == known[f"s{number}"]
        elif act == 1 and known:
            restore_some(drive, pick, known)
            restores += 1
        elif act == 2 and len(known) > 3:
            gone = pick.choice(list(known))
            del known[gone]
            drive.volume.snapshots.delete(gone)
            while drive.volume.snapshots.upkeep():
                pass
        for name, wanted in known.items():
            assert drive.state(drive.volume.snapshots.find(name).position) == wanted
    last = drive.state()
    drive.volume.sync(wait=True)
    drive.volume.close()
    drive.vault.join("other")
    with drive.vault.opened("other") as other:
        assert sent(state(other)) == sent(last)
        for name, wanted in known.items():
            assert sent(state(other, other.snapshots.find(name).position)) == sent(wanted)
    return restores


def sent(found: State) -> State:
    """Return what other machines have: files that were made and deleted at once moved the time of their directory here alone."""
    return {path: (*row[:6], 0, *row[7:]) if row[0] == Kind.DIRECTORY else row for path, row in found.items()}


def restore_some(drive: Drive, pick: random.Random, known: dict[str, State]) -> None:
    name = pick.choice(list(known))
    path = pick.choice(["", *[each.decode() for each in known[name]]])
    wanted = drive.state(drive.volume.snapshots.find(name).position, path)
    to = f"copy{pick.randrange(10**6)}" if pick.randrange(4) == 0 else None
    last = pick.randrange(8)

    def stop(point: str) -> None:
        nonlocal last
        if point.startswith("restore."):
            last -= 1
            if last == 0:
                raise Stopped

    refused = False
    with installed(stop), suppress(Stopped):
        try:
            drive.restore(name, path, to)
        except UsageError:  # something else is where a directory was
            refused = True
    if last <= 0:
        drive.reopen()
        drive.tick()
        try:
            drive.volume.restorer.resume()
        except UsageError:
            refused = True
    if refused:
        return
    found = drive.state(NOW, path if to is None else to)
    assert found == wanted, (name, path, to)


@pytest.mark.parametrize("seed", range(6))
def test_at_random(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "STEPS", 3)
    assert wreck(tmp_path, seed, 80) > 0


@pytest.mark.parametrize("sections", [{"trash": {"retention_days": 0}}, {"versioning": {"max_versions": 0}}], ids=str)
def test_at_random_without_history(tmp_path: Path, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots need neither a trash nor versions."""
    monkeypatch.setattr(restoring, "STEPS", 3)
    assert wreck(tmp_path, 7, 80, **sections) > 0


@pytest.mark.torture
def test_at_random_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "STEPS", 3)
    for _ in range(30):
        seed = random.randrange(1 << 32)
        print("seed", seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        wreck(folder, seed, 300)
