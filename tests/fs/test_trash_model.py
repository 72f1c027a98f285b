"""Random deletions, restores and purges, compared after each step with plain dictionaries, also on a machine that joins."""

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from tests.crash.damaging import any_seed
from tests.crash.machines import MINUTES
from tests.support.vaults import Vault, rows
from tgdav.crdt.ops import Purge
from tgdav.failpoints import installed
from tgdav.fs import trash
from tgdav.fs.api import Owner
from tgdav.ids import Inode
from tgdav.metadata import fresh_nodes, purging
from tgdav.metadata.change import Change
from tgdav.metadata.fresh_nodes import FreshNodes
from tgdav.metadata.trash import deleted_before
from tgdav.metadata.types import Kind
from tgdav.volume.volume import Volume

OWNER = Owner(1, 2)
DAY = 86_400
NAMES = (b"a", b"b", b"c")


@dataclass(eq=False)
class File:
    data: bytes


@dataclass(eq=False)
class Directory:
    """``above`` and ``name`` say where it is, or was when it was deleted."""

    above: "Directory | None"
    name: bytes
    children: "dict[bytes, File | Directory]" = field(default_factory=dict)
    is_deleted: bool = False


Node = File | Directory


@dataclass(eq=False)
class Deleted:
    node: Node
    above: Directory
    name: bytes
    time: int


class Model:
    """The tree, the trash, and the snapshots: what each path held."""

    def __init__(self) -> None:
        self.root = Directory(None, b"")
        self.trash: list[Deleted] = []
        self.snapshots: dict[str, dict[bytes, bytes | None]] = {}

    def directories(self) -> list[Directory]:
        found = [self.root]
        for each in found:
            found += [child for child in each.children.values() if isinstance(child, Directory)]
        return found

    def shown(self) -> dict[bytes, bytes | None]:
        """The content of each path, None for directories."""
        return {
            path(above) + b"/" + name: node.data if isinstance(node, File) else None
            for above in self.directories()
            for name, node in above.children.items()
        }

    def delete(self, above: Directory, name: bytes, now: int) -> None:
        node = above.children.pop(name)
        if isinstance(node, Directory):
            node.is_deleted = True
        self.trash.append(Deleted(node, above, name, now))

    def target(self, deleted: Deleted) -> tuple[Directory, list[bytes], bytes]:
        """The directory where a restore begins, the directories that it makes, and the name."""
        if is_live(deleted.above):
            return deleted.above, [], free(deleted.above, deleted.name)
        names = [part for part in path(deleted.above).split(b"/") if part]
        at = self.root
        while names and isinstance(at.children.get(names[0]), Directory):
            below = at.children[names.pop(0)]
            assert isinstance(below, Directory)
            at = below
        if not names:
            return at, [], free(at, deleted.name)
        return at, [free(at, names[0]), *names[1:]], deleted.name

    def restored_path(self, deleted: Deleted) -> bytes:
        at, missing, name = self.target(deleted)
        return b"/".join([path(at), *missing, name])

    def restore(self, deleted: Deleted) -> None:
        at, missing, name = self.target(deleted)
        for each in missing:
            made = Directory(at, each)
            at.children[each] = made
            at = made
        if isinstance(deleted.node, Directory):
            deleted.node.above, deleted.node.name, deleted.node.is_deleted = at, name, False
        at.children[name] = deleted.node
        self.trash.remove(deleted)


def path(directory: Directory) -> bytes:
    return b"" if directory.above is None else path(directory.above) + b"/" + directory.name


def is_live(directory: Directory | None) -> bool:
    return directory is None or (not directory.is_deleted and is_live(directory.above))


def free(directory: Directory, name: bytes) -> bytes:
    found, number = name, 1
    while found in directory.children:
        found = name + (b" (restored)" if number == 1 else b" (restored %d)" % number)
        number += 1
    return found


def size(node: Node) -> int:
    """The bytes below, each file once."""
    files, waiting = set[File](), [node]
    for each in waiting:
        if isinstance(each, File):
            files.add(each)
        else:
            waiting += each.children.values()
    return sum(len(file.data) for file in files)


class Machine:
    """A volume, and the model of what it should show."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.vault, self.random = Vault(folder), random.Random(seed)
        self.volume = self.vault.open()
        self.model = Model()
        self.log: list[str] = []
        self.number = 0
        self.steps: list[Callable[[], object]] = [
            *[self.write] * 4, *[self.mkdir] * 2, *[self.rename] * 2, self.link, *[self.delete] * 4, *[self.restore] * 3,
            self.temporary, self.sent, self.empty, self.empty_older, self.snapshot, self.unsnapshot, self.sync, self.restart,
            self.crash, self.sweep, self.age,
        ]  # fmt: skip

    def run(self, count: int) -> None:
        for _ in range(count):
            self.vault.clock.advance(self.random.choice((61, 3600, DAY)))
            step = self.random.choice(self.steps)
            self.log.append(step.__name__)
            step()
            self.compare(self.volume)

    # ---- what is compared ----------------------------------------------------------------------------------------

    def compare(self, volume: Volume) -> None:
        assert shown(volume, volume.fs.root) == self.model.shown()
        found = [(item.path, item.bytes, item.deleted) for item in volume.fs.trash.items()]
        expected = [(self.model.restored_path(each), size(each.node), each.time) for each in self.model.trash]
        assert found == expected[::-1]

    def compare_snapshots(self, volume: Volume) -> None:
        for name, tree in self.model.snapshots.items():
            assert shown(volume, volume.fs.resolve([b".snapshots", name.encode()]).inode) == tree, name

    def compare_everywhere(self) -> None:
        """Also what a machine shows that has only the store; and no row of what was purged is left anywhere."""
        self.compare_snapshots(self.volume)
        self.volume.sync(wait=True)
        assert self.volume.check(drill=True)["ok"]
        name = f"joined-{self.number}"
        self.volume.close()
        assert not self.vault.join(name).damage
        with self.vault.opened(name) as other:
            other.fs.trash.sweep()
            self.compare(other)
            self.compare_snapshots(other)
            nodes = len({id(node) for node in self.nodes()})
            assert rows(other, "SELECT count(*) FROM nodes WHERE ino > 2") == [(nodes,)]

    def nodes(self) -> Iterator[Node]:
        waiting: list[Node] = [self.model.root, *(each.node for each in self.model.trash)]
        for each in waiting:
            if each is not self.model.root:
                yield each
            if isinstance(each, Directory):
                waiting += each.children.values()

    # ---- steps ---------------------------------------------------------------------------------------------------

    def inode(self, directory: Directory) -> Inode:
        return self.volume.fs.resolve([part for part in path(directory).split(b"/") if part]).inode

    def place(self, *, taken: bool) -> tuple[Directory, bytes] | None:
        """A random name that is taken, or free."""
        every = [
            (each, name)
            for each in self.model.directories()
            if path(each).count(b"/") < 3
            for name in (each.children if taken else set(NAMES) - set(each.children))
        ]
        return self.random.choice(sorted(every, key=lambda pair: (path(pair[0]), pair[1]))) if every else None

    def data(self) -> bytes:
        return self.random.choice((b"", b"same", self.random.randbytes(self.random.choice((10, 5000, 60_000)))))

    def write(self) -> None:
        place = self.place(taken=self.random.random() < 0.3) or (self.model.root, b"a")
        above, name = place
        node, data = above.children.get(name), self.data()
        if isinstance(node, Directory):
            return
        with self.volume.fs.upload(self.inode(above), name, owner=OWNER) as upload:
            upload.write(data)
            upload.commit()
        if node is None:
            above.children[name] = File(data)
        else:
            node.data = data

    def mkdir(self) -> None:
        place = self.place(taken=False)
        if place is not None:
            self.mkdir_at(*place)

    def mkdir_at(self, above: Directory, name: bytes) -> None:
        self.volume.fs.create(self.inode(above), name, Kind.DIRECTORY, 0o755, OWNER)
        above.children[name] = Directory(above, name)

    def rename(self) -> None:
        source, target = self.place(taken=True), self.place(taken=False)
        if source is None or target is None:
            return
        (above, name), (to, new) = source, target
        node = above.children[name]
        if isinstance(node, Directory) and (path(to) + b"/").startswith(path(node) + b"/"):
            return
        self.volume.fs.rename(self.inode(above), name, self.inode(to), new)
        to.children[new] = above.children.pop(name)
        if isinstance(node, Directory):
            node.above, node.name = to, new

    def link(self) -> None:
        source, target = self.place(taken=True), self.place(taken=False)
        if source is not None and target is not None:
            (above, name), (to, new) = source, target
            node = above.children[name]
            if isinstance(node, File):
                self.volume.fs.link(self.volume.fs.lookup(self.inode(above), name).inode, self.inode(to), new)
                to.children[new] = node

    def delete(self) -> None:
        place = self.place(taken=True)
        if place is not None:
            self.volume.fs.remove_tree(self.inode(place[0]), place[1])
            self.model.delete(*place, self.vault.clock.now_ns())

    def temporary(self) -> None:
        """What is made and deleted at once changes nothing."""
        place = self.place(taken=False)
        if place is None:
            return
        inode = self.inode(place[0])
        if self.random.random() < 0.5:
            made = self.volume.fs.create(inode, place[1], Kind.DIRECTORY, 0o755, OWNER).inode
            inside = b"inside"
        else:
            made, inside = inode, place[1]
        for data in (self.data(), self.data()):
            with self.volume.fs.upload(made, inside, owner=OWNER) as upload:
                upload.write(data)
                upload.commit()
        self.volume.fs.remove_tree(inode, place[1])

    def sent(self) -> None:
        """What was sent goes to the trash, however new it is."""
        place = self.place(taken=False)
        if place is not None:
            self.mkdir_at(*place)
            self.volume.sync(wait=True)
            self.volume.fs.remove_tree(self.inode(place[0]), place[1])
            self.model.delete(*place, self.vault.clock.now_ns())

    def restore(self) -> None:
        if self.model.trash:
            deleted = self.random.choice(self.model.trash)
            wanted = self.model.restored_path(deleted)
            same = [each for each in self.model.trash if wanted in (self.model.restored_path(each), former(each))]
            if self.random.random() < 0.5:
                deleted = same[-1]
                assert self.volume.fs.trash.restore(wanted) == self.model.restored_path(deleted)
            else:
                number = self.model.trash[::-1].index(deleted)
                item = self.volume.fs.trash.items()[number]
                assert self.volume.fs.trash.restore(item.entry.hex().encode()) == wanted
            self.model.restore(deleted)

    def empty(self) -> None:
        self.volume.fs.trash.empty()
        self.model.trash.clear()

    def empty_older(self) -> None:
        before = self.vault.clock.now_ns() - 2 * DAY * 10**9
        self.volume.fs.trash.empty(before)
        self.model.trash = [each for each in self.model.trash if each.time >= before]

    def age(self) -> None:
        """Entries expire after 30 days."""
        self.volume.fs.trash.purge_expired()
        self.vault.clock.advance(10 * DAY)
        self.volume.fs.trash.purge_expired()
        before = self.vault.clock.now_ns() - 30 * DAY * 10**9
        self.model.trash = [each for each in self.model.trash if each.time >= before]

    def snapshot(self) -> None:
        self.number += 1
        self.volume.make_snapshot(f"snapshot {self.number}")
        self.model.snapshots[f"snapshot {self.number}"] = copy.deepcopy(self.model.shown())

    def unsnapshot(self) -> None:
        if self.model.snapshots:
            name = self.random.choice(list(self.model.snapshots))
            self.compare_snapshots(self.volume)
            self.volume.snapshots.delete(name)
            del self.model.snapshots[name]

    def sync(self) -> None:
        self.volume.sync(wait=True)

    def sweep(self) -> None:
        self.volume.fs.trash.sweep()

    def restart(self) -> None:
        self.volume.close()
        self.volume = self.vault.open()

    def crash(self) -> None:
        """The process ends between two steps of a purge."""

        def end(name: str) -> None:
            if name == "trash.swept":
                raise EndedError

        before = self.vault.clock.now_ns() - 2 * DAY * 10**9
        with installed(end), suppress(EndedError), mock.patch.object(trash, "PURGED_AT_ONCE", 2):
            self.volume.fs.trash.empty(before)
        self.model.trash = [each for each in self.model.trash if each.time >= before]
        self.restart()


class EndedError(Exception):
    """The process ends here."""


def former(deleted: Deleted) -> bytes:
    return path(deleted.above) + b"/" + deleted.name


def shown(volume: Volume, top: Inode) -> dict[bytes, bytes | None]:
    found: dict[bytes, bytes | None] = {}
    waiting = [(b"", top)]
    for above, inode in waiting:
        for entry in volume.fs.list_directory(inode):
            below = above + b"/" + entry.name
            if entry.attributes.is_directory:
                found[below] = None
                waiting.append((below, entry.attributes.inode))
            else:
                handle = volume.fs.open(entry.attributes.inode)
                found[below] = handle.read(0, entry.attributes.size + 1)
                handle.close()
    return found


def live(folder: Path, seed: int, steps: int) -> None:
    machine = Machine(folder, seed)
    try:
        machine.run(steps)
        machine.compare_everywhere()
    except BaseException:
        print(f"\ntrash: seed {seed}, steps {machine.log}")
        raise
    finally:
        machine.volume.close()


@pytest.mark.parametrize("seed", range(6))
def test_the_trash_is_as_dictionaries_say(tmp_path: Path, seed: int) -> None:
    live(tmp_path, 20261201 + seed, 70)


@pytest.mark.torture
def test_the_trash_over_and_over(tmp_path: Path) -> None:
    end, count = time.monotonic() + MINUTES * 60, 0
    while time.monotonic() < end:
        count += 1
        live(tmp_path / str(count), any_seed(), 200)
    print(f"\ntrash: {count} lives")


# ---- planted bugs --------------------------------------------------------------------------------------------------


def _purge_unlogged(change: Change, before: int) -> int:
    found = deleted_before(change.connection, before, 200)
    change._applier.apply(Purge(tuple(each.entry for each in found)))
    return len(found)


MUTANTS: dict[str, tuple[object, str, object]] = {
    "a purge is not logged": (trash, "_purge", _purge_unlogged),
    "what snapshots show is swept": (purging, "_KEEP_NODES", "SELECT ?, ?, ?"),
    "names that snapshots show are swept": (purging, "_KEEP_CHILDREN", "SELECT ?, ?, ?, ?, ?"),
    "a file goes with the first of its names": (
        purging,
        "_OTHERS",
        "SELECT 0, 0, x'' FROM entries WHERE ino < -? AND id = ?",
    ),
    "what is older is new": (fresh_nodes, "SECONDS", 1e9),
    "what is sent is new": (FreshNodes, "sealed", property(lambda _: 0, lambda _, __: None)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    where, name, bug = MUTANTS[mutant]
    monkeypatch.setattr(where, name, bug, raising=False)
    for seed in range(12):
        try:
            live(tmp_path / str(seed), 20261201 + seed, 70)
        except Exception:  # whatever shows it
            return
    raise AssertionError(f"nothing shows that {mutant}")
