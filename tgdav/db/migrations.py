"""Making the schema, and bringing an older one up to date, each in one transaction."""

from collections.abc import Callable, Mapping

from sqlalchemy.schema import CreateIndex, CreateTable

from tgdav.db.connection import Connection
from tgdav.db.schema import VERSION, metadata
from tgdav.db.statements import DIALECT
from tgdav.errors import NewerFormat

APPLICATION_ID = 0x54474456
"""``TGDV``, in the database header's application id."""

MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {}
"""From a version to the next one: changes rows and tables, inside a transaction."""


def create_statements() -> list[str]:
    """Return the statements that make an empty database of the present version."""
    tables = metadata.sorted_tables
    indexes = sorted((index for table in tables for index in table.indexes), key=lambda index: str(index.name))
    definitions = [CreateTable(table) for table in tables] + [CreateIndex(index) for index in indexes]
    return [str(definition.compile(dialect=DIALECT)) for definition in definitions]


def bring_up_to_date(
    connection: Connection,
    migrations: Mapping[int, Callable[[Connection], None]] = MIGRATIONS,
    target: int = VERSION,
) -> None:
    """Make the schema in an empty database, or migrate an older one. Raises NewerFormat for a newer one."""
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
