"""Which earlier states stay."""

import pytest

from tests.metadata.tree import MACHINE, Tree, extents, make, make_local, write
from tgdav.crdt.ops import ROOT, TRASH, Attr, Group, Place, Snapshot, Unsnapshot, Write
from tgdav.errors import NotFound
from tgdav.ids import Incarnation, MachineId, NodeId, SnapshotId
from tgdav.metadata.change import Change
from tgdav.metadata.history import HistoryPolicy

BURST = 5.0


def versions(tree: Tree, node: NodeId) -> list[tuple[object, ...]]:
    """Return (size, since, until) of a node's past states, oldest first."""
    ino = tree.ino(node)
    return tree.rows(f"SELECT size, since, until FROM nodes_past WHERE ino = {ino} ORDER BY until")


def pin(tree: Tree) -> int:
    """Make a snapshot; return the position whose state it shows."""
    return tree.snapshot()[1]


def test_a_replaced_content_becomes_a_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.clock.advance(BURST)
    tree.write(node, extents(1, 2))
    assert versions(tree, node) == [(1000, 1, 2)]
    assert tree.attributes(node).size == 2000


def test_a_burst_of_saves_is_one_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    for number in range(4):
        tree.clock.advance(BURST / 5)
        tree.write(node, extents(*range(number + 2)))
    assert versions(tree, node) == []
    tree.clock.advance(BURST / 5)
    tree.write(node, extents(9))
    assert versions(tree, node) == [(5000, 5, 6)]


def test_a_burst_is_counted_from_its_first_save(tree: Tree) -> None:
    """An editor that saves every four seconds for hours makes more than one version."""
    node = tree.make(b"file", content=extents(1))
    for number in range(6):
        tree.clock.advance(BURST * 0.8)
        tree.write(node, extents(*range(number + 2)))
    # Each second save begins a new burst; what it replaces is a version.
    assert [size for size, *_ in versions(tree, node)] == [2000, 4000, 6000]
    assert tree.rows("SELECT version FROM nodes_past ORDER BY until") == [(1,), (2,), (3,)]
    assert tree.rows(f"SELECT version FROM nodes WHERE ino = {tree.ino(node)}") == [(4,)]


@pytest.mark.parametrize("pinned", [False, True])
def test_a_burst_begins_with_the_first_save_not_with_the_creation(tree: Tree, pinned: bool) -> None:
    node = tree.make(b"file")
    if pinned:
        tree.snapshot()
    tree.clock.advance(BURST * 20)
    tree.write(node, extents(1))
    tree.clock.advance(BURST / 5)
    tree.write(node, extents(1, 2))
    assert tree.rows("SELECT size FROM nodes_past WHERE kept = 1") == []


def test_another_machines_save_is_no_burst(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    content = extents(1, 2)
    op = Write(node, 2000, NodeId(b"t" * 16), content, None, 0)  # type: ignore[arg-type]
    group = Group(1, 1 << 62, tree.clock.now_ns(), (op,))
    tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [group])
    assert versions(tree, node) == [(1000, 1, 2)]
    assert MACHINE != b"2" * 16


def test_a_clock_set_back_ends_a_burst(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.clock.set_wall(tree.clock.now_ns() - 3_600_000_000_000)
    tree.write(node, extents(1, 2))
    assert versions(tree, node) == [(1000, 1, 2)]


def test_nothing_and_the_same_are_no_versions(tree: Tree) -> None:
    node = tree.make(b"file")
    for _ in range(3):
        tree.clock.advance(60)
        tree.write(node, extents(1))
    assert versions(tree, node) == []


def test_without_versioning_nothing_is_kept(tree: Tree) -> None:
    tree.keep(0)
    node = tree.make(b"file", content=extents(1))
    tree.clock.advance(60)
    tree.write(node, extents(2))
    assert versions(tree, node) == []


def test_a_burst_never_goes_across_a_snapshot(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    pin(tree)
    tree.clock.advance(1)
    tree.write(node, extents(1, 2))
    tree.write(node, extents(1, 2, 3))
    assert [size for size, *_ in versions(tree, node)] == [1000]


def test_attributes_names_and_fields_stay_only_where_they_are_pinned(tree: Tree) -> None:
    folder = tree.mkdir(b"folder")
    node = tree.make(b"file", folder)
    tree.set_field(node, b"x:a", b"1")
    tree.set(node, mode=0o600)
    tree.move(node, folder, b"renamed")
    past = [tree.rows(f"SELECT count(*) FROM {table}_past")[0][0] for table in ("nodes", "entries", "fields")]
    assert past == [0, 0, 0]
    pinned = pin(tree)
    for value in (b"2", b"3"):
        tree.set_field(node, b"x:a", value)
    tree.set(node, mode=0o644)
    tree.move(node, ROOT, b"moved")
    tree.set_field(node, b"x:a", None)
    assert tree.rows("SELECT name, parent FROM entries_past") == [(b"renamed", tree.ino(folder))]
    assert tree.rows("SELECT value FROM fields_past") == [(b"1",)]
    states = tree.rows(f"SELECT ino, mode FROM nodes_past WHERE since <= {pinned} AND until > {pinned} ORDER BY ino")
    assert states == [(1, 0o755), (tree.ino(folder), 0o644), (tree.ino(node), 0o600)]


def test_a_change_of_many_operations_keeps_one_state_of_before(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    pin(tree)
    [entry] = tree.entries(node)

    def work(change):  # type: ignore[no-untyped-def]
        change.emit(Attr(node, {"mode": 0o400}))
        write(change, node, extents(1, 2))
        change.emit(Place(entry, node, ROOT, b"other"))
        write(change, node, extents(1, 2, 3))

    tree.clock.advance(60)
    tree.journal.change(work)
    assert versions(tree, node) == [(1000, 1, 3)]
    assert tree.rows("SELECT kept FROM nodes_past WHERE ino > 1") == [(1,)]


def test_setting_attributes_first_does_not_hide_the_old_content(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.clock.advance(60)
    tree.journal.change(lambda change: [change.emit(Attr(node, {"mode": 0})), write(change, node, extents(2, 3))])
    assert [size for size, *_ in versions(tree, node)] == [1000]


def test_a_change_of_attributes_after_a_snapshot_makes_no_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.clock.advance(1)
    pin(tree)
    tree.set(node, mode=0o600)
    assert tree.rows("SELECT kept, version FROM nodes_past WHERE ino > 1") == [(0, 1)]
    tree.write(node, extents(1, 2))
    assert tree.rows("SELECT kept, version FROM nodes_past WHERE ino > 1 ORDER BY until") == [(0, 1), (1, 1)]


def test_the_same_content_written_again_after_a_snapshot_is_no_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    pin(tree)
    tree.clock.advance(60)
    tree.write(node, extents(1))
    assert tree.rows("SELECT kept, size FROM nodes_past WHERE ino > 1") == [(0, 1000)]


def test_snapshots_are_kept_over_a_restart(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    _, position = tree.snapshot("before")
    tree.history = HistoryPolicy()
    tree.reopen()
    tree.write(node, extents(1, 2))
    assert versions(tree, node) == [(1000, 1, position + 1)]


def test_a_failed_change_leaves_no_snapshot_behind(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))

    def fail(change: Change) -> None:
        change.emit(Snapshot(SnapshotId(b"s" * 16), "never", change.time))
        raise NotFound

    with pytest.raises(NotFound):
        tree.journal.change(fail)
    tree.set(node, mode=0o600)
    assert (tree.rows("SELECT * FROM pins"), versions(tree, node)) == ([], [])


def test_after_the_last_snapshot_is_deleted_nothing_more_is_kept(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    made, _ = tree.snapshot()
    tree.journal.change(lambda change: change.emit(Unsnapshot(made)))
    tree.set(node, mode=0o600)
    assert (tree.rows("SELECT * FROM pins"), versions(tree, node)) == ([], [])


def test_no_inode_number_is_used_twice(tree: Tree) -> None:
    """Neither after a node is gone, nor after a restart, nor after a change that failed."""
    node = tree.journal.change(lambda change: make_local(change, b"junk"))
    used = {tree.ino(node)}
    [entry] = tree.entries(node)
    tree.journal.change(lambda change: change.emit_local(Place(entry, node, TRASH, b"junk")))
    ino = tree.ino(node)
    tree.journal.change(lambda change: change.drop_local(ino))
    tree.reopen()

    def fail(change: Change) -> None:
        make(change, b"failed", ROOT)
        raise NotFound

    with pytest.raises(NotFound):
        tree.journal.change(fail)
    for number in range(3):
        found = tree.ino(tree.make(b"file %d" % number))
        assert found not in used
        used.add(found)
        tree.reopen()


def test_a_snapshot_has_a_file_that_became_junk_and_not_what_was_junk(tree: Tree) -> None:
    node = tree.make(b"keep.txt", content=extents(1))
    tree.set_field(node, b"x:a", b"1")
    junk = tree.journal.change(lambda change: make_local(change, b".DS_Store"))
    pin(tree)
    inos = tree.ino(node), tree.ino(junk)

    def work(change: Change) -> None:
        change.withdraw(inos[0])
        change.publish(inos[1])

    tree.journal.change(work)
    assert tree.rows("SELECT ino, id FROM nodes_past WHERE ino > 1") == [(inos[0], node)]
    assert tree.rows("SELECT name FROM entries_past") == [(b"keep.txt",)]
    assert tree.rows("SELECT value FROM fields_past") == [(b"1",)]
    [(position,)] = tree.rows("SELECT position FROM pins")
    assert tree.rows(f"SELECT ino FROM nodes WHERE ino > 2 AND since <= {position}") == []
