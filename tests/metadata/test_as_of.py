"""Snapshots show the tree as it was: random changes between them, then copies of the tree against queries as of a position."""

import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.metadata.test_invariants import emit, operation
from tests.metadata.tree import Tree, extents, make_local
from tgdav.crdt.ops import ROOT, TRASH, Attr, Field, Group, Place, Purge, Unsnapshot
from tgdav.db import Connection
from tgdav.db.statements import Statement
from tgdav.errors import InvalidArgument, NotFound
from tgdav.ids import EntryId, Incarnation, Inode, MachineId, Position
from tgdav.metadata import as_of, queries
from tgdav.metadata.sweep import sweep_all
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind, listed

NAMES = [b"a", b"b", b"c", "é".encode(), "e\u0301".encode(), b"._junk"]


def kept(node: Attributes) -> Attributes:
    """Return what of a node's attributes a snapshot shows."""
    return msgspec.structs.replace(node, atime=node.mtime, dirty=0)


def kept_entry(entry: DirectoryEntry) -> DirectoryEntry:
    return DirectoryEntry(entry.name, entry.entry, kept(entry.attributes))


# What was purged goes as soon as no snapshot before needs it.
_NODES = """WITH RECURSIVE purged(ino) AS (
 SELECT 0 UNION SELECT e.ino FROM purged JOIN entries e ON e.parent = purged.ino
 WHERE NOT EXISTS (SELECT 1 FROM entries o WHERE o.ino = e.ino AND o.parent != purged.ino))
SELECT ino FROM nodes WHERE local = 0 AND ino NOT IN purged ORDER BY ino"""


class Copy:
    """A copy of a tree at one moment, without junk: all that ``queries`` tell of it."""

    def __init__(self, c: Connection, position: Position) -> None:
        self.position = position
        inodes = [Inode(row[0]) for row in c.all(_NODES)]
        found = [queries.attributes(c, ino) for ino in inodes]
        self.nodes = {node.inode: kept(node) for node in found if node is not None}
        self.last = max(row[0] for row in c.all("SELECT ino FROM nodes"))
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
        self.parents = {ino: parent for ino in inodes if (parent := queries.parent_of(c, ino))}
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
            assert self.parents.get(ino) in (None, as_of.parent_of(c, at, ino))
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
        later = [Inode(row[0]) for row in c.all("SELECT ino FROM nodes WHERE ino > ?", (self.last,))]
        assert all(as_of.attributes(c, at, ino) is None for ino in later)


def copy_of(tree: Tree) -> Copy:
    """Make a snapshot and a copy of what it must show."""
    _, position = tree.snapshot()
    with tree.database.reading() as connection:
        return Copy(connection, Position(position))


def act_on_junk(tree: Tree, what: str, number: int) -> None:
    """Make junk, or turn a node into junk and back, as a rename to a junk name and from it does."""
    ino = Inode(number + 3)
    # Junk has names of its own: one that a logged entry has too would change what a listing shows of that.
    name = b"._%d" % tree.rows("SELECT max(ino) + (SELECT coalesce(max(position), 0) FROM log) FROM nodes")[0][0]

    def work(change: Any) -> None:
        if what == "junk":
            make_local(change, name, content=extents(*range(number)))
        elif what == "publish":
            change.publish(ino)
        else:
            if what == "withdraw":
                # As the file system does, which makes no directory junk.
                found = change.attributes(ino)
                change.withdraw(ino if found is not None and found.is_file else Inode(0))
            node = queries.node_id_of(change.connection, ino)
            for entry, parent, old, local in queries.entries_of(change.connection, ino):
                if local:
                    above = TRASH if what == "drop" else queries.node_id_of(change.connection, parent)
                    change.emit_local(Place(entry, node, above, name + old))
            if what == "drop":
                change.drop_local(ino)

    with suppress(NotFound, InvalidArgument):
        tree.journal.change(work)


KINDS = [Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK]
ACTS = [
    "make",
    "make",
    "make",
    "link",
    "link",
    "move",
    "replace",
    "delete",
    "restore",
    "purge",
    "write",
    "set",
    "field",
]


def act(tree: Tree, what: str, a: int, b: int, c: int) -> None:
    """Do something that is possible, chosen by the three numbers among what there is."""
    entries = tree.rows(
        """SELECT e.id, n.id, p.id, e.name, n.kind FROM entries e JOIN nodes n ON n.ino = e.ino
        JOIN nodes p ON p.ino = e.parent WHERE e.local = 0 ORDER BY e.id"""
    )
    directories = [row[0] for row in tree.rows("SELECT id FROM nodes WHERE kind = 2 AND ino != 2 ORDER BY ino")]
    name, directory = NAMES[b % 5], directories[a % len(directories)]
    if what == "make" or not entries:
        kind = KINDS[c % 4]
        tree.make(name, directory, kind, extents(*range(c % 3)) if kind == Kind.FILE else b"")
        return
    (entry, node, parent, old, kind), other = entries[c % len(entries)], entries[a % len(entries)]
    ops = {
        "link": []
        if kind == Kind.DIRECTORY
        else [Place(EntryId(b"%16d" % (a * 10**4 + b * 100 + c)), node, directory, name)],
        "move": [Place(entry, node, directory, name)],
        "replace": [Place(other[0], other[1], TRASH, other[3]), Place(entry, node, other[2], other[3])],
        "delete": [Place(entry, node, TRASH, old)],
        "restore": [Place(entry, node, ROOT, name)] if parent == TRASH else [],
        "purge": [Purge((EntryId(entry),))] if parent == TRASH else [],
        "set": [Attr(node, {"mode": b, "mtime": a})],
        "field": [Field(node, [b"x:a", b"p:b"][a % 2], None if b % 3 == 0 else bytes([b]))],
    }
    with suppress(NotFound, InvalidArgument):
        if what == "write" and kind == Kind.FILE:
            tree.write(node, extents(*range(b % 12)))
        elif what != "replace" or entry != other[0]:
            tree.journal.change(lambda change: [change.emit(op) for op in ops.get(what, [])])


steps = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.sampled_from(["own", "own", "other"]), st.lists(operation, min_size=1, max_size=4)),
            st.tuples(st.sampled_from(["junk", "publish", "withdraw", "drop"]), st.integers(0, 9)),
            st.tuples(st.sampled_from(["pin", "pin", "reopen"]), st.none()),
        ),
        st.floats(0, 20),
    ),
    max_size=40,
)


KINDS_OF_STEPS = [*ACTS, "pin", "unpin", "sweep", "reopen", "junk", "publish", "withdraw", "drop"]
WEIGHTS = [6] * len(ACTS) + [10, 4, 3, 2, 2, 3, 3, 2]


class Model:
    """A tree, and the copies of what its snapshots must show."""

    def __init__(self, path: Path) -> None:
        self.tree = Tree(path)
        self.copies: list[Copy] = []
        self._groups = 0

    def step(self, kind: str, detail: Any, seconds: float) -> None:
        tree = self.tree
        tree.clock.advance(seconds)
        if kind == "own":
            emit(tree, detail)
        elif kind == "other":
            self._groups += 1
            stamp = (tree.clock.now_ns() // 1_000_000 << 16) - self._groups
            group = Group(self._groups, stamp, tree.clock.now_ns(), tuple(detail))
            tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [group])
        elif kind == "pin":
            self.copies.append(copy_of(tree))
        elif kind == "reopen":
            tree.reopen()
        elif kind == "sweep":
            tree.sweep()
        elif kind == "unpin":
            if self.copies:
                gone = self.copies.pop(detail % len(self.copies))
                [(snapshot,)] = tree.rows(f"SELECT id FROM pins WHERE position = {gone.position}")
                tree.journal.change(lambda change: change.emit(Unsnapshot(snapshot)))
            sweep_all(tree.database)
        elif kind in ACTS:
            act(tree, kind, *detail)
        else:
            act_on_junk(tree, kind, detail)
        with tree.database.reading() as connection:
            for copy in self.copies:
                copy.check(connection)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_each_snapshot_shows_the_tree_as_it_was(steps: list[tuple[tuple[str, Any], float]]) -> None:
    """Also after senseless operations, those of other machines, and comings and goings of junk."""
    with tempfile.TemporaryDirectory() as folder:
        model = Model(Path(folder) / "one.db")
        for (kind, detail), seconds in steps:
            model.step(kind, detail, seconds)
        model.tree.close()


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.torture) for n in range(4, 100))])
def test_long_histories(tmp_path: Path, seed: int) -> None:
    """Many sensible changes, so that directories have several entries and files several names."""
    chance, model = Random(seed), Model(tmp_path / "one.db")
    for _ in range(70):
        kind = chance.choices(KINDS_OF_STEPS, WEIGHTS)[0]
        detail = tuple(chance.randrange(100) for _ in range(3))
        model.step(kind, detail if kind in ACTS else detail[0] % 20, chance.choice([0.0, 0.5, 6.0]))
    model.tree.close()


@pytest.mark.parametrize("name", sorted(name for name, value in vars(as_of).items() if isinstance(value, Statement)))
def test_every_query_uses_indexes(tree: Tree, name: str) -> None:
    """No query scans a table, however many rows it has."""
    sql: Statement = getattr(as_of, name)
    values = dict.fromkeys(["at", "ino", "parent", "inodes", "first", "end", "name"], 1)
    with tree.database.reading() as connection:
        plan = [row[3] for row in connection.all("EXPLAIN QUERY PLAN " + sql, sql.in_order(values))]
    assert [step for step in plan if step.startswith("SEARCH")]
    assert not [step for step in plan if step.startswith("SCAN") and "VIRTUAL TABLE" not in step], plan


def test_a_file_that_becomes_junk_stays_in_snapshots(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.set_field(node, b"x:a", b"1")
    ino, copy = tree.ino(node), copy_of(tree)
    tree.clock.advance(60)
    tree.journal.change(lambda change: change.withdraw(ino))
    tree.journal.change(lambda change: change.emit_local(Field(node, b"x:a", b"2")))
    [entry] = tree.entries(node)
    with tree.database.reading() as connection:
        copy.check(connection)
    tree.journal.change(lambda change: change.emit_local(Place(entry, node, TRASH, b"file")))
    tree.journal.change(lambda change: change.drop_local(ino))
    with tree.database.reading() as connection:
        assert queries.attributes(connection, ino) is None
        copy.check(connection)
