"""The trash: what lists show, and where a purge and the sweep leave the rows."""

from pathlib import Path

import pytest

from tests.metadata.tree import Tree, extents
from tgdav.crdt.ops import TRASH, Place, Purge
from tgdav.db import Connection
from tgdav.ids import EntryId, NodeId
from tgdav.metadata import trash
from tgdav.metadata.change import Change

DAY = 86_400.0


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "tree.db")
    made.clock.set_wall(1_764_547_200 * 1_000_000_000)  # 2025-12-01
    return made


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_snapshot_shows_of_a_file_stays_until_its_last_name_was_purged(tree: Tree, is_first: bool) -> None:
    node = tree.make(b"a" if is_first else b"z", content=extents(1))
    tree.link(node, b"m")
    first, second = tree.entries(node)
    ino = tree.ino(node)
    _purge(tree, node, first, b"a" if is_first else b"z")
    _, position = tree.snapshot()
    _purge(tree, node, second, b"m")
    tree.sweep()
    assert tree.rows("SELECT count(*) FROM nodes WHERE ino > 2") == [(0,)]
    [(until, kept)] = tree.rows(f"SELECT until, kept FROM nodes_past WHERE ino = {ino} AND until > {position}")
    assert (until, kept) == (position + 1, 0)


def _purge(tree: Tree, node: NodeId, entry: EntryId, name: bytes) -> None:
    def work(change: Change) -> None:
        change.emit(Place(entry, node, TRASH, name))
        change.emit(Purge((entry,)))

    tree.journal.change(work)


def _delete(tree: Tree, name: bytes) -> None:
    tree.move(tree.make(name), TRASH, name)


def test_deleted_entries_are_listed_by_day_each_name_once(tree: Tree) -> None:
    for name in (b"a", b"a", b"b"):
        _delete(tree, name)
    tree.clock.advance(DAY)
    for name in (b"a", b"a (2)", b"a"):
        _delete(tree, name)
    with tree.database.reading() as connection:
        assert trash.days(connection) == ["2025-12-01", "2025-12-02"]
        first, second = (trash.deleted_on(connection, day) for day in trash.days(connection))
        assert [name for name, _ in first] == [b"a", b"a (2)", b"b"]
        assert [name for name, _ in second] == [b"a", b"a (2)", b"a (3)"]
        for day, found in (("2025-12-01", first), ("2025-12-02", second)):
            for name, entry in found:
                assert trash.find_deleted(connection, day, name) == entry
        assert trash.find_deleted(connection, "2025-12-01", b"a (3)") is None
        assert trash.deleted_on(connection, "2025-12-03") == []
        assert trash.deleted_on(connection, "20251201") == trash.deleted_on(connection, "no day") == []


def test_no_list_of_the_trash_reads_more_than_it_shows(tree: Tree) -> None:
    with tree.database.reading() as connection:
        for statement, values in ((trash._NEXT, (0,)), (trash._BETWEEN, (0, 1)), (trash._BEFORE, (0, 1))):
            assert "entries_deleted" in _plan(connection, statement, values)
        assert "PRIMARY KEY (parent=? AND name=?)" in _plan(connection, trash._NAMED, (b"", 0, 1))


def _plan(connection: Connection, statement: str, values: tuple[object, ...]) -> str:
    return "\n".join(str(row[3]) for row in connection.all("EXPLAIN QUERY PLAN " + statement, values))
