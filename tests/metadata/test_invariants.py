"""Random operations, also senseless ones and those of other machines: the tree keeps its invariants and replays alike."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.metadata.tree import INCARNATION, MACHINE, Tree, check_invariants, extents, tag
from tgdav.crdt.ops import ROOT, TRASH, Attr, Field, Group, Make, Op, Place, Purge, Write, decode_ops
from tgdav.errors import InvalidArgument, NotFound
from tgdav.ids import EntryId, Incarnation, MachineId, NodeId

NODES = [NodeId(b"node %11d" % number) for number in range(7)]
ENTRIES = [EntryId(b"entry%11d" % number) for number in range(9)]
NAMES = st.sampled_from([b"a", b"b", b"c", "é".encode(), "e\u0301".encode()])

node = st.sampled_from(NODES)
content = st.integers(0, 12).map(lambda count: extents(*range(count)))
operation = st.one_of(
    st.builds(Make, node, st.sampled_from([1, 2, 2, 3]), st.just(0o644), *[st.just(0)] * 3, st.integers(0, 9)),
    st.builds(Place, st.sampled_from(ENTRIES), node, st.sampled_from([*NODES, ROOT, ROOT, TRASH]), NAMES),
    content.flatmap(
        lambda data: st.builds(
            Write, node, st.just(len(data) * 25), st.just(tag(data)), st.just(data), st.none(), st.integers(0, 9)
        )
    ),
    st.builds(Attr, node, st.dictionaries(st.sampled_from(["mode", "mtime", "odd"]), st.integers(0, 9))),
    st.builds(Purge, st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=3).map(tuple)),
    st.builds(Field, node, st.sampled_from([b"x:a", b"p:b"]), st.none() | st.binary(max_size=3)),
)
STATE = (
    "SELECT id, kind, mode, nlink, size, mtime, ctime, btime, tag FROM nodes ORDER BY id",
    """SELECT e.id, p.id, n.id, e.name, e.nfc, e.stamp, e.origin IS NULL FROM entries e
       JOIN nodes p ON p.ino = e.parent JOIN nodes n ON n.ino = e.ino ORDER BY e.id""",
    "SELECT n.id, field, value FROM fields JOIN nodes n USING (ino) ORDER BY n.id, field",
    "SELECT n.id, coalesce(data, content) FROM nodes n LEFT JOIN manifests ON no = manifest ORDER BY id",
)


def emit(tree: Tree, ops: list[Op]) -> None:
    """Make one change of what applies; what does not is refused, and the rest goes on."""

    def work(change: Any) -> None:
        for op in ops:
            try:
                change.emit(op)
            except (NotFound, InvalidArgument):
                continue

    tree.journal.change(work)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["own", "own", "own", "other", "pin", "sweep"]),
            st.lists(operation, min_size=1, max_size=4),
            st.floats(0, 20),
        ),
        max_size=25,
    )
)
def test_invariants_hold_and_the_log_rebuilds_the_tree(steps: list[tuple[str, list[Op], float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder) / "one.db")
        tree.keep(2)
        number = 0
        for kind, ops, seconds in steps:
            tree.clock.advance(seconds)
            if kind == "own":
                emit(tree, ops)
            elif kind == "other":
                number += 1
                stamp = (tree.clock.now_ns() // 1_000_000 << 16) - number
                group = Group(number, stamp, tree.clock.now_ns(), tuple(ops))
                tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [group])
            elif kind == "sweep":
                tree.sweep()
            else:
                tree.snapshot()
            with tree.database.reading() as connection:
                check_invariants(connection)
        tree.sweep()
        rebuilt = _rebuilt(tree, Path(folder) / "two.db")
        assert [rebuilt.rows(sql) for sql in STATE] == [tree.rows(sql) for sql in STATE]
        rebuilt.close()
        tree.close()


def _rebuilt(tree: Tree, path: Path) -> Tree:
    """Apply the whole log to an empty database, as a recovery does, but with another history."""
    made = Tree(path, machine=MachineId(b"3" * 16), incarnation=Incarnation(3))
    made.keep(0)
    rows = tree.rows("SELECT machine, incarnation, sequence, stamp, time, ops FROM log ORDER BY position")
    for row in rows:
        machine, incarnation, sequence, stamp, time, ops = row
        group = Group(sequence, stamp, time, decode_ops(ops))  # type: ignore[arg-type]
        made.journal.apply_groups(MachineId(machine), Incarnation(int.from_bytes(incarnation)), [group])  # type: ignore[arg-type]
    made.sweep()
    with made.database.reading() as connection:
        check_invariants(connection)
    return made


def test_the_machines_of_this_test_differ() -> None:
    assert MACHINE not in (b"2" * 16, b"3" * 16)
    assert INCARNATION not in (2, 3)
