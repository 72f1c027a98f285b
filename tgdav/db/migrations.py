"""Creates the schema in an empty database, and migrates older databases to the current version, one version at a time."""

from collections.abc import Callable, Mapping

import msgspec
from sqlalchemy import Index
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from tgdav.db.connection import Connection
from tgdav.db.schema import VERSION, authors, chains, metadata, pins, predecessors, tombstones
from tgdav.db.statements import DIALECT
from tgdav.errors import NewerFormat

APPLICATION_ID = 0x54474456
"""``TGDV``, in the database header's application id."""

_NEW_IN_2 = {
    "nodes": ("burst", "author", "seq", "version"),
    "nodes_past": ("burst", "author", "seq", "version", "id", "kept"),
    "entries": ("deleted", "by"),
    "entries_past": ("stamp", "nfc", "by"),
    "packs": ("retired",),
}
# They change only what programs of version 1 wrote.
_FILL_2 = (
    """UPDATE nodes SET version = 1 + (SELECT count(*) FROM nodes_past p WHERE p.ino = nodes.ino)
 WHERE burst = 0 AND kind = 1 AND ino IN (SELECT ino FROM nodes_past)""",
    "UPDATE nodes SET burst = written WHERE burst = 0",
    """UPDATE nodes_past SET burst = written, id = (SELECT n.id FROM nodes n WHERE n.ino = nodes_past.ino),
 version = 1 + (SELECT count(*) FROM nodes_past p WHERE p.ino = nodes_past.ino AND p.until < nodes_past.until)
 WHERE id IS NULL""",
    """INSERT OR IGNORE INTO chains (incarnation, machine, number, hash, sequence, stamp, position)
 SELECT s.incarnation, s.machine, s.number, s.hash, t.last, t.stamp, t.position FROM segments s JOIN
 (SELECT incarnation, max(number) AS number, max(last) AS last, max(last_stamp) AS stamp, max(position) AS position
  FROM segments WHERE blob IS NOT NULL GROUP BY incarnation) t USING (incarnation, number)""",
)


def _migrate_1(connection: Connection) -> None:
    """Add the columns and tables of version 2."""
    for name, columns in _NEW_IN_2.items():
        table = metadata.tables[name]
        for column in columns:
            definition = CreateColumn(table.c[column]).compile(dialect=DIALECT)
            connection.execute(f"ALTER TABLE {name} ADD COLUMN {definition}")
    for table in (pins, predecessors, tombstones, authors, chains):
        connection.execute(str(CreateTable(table).compile(dialect=DIALECT)))
    known = {row[0] for row in connection.all("SELECT name FROM sqlite_master WHERE type = 'index'")}
    for index in _indexes():
        if index.name not in known:
            connection.execute(str(CreateIndex(index).compile(dialect=DIALECT)))
    fill_version_2(connection)
    # The setting has the hashes of the batches of the last full checkpoint. Batches have other columns now, so the next
    # checkpoint is a full one.
    connection.execute("DELETE FROM settings WHERE key = 'checkpoint.base'")


def fill_version_2(connection: Connection) -> None:
    """Set the columns that version 2 added in rows of version 1: in a migrated database, or from a checkpoint of version 1."""
    for statement in _FILL_2:
        connection.execute(statement)
    deleted = connection.all("SELECT origin, id FROM entries WHERE origin IS NOT NULL AND deleted IS NULL")
    times = [(msgspec.msgpack.decode(origin)[1], entry) for origin, entry in deleted]
    connection.executemany("UPDATE entries SET deleted = ? WHERE id = ?", times)


MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {1: _migrate_1}
"""Version to migrate from, and the function that migrates to the next version inside a transaction."""


def create_statements() -> list[str]:
    """Return the statements that create an empty database of the current version."""
    tables = [str(CreateTable(table).compile(dialect=DIALECT)) for table in metadata.sorted_tables]
    return tables + [str(CreateIndex(index).compile(dialect=DIALECT)) for index in _indexes()]


def _indexes() -> list[Index]:
    found = (index for table in metadata.sorted_tables for index in table.indexes)
    return sorted(found, key=lambda index: str(index.name))


def bring_up_to_date(
    connection: Connection,
    migrations: Mapping[int, Callable[[Connection], None]] = MIGRATIONS,
    target: int = VERSION,
) -> None:
    """Create the schema in an empty database, or migrate an older one, in one transaction. Raises NewerFormat."""
    version = _version(connection)
    if version == target:
        return
    if version > target:
        raise NewerFormat("the local database", version)
    connection.execute("BEGIN IMMEDIATE")
    try:
        _change(connection, version, migrations, target)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: Connection) -> int:
    row = connection.one("PRAGMA user_version")
    return int(row[0]) if row else 0


def _change(
    connection: Connection, version: int, migrations: Mapping[int, Callable[[Connection], None]], target: int
) -> None:
    if version == 0:
        for statement in create_statements():
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    else:
        for step in range(version, target):
            migrations[step](connection)
    connection.execute(f"PRAGMA user_version = {target}")
