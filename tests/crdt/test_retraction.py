"""What was made and deleted before it was sent is retracted, whole; what is left means the same."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.metadata.test_invariants import ENTRIES, NODES, emit, operation
from tests.metadata.tree import Tree
from tgdav.crdt.ops import ROOT, TRASH, Attr, Group, Make, Op, Place, Purge, Retracted, Snapshot, Write, decode_ops
from tgdav.crdt.retraction import retract
from tgdav.ids import ContentTag, EntryId, Incarnation, MachineId, NodeId, SnapshotId

TAG = ContentTag(bytes(16))


def node(number: int) -> NodeId:
    return NodeId((100 + number).to_bytes(16, "big"))


def entry(number: int) -> EntryId:
    return EntryId((1000 + number).to_bytes(16, "big"))


def make(number: int, parent: NodeId = ROOT, kind: int = 1) -> tuple[Op, ...]:
    return Make(node(number), kind, 0o644, 0, 0, 0, 0), Place(entry(number), node(number), parent, b"name")


def write(number: int) -> Op:
    return Write(node(number), 0, TAG, b"", None, 0)


def delete(number: int) -> tuple[Op, ...]:
    return Place(entry(number), node(number), TRASH, b"name"), Purge((entry(number),))


GONE = Retracted()


def test_a_temporary_file_leaves_nothing() -> None:
    groups = [make(1), (write(1),), make(2), (Attr(node(1), {"mode": 0}), write(2)), delete(1)]
    assert retract(groups) == [(), (), make(2), (GONE, write(2)), ()]


def test_what_was_made_before_is_left() -> None:
    groups = [(write(1),), delete(1)]
    assert retract(groups) == groups


def test_what_is_in_the_trash_is_left() -> None:
    groups = [make(1), delete(1)[:1]]
    assert retract(groups) == groups


def test_a_purge_loses_only_what_is_retracted() -> None:
    trashed = (Place(entry(1), node(1), TRASH, b"name"),)
    groups = [make(1), trashed, (Purge((entry(1), entry(9))),)]
    assert retract(groups) == [(), (), (Purge((entry(9),)),)]


def test_a_purge_of_what_is_elsewhere_has_no_effect() -> None:
    groups = [make(1), (Purge((entry(1),)),)]
    assert retract(groups) == groups


def test_what_a_snapshot_shows_is_left() -> None:
    snapshot = (Snapshot(SnapshotId(bytes(16)), "one", 0),)
    groups = [make(1), snapshot, delete(1)]
    assert retract(groups) == groups
    assert retract([snapshot, make(1), delete(1), snapshot]) == [snapshot, (), (), snapshot]


def test_a_directory_goes_with_all_that_was_ever_in_it() -> None:
    inside = [make(1, kind=2), make(2, node(1)), make(3, node(1))]
    assert retract([*inside, delete(1)]) == [()] * 4
    assert retract([*inside, delete(2), delete(3), delete(1)]) == [()] * 6
    moved = (Place(entry(3), node(3), ROOT, b"saved"),)
    groups = [*inside, moved, delete(1)]
    assert retract(groups) == [inside[0], (), inside[2], moved, delete(1)]


def test_what_replaced_something_is_left() -> None:
    replaced = (Place(entry(9), node(9), TRASH, b"name", because=entry(1)), Place(entry(1), node(1), ROOT, b"other"))
    groups = [make(1), replaced, delete(1)]
    assert retract(groups) == groups


def test_a_file_with_another_name_is_left() -> None:
    link = (Place(entry(5), node(1), ROOT, b"link"),)
    groups = [make(1), link, delete(1)]
    assert retract(groups) == groups


# Times of directories move when a temporary file comes and goes.
STATE = (
    """SELECT id, kind, mode, nlink, size, tag, iif(kind = 2, 0, mtime), iif(kind = 2, 0, ctime) FROM nodes
ORDER BY id""",
    """SELECT e.id, p.id, n.id, e.name, e.nfc, e.stamp, e.origin IS NULL FROM entries e
       JOIN nodes p ON p.ino = e.parent JOIN nodes n ON n.ino = e.ino ORDER BY e.id""",
    "SELECT n.id, field, value FROM fields JOIN nodes n USING (ino) ORDER BY n.id, field",
    "SELECT n.id, coalesce(data, content) FROM nodes n LEFT JOIN manifests ON no = manifest ORDER BY id",
)


def _life(number: int, kind: int, parent: NodeId, ending: int) -> list[Op]:
    node, name = NODES[number], b"%d" % number
    born: list[Op] = [Make(node, kind, 0, 0, 0, 0, 0), Place(ENTRIES[number], node, parent, name)]
    dead: list[Op] = [Place(ENTRIES[number], node, TRASH, name), Purge((ENTRIES[number],))]
    return [born, dead, born + dead][ending]


life = st.builds(
    _life, st.integers(0, 6), st.sampled_from([1, 2]), st.sampled_from([ROOT, *NODES[:3]]), st.integers(0, 2)
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(life | life | st.lists(operation, min_size=1, max_size=4) | st.none(), max_size=25))
def test_what_is_left_gives_the_same_tree(steps: list[list[Op] | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder) / "one.db")
        for ops in steps:
            tree.clock.advance(1)
            if ops is None:
                tree.snapshot()
            else:
                emit(tree, ops)
        tree.sweep()
        rows = tree.rows("SELECT sequence, stamp, time, ops FROM log ORDER BY position")
        found = [(sequence, stamp, time, decode_ops(ops)) for sequence, stamp, time, ops in rows]  # type: ignore[arg-type]
        rest = retract([ops for *_, ops in found])
        assert [len(ops) or len(before) for ops, (*_, before) in zip(rest, found, strict=True)] == [
            len(before) for *_, before in found
        ]
        other = Tree(Path(folder) / "two.db", machine=MachineId(b"3" * 16), incarnation=Incarnation(3))
        for (sequence, stamp, time, _), ops in zip(found, rest, strict=True):
            group = Group(sequence, stamp, time, ops)  # type: ignore[arg-type]
            other.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [group])
        other.sweep()
        assert [other.rows(sql) for sql in STATE] == [tree.rows(sql) for sql in STATE]
        other.close()
        tree.close()
