import gc

import msgspec
import pytest

from tests.metadata.tree import Tree, extents, make, tag
from tgdav.crdt.ops import ROOT, TRASH, Attr, Field, Group, Make, Member, Namespace, Place, Write
from tgdav.errors import InvalidArgument, NotFound
from tgdav.ids import EntryId, Incarnation, MachineId, NodeId
from tgdav.metadata import queries, settings
from tgdav.metadata.types import Kind


def test_a_new_file_with_content_is_one_row_written_once(tree: Tree) -> None:
    node = tree.make(b"file", content=extents(1, 2))
    found = tree.attributes(node)
    assert (found.kind, found.mode, found.uid, found.gid) == (Kind.FILE, 0o644, 1, 2)
    assert (found.nlink, found.size, found.tag) == (1, 2000, tag(extents(1, 2)))
    assert found.mtime == found.ctime == found.btime == tree.clock.now_ns()
    assert tree.rows("SELECT count(*) FROM nodes_past") == [(0,)]


def test_a_change_leaves_nothing_to_the_collector(tree: Tree) -> None:
    """What names itself stays until the collector comes: forty objects a file made it come every twenty files."""
    tree.make(b"before", content=extents(1))
    gc.collect()
    gc.disable()
    try:
        tree.make(b"file", content=extents(1))
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_an_empty_file_has_the_tag_of_nothing(tree: Tree) -> None:
    node = tree.make(b"file")
    assert tree.attributes(node).tag == tag(b"")
    with tree.database.reading() as connection:
        assert queries.manifest(connection, tree.ino(node)) == b""


def test_symlinks_keep_their_target(tree: Tree) -> None:
    node = tree.make(b"link", kind=Kind.SYMLINK)
    assert tree.attributes(node).size == len(b"target")
    with tree.database.reading() as connection:
        assert queries.link_target(connection, tree.ino(node)) == b"target"


def test_a_folder_counts_itself_its_name_and_its_sub_folders(tree: Tree) -> None:
    top = tree.mkdir(b"top")
    below = tree.mkdir(b"below", top)
    tree.make(b"file", top)
    assert tree.attributes(top).nlink == 3
    tree.move(below, ROOT, b"away")
    assert tree.attributes(top).nlink == 2
    assert tree.attributes(ROOT).nlink == 4


def test_a_new_folder_can_be_filled_in_the_same_change(tree: Tree) -> None:
    def work(change):  # type: ignore[no-untyped-def]
        top = make(change, b"top", ROOT, Kind.DIRECTORY)
        make(change, b"sub", top, Kind.DIRECTORY)
        make(change, b"file", top, content=extents(1))
        return top

    top = tree.journal.change(work)
    assert tree.attributes(top).nlink == 3
    assert tree.names(top) == [b"file", b"sub"]


def test_links_count_names_outside_the_trash(tree: Tree) -> None:
    node = tree.make(b"one")
    tree.link(node, b"two")
    assert tree.attributes(node).nlink == 2
    tree.delete(node)
    assert tree.attributes(node).nlink == 1
    assert tree.names() == [b"two"]


def test_the_trash_remembers_where_an_entry_was_and_when_it_went(tree: Tree) -> None:
    top = tree.mkdir(b"top")
    node = tree.make(b"file", top)
    tree.clock.advance(7)
    deleted = tree.clock.now_ns()
    tree.delete(node)
    tree.clock.advance(7)
    tree.move(node, TRASH, b"another name")
    [(origin,)] = tree.rows("SELECT origin FROM entries WHERE parent = 2")
    assert msgspec.msgpack.decode(origin) == [top, deleted]
    assert tree.attributes(node).nlink == 0
    tree.move(node, top, b"file")
    assert tree.attributes(node).nlink == 1
    assert tree.rows("SELECT origin FROM entries WHERE origin IS NOT NULL") == []


def test_a_name_coming_or_going_moves_its_folders_times(tree: Tree) -> None:
    top, other = tree.mkdir(b"top"), tree.mkdir(b"other")
    tree.clock.advance(1)
    node = tree.make(b"file", top)
    assert tree.attributes(top).mtime == tree.attributes(top).ctime == tree.clock.now_ns()
    for target, name in ((other, b"file"), (top, b"back"), (top, b"renamed"), (TRASH, b"gone")):
        tree.clock.advance(1)
        tree.move(node, target, name)
        assert tree.attributes(top).mtime == tree.attributes(top).ctime == tree.clock.now_ns()


def test_a_folder_does_not_come_below_itself(tree: Tree) -> None:
    top = tree.mkdir(b"top")
    middle = tree.mkdir(b"middle", top)
    low = tree.mkdir(b"low", middle)
    for target in (top, middle, low):
        with pytest.raises(InvalidArgument):
            tree.move(top, target, b"x")
    assert tree.names() == [b"top"]


def test_operations_on_unknown_nodes_are_refused_here_and_skipped_from_elsewhere(tree: Tree) -> None:
    ghost = NodeId(b"g" * 16)
    ops = (Attr(ghost, {"mode": 1}), Field(ghost, b"x:a", b""), Place(EntryId(b"e" * 16), ghost, ROOT, b"n"))
    for op in (*ops, Write(ghost, 0, tag(b""), b"", None, 0)):
        with pytest.raises(NotFound):
            tree.journal.change(lambda change, op=op: change.emit(op))
    groups = [Group(1, 1, 1, (*ops, Make(NodeId(b"m" * 16), 99, 0, 0, 0, 0, 0)))]
    tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), groups)
    assert tree.names() == []


def test_a_change_that_fails_leaves_nothing_and_no_gap_in_the_numbers(tree: Tree) -> None:
    def work(change):  # type: ignore[no-untyped-def]
        make(change, b"lost", ROOT, content=extents(1))
        raise ZeroDivisionError

    tree.make(b"before")
    with pytest.raises(ZeroDivisionError):
        tree.journal.change(work)
    tree.make(b"after")
    assert tree.names() == [b"after", b"before"]
    assert tree.rows("SELECT sequence, count FROM log") == [(1, 2), (3, 2)]


def test_long_manifests_have_a_row_of_their_own_and_lose_it_with_their_content(tree: Tree) -> None:
    tree.keep(0)
    node = tree.make(b"file", content=extents(*range(8)))
    assert tree.rows("SELECT count(*) FROM manifests") == [(0,)]
    for last in (20, 21):
        tree.write(node, extents(*range(last)))
        assert tree.rows("SELECT count(*) FROM manifests") == [(1,)]
        with tree.database.reading() as connection:
            assert queries.manifest(connection, tree.ino(node)) == extents(*range(last))
    tree.write(node, extents(1))
    assert tree.rows("SELECT count(*) FROM manifests") == [(0,)]


def test_fields_come_change_and_go(tree: Tree) -> None:
    node = tree.make(b"file")
    tree.set_field(node, b"x:user.a", b"1")
    tree.set_field(node, b"x:user.a", b"2")
    tree.set_field(node, b"p:{DAV:}b", b"3")
    ino = tree.ino(node)
    with tree.database.reading() as connection:
        assert queries.field(connection, ino, b"x:user.a") == b"2"
        assert queries.fields(connection, [ino], b"x:") == {ino: {b"x:user.a": b"2"}}
        assert queries.fields(connection, [ino, 1, 999], b"") == {ino: {b"x:user.a": b"2", b"p:{DAV:}b": b"3"}}
    tree.clock.advance(1)
    tree.set_field(node, b"x:user.a", None)
    assert tree.attributes(node).ctime == tree.clock.now_ns()
    with tree.database.reading() as connection:
        assert queries.fields(connection, [ino], b"x:") == {}


def test_attributes_are_set_one_by_one(tree: Tree) -> None:
    node = tree.make(b"file")
    tree.clock.advance(1)
    tree.set(node, mode=0o600, mtime=5)
    found = tree.attributes(node)
    assert (found.mode, found.mtime, found.uid, found.ctime) == (0o600, 5, 1, tree.clock.now_ns())
    tree.set(node, ctime=9, btime=8, uid=7, gid=6)
    found = tree.attributes(node)
    assert (found.ctime, found.btime, found.uid, found.gid, found.mtime) == (9, 8, 7, 6, 5)


def test_what_is_local_changes_without_a_log_row(tree: Tree) -> None:
    node = tree.make(b"file")
    tree.journal.change(lambda change: change.set_local(tree.ino(node), atime=11))
    tree.journal.change(lambda change: change.set_local(tree.ino(node), dirty=3))
    assert (tree.attributes(node).atime, tree.attributes(node).dirty) == (11, 3)
    assert tree.rows("SELECT count(*) FROM log") == [(1,)]


def test_the_first_operations_name_the_namespace_and_its_writer(tree: Tree) -> None:
    member = Member(MachineId(b"m" * 16), "laptop", b"k" * 32, Incarnation(5), 1, None)
    tree.journal.change(lambda change: [change.emit(Namespace("main", "standalone", 77)), change.emit(member)])
    assert tree.attributes(ROOT).btime == tree.attributes(ROOT).mtime == 77
    again = Member(member.machine, "new name", b"K" * 32, Incarnation(6), 2, None)
    tree.journal.change(lambda change: change.emit(again))
    rows = tree.rows("SELECT name, public_key, incarnation, epoch FROM machines")
    assert rows == [("new name", b"K" * 32, (6).to_bytes(8, "big"), 2)]
    with tree.database.reading() as connection:
        assert settings.get(connection, settings.NAMESPACE) == ["main", "standalone", 77]


def test_an_older_place_of_an_entry_does_not_undo_a_newer_one(tree: Tree) -> None:
    node = tree.make(b"file")
    [entry] = tree.entries(node)
    tree.move(node, ROOT, b"newer")
    group = Group(1, 5, 5, (Place(entry, node, ROOT, b"older"),))
    tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [group])
    assert tree.names() == [b"newer"]


def test_an_entry_can_come_to_name_another_node(tree: Tree) -> None:
    one, two = tree.make(b"one"), tree.make(b"two")
    folder = tree.mkdir(b"folder")
    [entry] = tree.entries(one)
    tree.journal.change(lambda change: change.emit(Place(entry, two, ROOT, b"one")))
    assert (tree.attributes(one).nlink, tree.attributes(two).nlink) == (0, 2)
    [entry] = tree.entries(folder)
    tree.journal.change(lambda change: change.emit(Place(entry, two, ROOT, b"folder")))
    assert tree.attributes(ROOT).nlink == 2


def test_a_folder_whose_making_is_missing_waits_in_lost_and_found(tree: Tree) -> None:
    lost, node = NodeId(b"l" * 16), NodeId(b"n" * 16)
    machine, incarnation = MachineId(b"2" * 16), Incarnation(2)
    late = Group(3, 10, 10, (Make(node, 1, 0o644, 0, 0, 0, 10), Place(EntryId(b"e" * 16), node, lost, b"file")))
    tree.journal.apply_groups(machine, incarnation, [late])
    assert tree.names() == [b"lost+found"]
    with tree.database.reading() as connection:
        assert queries.paths_of(connection, tree.ino(node)) == [b"/lost+found/" + lost.hex().encode() + b"/file"]
    early = (Make(lost, 2, 0o750, 3, 4, 0, 9), Place(EntryId(b"f" * 16), lost, ROOT, b"found"))
    tree.journal.apply_groups(machine, incarnation, [Group(1, 9, 9, early)])
    assert tree.names(lost) == [b"file"]
    assert tree.names() == [b"found", b"lost+found"]
    assert (tree.attributes(lost).mode, tree.attributes(lost).uid) == (0o750, 3)


def test_an_own_change_cannot_name_an_unknown_folder(tree: Tree) -> None:
    node = tree.make(b"file")
    with pytest.raises(NotFound):
        tree.move(node, NodeId(b"g" * 16), b"file")
    assert tree.names() == [b"file"]


def test_a_folder_takes_its_files_names_to_the_trash_and_back(tree: Tree) -> None:
    top = tree.mkdir(b"top")
    low = tree.mkdir(b"low", top)
    node = tree.make(b"file", low)
    tree.link(node, b"link")
    tree.delete(top)
    assert tree.attributes(node).nlink == 1
    tree.move(low, ROOT, b"low")
    assert tree.attributes(node).nlink == 2
    tree.delete(low)
    tree.move(node, ROOT, b"saved")
    assert tree.attributes(node).nlink == 2
    tree.move(top, ROOT, b"top")
    assert tree.attributes(node).nlink == 2


def test_a_folder_has_one_place_the_latest(tree: Tree) -> None:
    top, other = tree.mkdir(b"top"), tree.mkdir(b"other")
    node = tree.make(b"file", top)
    tree.snapshot()
    tree.link(top, b"again", other)
    assert (tree.names(), tree.names(other)) == ([b"other"], [b"again"])
    assert (tree.attributes(ROOT).nlink, tree.attributes(other).nlink) == (3, 3)
    assert tree.attributes(node).nlink == 1
    stale = Group(1, 5, 5, (Place(EntryId(b"s" * 16), top, ROOT, b"stale"),))
    tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [stale])
    assert tree.names() == [b"other"]


def test_what_is_made_can_be_moved_in_the_same_change(tree: Tree) -> None:
    def work(change):  # type: ignore[no-untyped-def]
        for kind in (Kind.FILE, Kind.DIRECTORY):
            node, entry = NodeId(change.new_id()), EntryId(change.new_id())
            change.emit(Make(node, kind, 0, 0, 0, 0, 0))
            change.emit(Place(entry, node, ROOT, b"first"))
            change.emit(Place(entry, node, ROOT, b"then %d" % kind))

    tree.journal.change(work)
    assert tree.names() == [b"then 1", b"then 2"]
