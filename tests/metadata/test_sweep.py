"""Past rows that no snapshot needs go; those that one needs, and versions, stay."""

from typing import Any

import pytest

from tests.metadata.tree import Tree, extents
from tgdav.crdt.ops import ROOT, Unsnapshot
from tgdav.errors import TgdavError
from tgdav.ids import SnapshotId
from tgdav.metadata import sweep
from tgdav.metadata.sweep import sweep_all

PAST = ("nodes_past", "entries_past", "fields_past")


def past(tree: Tree) -> dict[str, set[tuple[object, ...]]]:
    """The past rows by (since, until)."""
    return {name: set(tree.rows(f"SELECT since, until FROM {name}")) for name in PAST}


def unsnapshot(tree: Tree, snapshot: SnapshotId) -> None:
    tree.journal.change(lambda change: change.emit(Unsnapshot(snapshot)))


def change_all(tree: Tree, name: bytes, seed: int) -> None:
    """Change attributes, names, fields and content of everything."""
    node = tree.make(name, content=extents(*range(seed, seed + 12)))
    tree.set_field(node, b"x:user.a", b"1")
    tree.clock.advance(100)
    first, _ = tree.snapshot("first")
    tree.set(node, mode=0o600)
    tree.move(node, ROOT, name + b"2")
    tree.set_field(node, b"x:user.a", b"2")
    tree.write(node, extents(*range(seed + 20, seed + 32)))
    second, _ = tree.snapshot("second")
    tree.set(node, mode=0o644)
    tree.move(node, ROOT, name + b"3")
    tree.set_field(node, b"x:user.a", None)
    assert all(past(tree).values())
    unsnapshot(tree, first)
    unsnapshot(tree, second)


def needed(tree: Tree) -> dict[str, set[tuple[object, ...]]]:
    """What should be left of the past rows: computed one by one."""
    pins = [row[0] for row in tree.rows("SELECT position FROM pins")]

    def is_shown(since: int, until: int) -> bool:
        return any(since <= position < until for position in pins)

    kept = {(row[0], row[1]) for row in tree.rows("SELECT since, until FROM nodes_past WHERE kept = 1")}
    found = past(tree)
    return {
        name: {row for row in rows if is_shown(*row) or (name == "nodes_past" and row in kept)}  # type: ignore[arg-type]
        for name, rows in found.items()
    }


@pytest.fixture(params=[1, 2, 5000])
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows of a step: with few, the sweep takes many steps."""
    monkeypatch.setattr(sweep, "ROWS_READ", request.param)
    monkeypatch.setattr(sweep, "ROWS_DELETED", request.param)
    return int(request.param)


def test_what_a_deleted_snapshot_alone_showed_goes(tree: Tree, read: int) -> None:
    for number, name in enumerate((b"a", b"b", b"c")):
        change_all(tree, name, number * 40)
    keeping, _ = tree.snapshot("kept")
    change_all(tree, b"d", 160)
    for node in (b"a3", b"b3"):
        tree.make(node + b"x")
    left = needed(tree)
    assert left != past(tree)
    sweep_all(tree.database)
    assert past(tree) == left
    assert not sweep.sweep(tree.database)
    unsnapshot(tree, keeping)
    left = needed(tree)
    sweep_all(tree.database)
    assert past(tree) == left
    # Versions stay.
    assert left["nodes_past"]
    assert not left["entries_past"]


def test_nothing_is_read_while_nothing_was_deleted(tree: Tree) -> None:
    sweep_all(tree.database)
    change_all(tree, b"a", 0)
    assert sweep.sweep(tree.database)
    sweep_all(tree.database)
    tree.snapshot("another")
    tree.move(tree.make(b"x"), ROOT, b"y")
    assert not sweep.sweep(tree.database)


def test_it_goes_on_after_a_restart(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "ROWS_READ", 2)
    change_all(tree, b"a", 0)
    change_all(tree, b"b", 40)
    left = needed(tree)
    for _ in range(20):
        if not sweep.sweep(tree.database):
            break
        tree.reopen()
    assert past(tree) == left


def test_a_snapshot_that_is_deleted_meanwhile_makes_it_begin_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "ROWS_READ", 1)
    node = tree.make(b"a")
    keeping, _ = tree.snapshot("keeping")
    tree.set(node, mode=0o600)
    change_all(tree, b"b", 0)
    for _ in range(3):
        assert sweep.sweep(tree.database)
    unsnapshot(tree, keeping)
    sweep_all(tree.database)
    assert past(tree) == needed(tree)


def test_a_snapshot_that_is_deleted_within_a_step(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tree.make(b"a")
    keeping, _ = tree.snapshot("keeping")
    tree.set(node, mode=0o600)
    sweep_all(tree.database)
    other, _ = tree.snapshot("other")
    unsnapshot(tree, other)
    beginning = sweep._beginning
    numbers: list[int] = []

    def interrupted(number: int) -> tuple[int, list[Any]]:
        numbers.append(number)
        if numbers.count(1) == 1 and number == 1:
            unsnapshot(tree, keeping)
        return beginning(number)

    monkeypatch.setattr(sweep, "_beginning", interrupted)
    sweep_all(tree.database)
    assert past(tree) == needed(tree)


def test_a_failed_step_is_done_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    change_all(tree, b"a", 0)
    before, left = past(tree), needed(tree)
    with monkeypatch.context() as broken:
        broken.setattr(sweep.history, "drop_manifest", _fail)
        with pytest.raises(TgdavError):
            sweep_all(tree.database)
    assert past(tree) == before
    sweep_all(tree.database)
    assert past(tree) == left


def _fail(*_: object) -> None:
    raise TgdavError("planted")
