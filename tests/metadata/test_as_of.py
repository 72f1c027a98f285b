"""Snapshots show the tree as it was: random changes between them, then copies of the tree against queries as of a position."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.metadata.test_invariants import NODES, emit, operation
from tests.metadata.tree import Tree, extents, make_local
from tgdav.crdt.ops import ROOT, TRASH, Group, Place
from tgdav.db import Connection
from tgdav.db.statements import Statement
from tgdav.errors import InvalidArgument, NotFound
from tgdav.ids import EntryId, Incarnation, Inode, MachineId, Position
from tgdav.metadata import as_of, queries
from tgdav.metadata.types import Attributes, DirectoryEntry, listed

NAMES = [b"a", b"b", b"c", "é".encode(), "e\u0301".encode(), b"._junk"]
JUNK = [b"._1", b"._2"]


def kept(node: Attributes) -> Attributes:
    """Return what of a node's attributes a snapshot shows."""
    return msgspec.structs.replace(node, atime=node.mtime, dirty=0)


def kept_entry(entry: DirectoryEntry) -> DirectoryEntry:
    return DirectoryEntry(entry.name, entry.entry, kept(entry.attributes))


class Copy:
    """A copy of a tree at one moment, without junk: all that ``queries`` tell of it."""

    def __init__(self, c: Connection, position: Position) -> None:
        self.position = position
        inodes = [Inode(row[0]) for row in c.all("SELECT ino FROM nodes WHERE local = 0")]
        found = [queries.attributes(c, ino) for ino in inodes]
        self.nodes = {node.inode: kept(node) for node in found if node is not None}
        self.contents = {ino: queries.manifest(c, ino) for ino in inodes}
        self.fields = queries.fields(c, inodes, b"")
        directories = [ino for ino in inodes if self.nodes[ino].is_directory]
        self.children = {
            ino: [kept_entry(entry) for entry in queries.children(c, ino) if not entry.attributes.local]
            for ino in directories
        }
        self.spelled = {
            (ino, name): queries.find_entry(c, ino, name, normalized=True) for ino in directories for name in NAMES
        }
        self.paths = {ino: queries.paths_of(c, ino) for ino in inodes}
        self.parents = {ino: queries.parent_of(c, ino) for ino in inodes}
        self.walked = [
            (path, kept_entry(entry)) for path, entry in queries.walk(c, Inode(1)) if not entry.attributes.local
        ]
        files = [node for node in self.nodes.values() if node.is_file and node.nlink]
        self.totals = len(files), sum(node.size for node in files)

    def check(self, c: Connection) -> None:
        """Compare it with the queries as of its position."""
        at = self.position
        for ino, node in self.nodes.items():
            assert as_of.attributes(c, at, ino) == node
            assert as_of.manifest(c, at, ino) == as_of.link_target(c, at, ino) == self.contents[ino]
            assert as_of.paths_of(c, at, ino) == self.paths[ino]
            assert as_of.parent_of(c, at, ino) == self.parents[ino]
        assert as_of.fields(c, at, self.nodes, b"") == self.fields
        assert as_of.fields(c, at, self.nodes, b"x:") == {
            ino: found
            for ino, values in self.fields.items()
            if (found := {n: v for n, v in values.items() if n.startswith(b"x:")})
        }
        for ino, values in self.fields.items():
            assert all(as_of.field(c, at, ino, name) == value for name, value in values.items())
            assert as_of.field(c, at, ino, b"x:none") is None
        for ino, entries in self.children.items():
            assert as_of.children(c, at, ino) == entries
            assert as_of.listing(c, at, ino) == [listed(entry.name, entry.attributes) for entry in entries]
            for entry in entries:
                assert as_of.find_entry(c, at, ino, entry.name) == entry
        for (ino, name), entry in self.spelled.items():
            found = as_of.find_entry(c, at, ino, name, normalized=True)
            assert found == (None if entry is None or entry.attributes.local else kept_entry(entry))
        assert list(as_of.walk(c, at, Inode(1))) == self.walked
        assert as_of.totals(c, at) == self.totals
        later = [Inode(row[0]) for row in c.all("SELECT ino FROM nodes") if row[0] not in self.nodes]
        assert all(as_of.attributes(c, at, ino) is None for ino in later)


def copy_of(tree: Tree) -> Copy:
    """Make a snapshot and a copy of what it must show."""
    _, position = tree.snapshot()
    with tree.database.reading() as connection:
        return Copy(connection, Position(position))


def act_on_junk(tree: Tree, act: str, number: int) -> None:
    """Make junk, or turn a node into junk and back, as a rename to a junk name and from it does."""
    name, ino = JUNK[number % 2], Inode(number + 3)

    def work(change: Any) -> None:
        if act == "make":
            make_local(change, name, content=extents(*range(number)))
        elif act == "publish":
            change.publish(ino)
        elif act == "withdraw":
            change.withdraw(ino)
        else:
            for entry, _, old, local in queries.entries_of(change.connection, ino):
                if local:
                    node = queries.node_id_of(change.connection, ino)
                    change.emit_local(Place(EntryId(entry), node, TRASH, old))
            change.drop_local(ino)

    with suppress(NotFound, InvalidArgument):
        tree.journal.change(work)


def replace(tree: Tree, first: int, second: int) -> None:
    """Rename one node's entry over another's, as the file system does: one group."""

    def work(change: Any) -> None:
        places = [
            (node, queries.entries_of(change.connection, ino))
            for node in (NODES[first], NODES[second])
            if (ino := queries.inode_of(change.connection, node)) is not None
        ]
        if first == second or len(places) < 2 or not places[0][1] or not places[1][1]:
            return
        (source, [(entry, *_), *_]), (target, [(old, parent, name, _), *_]) = places
        directory = queries.node_id_of(change.connection, parent)
        change.emit(Place(old, target, TRASH, name))
        change.emit(Place(entry, source, directory or ROOT, name))

    with suppress(NotFound, InvalidArgument):
        tree.journal.change(work)


steps = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.sampled_from(["own", "own", "other"]), st.lists(operation, min_size=1, max_size=4)),
            st.tuples(st.sampled_from(["make", "publish", "withdraw", "drop"]), st.integers(0, 9)),
            st.tuples(st.just("replace"), st.tuples(st.integers(0, 6), st.integers(0, 6))),
            st.tuples(st.sampled_from(["pin", "pin", "reopen"]), st.none()),
        ),
        st.floats(0, 20),
    ),
    max_size=25,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_each_snapshot_shows_the_tree_as_it_was(steps: list[tuple[tuple[str, Any], float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder) / "one.db")
        copies: list[Copy] = []
        number = 0
        for (kind, detail), seconds in steps:
            tree.clock.advance(seconds)
            if kind == "own":
                emit(tree, detail)
            elif kind == "other":
                number += 1
                stamp = (tree.clock.now_ns() // 1_000_000 << 16) - number
                group = Group(number, stamp, tree.clock.now_ns(), tuple(detail))
                tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [group])
            elif kind == "replace":
                replace(tree, *detail)
            elif kind == "pin":
                copies.append(copy_of(tree))
            elif kind == "reopen":
                tree.reopen()
            else:
                act_on_junk(tree, kind, detail)
            with tree.database.reading() as connection:
                for copy in copies:
                    copy.check(connection)
        tree.close()


@pytest.mark.parametrize("name", sorted(name for name, value in vars(as_of).items() if isinstance(value, Statement)))
def test_every_query_uses_indexes(tree: Tree, name: str) -> None:
    """No query scans a table, however many rows it has."""
    sql: Statement = getattr(as_of, name)
    values = dict.fromkeys(["at", "ino", "parent", "inodes", "first", "end", "name"], 1)
    with tree.database.reading() as connection:
        plan = [row[3] for row in connection.all("EXPLAIN QUERY PLAN " + sql, sql.in_order(values))]
    assert [step for step in plan if step.startswith("SEARCH")]
    assert not [step for step in plan if step.startswith("SCAN") and "VIRTUAL TABLE" not in step], plan
