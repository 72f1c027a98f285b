"""A group that names lost content holds up only what depends on it."""

import pytest

from tgdav.content.format.manifest import Extent, Manifest, encode
from tgdav.crdt.ops import ROOT, Group, Make, Op, Place, Snapshot, Unsnapshot, Write
from tgdav.ids import ChunkId, ContentTag, EntryId, NodeId, SnapshotId
from tgdav.replication.pusher import Unsent, choose_ready

LOST, STORED, COMING = (ChunkId(bytes([number]) * 32) for number in (1, 2, 3))
TAG = ContentTag(bytes(16))


def node(number: int) -> NodeId:
    return NodeId((100 + number).to_bytes(16, "big"))


def write(number: int, chunk: ChunkId) -> Op:
    return Write(node(number), 5, TAG, encode(Manifest.from_extents([Extent(5, chunk)])), None, 0)


def make(number: int, kind: int = 1) -> Op:
    return Make(node(number), kind, 0o644, 0, 0, 0, 0)


def place(number: int, name: bytes, parent: NodeId = ROOT) -> Op:
    return Place(EntryId(node(1000 + number)), node(number), parent, name)


def unsent(*groups: tuple[Op, ...]) -> list[Unsent]:
    return [Unsent(position, Group(position, position, 0, ops), 0) for position, ops in enumerate(groups, 1)]


def chosen(*groups: tuple[Op, ...]) -> list[int]:
    return [each.position for each in choose_ready(unsent(*groups), {STORED}, {LOST})]


def test_the_log_waits_for_what_is_coming() -> None:
    assert chosen((make(1), write(1, STORED)), (make(2), write(2, COMING)), (make(3),)) == [1]


def test_others_pass_what_names_lost_content() -> None:
    assert chosen((make(1), place(1, b"a"), write(1, LOST)), (make(2), place(2, b"b"), write(2, STORED))) == [2]


def test_later_changes_of_the_same_file_name_or_entry_do_not_pass() -> None:
    held = (make(1), place(1, b"a"), write(1, LOST))
    assert chosen(held, (write(1, STORED),), (make(2), place(2, b"a")), (place(1, b"elsewhere"),), (make(3),)) == [5]


def test_what_goes_into_a_held_folder_is_held_and_holds_in_turn() -> None:
    held = (make(1, 2), place(1, b"folder"), make(2), write(2, LOST))
    inside = (make(3), place(3, b"inside", node(1)))
    assert chosen(held, inside, (write(3, STORED),), (make(4), place(4, b"other"))) == [4]


SNAPSHOT = SnapshotId(bytes(16))


@pytest.mark.parametrize("op", [Snapshot(SNAPSHOT, "one", 0), Unsnapshot(SNAPSHOT)])
def test_a_snapshot_stands_on_all_before_it(op: Op) -> None:
    held = (make(1), write(1, LOST))
    other = (make(2), place(2, b"b"))
    assert chosen(other, (op,), (make(3),)) == [1, 2, 3]
    assert chosen(held, (op,)) == []
    # Changes after it go their way; a later snapshot stands on the held ones, too.
    assert chosen(held, other, (op,), (make(3),), (op,)) == [2, 4]
    assert chosen(other, (make(1), write(1, COMING)), (op,)) == [1]
