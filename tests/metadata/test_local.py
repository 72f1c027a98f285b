"""Nodes that stay on this machine, and their way into the log and out of it."""

import pytest

from tests.metadata.tree import INCARNATION, MACHINE, Tree, extents, make_local, tag
from tgdav.crdt.ops import ROOT, TRASH, Field, Group, Place, Write, decode_ops
from tgdav.errors import NotFound
from tgdav.ids import Incarnation, Inode, MachineId, NodeId
from tgdav.metadata import queries


def log_count(tree: Tree) -> object:
    return tree.rows("SELECT count(*) FROM log")[0][0]


def replayed(tree: Tree, other: Tree) -> None:
    """Apply all that ``tree`` logged to ``other``."""
    rows = tree.rows("SELECT sequence, stamp, time, ops FROM log ORDER BY position")
    groups = [Group(row[0], row[1], row[2], decode_ops(row[3])) for row in rows]  # type: ignore[arg-type]
    other.journal.apply_groups(MACHINE, INCARNATION, groups)


@pytest.fixture
def other(tmp_path):  # type: ignore[no-untyped-def]
    made = Tree(tmp_path / "other.db", machine=MachineId(b"another machine!"), incarnation=Incarnation(9))
    yield made
    made.close()


def test_junk_is_listed_and_never_logged(tree: Tree) -> None:
    node = tree.journal.change(lambda change: make_local(change, b".DS_Store", content=extents(1)))
    tree.clock.advance(60)
    content = extents(*range(20))
    again = Write(node, 20000, tag(content), content, None, 0)
    tree.journal.change(lambda change: change.emit_local(again))
    tree.journal.change(lambda change: change.emit_local(Field(node, b"x:a", b"1")))
    found = tree.attributes(node)
    assert (found.local, found.nlink, found.size) == (True, 1, 20000)
    assert tree.names() == [b".DS_Store"]
    assert log_count(tree) == 0
    assert tree.rows("SELECT count(*) FROM nodes_past") == [(0,)]


def test_deleted_junk_is_gone_once_it_is_dropped(tree: Tree) -> None:
    node = tree.journal.change(lambda change: make_local(change, b"._a", content=extents(*range(20))))
    [entry] = tree.entries(node)
    tree.journal.change(lambda change: change.drop_local(tree.ino(node)))
    assert tree.names() == [b"._a"]
    tree.journal.change(lambda change: change.emit_local(Place(entry, node, TRASH, b"._a")))
    assert tree.rows("SELECT * FROM entries") == []
    assert tree.attributes(node).nlink == 0
    with tree.database.reading() as connection:
        assert queries.unnamed_local(connection) == [tree.ino(node)]
    tree.journal.change(lambda change: change.drop_local(tree.ino(node)))
    with pytest.raises(AssertionError):
        tree.attributes(node)
    logged = tree.make(b"file")
    tree.delete(logged)
    tree.journal.change(lambda change: change.drop_local(tree.ino(logged)))
    assert tree.attributes(logged).nlink == 0


def test_a_published_node_is_elsewhere_as_it_is_here(tree: Tree, other: Tree) -> None:
    node = tree.journal.change(lambda change: make_local(change, b"._a", content=extents(*range(20))))
    tree.journal.change(lambda change: change.emit_local(Field(node, b"x:a", b"1")))
    folder = tree.mkdir(b"folder")
    [entry] = tree.entries(node)
    tree.clock.advance(60)

    def rename(change):  # type: ignore[no-untyped-def]
        change.publish(tree.ino(node), moved=entry)
        change.emit(Place(entry, node, folder, b"kept"))

    tree.journal.change(rename)
    replayed(tree, other)
    for each in (tree, other):
        found = each.attributes(node)
        assert (found.local, found.nlink, found.size, found.tag) == (False, 1, 20000, tag(extents(*range(20))))
        assert (found.mtime, found.btime, found.mode) == (tree.clock.now_ns() - 60 * 10**9,) * 2 + (0o600,)
        assert each.names(folder) == [b"kept"]
        with each.database.reading() as connection:
            assert queries.manifest(connection, each.ino(node)) == extents(*range(20))
            assert queries.field(connection, each.ino(node), b"x:a") == b"1"
    assert tree.rows("SELECT count(*) FROM nodes_past") == [(0,)]
    assert tree.rows("SELECT count(*) FROM entries WHERE local = 1") == [(0,)]
    before = log_count(tree)
    tree.journal.change(lambda change: change.publish(tree.ino(node)))
    assert log_count(tree) == before


def test_a_withdrawn_node_is_deleted_elsewhere_and_stays_here(tree: Tree, other: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.journal.change(lambda change: change.withdraw(tree.ino(node)))
    replayed(tree, other)
    assert tree.names() == [b"file"]
    assert tree.attributes(node).local
    assert other.names() == []
    before = log_count(tree)
    tree.journal.change(lambda change: change.withdraw(tree.ino(node)))
    assert log_count(tree) == before
    tree.journal.change(lambda change: change.publish(tree.ino(node)))
    replayed(tree, other)
    assert other.names() == [b"file"]
    assert (other.attributes(node).nlink, other.attributes(node).size) == (1, 1000)


def test_unknown_nodes_cannot_be_published_or_withdrawn(tree: Tree) -> None:
    for act in ("publish", "withdraw"):
        with pytest.raises(NotFound):
            tree.journal.change(lambda change, act=act: getattr(change, act)(Inode(99)))
    with pytest.raises(NotFound):
        tree.journal.change(
            lambda change: change.emit_local(Place(change.new_local_id(), NodeId(b"g" * 16), ROOT, b"n"))
        )


def test_junk_in_a_deleted_directory_stays_with_its_name(tree: Tree) -> None:
    directory = tree.mkdir(b"directory")
    node = tree.journal.change(lambda change: make_local(change, b".DS_Store", directory))
    ino = tree.ino(node)
    tree.delete(directory)
    with tree.database.reading() as connection:
        assert queries.unnamed_local(connection) == []
    tree.journal.change(lambda change: change.drop_local(ino))
    assert tree.rows(f"SELECT ino FROM nodes WHERE ino = {ino}") == [(ino,)]
