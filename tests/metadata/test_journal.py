"""The log is the tree: numbers, stamps, ids and crashes."""

import threading
from pathlib import Path

import pytest

from tests.db.test_crashes import left_behind
from tests.metadata.tree import INCARNATION, MACHINE, Tree, check_invariants, extents, make
from tests.support.platform import CrashAt, SimulatedCrash
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crdt.ops import ROOT, Group, Make, Member, Place, Write, decode_ops
from tgdav.db import Transaction
from tgdav.errors import LocalFailure, ReadOnly
from tgdav.failpoints import installed
from tgdav.ids import Incarnation, MachineId
from tgdav.metadata import settings

LOG = "SELECT position, machine, incarnation, sequence, count, stamp, time, ops, segment FROM log ORDER BY position"


def test_each_change_is_one_group_with_its_operations_in_order(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.set(node, mode=0)
    one, two = tree.rows(LOG)
    assert one[:5] == (1, MACHINE, INCARNATION.to_bytes(8, "big"), 1, 3)
    assert two[:5] == (2, MACHINE, INCARNATION.to_bytes(8, "big"), 4, 1)
    assert [type(op) for op in decode_ops(one[7])] == [Make, Place, Write]  # type: ignore[arg-type]
    assert one[6] == tree.clock.now_ns()
    assert one[8] is None


def test_a_change_that_emits_nothing_is_not_logged(tree: Tree) -> None:
    assert tree.journal.change(lambda change: change.position) == 1
    assert tree.rows(LOG) == []


def test_stamps_grow_though_the_clock_stands_or_goes_back(tree: Tree) -> None:
    tree.make(b"1")
    tree.make(b"2")
    tree.clock.set_wall(1)
    tree.make(b"3")
    tree.reopen()
    tree.make(b"4")
    stamps = [row[5] for row in tree.rows(LOG)]
    assert stamps == sorted(set(stamps))
    assert stamp_time_ns(stamps[0]) == 1_700_000_000_000_000_000  # type: ignore[arg-type]


def test_numbers_go_on_after_reopening_and_after_the_log_was_pruned(tree: Tree) -> None:
    tree.make(b"1")
    tree.reopen()
    tree.make(b"2")
    head = (
        "INSERT INTO chains (incarnation, number, machine, hash, sequence, stamp, position)"
        f" SELECT incarnation, 1, machine, zeroblob(32), 4, {1 << 62}, 2 FROM log LIMIT 1"
    )
    tree.database.writer.run(lambda t: [t.execute(head), t.execute("DELETE FROM log")])
    tree.reopen()
    tree.make(b"3")
    [row] = tree.rows(LOG)
    assert row[0] == 3
    assert row[3:6] == (5, 2, (1 << 62) + 1)


def test_ids_are_never_made_twice(tree: Tree) -> None:
    seen: list[bytes] = []

    def lose(change):  # type: ignore[no-untyped-def]
        seen.extend(change.new_id() for _ in range(3))
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            tree.journal.change(lose)
        tree.reopen()
    assert len(set(seen)) == 9
    assert len({made[:8] for made in seen}) == 3, "each opening has a number of its own"


def test_a_read_only_journal_says_why(tree: Tree) -> None:
    tree.journal.read_only = "another machine writes"
    with pytest.raises(ReadOnly, match="another machine writes"):
        tree.make(b"file")
    tree.journal.read_only = None
    tree.make(b"file")


def test_changes_of_many_threads_have_numbers_without_gaps(tree: Tree) -> None:
    def work(thread: int) -> None:
        for number in range(40):
            name = b"%d.%d" % (thread, number)
            if number % 4 == 3:
                with pytest.raises(ZeroDivisionError):
                    tree.journal.change(lambda change, name=name: [make(change, name, ROOT), 1 // 0])
            else:
                tree.journal.change(lambda change, name=name: make(change, name, ROOT), durable=number % 2 == 0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = tree.rows(LOG)
    assert len(rows) == 8 * 30
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert [row[3] for row in rows] == list(range(1, 2 * len(rows), 2))


def test_a_batch_that_is_lost_takes_its_numbers_back(tree: Tree) -> None:
    tree.make(b"before")
    pages = tree.rows("PRAGMA page_count")[0][0]
    connection = tree.database._connection
    tree.database.writer.exclusively(lambda: connection.all(f"PRAGMA max_page_count = {pages}"))

    def grow(transaction: Transaction) -> None:
        for number in range(50):
            settings.put(transaction, f"{number}", bytes(4000))

    def change_and_grow(change):  # type: ignore[no-untyped-def]
        make(change, b"lost", ROOT)
        grow(change.transaction)

    with pytest.raises(Exception, match="full"):
        tree.journal.change(change_and_grow)
    tree.database.writer.exclusively(lambda: connection.all("PRAGMA max_page_count = 1000000"))
    tree.make(b"after")
    assert [row[:1] + row[3:5] for row in tree.rows(LOG)] == [(1, 1, 2), (2, 3, 2)]


def test_another_ones_groups_are_applied_and_noted_together(tree: Tree) -> None:
    machine, incarnation = MachineId(b"2" * 16), Incarnation(2)
    tree.make(b"own")
    member = Member(machine, "two", b"", incarnation, 1, None)
    stamp = 1 << 62
    groups = [
        Group(1, 10, 10, (member,)),
        Group(2, stamp, 20, (Make(b"n" * 16, 2, 0o755, 0, 0, 0, 20), Place(b"e" * 16, b"n" * 16, ROOT, b"dir"))),  # type: ignore[arg-type]
    ]
    with pytest.raises(ZeroDivisionError):
        tree.journal.apply_groups(machine, incarnation, groups, record=lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
    assert tree.names() == [b"own"]
    tree.journal.apply_groups(
        machine, incarnation, groups, segment=5, record=lambda t: settings.put(t, "applied", 1), durable=True
    )
    assert tree.names() == [b"dir", b"own"]
    tree.make(b"later")
    rows = tree.rows(LOG)
    assert [(row[0], row[3], row[8]) for row in rows] == [(1, 1, None), (2, 1, 5), (3, 2, 5), (4, 3, None)]
    assert rows[-1][5] == stamp + 1
    assert tree.rows("SELECT last_sequence, last_stamp FROM machines") == [(3, stamp)]
    tree.reopen()
    tree.make(b"last")
    assert tree.rows(LOG)[-1][3:6] == (5, 2, stamp + 2)


def test_settings_are_kept_changed_and_forgotten(tree: Tree) -> None:
    tree.database.writer.run(lambda t: settings.put(t, "a", {"b": [1, b"2", None]}))
    with tree.database.reading() as connection:
        assert settings.get(connection, "a") == {"b": [1, b"2", None]}
        assert settings.get(connection, "b", 7) == 7
    tree.database.writer.run(lambda t: settings.remove(t, "a"))
    with tree.database.reading() as connection:
        assert settings.get(connection, "a") is None


def test_a_crash_at_any_step_leaves_log_and_tree_as_one(tmp_path: Path) -> None:
    def work(tree: Tree, done: list[bytes]) -> None:
        for number in range(4):
            name = b"%d" % number
            tree.journal.change(
                lambda change, name=name: make(change, name, ROOT, content=extents(1)), durable=number % 2 == 1
            )
            done.append(name)

    counting = CrashAt()
    with installed(counting):
        first = Tree(tmp_path / "first.db")
        work(first, [])
    first.close()
    for number in range(1, counting.total + 1):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        done: list[bytes] = []
        with installed(CrashAt(number)), pytest.raises(SimulatedCrash):
            work(Tree(folder / "main.db"), done)
        again = Tree(left_behind(folder / "main.db", folder / "left"))
        assert set(done) <= set(again.names())
        again.make(b"after")
        with again.database.reading() as connection:
            check_invariants(connection)
        assert len(again.rows(LOG)) == len(again.names())
        again.close()


def test_after_a_crash_nothing_more_is_written(tree: Tree) -> None:
    with installed(CrashAt(1, "writer.before-commit")), pytest.raises(SimulatedCrash):
        tree.make(b"lost")
    with pytest.raises(LocalFailure):
        tree.make(b"more")
    assert tree.names() == []
