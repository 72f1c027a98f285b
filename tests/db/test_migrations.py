"""A database of an earlier version of the schema becomes one that equals a new one, with all that it contained."""

from pathlib import Path

import msgspec

from tests.db.conftest import KEY
from tests.metadata.tree import Tree, extents
from tgdav.crdt.ops import ROOT
from tgdav.db import migrations, schema
from tgdav.db.connection import Connection, connect
from tgdav.db.deferred import kind_of

_ADDED = migrations._NEW_IN_2


def _columns(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    names = [row[0] for row in connection.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    # Columns: number, name, type, NOT NULL, default, place in the key.
    return {name: connection.all(f"PRAGMA table_info({name})") for name in names}


def _indexes(connection: Connection) -> list[tuple[object, ...]]:
    return connection.all(
        "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1"
    )


def _make_version_1(connection: Connection) -> None:
    """Take from a database of version 2 what version 1 did not have."""
    for name in ("pins", "predecessors", "tombstones", "authors", "chains"):
        connection.execute(f"DROP TABLE {name}")
    for name in ("entries_deleted", "entries_past_id", "entries_past_ino"):
        connection.execute(f"DROP INDEX {name}")
    for table, columns in _ADDED.items():
        for column in columns:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("PRAGMA user_version = 1")


def test_a_migrated_database_equals_a_new_one(tmp_path: Path) -> None:
    old = connect(tmp_path / "old.db", KEY, cache_kib=1024)
    migrations.bring_up_to_date(old)
    new = _columns(old), _indexes(old)
    _make_version_1(old)
    assert (_columns(old), _indexes(old)) != new
    migrations.bring_up_to_date(old)
    assert (_columns(old), _indexes(old)) == new
    assert old.one("PRAGMA user_version") == (schema.VERSION,)
    old.close()


def test_a_migrated_tree_has_its_history(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "old.db")
    node = tree.make(b"file", content=extents(1))
    for size in (2, 3):
        tree.clock.advance(60)
        tree.write(node, extents(*range(size)))
    gone = tree.make(b"gone")
    deleted = tree.clock.file_time_ns()
    tree.delete(gone)
    tree.close()
    connection = connect(tree.path, KEY, cache_kib=1024)
    _make_version_1(connection)
    connection.close()
    tree._open()
    past = tree.rows("SELECT size, version, kept, id, burst = written FROM nodes_past ORDER BY until")
    assert past == [(1000, 1, 1, node, 1), (2000, 2, 1, node, 1)]
    assert tree.rows(f"SELECT version, burst = written FROM nodes WHERE ino = {tree.ino(node)}") == [(3, 1)]
    assert tree.rows("SELECT deleted FROM entries WHERE parent = 2") == [(deleted,)]
    number = tree.ino(node)
    assert tree.ino(tree.make(b"new")) > max(number, tree.ino(gone))
    tree.close()


def test_rows_of_an_earlier_redo_log_are_written(tmp_path: Path) -> None:
    """A program that knew version 1 was killed: its deferred rows have no values for the columns of version 2."""
    tree = Tree(tmp_path / "tree.db")
    node = tree.make(b"file")
    [entry] = tree.entries(node)
    with tree.database.reading() as connection:
        old_node = list(connection.one("SELECT * FROM nodes WHERE id = ?", (node,)) or ())
        old_entry = list(connection.one("SELECT * FROM entries WHERE id = ?", (entry,)) or ())
    names = [column.name for column in schema.nodes.c]
    old_node[names.index("ino")], old_node[names.index("id")] = 77, b"n" * 16
    old_entry[1:4] = [b"second", b"e" * 16, 77]
    origin = msgspec.msgpack.encode((ROOT, 123))
    moved = {"entry": entry, "parent": 2, "name": b"file", "ino": tree.ino(node), "since": 9, "stamp": 9}
    moved |= {"nfc": None, "origin": origin, "local": 0}

    def replay(connection: Connection) -> None:
        kind_of(1).write(connection, [tuple(old_node[: -len(_ADDED["nodes"])])])
        kind_of(2).write(connection, [tuple(old_entry[: -len(_ADDED["entries"])])])
        kind_of(5).write(connection, [moved])

    tree.database.writer.run(replay)
    assert tree.names() == [b"second"]
    assert tree.rows("SELECT version, author FROM nodes WHERE ino = 77") == [(1, 0)]
    assert tree.rows("SELECT deleted, parent FROM entries WHERE name = CAST('file' AS BLOB)") == [(123, 2)]
    tree.close()
