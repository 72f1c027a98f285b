"""The redo log: after a kill what was answered is done again, all of it and once; what does not follow the database is not."""

import errno
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from tests.db.conftest import KEY
from tests.db.test_crashes import left_behind
from tests.db.test_lazy import answered, begin_redo_log, committed
from tests.db.test_writer import keys, put
from tests.support.platform import CrashAt, FailingDisk, SimulatedCrash
from tgdav.db import Database, Transaction, lazy_batch, redo_log
from tgdav.db.redo_log import SETTING, KeptRecord
from tgdav.disk import SystemDisk
from tgdav.errors import DamageError, NewerFormat, NoSpace
from tgdav.failpoints import installed


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def database(path: Path, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """One that does not commit by itself before a test is over."""
    monkeypatch.setattr(lazy_batch, "COMMIT_DELAY_SECONDS", 60)
    opened = Database.open(path, KEY, disk=disk)
    begin_redo_log(opened)
    yield opened
    opened.close()


def logs(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}-redo-*"))


def keep(database: Database, payload: bytes) -> KeptRecord:
    kept = database.redo.keep(payload)
    assert kept is not None
    return kept


def release(database: Database, *kept: KeptRecord) -> None:
    database.writer.run(lambda transaction: transaction.release(kept))


def found(path: Path) -> list[bytes | None]:
    with closing(Database.open(path, KEY, disk=SystemDisk())) as opened:
        return [kept.payload for kept in opened.redo.found]


def put_three(database: Database) -> None:
    for name in "abc":
        put(database, name, lazy=True)


def test_what_was_answered_is_done_again_and_only_once(database: Database, path: Path, tmp_path: Path) -> None:
    put_three(database)
    assert committed(path, tmp_path / "committed") == set()
    left = left_behind(path, tmp_path / "left")
    for _ in range(2):
        with closing(Database.open(left, KEY, disk=SystemDisk())) as opened:
            assert keys(opened) == {"a", "b", "c"}
            assert logs(left) == []


def test_what_is_committed_is_not_done_again(database: Database, path: Path, tmp_path: Path) -> None:
    put_three(database)
    database.writer.sync()
    database.writer.run(lambda t: t.execute("DELETE FROM settings WHERE key = 'a'"))
    assert answered(path, tmp_path / "left") == {"b", "c"}


def test_a_log_that_does_not_follow_the_database_is_ignored(database: Database, path: Path, tmp_path: Path) -> None:
    """A power cut took commits, and left what was answered after them."""
    put(database, "a", durable=True)
    before = left_behind(path, tmp_path / "before")
    put(database, "b")
    put(database, "c", lazy=True)
    for log in logs(before):
        log.unlink()
    for log in logs(path):
        shutil.copy(log, before.parent / log.name)
    with closing(Database.open(before, KEY, disk=SystemDisk())) as opened:
        assert keys(opened) == {"a"}


def test_a_log_follows_commits_that_were_synced(database: Database, path: Path, tmp_path: Path) -> None:
    put(database, "a", lazy=True)
    put(database, "b", durable=True)
    put(database, "c", durable=True)
    put(database, "d", lazy=True)
    assert answered(path, tmp_path / "left") == {"a", "b", "c", "d"}


def _cut(log: Path) -> None:
    log.write_bytes(log.read_bytes().rstrip(b"\0")[:-3])


def _flip_the_end(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[-5] ^= 1
    log.write_bytes(data)


def _append_garbage(log: Path) -> None:
    log.write_bytes(log.read_bytes() + bytes(range(200)))


@pytest.mark.parametrize(("harm", "left"), [(_cut, "ab"), (_flip_the_end, "ab"), (_append_garbage, "abc")])
def test_records_count_up_to_the_first_that_is_not_whole(
    database: Database, path: Path, tmp_path: Path, harm: Callable[[Path], None], left: str
) -> None:
    put_three(database)
    copy = left_behind(path, tmp_path / "left")
    [log] = logs(copy)
    harm(log)
    with closing(Database.open(copy, KEY, disk=SystemDisk())) as opened:
        assert keys(opened) == set(left)


def test_any_flipped_bit_of_the_first_record_ends_the_log_there(database: Database, path: Path, tmp_path: Path) -> None:
    put_three(database)
    source = left_behind(path, tmp_path / "source")
    length = logs(source)[0].stat().st_size // 3
    for place in range(0, length, 17):
        copy = left_behind(source, tmp_path / f"{place}")
        [log] = logs(copy)
        data = bytearray(log.read_bytes())
        data[place] ^= 1 << place % 8
        log.write_bytes(data)
        with closing(Database.open(copy, KEY, disk=SystemDisk())) as opened:
            assert keys(opened) == set()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_what_cannot_be_written_down_is_committed_at_once(
    database: Database, disk: FailingDisk, path: Path, tmp_path: Path, error: int
) -> None:
    put(database, "a", lazy=True)
    disk.fail("write", error, suffix=logs(path)[0].name[-10:])
    put(database, "b", lazy=True)
    assert committed(path, tmp_path / "committed") == {"a", "b"}
    put(database, "c", lazy=True)
    assert answered(path, tmp_path / "left") == {"a", "b", "c"}


def test_a_commit_that_fails_leaves_no_gap(database: Database, path: Path, tmp_path: Path) -> None:
    [(pages,)] = database.writer.run(lambda t: t.all("PRAGMA page_count"))

    def limit(most: int) -> None:
        database.writer.exclusively(lambda: database._connection.all(f"PRAGMA max_page_count = {most}"))

    limit(pages + 2)
    with pytest.raises(NoSpace):
        database.writer.run(lambda t: t.execute("INSERT INTO settings VALUES ('big', zeroblob(400000))"))
    limit(pages + 1000)
    put(database, "after", lazy=True)
    assert answered(path, tmp_path / "left") == {"after"}


def test_a_failing_job_leaves_no_record(database: Database, path: Path, tmp_path: Path) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.execute("INSERT INTO settings VALUES ('bad', x'00')")
        raise ValueError("no")

    put(database, "a", lazy=True)
    with pytest.raises(ValueError, match="no"):
        database.writer.run(fail, lazy=True)
    put(database, "b", lazy=True)
    assert answered(path, tmp_path / "left") == {"a", "b"}


def test_a_change_that_does_not_fit_ends_the_log_there(database: Database, path: Path, tmp_path: Path) -> None:
    put_three(database)
    copy = left_behind(path, tmp_path / "left")
    [log] = logs(copy)
    kept = log.read_bytes()
    log.unlink()
    with closing(Database.open(copy, KEY, disk=SystemDisk())) as opened:
        opened.writer.run(lambda t: t.execute("INSERT INTO settings VALUES ('b', x'01')"), durable=True)
    log.write_bytes(kept)
    with closing(Database.open(copy, KEY, disk=SystemDisk())) as opened:
        assert keys(opened) == {"a", "b"}


def test_kept_records_are_found_until_they_are_released(database: Database, path: Path, tmp_path: Path) -> None:
    first, second = keep(database, b"first"), keep(database, b"second")
    put(database, "a", lazy=True)
    third = database.redo.keep(b"third", replaced=[second])
    assert found(left_behind(path, tmp_path / "all")) == [b"first", b"second", b"third"], (
        "what is replaced, until a commit"
    )
    database.writer.sync()
    assert found(left_behind(path, tmp_path / "committed")) == [b"first", b"third"]
    release(database, first)
    left = left_behind(path, tmp_path / "released")
    assert found(left) == [b"third"]
    assert found(left) == [b"third"], "nobody released it"
    with pytest.raises(ZeroDivisionError):
        database.writer.run(lambda t: t.release([third]) or 1 // 0)
    assert found(left_behind(path, tmp_path / "failed")) == [b"third"]


def test_kept_records_and_changes_count_in_one_order(database: Database, path: Path, tmp_path: Path) -> None:
    """Where a record is missing, nothing after it counts."""
    put(database, "a", lazy=True)
    keep(database, b"x" * 5000)
    put(database, "b", lazy=True)
    copy = left_behind(path, tmp_path / "left")
    [log] = logs(copy)
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with closing(Database.open(copy, KEY, disk=SystemDisk())) as opened:
        assert keys(opened) == {"a"}
        assert opened.redo.found == ()


def test_its_files_do_not_grow_where_nothing_in_them_counts(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redo_log, "SWITCH_BYTES", 10_000)
    for number in range(200):
        kept = keep(database, bytes(3000))
        put(database, f"{number}", lazy=True)
        if number % 2:
            put(database, f"now {number}")
        release(database, kept)
    assert sum(log.stat().st_size for log in logs(path)) < 60_000


def test_small_records_that_last_keep_no_file_from_being_used_again(
    database: Database, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redo_log, "SWITCH_BYTES", 10_000)
    keep(database, b"lasts")
    for _ in range(100):
        release(database, keep(database, bytes(3000)))
    assert sum(log.stat().st_size for log in logs(path)) < 60_000
    keep(database, b"last")
    assert found(left_behind(path, tmp_path / "left")) == [b"lasts", b"last"]


def test_a_full_log_takes_no_more_and_changes_are_committed(
    database: Database, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redo_log, "FILE_BYTES", 5000)
    keep(database, bytes(4800))
    assert database.redo.keep(bytes(4800)) is None
    for number in range(4):
        put(database, f"{number}", lazy=True)
    assert answered(path, tmp_path / "left") == {"0", "1", "2", "3"}


def test_a_crash_while_it_is_done_again_leaves_it_to_the_next_start(
    database: Database, path: Path, tmp_path: Path
) -> None:
    put_three(database)
    keep(database, b"kept")
    source, number, crash = left_behind(path, tmp_path / "source"), 0, CrashAt()
    while not number or crash.crashed_at:
        number += 1
        copy, crash = left_behind(source, tmp_path / f"{number}"), CrashAt(number)
        with installed(crash), suppress(SimulatedCrash):
            Database.open(copy, KEY, disk=SystemDisk()).close()
        again = left_behind(copy, tmp_path / f"{number}-again")
        with closing(Database.open(again, KEY, disk=SystemDisk())) as opened:
            assert keys(opened) == {"a", "b", "c"}
            assert [each.payload for each in opened.redo.found] == [b"kept"]
    assert number > 5


def test_its_files_are_sealed_private_and_gone_after_a_clean_end(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, "readable name", lazy=True)
    keep(database, b"readable content")
    [log] = logs(path)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert b"readable" not in log.read_bytes()
    assert b"INSERT" not in log.read_bytes()
    database.close()
    assert logs(path) == [log], "something is kept"
    with closing(Database.open(path, KEY, disk=SystemDisk())) as opened:
        release(opened, *opened.redo.found)
        assert keys(opened) == {"readable name"}
    assert logs(path) == []


def test_files_of_an_earlier_life_are_removed_unread(database: Database, path: Path, tmp_path: Path) -> None:
    put(database, "a", lazy=True)
    copy = left_behind(path, tmp_path / "left")
    [old] = logs(copy)
    stray = copy.with_name(f"{copy.name}-redo-{'0' * 16}-1")
    shutil.copy(old, stray)
    with closing(Database.open(copy, KEY, disk=SystemDisk())) as opened:
        assert keys(opened) == {"a"}
        assert logs(copy) == []


class Counting:
    """Entropy for the golden file: the key is the bytes 0 to 31."""

    def bytes(self, count: int) -> bytes:
        return bytes(range(count))


GOLDEN = Path(__file__).parents[1] / "golden" / "redo-log-v1.bin"
CHANGES = [["UPDATE settings SET value = ?1 WHERE key = ?2", [b"value", "key"]], [4, [7, {"mode": 0o600}, 1]]]


def write_golden(folder: Path) -> Path:
    """Write the log of the golden file with the program as it is."""
    with closing(Database.open(folder / "golden.db", KEY, disk=SystemDisk(), entropy=Counting())) as opened:
        begin_redo_log(opened)
        assert opened.redo.append([(str(CHANGES[0][0]), CHANGES[0][1]), (4, CHANGES[1][1])])
        keep(opened, b"kept")
        keep(opened, bytes(40))
        [log] = logs(folder / "golden.db")
        return Path(shutil.copy(log, folder / "golden.bin"))


def test_the_golden_log_is_read_and_what_is_made_today(tmp_path: Path) -> None:
    shutil.copy(GOLDEN, tmp_path / f"main.db-redo-{bytes(range(8)).hex()}-1")
    mark = redo_log.Mark(1, bytes(range(32)), bytes(range(8)), 1, ())
    (kind, changes), *kept = redo_log._following(tmp_path / "main.db", mark)
    assert (kind, msgspec.msgpack.decode(changes)) == (1, CHANGES)
    assert kept == [(2, b"kept"), (2, bytes(40))]
    assert write_golden(tmp_path).read_bytes() == GOLDEN.read_bytes()


def test_a_process_that_only_asks_for_durable_changes_has_no_log(path: Path) -> None:
    with closing(Database.open(path, KEY, disk=SystemDisk())) as opened:
        put(opened, "a", durable=True)
        put(opened, "b")
        assert logs(path) == []
        with opened.reading() as connection:
            assert connection.one("SELECT 1 FROM settings WHERE key = ?", (SETTING,)) is None


def test_a_record_of_a_newer_program_is_refused_by_name(database: Database, path: Path, tmp_path: Path) -> None:
    database.writer.run(
        lambda t: t.execute(redo_log._INSERT, (SETTING, msgspec.msgpack.encode((2, b"?")))), durable=True
    )
    copy = left_behind(path, tmp_path / "left")
    with pytest.raises(NewerFormat, match="redo log"):
        Database.open(copy, KEY, disk=SystemDisk())


def test_a_malformed_record_of_the_log_is_damage(database: Database, path: Path, tmp_path: Path) -> None:
    database.writer.run(lambda t: t.execute(redo_log._INSERT, (SETTING, b"\xc1")), durable=True)
    copy = left_behind(path, tmp_path / "left")
    with pytest.raises(DamageError, match="redo log is malformed"):
        Database.open(copy, KEY, disk=SystemDisk())
