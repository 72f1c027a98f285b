"""One connection to the encrypted database: its settings, and the translation of its errors.

Cipher settings, fixed for schema version 1: a raw 256-bit key, AES-256-CBC, 4 KiB pages, an HMAC-SHA256 on every page. They
are SQLCipher 4's defaults except for the HMAC (SHA-512 by default, which costs a quarter of all write time on a machine with
SHA instructions). No plaintext reaches the disk: temporary tables and sub-journals stay in memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sqlcipher3 import dbapi2

from tgdav.db.statements import Statement
from tgdav.errors import DamageError, LocalFailure, NoSpace, TgdavError

KEY_BYTES = 32
PAGE_BYTES = 4096
_STATEMENTS = 512
"""Size of a connection's cache of prepared statements."""

_SQLITE_FULL = 13
_DAMAGE = (11, 26)
"""SQLITE_CORRUPT, SQLITE_NOTADB."""
_FAILURES = (5, 7, 8, 10, 14, 21)
"""SQLITE_BUSY, NOMEM, READONLY, IOERR, CANTOPEN, MISUSE (of a closed connection)."""

Parameters = Sequence[Any] | Mapping[str, Any]
Row = tuple[Any, ...]


def _itself(value: Any) -> Any:
    return value


# For each value that is not exactly an int, float, str or bytearray the binding looks for an adapter, then for two methods
# that these types do not have, before it binds the value unchanged. A registered adapter makes bytes and None five times faster.
for _type in (type(None), bool, memoryview):
    dbapi2.register_adapter(_type, _itself)
dbapi2.register_adapter(bytes, bytes)  # returns the same object, and is no Python function


def translated(error: dbapi2.Error) -> Exception:
    """Return the tgdav error for SQLite's ``error``; an error that only a bug of ours can cause is returned unchanged."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == _SQLITE_FULL:
        return NoSpace("the disk that holds the local database is full")
    if code in _DAMAGE:
        return DamageError("the local database is damaged, or the key is wrong", blob="database")
    if code in _FAILURES:
        return LocalFailure(f"the local database could not be used: {error}")
    if not code and isinstance(error, dbapi2.ProgrammingError):
        return LocalFailure(f"the local database could not be used: {error}")
    return cast(Exception, error)


def ordered(sql: str, params: Parameters) -> Parameters:
    """Return the parameters in the form that SQLite's binding expects."""
    return sql.in_order(params) if type(sql) is Statement and type(params) is dict else params


class Connection:
    """A thin wrapper over a SQLCipher connection in autocommit mode. One thread at a time may use it.

    Every method raises NoSpace (disk full), LocalFailure (disk error) or DamageError (a page fails its check).
    """

    __slots__ = ("raw",)

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def execute(self, sql: str, params: Parameters = ()) -> Any:
        """Execute one statement; return its cursor."""
        try:
            return self.raw.execute(sql, ordered(sql, params))
        except dbapi2.Error as error:
            raise translated(error) from error

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> Any:
        """Execute one changing statement for each row of parameters."""
        try:
            ready = (ordered(sql, row) for row in rows) if type(sql) is Statement else rows
            return self.raw.executemany(sql, ready)
        except dbapi2.Error as error:
            raise translated(error) from error

    def one(self, sql: str, params: Parameters = ()) -> Row | None:
        """Return the first row, or None."""
        try:
            row: Row | None = self.raw.execute(sql, ordered(sql, params)).fetchone()
        except dbapi2.Error as error:
            raise translated(error) from error
        return row

    def all(self, sql: str, params: Parameters = ()) -> list[Row]:
        """Return all rows."""
        try:
            rows: list[Row] = self.raw.execute(sql, ordered(sql, params)).fetchall()
        except dbapi2.Error as error:
            raise translated(error) from error
        return rows

    def each(self, sql: str, params: Parameters = ()) -> Iterator[Row]:
        """Iterate over the rows without loading them all; the connection is in use until the last row or ``close``."""
        try:
            yield from self.raw.execute(sql, ordered(sql, params))
        except dbapi2.Error as error:
            raise translated(error) from error

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; some errors make SQLite roll it back."""
        return bool(self.raw.in_transaction)

    def close(self) -> None:
        """Close; the last connection to the database checkpoints and removes the write-ahead log."""
        try:
            self.raw.close()
        except dbapi2.Error as error:
            raise translated(error) from error


def connect(path: Path, key: bytes, *, cache_kib: int, read_only: bool = False) -> Connection:
    """Open the database at ``path`` with the raw 32-byte ``key``; make the file (mode 0600) if there is none.

    Raises DamageError (wrong key or not a database), LocalFailure.
    """
    if len(key) != KEY_BYTES:
        raise ValueError("a database key has 32 bytes")
    try:
        raw = dbapi2.connect(
            str(path), isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS, timeout=30
        )
    except dbapi2.Error as error:
        raise translated(error) from error
    try:
        # SQLite creates the file with the umask; its -wal and -shm files copy the mode.
        path.chmod(0o600)
        _configure(Connection(raw), key, cache_kib, read_only)
    except dbapi2.Error as error:
        raw.close()
        raise translated(error) from error
    except (TgdavError, OSError):
        raw.close()
        raise
    return Connection(raw)


def _configure(connection: Connection, key: bytes, cache_kib: int, read_only: bool) -> None:
    settings = (
        "cipher_log_level = NONE",
        f"key = \"x'{key.hex()}'\"",
        f"cipher_page_size = {PAGE_BYTES}",
        "cipher_hmac_algorithm = HMAC_SHA256",
        # Locking and wiping every allocation of SQLite slows each statement down.
        "cipher_memory_security = OFF",
        "temp_store = MEMORY",
        f"cache_size = -{cache_kib}",
        "journal_mode = WAL",
        # SQLite syncs checkpoints and the header of a restarted log; the writer's barrier syncs commits.
        "synchronous = NORMAL",
        "wal_autocheckpoint = 0",
        # A longer log is truncated when it is restarted.
        "journal_size_limit = 67108864",
        f"query_only = {'ON' if read_only else 'OFF'}",
    )
    for setting in settings:
        connection.all(f"PRAGMA {setting}")
