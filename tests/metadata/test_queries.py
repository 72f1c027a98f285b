import unicodedata

from tests.metadata.tree import Tree, extents, make
from tgdav.crdt.ops import ROOT, TRASH, Group, Make, Member, Place
from tgdav.db.schema import ROOT_INODE, TRASH_INODE
from tgdav.db.statements import Statement
from tgdav.ids import EntryId, Incarnation, Inode, MachineId, NodeId
from tgdav.metadata import queries
from tgdav.metadata.conflict_names import conflict_name, nfc

COMPOSED = "Bücher".encode()
DECOMPOSED = unicodedata.normalize("NFD", "Bücher").encode()
OTHER = MachineId(b"2" * 16)


def find(tree: Tree, name: bytes, parent: NodeId = ROOT, **options: bool) -> NodeId | None:
    ino = tree.ino(parent)
    with tree.database.reading() as connection:
        entry = queries.find_entry(connection, ino, name, **options)
    return entry.attributes.node if entry else None


def made_elsewhere(tree: Tree, name: bytes, number: int, stamp: int) -> NodeId:
    """A file that another machine made with this name."""
    node = NodeId(bytes(15) + bytes([100 + number]))
    entry = EntryId((9).to_bytes(8, "big") + number.to_bytes(8, "big"))
    ops = (Make(node, 1, 0o644, 0, 0, 0, 5), Place(entry, node, ROOT, name))
    tree.journal.apply_groups(OTHER, Incarnation(9), [Group(number, stamp, 5, ops)])
    return node


def test_names_are_found_by_their_bytes_and_in_their_folder_only(tree: Tree) -> None:
    folder = tree.mkdir(b"folder")
    node = tree.make(b"a\xff", folder)
    assert find(tree, b"a\xff", folder) == node
    assert find(tree, b"a\xff") is None
    assert find(tree, b"A\xff", folder) is None
    assert find(tree, b"a\xff", folder, normalized=True) == node


def test_normalized_names_match_both_ways_bytes_first_then_the_earliest(tree: Tree) -> None:
    decomposed = tree.make(DECOMPOSED)
    assert find(tree, COMPOSED) is None
    assert find(tree, COMPOSED, normalized=True) == decomposed
    composed = tree.make(COMPOSED)
    assert find(tree, COMPOSED, normalized=True) == composed
    assert find(tree, DECOMPOSED, normalized=True) == decomposed
    tree.delete(decomposed)
    assert find(tree, DECOMPOSED, normalized=True) == composed
    odd = "Bücher".replace("ü", "ü").encode() + b""
    assert find(tree, odd, normalized=True) == composed
    assert find(tree, "ö".encode(), normalized=True) is None


def test_of_several_spellings_the_earliest_entry_is_found(tree: Tree) -> None:
    one = "e\u0323\u0302".encode()  # three spellings of one letter
    two = "e\u0302\u0323".encode()
    first, second = tree.make(two), tree.make(one)
    assert find(tree, "\u1ec7".encode(), normalized=True) == first
    tree.delete(first)
    assert find(tree, "\u1ec7".encode(), normalized=True) == second


def test_nfc_is_kept_only_where_it_differs() -> None:
    assert nfc(b"plain") is None
    assert nfc(COMPOSED) is None
    assert nfc(DECOMPOSED) == COMPOSED
    assert nfc(b"\xff\xc3") is None


def test_children_come_sorted_by_bytes(tree: Tree) -> None:
    for name in (b"b", b"a", b"\xff", b"B", COMPOSED):
        tree.make(name)
    assert tree.names() == sorted([b"b", b"a", b"\xff", b"B", COMPOSED])


def test_of_two_entries_with_one_name_the_earlier_keeps_it(tree: Tree) -> None:
    own = tree.make(b"file")
    day = 86_400_000 << 16
    later = made_elsewhere(tree, b"file", 1, 20_000 * day)
    tree.clock.advance(1)
    shown = b"file (conflict 00000000 2024-10-04)"
    assert tree.names() == [b"file", shown]
    assert find(tree, b"file") == own
    assert find(tree, shown) == later
    assert find(tree, shown, normalized=True) == later
    assert find(tree, b"file (conflict 00000000 2024-10-05)") is None
    third = made_elsewhere(tree, b"file", 2, 20_000 * day + 1)
    member = Member(OTHER, "laptop", b"", Incarnation(9), 1, None)
    tree.journal.change(lambda change: change.emit(member))
    assert tree.names() == [
        b"file",
        b"file (conflict laptop 2024-10-04 2)",
        b"file (conflict laptop 2024-10-04)",
    ]
    with tree.database.reading() as connection:
        assert [each.name for each in queries.listing(connection, tree.ino(ROOT))] == tree.names()
    assert find(tree, b"file (conflict laptop 2024-10-04 2)") == third
    earlier = made_elsewhere(tree, b"file", 3, 1)
    assert find(tree, b"file") == earlier


def test_a_conflict_name_passes_by_names_that_are_taken() -> None:
    taken = {b"a (conflict m 1970-01-01)", b"a (conflict m 1970-01-01 2)"}
    assert conflict_name(b"a", "m", 0, taken) == b"a (conflict m 1970-01-01 3)"


def test_paths_lead_from_the_root_to_every_name(tree: Tree) -> None:
    top = tree.mkdir(b"top")
    low = tree.mkdir(b"low", top)
    node = tree.make(b"file", low)
    tree.link(node, b"link")
    with tree.database.reading() as connection:
        assert queries.paths_of(connection, tree.ino(node)) == [b"/top/low/file", b"/link"]
        assert queries.paths_of(connection, Inode(ROOT_INODE)) == [b"/"]
        assert queries.paths_of(connection, Inode(TRASH_INODE)) == []
        assert queries.parent_of(connection, tree.ino(low)) == tree.ino(top)
        assert queries.parent_of(connection, Inode(ROOT_INODE)) is None
    tree.delete(top)
    with tree.database.reading() as connection:
        assert queries.paths_of(connection, tree.ino(node)) == [b"/link"]
        assert queries.parent_of(connection, tree.ino(top)) == TRASH_INODE


def test_ancestors_are_all_folders_above_and_the_folder_itself(tree: Tree) -> None:
    top = tree.mkdir(b"top")
    low = tree.mkdir(b"low", top)
    other = tree.mkdir(b"other")
    with tree.database.reading() as connection:
        for above, below, expected in (
            (top, low, True),
            (ROOT, low, True),
            (low, low, True),
            (low, top, False),
            (other, low, False),
        ):
            assert queries.is_ancestor(connection, tree.ino(above), tree.ino(below)) is expected


def test_walking_shows_a_folder_before_what_is_in_it(tree: Tree) -> None:
    def work(change):  # type: ignore[no-untyped-def]
        for name in (b"b", b"a"):
            folder = make(change, name, ROOT, kind=2)  # type: ignore[arg-type]
            for below in (b"y", b"x"):
                make(change, below, folder)

    tree.journal.change(work)
    tree.delete(tree.make(b"gone"))
    with tree.database.reading() as connection:
        paths = [b"/".join(path) for path, _ in queries.walk(connection, Inode(ROOT_INODE))]
    assert paths == [b"a", b"a/x", b"a/y", b"b", b"b/x", b"b/y"]


def test_totals_count_files_outside_the_trash_once(tree: Tree) -> None:
    node = tree.make(b"one", content=extents(1, 2))
    tree.link(node, b"two")
    tree.make(b"empty")
    tree.mkdir(b"folder")
    gone = tree.make(b"gone", content=extents(1))
    tree.delete(gone)
    with tree.database.reading() as connection:
        assert queries.totals(connection) == (2, 2000)
        assert queries.is_empty(connection, Inode(ROOT_INODE)) is False
        assert queries.is_empty(connection, tree.ino(node)) is True


def test_what_is_not_there_is_none_or_empty(tree: Tree) -> None:
    nobody = Inode(99)
    with tree.database.reading() as connection:
        assert queries.attributes(connection, nobody) is None
        assert queries.inode_of(connection, NodeId(b"g" * 16)) is None
        assert queries.node_id_of(connection, nobody) is None
        assert queries.manifest(connection, nobody) == b""
        assert queries.field(connection, nobody, b"x:a") is None
        assert queries.fields(connection, [], b"") == {}
        assert queries.children(connection, nobody) == []
        assert queries.paths_of(connection, nobody) == []
        assert queries.entries_of(connection, nobody) == []
        assert queries.node_id_of(connection, Inode(TRASH_INODE)) == TRASH


def test_looking_up_reads_few_rows_whatever_the_size(tree: Tree) -> None:
    """Every hot query goes by an index: none scans a table."""
    scanning = {"_TOTALS", "_CONTENTS", "_CONTENTS_WITH_HOLES", "_MACHINE_OF"}
    with tree.database.reading() as connection:
        for name, sql in vars(queries).items():
            if name.isupper() and isinstance(sql, str) and name not in scanning:
                names = {"ino": 1, "id": b"", "parent": 1, "name": b"", "field": b"", "ancestor": 1}
                names |= {"inodes": "[]", "first": b"", "end": b"", "more": 0}
                given = sql.in_order(names) if isinstance(sql, Statement) else names
                plan = connection.all("EXPLAIN QUERY PLAN " + sql, given)
                scans = {row[3] for row in plan if row[3].startswith("SCAN") and "INDEX" not in row[3]}
                assert scans <= {"SCAN up", "SCAN CONSTANT ROW"}, name
