"""Deferred rows: written together, and yet as if each job had written its own."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.db.test_writer import Batch, put
from tgdav.db import Connection, Database, Inserts, Transaction
from tgdav.db.deferred import MOST_ROWS
from tgdav.db.schema import settings
from tgdav.errors import LocalFailure

ROWS = Inserts(settings)
LENGTHEN = "UPDATE settings SET value = CAST(value || ? AS BLOB) WHERE key = ?"


class Lengthened:
    """Adds to values of rows that are there."""

    rank = 1

    def values(self, row: tuple[bytes, str]) -> tuple[bytes, str]:
        return row

    def write(self, connection: Connection, rows: Sequence[tuple[bytes, str]]) -> None:
        connection.executemany(LENGTHEN, rows)


LENGTHENED = Lengthened()


def defer(database: Database, *names: str) -> None:
    def work(transaction: Transaction) -> None:
        for name in names:
            transaction.defer(ROWS, (name, b"v"))

    database.writer.run(work)


def values(database: Database) -> dict[str, bytes]:
    with database.reading() as connection:
        return dict(connection.all("SELECT key, value FROM settings"))


def statements(batch: Batch) -> list[str]:
    """Return the statements of the batch as it goes on."""
    seen: list[str] = []
    batch.database.writer._connection.raw.set_trace_callback(seen.append)
    return seen


def test_the_rows_of_many_jobs_are_one_statement(database: Database) -> None:
    batch = Batch(database)
    for number in range(MOST_ROWS):
        batch.add(f"{number}", lambda number=number: defer(database, f"{number}"))
    seen = statements(batch)
    batch.finish()
    assert values(database) == {f"{number}": b"v" for number in range(MOST_ROWS)}
    assert sum("INSERT" in each for each in seen) == 1
    assert not any("SAVEPOINT" in each for each in seen)


def test_more_rows_than_a_statement_takes(database: Database) -> None:
    names = [f"{number}" for number in range(3 * MOST_ROWS + 1)]
    defer(database, *names)
    assert set(values(database)) == set(names)


def test_a_job_sees_what_it_deferred_and_what_others_before_it_did(database: Database) -> None:
    batch = Batch(database)
    batch.add("first job", lambda: defer(database, "a"))

    def look(transaction: Transaction) -> list[Any]:
        transaction.defer(ROWS, ("b", b"v"))
        return [row[0] for row in transaction.all("SELECT key FROM settings ORDER BY key")]

    batch.add("looks", lambda: database.writer.run(look))
    assert batch.finish()["looks"] == ["a", "b"]


def test_a_lower_rank_comes_first_whatever_was_deferred_first(database: Database) -> None:
    def work(transaction: Transaction) -> None:
        transaction.defer(LENGTHENED, (b"!", "a"))
        transaction.defer(ROWS, ("a", b"v"))

    database.writer.run(work)
    assert values(database) == {"a": b"v!"}


@pytest.mark.parametrize("looks", [False, True])
def test_a_job_that_fails_leaves_nothing_and_the_others_stay(database: Database, looks: bool) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.defer(ROWS, ("bad", b"v"))
        if looks:
            transaction.one("SELECT 1")
        transaction.defer(ROWS, ("worse", b"v"))
        raise ValueError("no")

    batch = Batch(database)
    batch.add("before", lambda: defer(database, "before"))
    batch.add("fails", lambda: database.writer.run(fail))
    batch.add("after", lambda: defer(database, "after"))
    outcomes = batch.finish()
    assert isinstance(outcomes["fails"], ValueError)
    assert set(values(database)) == {"before", "after"}


def test_a_job_alone_that_fails_leaves_nothing(database: Database) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.defer(ROWS, ("bad", b"v"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.writer.run(fail)
    defer(database, "good")
    assert set(values(database)) == {"good"}


@pytest.mark.parametrize("found_by", ["commit", "another job"])
def test_a_refused_row_fails_all_whose_rows_these_may_be(database: Database, found_by: str) -> None:
    """Nobody may be told that a row stands which was lost with its neighbour's."""
    put(database, "there")
    batch = Batch(database)
    batch.add("good", lambda: defer(database, "good"))
    batch.add("twice", lambda: defer(database, "there"))
    if found_by == "another job":
        batch.add("looks", lambda: database.writer.run(lambda transaction: transaction.one("SELECT 1")))
    outcomes = batch.finish()
    failed = {name for name, outcome in outcomes.items() if isinstance(outcome, LocalFailure)}
    assert failed >= {"good", "twice"}
    assert set(values(database)) == {"there"}
    defer(database, "later")
    assert set(values(database)) == {"there", "later"}
