"""What differs between two states: examples, and random changes against a comparison of every path."""

import random
from contextlib import suppress
from typing import Any

import pytest

from tests.metadata.tree import Tree, extents, make_local
from tgdav.crdt.ops import ROOT, TRASH
from tgdav.db import Connection
from tgdav.errors import InvalidArgument
from tgdav.ids import Inode, NodeId, Position
from tgdav.metadata import as_of, queries
from tgdav.metadata.difference import NOW, Comparison, Difference, Names, Side, path_of
from tgdav.metadata.types import Kind

Change = tuple[str, str, str | None, int]


def compared(c: Connection, first: Position, second: Position) -> list[Difference]:
    sides = []
    for at in (first, second):
        root = as_of.attributes(c, at, Inode(1))
        assert root is not None
        sides.append(Side(c, at, root))
    return Comparison(*sides).run()


def differences(tree: Tree, first: int, second: int = NOW) -> list[Change]:
    with tree.database.reading() as c:
        return [
            (
                each.change + ("+" if each.modified else ""),
                path_of(each.names).decode(),
                None if each.source is None else path_of(each.source).decode(),
                each.size,
            )
            for each in compared(c, Position(first), Position(second))
        ]


class Example:
    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.a = tree.make(b"a", content=extents(1))
        self.b = tree.make(b"b", content=extents(1, 2))
        self.d = tree.mkdir(b"d")
        self.e = tree.mkdir(b"e", self.d)
        self.x = tree.make(b"x", self.e, content=extents(3))
        self.y = tree.make(b"y", self.e)
        _, self.position = tree.snapshot()

    def check(self, *expected: Change) -> None:
        assert differences(self.tree, self.position) == list(expected)
        turned = {"added": "removed", "removed": "added", "changed": "changed"}
        back = differences(self.tree, NOW, self.position)
        assert [(each[0], each[1]) for each in back if "renamed" not in each[0]] == sorted(
            ((turned[each[0]], each[1]) for each in expected if "renamed" not in each[0]), key=lambda each: each[1]
        )
        assert [(each[1], each[2]) for each in back if "renamed" in each[0]] == sorted(
            [(str(each[2]), each[1]) for each in expected if "renamed" in each[0]]
        )


@pytest.fixture
def example(tree: Tree) -> Example:
    return Example(tree)


def test_nothing(example: Example) -> None:
    example.check()
    tree = example.tree
    tree.move(example.a, ROOT, b"a2")
    tree.move(example.a, ROOT, b"a")
    tree.set(example.b, mode=0o600)
    tree.set(example.b, mode=0o644)
    tree.delete(tree.make(b"short"))
    example.check()


def test_files(example: Example) -> None:
    tree = example.tree
    tree.write(example.a, extents(7, 8, 9))
    tree.delete(example.b)
    tree.make(b"c", content=extents(5))
    tree.set_field(example.y, b"x:user.a", b"1")
    example.check(
        ("changed", "/a", None, 3000), ("removed", "/b", None, 2000), ("added", "/c", None, 1000), ("changed", "/d/e/y", None, 0)
    )  # fmt: skip


def test_names(example: Example) -> None:
    tree = example.tree
    tree.move(example.a, example.e, b"a2")
    tree.move(example.b, ROOT, b"b2")
    tree.set(example.b, mode=0o600)
    tree.link(example.x, b"x2")
    example.check(("renamed+", "/b2", "/b", 2000), ("renamed", "/d/e/a2", "/a", 1000), ("added", "/x2", None, 1000))


def test_a_directory_comes_with_what_is_below(example: Example) -> None:
    tree = example.tree
    tree.move(example.e, ROOT, b"e2")
    tree.set(example.x, mode=0o600)
    tree.set(example.x, mode=0o644)
    example.check(("renamed", "/e2", "/d/e", 0))
    tree.write(example.x, extents(4, 4))
    tree.delete(example.y)
    tree.make(b"z", example.e)
    example.check(
        ("removed", "/d/e/y", None, 0), ("renamed", "/e2", "/d/e", 0), ("renamed+", "/e2/x", "/d/e/x", 2000),
        ("added", "/e2/z", None, 0)
    )  # fmt: skip


def test_a_directory_goes_with_what_is_below(example: Example) -> None:
    tree = example.tree
    tree.move(example.y, ROOT, b"y")
    tree.delete(example.d)
    example.check(
        ("removed", "/d", None, 0), ("removed", "/d/e", None, 0), ("removed", "/d/e/x", None, 1000),
        ("renamed", "/y", "/d/e/y", 0)
    )  # fmt: skip


def test_it_came_back_from_the_trash(example: Example) -> None:
    tree = example.tree
    tree.delete(example.d)
    _, later = tree.snapshot("later")
    tree.move(example.d, ROOT, b"d")
    assert [each[:2] for each in differences(tree, later)] == [
        ("added", "/d"), ("added", "/d/e"), ("added", "/d/e/x"), ("added", "/d/e/y")
    ]  # fmt: skip
    assert differences(tree, example.position) == []


def test_another_file_of_the_same_name(example: Example) -> None:
    """As editors save: another node has the name."""
    tree = example.tree
    tree.move(example.a, ROOT, b"a~")
    tree.make(b"a", content=extents(9, 9))
    tree.delete(example.b)
    same = tree.make(b"b", content=extents(1, 2))
    tree.set(same, mtime=tree.attributes(example.b).mtime)
    example.check(("changed", "/a", None, 2000), ("added", "/a~", None, 1000))


def test_another_directory_of_the_same_name(example: Example) -> None:
    tree = example.tree
    tree.move(example.d, ROOT, b"d2")
    made = tree.mkdir(b"d")
    tree.move(example.e, made, b"e")
    tree.make(b"new", made)
    example.check(("added", "/d/new", None, 0), ("added", "/d2", None, 0))


def test_junk_is_nothing(example: Example) -> None:
    tree = example.tree
    tree.journal.change(lambda change: make_local(change, b"._x"))
    example.check()
    tree.journal.change(lambda change: change.withdraw(tree.ino(example.a)))
    example.check(("removed", "/a", None, 1000))


# ---- against every path ----------------------------------------------------------------------------------------------


class Whole:
    """Everything below the root, by path."""

    def __init__(self, c: Connection, at: Position) -> None:
        self.state: dict[Names, tuple[Any, ...]] = {}
        self.nodes: dict[Names, Inode] = {}
        for names, entry in as_of.walk(c, at, Inode(1)):
            node = entry.attributes
            times = () if node.is_directory else (node.mtime, node.tag)
            more = (as_of.manifest(c, at, node.inode), as_of.fields(c, at, [node.inode], b""))
            self.state[names] = (node.kind, node.mode, node.uid, node.gid, *times, *map(_values, more))
            self.nodes[names] = node.inode


def _values(found: Any) -> Any:
    return next(iter(found.values()), {}) if isinstance(found, dict) else found


def check(first: Whole, second: Whole, found: list[Difference]) -> None:
    changes = {each.names: each for each in found}
    assert len(changes) == len({(each.names, each.change) for each in found}) == len(found)
    both = first.state.keys() & second.state.keys()
    named = {names for names, each in changes.items() if each.change == "changed" and names}
    assert named == {names for names in both if first.state[names] != second.state[names]}
    sources = {each.source: each.names for each in found if each.source is not None}
    come = {names for names, each in changes.items() if each.change in ("added", "renamed")}
    gone = {names for names, each in changes.items() if each.change == "removed"} | sources.keys()
    assert come <= second.state.keys() - both
    assert gone <= first.state.keys() - both
    # What is not named came along with a directory above it, unchanged.
    for names in second.state.keys() - both - come:
        source = _moved_from(names, changes)
        assert first.nodes[source] == second.nodes[names]
        assert first.state[source] == second.state[names]
        gone.add(source)
    assert gone == first.state.keys() - both
    for source, names in sources.items():
        assert first.nodes[source] == second.nodes[names]
        assert changes[names].modified == (first.state[source] != second.state[names])


def _moved_from(names: Names, changes: dict[Names, Difference]) -> Names:
    for length in range(len(names) - 1, 0, -1):
        above = changes.get(names[:length])
        if above is not None and above.source is not None:
            return (*above.source, *names[length:])
    raise AssertionError(names)


class Gardener:
    """Changes a tree at random, as programs do: each name once in its directory."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.tree, self.random = tree, random.Random(seed)

    def _live(self, kinds: str) -> list[NodeId]:
        rows = self.tree.rows(
            "WITH RECURSIVE live(ino) AS (SELECT 1 UNION SELECT e.ino FROM live JOIN entries e ON e.parent = live.ino)"
            f" SELECT id FROM live JOIN nodes USING (ino) WHERE kind IN ({kinds}) ORDER BY ino"
        )
        return [NodeId(row[0]) for row in rows]  # type: ignore[arg-type]

    def _place(self) -> tuple[NodeId, bytes] | None:
        """A free name in a directory."""
        parent = self.random.choice(self._live("2"))
        taken = self.tree.names(parent)
        free = [name for name in (b"a", b"b", b"c", b"d") if name not in taken]
        return (parent, self.random.choice(free)) if free else None

    def step(self) -> None:
        tree, pick = self.tree, self.random
        tree.clock.advance(10)
        act = pick.choice(
            ["make", "make", "mkdir", "move", "move", "link", "delete", "undelete", "write", "set", "field"]
        )
        place, nodes = self._place(), self._live("1, 2")[1:]
        node = pick.choice(nodes) if nodes else None
        if act in ("make", "mkdir") and place is not None:
            content = extents(*pick.choices(range(5), k=pick.randrange(12)))
            tree.make(place[1], place[0], *((Kind.DIRECTORY,) if act == "mkdir" else (Kind.FILE, content)))
        elif act == "undelete" and place is not None:
            gone = tree.rows("SELECT n.id FROM entries e JOIN nodes n USING (ino) WHERE e.parent = 2 ORDER BY e.id")
            if gone:
                self._move(NodeId(pick.choice(gone)[0]), *place)  # type: ignore[arg-type]
        elif node is None:
            return
        elif act == "move" and place is not None:
            self._move(node, *place)
        elif act == "delete":
            tree.delete(node)
        elif act == "set":
            tree.set(node, mode=pick.randrange(8), mtime=pick.randrange(4))
        elif act == "field":
            tree.set_field(node, b"x:a", pick.choice([None, b"1", b"2"]))
        elif (files := self._live("1")) and act == "write":
            tree.write(pick.choice(files), extents(*pick.choices(range(5), k=pick.randrange(12))))
        elif files and act == "link" and place is not None:
            tree.link(pick.choice(files), place[1], place[0])

    def _move(self, node: NodeId, parent: NodeId, name: bytes) -> None:
        with suppress(InvalidArgument):
            self.tree.move(node, parent, name)


@pytest.mark.parametrize("seed", range(12))
def test_all_paths_are_told(tree: Tree, seed: int) -> None:
    gardener = Gardener(tree, seed)
    positions = [Position(tree.snapshot()[1])]
    for _ in range(6):
        for _ in range(gardener.random.randrange(30)):
            gardener.step()
        positions.append(Position(tree.snapshot()[1]))
    for _ in range(10):
        gardener.step()
    positions.append(NOW)
    told = 0
    with tree.database.reading() as c:
        whole = {at: Whole(c, at) for at in positions}
        for first in positions:
            for second in positions:
                found = compared(c, first, second)
                check(whole[first], whole[second], found)
                told += len(found)
    assert told > 100


def test_the_old_directory_is_elsewhere(example: Example) -> None:
    tree = example.tree
    tree.move(example.d, ROOT, b"d2")
    tree.make(b"new", tree.mkdir(b"d"))
    assert [each[:2] for each in differences(tree, example.position)] == [
        ("added", "/d/new"), ("added", "/d2"), ("renamed", "/d2/e")
    ]  # fmt: skip


def test_the_trash_is_no_path(tree: Tree) -> None:
    node: NodeId = tree.make(b"a")
    tree.delete(node)
    with tree.database.reading() as c:
        assert queries.paths_of(c, tree.ino(node)) == []
        assert Side(c, NOW, as_of.attributes(c, NOW, Inode(1))).paths(tree.ino(TRASH)) == []  # type: ignore[arg-type]
