"""The trash: what lists show, and where a purge and the sweep leave the rows."""

from pathlib import Path

import pytest

from tests.metadata.tree import Tree
from tgdav.crdt.ops import TRASH
from tgdav.db import Connection
from tgdav.metadata import trash

DAY = 86_400.0


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "tree.db")
    made.clock.set_wall(1_764_547_200 * 1_000_000_000)  # 2025-12-01
    return made


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
