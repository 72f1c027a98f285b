"""Which earlier states stay."""

from tests.metadata.tree import MACHINE, Tree, extents, write
from tgdav.crdt.ops import ROOT, Attr, Group, Place, Write
from tgdav.ids import Incarnation, MachineId, NodeId, Position

BURST = 5.0


def versions(tree: Tree, node: NodeId) -> list[tuple[object, ...]]:
    """Return (size, since, until) of a node's past states, oldest first."""
    ino = tree.ino(node)
    return tree.rows(f"SELECT size, since, until FROM nodes_past WHERE ino = {ino} ORDER BY until")


def pin(tree: Tree) -> int:
    """Pin the present, as a snapshot does."""
    [(position,)] = tree.rows("SELECT max(position) FROM log")
    assert isinstance(position, int)
    tree.history.last_pinned = Position(position)
    return position


def test_a_replaced_content_becomes_a_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.clock.advance(BURST)
    tree.write(node, extents(1, 2))
    assert versions(tree, node) == [(1000, 1, 2)]
    assert tree.attributes(node).size == 2000


def test_a_burst_of_saves_is_one_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    for number in range(5):
        tree.clock.advance(BURST - 0.001)
        tree.write(node, extents(*range(number + 2)))
    assert versions(tree, node) == []
    tree.clock.advance(BURST)
    tree.write(node, extents(9))
    assert versions(tree, node) == [(6000, 6, 7)]


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
    tree.history.max_versions = 0
    node = tree.make(b"file", content=extents(1))
    tree.clock.advance(60)
    tree.write(node, extents(2))
    assert versions(tree, node) == []


def test_the_newest_versions_stay_and_long_manifests_of_the_others_go(tree: Tree) -> None:
    tree.history.max_versions = 2
    node = tree.make(b"file", content=extents(*range(10)))
    for size in range(11, 16):
        tree.clock.advance(60)
        tree.write(node, extents(*range(size)))
    assert [size for size, *_ in versions(tree, node)] == [13000, 14000]
    assert tree.rows("SELECT count(*) FROM manifests") == [(3,)]


def test_what_a_snapshot_pins_stays_beyond_all_numbers(tree: Tree) -> None:
    tree.history.max_versions = 1
    node = tree.make(b"file", content=extents(1))
    pin(tree)
    for size in (2, 3, 4):
        tree.clock.advance(60)
        tree.write(node, extents(*range(size)))
    assert [size for size, *_ in versions(tree, node)] == [1000, 3000]


def test_a_burst_never_goes_across_a_snapshot(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    pin(tree)
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
    pinned = pin(tree)
    [entry] = tree.entries(node)

    def work(change):  # type: ignore[no-untyped-def]
        change.emit(Attr(node, {"mode": 0o400}))
        write(change, node, extents(1, 2))
        change.emit(Place(entry, node, ROOT, b"other"))
        write(change, node, extents(1, 2, 3))

    tree.clock.advance(60)
    tree.journal.change(work)
    assert versions(tree, node) == [(1000, pinned, pinned + 1)]


def test_setting_attributes_first_does_not_hide_the_old_content(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.clock.advance(60)
    tree.journal.change(lambda change: [change.emit(Attr(node, {"mode": 0})), write(change, node, extents(2, 3))])
    assert [size for size, *_ in versions(tree, node)] == [1000]
