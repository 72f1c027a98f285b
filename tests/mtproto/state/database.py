"""The server's memory: one SQLite database in its folder.

A killed server keeps all it answered; a power cut is not its business.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    user INTEGER PRIMARY KEY, access_hash INTEGER, phone TEXT UNIQUE, code TEXT, password TEXT, name TEXT, premium INTEGER,
    dc INTEGER, status TEXT, created INTEGER);
CREATE TABLE IF NOT EXISTS auth_keys (
    id BLOB, dc INTEGER, key BLOB, salt INTEGER, user INTEGER, pending INTEGER, layer INTEGER, refusal TEXT,
    PRIMARY KEY (id, dc));
CREATE TABLE IF NOT EXISTS channels (
    channel INTEGER PRIMARY KEY, access_hash INTEGER, title TEXT, about TEXT, username TEXT, megagroup INTEGER,
    owner INTEGER, created INTEGER);
CREATE TABLE IF NOT EXISTS members (channel INTEGER, user INTEGER, PRIMARY KEY (channel, user));
CREATE TABLE IF NOT EXISTS boxes (box INTEGER PRIMARY KEY, pts INTEGER, last INTEGER, floor INTEGER);
CREATE TABLE IF NOT EXISTS events (
    box INTEGER, pts INTEGER, count INTEGER, kind TEXT, ids TEXT, PRIMARY KEY (box, pts)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    box INTEGER, id INTEGER, peer INTEGER, sender INTEGER, date INTEGER, edited INTEGER, text TEXT, document INTEGER, action TEXT,
    pinned INTEGER DEFAULT 0, PRIMARY KEY (box, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_by_peer ON messages (box, peer, id);
CREATE INDEX IF NOT EXISTS messages_by_document ON messages (document) WHERE document IS NOT NULL;
CREATE TABLE IF NOT EXISTS dialogs (box INTEGER, peer INTEGER, count INTEGER, PRIMARY KEY (box, peer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS random_ids (
    user INTEGER, random INTEGER, box INTEGER, id INTEGER, pts INTEGER, date INTEGER, PRIMARY KEY (user, random)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, access_hash INTEGER, dc INTEGER, size INTEGER, mime TEXT, name TEXT, date INTEGER, epoch INTEGER,
    part_size INTEGER, offsets BLOB, spool TEXT);
CREATE TABLE IF NOT EXISTS uploads (
    user INTEGER, file INTEGER, big INTEGER, total INTEGER, part_size INTEGER, spool TEXT, touched INTEGER,
    PRIMARY KEY (user, file));
CREATE TABLE IF NOT EXISTS parts (
    user INTEGER, file INTEGER, part INTEGER, start INTEGER, size INTEGER, PRIMARY KEY (user, file, part)) WITHOUT ROWID;
"""


class Database:
    """Thin wrapper: every statement is its own transaction unless inside `with database.together():`."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "state.sqlite", isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-32000;" + _SCHEMA
        )
        self._depth = 0

    def run(self, sql: str, *values: Any) -> int:
        """Executes a statement; the number of rows it touched."""
        return self._connection.execute(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Executes a statement once for each row."""
        self._connection.executemany(sql, rows)

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row, or None."""
        found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """All rows."""
        return self._connection.execute(sql, values).fetchall()

    def number(self, sql: str, *values: Any) -> int:
        """The first column of the first row; 0 if there is none."""
        found = self.row(sql, *values)
        return int(found[0] or 0) if found is not None else 0

    def together(self) -> "_Together":
        """A transaction; nests."""
        return _Together(self)

    def begin(self) -> None:
        if self._depth == 0:
            self._connection.execute("BEGIN IMMEDIATE")
        self._depth += 1

    def finish(self, *, failed: bool) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._connection.execute("ROLLBACK" if failed else "COMMIT")

    def close(self) -> None:
        self._connection.close()


class _Together:
    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.begin()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._database.finish(failed=kind is not None)
