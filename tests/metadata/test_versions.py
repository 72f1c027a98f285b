"""Versions follow the name: renames over a file, names that are filled again, and what prunes drop."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.metadata.tree import MACHINE, Tree, check_invariants, extents, write
from tgdav.crdt.ops import ROOT, TRASH, Dot, Group, Make, Place, Prune, Purge, Write, decode_ops
from tgdav.ids import EntryId, Incarnation, MachineId, NodeId
from tgdav.metadata import trash, versions
from tgdav.metadata.change import Change
from tgdav.metadata.versions import Version

T = TypeVar("T")
MINUTE = 60.0


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Tree]:
    """Another machine's tree."""
    made = Tree(tmp_path / "other.db", machine=MachineId(b"machine-number-2"), incarnation=Incarnation(2))
    yield made
    made.close()


def listed(tree: Tree, node: NodeId) -> list[Version]:
    ino = tree.ino(node)
    with tree.database.reading() as connection:
        check_invariants(connection)
        found = versions.versions_of(connection, ino)
        for each in found:
            assert len(versions.manifest_of(connection, each)) // 40 * 1000 == each.attributes.size
    return found


def sizes(tree: Tree, node: NodeId) -> list[tuple[int, int]]:
    """Return (number, size in chunks) of all versions, the oldest first."""
    return [(each.number, each.attributes.size // 1000) for each in listed(tree, node)]


def in_trash(tree: Tree) -> list[bytes]:
    with tree.database.reading() as connection:
        return [each.name for each in trash.deleted_entries(connection)]


def later(tree: Tree, work: Callable[[Change], T], seconds: float = MINUTE) -> T:
    tree.clock.advance(seconds)
    return tree.journal.change(work)


def rename_over(tree: Tree, source: NodeId, target: NodeId, name: bytes = b"file", seconds: float = MINUTE) -> None:
    """Rename ``source`` over ``target``, as ``fs.changes.rename`` does."""
    [new], [old] = tree.entries(source), tree.entries(target)

    def work(change: Change) -> None:
        change.emit(Place(old, target, TRASH, name, because=new))
        change.emit(Place(new, source, ROOT, name))

    later(tree, work, seconds)


def save_by_rename(tree: Tree, target: NodeId, content: bytes, seconds: float = MINUTE) -> NodeId:
    """Save as most programs do: a temporary file with the new content is renamed over the old one."""
    tree.clock.advance(seconds)
    made = tree.make(b"file.tmp", content=content)
    rename_over(tree, made, target, seconds=0)
    return made


def test_a_file_renamed_over_another_has_that_ones_content_as_a_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    node = save_by_rename(tree, node, extents(1, 2))
    node = save_by_rename(tree, node, extents(1, 2, 3))
    assert sizes(tree, node) == [(1, 1), (2, 2), (3, 3)]
    assert in_trash(tree) == []


def test_versions_of_all_ways_of_saving_are_one_list(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    later(tree, lambda change: write(change, node, extents(1, 2)))
    node = save_by_rename(tree, node, extents(1, 2, 3))
    later(tree, lambda change: write(change, node, extents(*range(4))))
    node = save_by_rename(tree, node, extents(*range(5)))
    assert sizes(tree, node) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
    assert [each.is_current for each in listed(tree, node)] == [False] * 4 + [True]
    assert len({each.dot for each in listed(tree, node)}) == 5


def test_a_plain_rename_keeps_the_list_and_a_rename_over_adds_it(tree: Tree) -> None:
    """Both have histories: the earlier contents of the renamed file get numbers after those of the replaced one."""
    target = tree.make(b"file", content=extents(1))
    source = tree.make(b"other", content=extents(*range(5)))
    for count in (2, 3):
        later(tree, lambda change, count=count: write(change, target, extents(*range(count))))  # type: ignore[misc]
    for count in (6, 7):
        later(tree, lambda change, count=count: write(change, source, extents(*range(count))))  # type: ignore[misc]
    tree.move(source, ROOT, b"renamed")
    assert sizes(tree, source) == [(1, 5), (2, 6), (3, 7)]
    rename_over(tree, source, target)
    assert sizes(tree, source) == [(1, 1), (2, 2), (3, 3), (4, 5), (5, 6), (6, 7)]


def test_a_rename_over_the_same_content_makes_no_version_and_keeps_the_list(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    later(tree, lambda change: write(change, node, extents(1, 2)))
    node = save_by_rename(tree, node, extents(1, 2))
    assert sizes(tree, node) == [(1, 1), (2, 2)]
    node = save_by_rename(tree, node, extents(1, 2))
    assert sizes(tree, node) == [(1, 1), (2, 2)]
    assert in_trash(tree) == []


def test_an_empty_file_is_no_version(tree: Tree) -> None:
    node = save_by_rename(tree, tree.make(b"file"), extents(1))
    assert sizes(tree, node) == [(1, 1)]


def test_a_burst_of_renames_is_one_version(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    node = save_by_rename(tree, node, extents(1, 2))
    for count in (3, 4, 5, 6):
        node = save_by_rename(tree, node, extents(*range(count)), seconds=1)
    assert sizes(tree, node) == [(1, 1), (2, 6)]
    # The fifth second after the first save of the burst.
    node = save_by_rename(tree, node, extents(*range(7)), seconds=1)
    assert sizes(tree, node) == [(1, 1), (2, 6), (3, 7)]


def test_an_older_file_moved_over_a_new_one_is_no_burst(tree: Tree) -> None:
    """Nothing is lost that a user moves over by mistake right after it was written."""
    source = tree.make(b"other", content=extents(1, 2))
    tree.clock.advance(MINUTE)
    target = tree.make(b"file", content=extents(1))
    rename_over(tree, source, target, seconds=1)
    assert sizes(tree, source) == [(1, 1), (2, 2)]


def test_a_burst_of_renames_never_goes_across_a_snapshot(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    tree.snapshot()
    node = save_by_rename(tree, node, extents(1, 2), seconds=1)
    assert sizes(tree, node) == [(1, 1), (2, 2)]


def test_a_rename_in_the_tick_of_the_snapshot_keeps_the_old_content(tree: Tree) -> None:
    """The clock of files ticks every few milliseconds."""
    node = tree.make(b"file", content=extents(1))
    tree.snapshot()
    tree.move(node, ROOT, b"other")
    node = save_by_rename(tree, node, extents(1, 2), seconds=0)
    assert sizes(tree, node) == [(1, 1), (2, 2)]


def back_up(tree: Tree, node: NodeId, content: bytes, backup: bytes = b"file~") -> NodeId:
    """Save as vim and emacs do: the file is renamed to a backup, and its name filled again."""
    [entry] = tree.entries(node)
    later(tree, lambda change: change.emit(Place(entry, node, ROOT, backup)))

    def fill(change: Change) -> NodeId:
        made = NodeId(change.new_id())
        change.emit(Make(made, 1, 0o644, 0, 0, 0, change.time))
        change.emit(Place(EntryId(change.new_id()), made, ROOT, b"file", after=entry))
        return made

    made = later(tree, fill, 0.1)
    later(tree, lambda change: write(change, made, content), 0.1)
    return made


def test_a_backup_by_rename_is_a_version_of_the_new_file_and_keeps_its_own_list(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    later(tree, lambda change: write(change, node, extents(1, 2)))
    made = back_up(tree, node, extents(1, 2, 3))
    assert sizes(tree, made) == [(1, 1), (2, 2), (3, 3)]
    assert sizes(tree, node) == [(1, 1), (2, 2)]
    # What is written to the backup is its own.
    later(tree, lambda change: write(change, node, extents(*range(9))), 1)
    later(tree, lambda change: write(change, node, extents(*range(10))))
    assert sizes(tree, made) == [(1, 1), (2, 2), (3, 3)]
    assert sizes(tree, node) == [(1, 1), (2, 2), (3, 9), (4, 10)]


def test_a_deleted_backup_is_no_trash(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    made = back_up(tree, node, extents(1, 2))
    [entry], [successor] = tree.entries(node), tree.entries(made)
    later(tree, lambda change: change.emit(Place(entry, node, TRASH, b"file~", because=successor)), 0.1)
    assert sizes(tree, made) == [(1, 1), (2, 2)]
    assert in_trash(tree) == []


def test_a_backup_deleted_much_later_is_trash_and_a_version_still_when_that_is_emptied(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    made = back_up(tree, node, extents(1, 2))
    [entry] = tree.entries(node)
    later(tree, lambda change: change.emit(Place(entry, node, TRASH, b"file~")))
    assert in_trash(tree) == [b"file~"]
    tree.journal.change(lambda change: change.emit(Purge((entry,))))
    tree.sweep()
    assert in_trash(tree) == []
    assert sizes(tree, made) == [(1, 1), (2, 2)]


def test_what_is_purged_takes_its_versions_along(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    backup = node
    node = back_up(tree, node, extents(1, 2))
    for count in (3, 4, 5):
        node = save_by_rename(tree, node, extents(*range(count)))
    [entry] = tree.entries(node)
    tree.journal.change(lambda change: change.emit(Place(entry, node, TRASH, b"file")))
    tree.journal.change(lambda change: change.emit(Purge((entry,))))
    tree.sweep()
    assert sizes(tree, backup) == [(1, 1)]
    assert tree.rows("SELECT ino FROM nodes WHERE kind = 1") == [(tree.ino(backup),)]
    assert tree.rows("SELECT * FROM predecessors") == []


def test_versions_that_two_files_have_stay_when_one_of_them_is_purged(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    backup = save_by_rename(tree, node, extents(1, 2))
    made = back_up(tree, backup, extents(1, 2, 3))
    assert sizes(tree, backup) == [(1, 1), (2, 2)]
    for purged, left in ((backup, made), (made, None)):
        [entry] = tree.entries(purged)
        tree.journal.change(lambda change, entry=entry, purged=purged: change.emit(Place(entry, purged, TRASH, b"x")))  # type: ignore[misc]
        tree.journal.change(lambda change, entry=entry: change.emit(Purge((entry,))))  # type: ignore[misc]
        tree.sweep()
        if left is not None:
            assert sizes(tree, left) == [(1, 1), (2, 2), (3, 3)]
    assert tree.rows("SELECT ino FROM nodes WHERE kind = 1") == []


def test_exchanged_files_have_each_others_contents(tree: Tree) -> None:
    one, other = tree.make(b"file", content=extents(1)), tree.make(b"new", content=extents(1, 2))
    for _ in range(2):
        [first], [second] = tree.entries(one), tree.entries(other)

        def work(change: Change, first: EntryId = first, second: EntryId = second) -> None:
            change.emit(Place(second, other, ROOT, b"file", after=first))
            change.emit(Place(first, one, ROOT, b"new", after=second))

        later(tree, work)
        assert {size for _, size in sizes(tree, one)} == {size for _, size in sizes(tree, other)} == {1, 2}
    assert [each.attributes.size for each in listed(tree, one)][-1] == 1000


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1), (1, 0)])
def test_exchanged_files_are_purged(tree: Tree, gone: tuple[int, ...]) -> None:
    """Each is a version of the other, and that is no reason to keep both for ever."""
    nodes = [tree.make(b"file", content=extents(1)), tree.make(b"new", content=extents(1, 2))]
    for _ in range(2):
        [first], [second] = (tree.entries(node) for node in nodes)

        def work(change: Change, first: EntryId = first, second: EntryId = second) -> None:
            change.emit(Place(second, nodes[1], ROOT, b"file", after=first))
            change.emit(Place(first, nodes[0], ROOT, b"new", after=second))

        later(tree, work)
    for index in gone:
        [entry] = tree.entries(nodes[index])
        tree.journal.change(
            lambda change, entry=entry, index=index: change.emit(Place(entry, nodes[index], TRASH, b"x"))
        )  # type: ignore[misc]
        tree.journal.change(lambda change, entry=entry: change.emit(Purge((entry,))))  # type: ignore[misc]
        tree.sweep()
    if len(gone) == 1:
        assert {size for _, size in sizes(tree, nodes[1 - gone[0]])} == {1, 2}
    else:
        assert tree.rows("SELECT ino FROM nodes WHERE kind = 1") == []
        assert tree.rows("SELECT * FROM predecessors") == []


def exchange(tree: Tree, one: NodeId, other: NodeId) -> None:
    [first], [second] = tree.entries(one), tree.entries(other)

    def work(change: Change) -> None:
        change.emit(Place(second, other, ROOT, b"one", after=first))
        change.emit(Place(first, one, ROOT, b"other", after=second))

    later(tree, work)


def exchanged(tree: Tree) -> tuple[NodeId, NodeId]:
    """Return two files that were exchanged; the first had two contents before, of one and of two chunks."""
    one, other = tree.make(b"one", content=extents(1)), tree.make(b"other", content=extents(1, 2, 3))
    later(tree, lambda change: write(change, one, extents(1, 2)))
    exchange(tree, one, other)
    assert {size for _, size in sizes(tree, one)} == {1, 2, 3}
    return one, other


def test_what_a_file_took_over_after_its_last_kept_content_is_inherited_too(tree: Tree) -> None:
    one, _ = exchanged(tree)
    new = save_by_rename(tree, one, extents(1, 2))
    assert {size for _, size in sizes(tree, new)} == {1, 2, 3}


def test_pruning_a_shared_content_leaves_the_others_in_both_lists(tree: Tree) -> None:
    one, _ = exchanged(tree)
    new = save_by_rename(tree, one, extents(1, 2, 3, 4))
    (pruned,) = [each for each in listed(tree, new) if each.attributes.size == 2000]
    later(tree, lambda change: change.emit(Prune(pruned.attributes.node, (pruned.dot,))))
    assert {size for _, size in sizes(tree, new)} == {1, 3, 4}


@pytest.mark.parametrize("way", ["in place", "rename", "backup", "mixed"])
@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_the_limit_is_hard_and_the_newest_earlier_content_stays(tree: Tree, way: str, most: int) -> None:
    tree.keep(most)
    node = tree.make(b"file", content=extents(1))
    for count in range(2, 14):
        content = extents(*range(count))
        kind = ("in place", "rename", "backup")[count % 3] if way == "mixed" else way
        if kind == "in place":
            later(tree, lambda change, content=content, node=node: write(change, node, content))  # type: ignore[misc]
        elif kind == "rename":
            node = save_by_rename(tree, node, content)
        else:
            node = back_up(tree, node, content, b"file.%d~" % count)
        found = sizes(tree, node)
        assert len(found) == min(count, most + 1)
        assert [size for _, size in found[-2:]] == [count - 1, count][-len(found) :]
        # Numbers stay when others are pruned.
        assert all(number == size for number, size in found)
        assert most < 2 or found[0] == (1, 1)
    assert in_trash(tree) == []
    found = sizes(tree, node)
    tree.sweep()
    assert sizes(tree, node) == found
    with tree.database.reading() as connection:
        live = 12 if way == "backup" else 4 if way == "mixed" else 0
        [(manifests,)] = connection.all(
            "SELECT count(*) FROM (SELECT ino FROM nodes WHERE size > 0 UNION ALL SELECT ino FROM nodes_past)"
        )
        assert manifests <= 1 + most + live, "contents that are no version any more are still here"


def test_dropped_contents_are_logged_and_applied_alike_elsewhere(tree: Tree, other: Tree) -> None:
    tree.keep(2)
    node = tree.make(b"file", content=extents(1))
    for count in range(2, 8):
        node = save_by_rename(tree, node, extents(*range(count)))
        tree.write(node, extents(*range(count), 99))
    replay(tree, other)
    assert sizes(tree, node) == sizes(other, node)
    assert any(isinstance(op, Prune) for group in logged(tree) for op in group.ops)


def logged(tree: Tree) -> list[Group]:
    rows = tree.rows("SELECT sequence, stamp, time, ops FROM log ORDER BY position")
    return [Group(sequence, stamp, time, decode_ops(ops)) for sequence, stamp, time, ops in rows]  # type: ignore[arg-type]


def replay(tree: Tree, other: Tree) -> None:
    other.journal.apply_groups(MACHINE, Incarnation(0x0102030405060708), logged(tree))


def test_what_is_pruned_and_pinned_stays_for_the_snapshot_alone(tree: Tree) -> None:
    tree.keep(1)
    node = tree.make(b"file", content=extents(1))
    tree.snapshot()
    node = save_by_rename(tree, node, extents(1, 2))
    node = save_by_rename(tree, node, extents(1, 2, 3))
    assert sizes(tree, node) == [(2, 2), (3, 3)]
    assert tree.rows("SELECT size, kept FROM nodes_past WHERE kind = 1 AND size = 1000") == [(1000, 0)]


def test_a_prune_of_what_a_file_still_has_or_of_what_is_unknown_changes_nothing(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    later(tree, lambda change: write(change, node, extents(1, 2)))
    [_, present] = listed(tree, node)
    for unknown in (present.dot, Dot(Incarnation(9), 1), Dot(Incarnation(0), 0), Dot(Incarnation(0), 9)):
        tree.journal.change(lambda change, dot=unknown: change.emit(Prune(node, (dot,))))  # type: ignore[misc]
    tree.journal.change(lambda change: change.emit(Prune(NodeId(b"?" * 16), (present.dot,))))
    assert sizes(tree, node) == [(1, 1), (2, 2)]


def test_contents_of_programs_that_kept_no_author_are_pruned_by_their_position(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    for count in (2, 3, 4):
        later(tree, lambda change, count=count: write(change, node, extents(*range(count))))  # type: ignore[misc]
    tree.database.writer.run(lambda transaction: transaction.execute("UPDATE nodes_past SET author = 0, seq = 0"))
    tree.keep(1)
    node = save_by_rename(tree, node, extents(*range(5)))
    assert sizes(tree, node) == [(4, 4), (5, 5)]


def test_a_write_that_restores_keeps_what_it_replaces_even_in_a_burst(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    content = extents(1, 2)
    op = Write(node, 2000, NodeId(b"t" * 16), content, None, 0, restores=True)  # type: ignore[arg-type]
    later(tree, lambda change: change.emit(op), 1)
    assert sizes(tree, node) == [(1, 1), (2, 2)]


def test_a_rename_applied_twice_makes_no_second_version(tree: Tree, other: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    node = save_by_rename(tree, node, extents(1, 2))
    node = back_up(tree, node, extents(1, 2, 3))
    replay(tree, other)
    again = [group for group in logged(tree) if any(isinstance(op, Place) for op in group.ops)]
    other.journal.apply_groups(MACHINE, Incarnation(0x0102030405060708), again)
    with other.database.reading() as connection:
        found = versions.versions_of(connection, other.ino(node))
    assert [(each.number, each.attributes.size) for each in found] == [(1, 1000), (2, 2000), (3, 3000)]


def test_a_directory_or_junk_takes_nothing_over(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1))
    directory = tree.mkdir(b"directory")
    rename_over(tree, directory, node)
    assert in_trash(tree) == [b"file"]
    assert tree.rows("SELECT * FROM predecessors") == []
