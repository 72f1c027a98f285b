"""Random saves of a few names in all ways: the versions are within the limit, and the same wherever the log is applied."""

import random

import pytest

from tests.metadata.test_versions import in_trash, later, listed, replay
from tests.metadata.tree import Tree, check_invariants, extents, write
from tgdav.crdt.ops import ROOT, TRASH, Make, Place, Purge, VersionPolicy
from tgdav.ids import EntryId, NodeId
from tgdav.metadata.change import Change

NAMES = (b"a", b"b", b"c", b"d")
STEPS = 70


class Saves:
    """What the names in the root have, and how it is saved next."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.tree, self.random = tree, random.Random(seed)
        self.nodes: dict[bytes, NodeId] = {}
        self.shown: dict[bytes, int] = {}
        self.most, self.size = 100, 0
        self.policy(self.random.choice((1, 2, 4, 8)))

    def policy(self, most: int) -> None:
        self.most = most
        self.tree.journal.change(lambda change: change.emit(VersionPolicy(most)))

    def step(self) -> None:
        name = self.random.choice(NAMES)
        if name not in self.nodes:
            return self.create(name, None)
        ways = (self.write, self.replace, self.back_up, self.exchange, self.delete, self.rename_over, self.pin)
        self.random.choices(ways, (6, 6, 3, 2, 1, 3, 1))[0](name)
        return None

    def content(self) -> bytes:
        self.size += 1
        return extents(*(number % 256 for number in range(self.size)))

    def entry(self, name: bytes) -> EntryId:
        [entry] = self.tree.entries(self.nodes[name])
        return entry

    def create(self, name: bytes, after: EntryId | None) -> None:
        content = self.content()

        def work(change: Change) -> NodeId:
            node = NodeId(change.new_id())
            change.emit(Make(node, 1, 0o644, 0, 0, 0, change.time))
            change.emit(Place(EntryId(change.new_id()), node, ROOT, name, after=after))
            write(change, node, content)
            return node

        self.nodes[name] = later(self.tree, work)
        self.expect(name, None if after is None else self.shown.get(name))

    def expect(self, name: bytes, before: int | None) -> None:
        """Check the list of a name that shows the newest content, and had one of ``before`` chunks until now."""
        found = [each.attributes.size // 1000 for each in listed(self.tree, self.nodes[name])]
        assert found[-1] == self.size
        assert len(found) <= self.most + 1
        if before is not None and before != self.size:
            assert found[-2] == before or before in found, (found, before)
        assert len(set(found)) == len(found)
        self.shown[name] = self.size

    def write(self, name: bytes) -> None:
        content, before = self.content(), self.shown[name]
        later(self.tree, lambda change: write(change, self.nodes[name], content))
        self.expect(name, before)

    def replace(self, name: bytes) -> None:
        old, before = self.nodes[name], self.shown[name]
        made = self.tree.make(b"temporary", content=self.content())
        self.rename(made, old, self.entry(name), name)
        self.expect(name, before)

    def rename(self, new: NodeId, old: NodeId, entry: EntryId, name: bytes) -> None:
        [successor] = self.tree.entries(new)

        def work(change: Change) -> None:
            change.emit(Place(entry, old, TRASH, name, because=successor))
            change.emit(Place(successor, new, ROOT, name))

        later(self.tree, work)
        self.nodes[name] = new

    def rename_over(self, name: bytes) -> None:
        others = [other for other in self.nodes if other != name]
        if others:
            other = self.random.choice(others)
            self.rename(self.nodes.pop(other), self.nodes[name], self.entry(name), name)
            self.shown[name] = self.shown.pop(other)
            assert len(listed(self.tree, self.nodes[name])) <= self.most + 1

    def back_up(self, name: bytes) -> None:
        free = [other for other in NAMES if other not in self.nodes]
        if free:
            entry, backup = self.entry(name), self.random.choice(free)
            later(self.tree, lambda change: change.emit(Place(entry, self.nodes[name], ROOT, backup)))
            self.nodes[backup], self.shown[backup] = self.nodes.pop(name), self.shown[name]
            self.create(name, entry)

    def exchange(self, name: bytes) -> None:
        other = self.random.choice(list(self.nodes))
        if other != name:
            first, second = self.entry(name), self.entry(other)

            def work(change: Change) -> None:
                change.emit(Place(first, self.nodes[name], ROOT, other, after=second))
                change.emit(Place(second, self.nodes[other], ROOT, name, after=first))

            later(self.tree, work)
            for mapping in (self.nodes, self.shown):
                mapping[name], mapping[other] = mapping[other], mapping[name]  # type: ignore[index]
            for each in (name, other):
                assert len(listed(self.tree, self.nodes[each])) <= self.most + 1

    def delete(self, name: bytes) -> None:
        entry, node = self.entry(name), self.nodes.pop(name)
        del self.shown[name]
        later(self.tree, lambda change: change.emit(Place(entry, node, TRASH, name)))
        if self.random.random() < 0.7:
            later(self.tree, lambda change: change.emit(Purge((entry,))))
        if self.random.random() < 0.5:
            self.tree.sweep()

    def pin(self, _name: bytes) -> None:
        self.tree.snapshot(f"snapshot {self.size}")


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("other") / "tree.db")


@pytest.mark.parametrize("seed", range(12))
def test_random_saves(tree: Tree, other: Tree, seed: int) -> None:
    saves = Saves(tree, seed)
    for _ in range(STEPS):
        saves.step()
    expected = {
        name: [(each.number, each.attributes.size) for each in listed(tree, node)] for name, node in saves.nodes.items()
    }
    replay(tree, other)
    other.sweep()
    for name, node in saves.nodes.items():
        with other.database.reading() as connection:
            check_invariants(connection)
        assert [(each.number, each.attributes.size) for each in listed(other, node)] == expected[name]
    assert in_trash(other) == in_trash(tree)
    # Nothing is left for ever once all is deleted and the trash is empty.
    for name in list(saves.nodes):
        entry, node = saves.entry(name), saves.nodes.pop(name)
        later(tree, lambda change, entry=entry, node=node: change.emit(Place(entry, node, TRASH, b"x")))  # type: ignore[misc]
    deleted = [EntryId(row[0]) for row in tree.rows("SELECT id FROM entries WHERE deleted IS NOT NULL")]  # type: ignore[arg-type]
    for entry in deleted:
        later(tree, lambda change, entry=entry: change.emit(Purge((entry,))))  # type: ignore[misc]
    tree.sweep()
    assert tree.rows("SELECT ino FROM nodes WHERE kind = 1") == []
    assert tree.rows("SELECT * FROM predecessors") == []
    other.close()
