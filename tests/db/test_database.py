import os
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.db.conftest import KEY
from tgdav.db import migrations
from tgdav.db.connection import connect
from tgdav.db.database import Database
from tgdav.db.schema import VERSION, metadata
from tgdav.disk import SystemDisk
from tgdav.errors import DamageError, LocalFailure, UsageError

PUT = "INSERT INTO settings VALUES (:key, :value)"
GET = "SELECT value FROM settings WHERE key = :key"


def put(database: Database, key: str, value: bytes = b"v", *, durable: bool = False) -> None:
    database.writer.run(lambda t: t.execute(PUT, {"key": key, "value": value}), durable=durable)


def get(database: Database, key: str) -> bytes | None:
    with database.reading() as connection:
        row = connection.one(GET, {"key": key})
    return row[0] if row else None


def test_a_new_database_has_every_table_and_its_version(database: Database) -> None:
    with database.reading() as connection:
        names = {row[0] for row in connection.all("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert connection.one("PRAGMA user_version") == (VERSION,)
    assert set(metadata.tables) <= names


def test_rows_are_there_after_reopening(path: Path, database: Database) -> None:
    put(database, "a", b"1")
    database.close()
    again = Database.open(path, KEY, disk=SystemDisk())
    assert get(again, "a") == b"1"
    again.close()


def test_closing_twice_does_nothing_and_ends_all_use(database: Database) -> None:
    database.close()
    database.close()
    with pytest.raises(LocalFailure):
        put(database, "a")
    with pytest.raises(LocalFailure), database.reading():
        pass


def test_a_wrong_key_is_damage_of_the_database(path: Path, database: Database) -> None:
    put(database, "a")
    database.close()
    with pytest.raises(DamageError) as caught:
        Database.open(path, bytes(32), disk=SystemDisk())
    assert caught.value.blob == "database"


def test_a_flipped_bit_is_damage(path: Path, database: Database) -> None:
    for number in range(200):
        put(database, f"{number}", bytes(500))
    database.close()
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError):
        _read_after_opening(path, "150")


def _read_after_opening(path: Path, key: str) -> bytes | None:
    again = Database.open(path, KEY, disk=SystemDisk())
    try:
        return get(again, key)
    finally:
        again.close()


def test_nothing_stands_in_the_files_in_plaintext(path: Path, database: Database) -> None:
    put(database, "SECRET-NAME", b"SECRET-VALUE" * 1000, durable=True)
    for name in os.listdir(path.parent):
        data = (path.parent / name).read_bytes()
        assert b"SECRET" not in data
        assert b"settings" not in data
        assert b"SQLite format" not in data


def test_all_files_are_the_owners_alone(path: Path, database: Database) -> None:
    put(database, "a")
    assert {(path.parent / name).stat().st_mode & 0o777 for name in os.listdir(path.parent)} == {0o600}


def test_a_reader_keeps_its_state_while_a_writer_goes_on(database: Database) -> None:
    put(database, "a", b"1")
    with database.reading() as connection:
        assert connection.one(GET, {"key": "a"}) == (b"1",)
        put(database, "b", b"2")
        assert connection.one(GET, {"key": "b"}) is None
    assert get(database, "b") == b"2"


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(LocalFailure), database.reading() as connection:
        connection.execute(PUT, {"key": "a", "value": b""})


def test_readers_of_many_threads_see_whole_changes(database: Database) -> None:
    put(database, "x", b"0")
    put(database, "y", b"0")
    wrong: list[object] = []

    def write() -> None:
        for number in range(200):
            value = b"%d" % number
            database.writer.run(lambda t, value=value: t.execute("UPDATE settings SET value = ?", (value,)))

    def read() -> None:
        while writer.is_alive():
            with database.reading() as connection:
                values = {row[0] for row in connection.all("SELECT value FROM settings")}
                values.update(row[0] for row in connection.all("SELECT value FROM settings"))
            if len(values) != 1:
                wrong.append(values)

    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=read) for _ in range(4)]
    for thread in [writer, *readers]:
        thread.start()
    for thread in [writer, *readers]:
        thread.join()
    assert wrong == []
    assert get(database, "x") == b"199"


def test_a_checkpoint_folds_the_log_back_so_that_it_starts_anew(path: Path, database: Database) -> None:
    for number in range(300):
        put(database, f"{number}", bytes(3000))
    log = path.with_name("main.db-wal")
    size = log.stat().st_size
    assert database.checkpoint(pages=1_000_000) == 0
    assert database.checkpoint(pages=1) > 300
    assert database.checkpoint(pages=1) == 0
    put(database, "after")
    assert log.stat().st_size == size
    assert database.checkpoint(pages=1) < 20


def test_the_log_grows_ahead_so_that_syncs_find_the_size_as_it_was(path: Path, database: Database) -> None:
    put(database, "first", durable=True)
    log = path.with_name("main.db-wal")
    size = log.stat().st_size
    for number in range(20):
        put(database, f"{number}", bytes(3000), durable=True)
    assert log.stat().st_size == size
    for number in range(200):
        put(database, f"more {number}", bytes(6000), durable=True)
    assert log.stat().st_size > size
    database.close()
    with closing(Database.open(path, KEY, disk=SystemDisk())) as again:
        assert get(again, "more 199") == bytes(6000)


def test_a_checkpoint_goes_on_beside_writers(database: Database) -> None:
    def write(name: str) -> None:
        for number in range(150):
            put(database, f"{name}{number}", bytes(2000), durable=number % 10 == 0)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        database.checkpoint(pages=10)
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert connection.one("SELECT count(*) FROM settings") == (450,)
        assert connection.one("PRAGMA integrity_check") == ("ok",)


def test_a_long_log_is_folded_back_with_writers_held_off(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As readers and writers that never pause would otherwise let the log grow for ever."""
    monkeypatch.setattr("tgdav.db.database.RESTART_PAGES", 10)
    held: list[bool] = []
    original = database.writer.exclusively
    monkeypatch.setattr(database.writer, "exclusively", lambda action: [held.append(True), original(action)][1])
    for number in range(30):
        put(database, f"{number}", bytes(3000))
    assert database.checkpoint(pages=10) > 30
    assert held == [True]
    size = path.with_name("main.db-wal").stat().st_size
    put(database, "after")
    assert path.with_name("main.db-wal").stat().st_size == size


def test_more_readers_than_are_kept_can_read_at_once(database: Database) -> None:
    put(database, "a", b"1")
    with ExitStack() as stack:
        readers = [stack.enter_context(database.reading()) for _ in range(20)]
        assert {reader.one(GET, {"key": "a"}) for reader in readers} == {(b"1",)}
    assert len(database._idle) == 16


def test_a_newer_database_is_refused(path: Path, database: Database) -> None:
    database.writer.exclusively(lambda: None)
    database.close()
    connection = connect(path, KEY, cache_kib=1000)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(UsageError):
        Database.open(path, KEY, disk=SystemDisk())


def test_migrations_run_in_order_and_whole(path: Path, database: Database) -> None:
    database.close()
    connection = connect(path, KEY, cache_kib=1000)
    steps = {
        VERSION: lambda c: c.execute("ALTER TABLE settings ADD COLUMN extra"),
        VERSION + 1: lambda c: c.execute("UPDATE settings SET extra = 1"),
    }
    migrations.bring_up_to_date(connection, steps, VERSION + 2)
    assert connection.one("PRAGMA user_version") == (VERSION + 2,)
    broken = {
        VERSION + 2: lambda c: c.execute("DROP TABLE settings"),
        VERSION + 3: lambda c: c.execute("nonsense"),
    }
    with pytest.raises(Exception, match="syntax"):
        migrations.bring_up_to_date(connection, broken, VERSION + 4)
    assert connection.one("PRAGMA user_version") == (VERSION + 2,)
    assert connection.all("SELECT extra FROM settings") == []
    connection.close()
