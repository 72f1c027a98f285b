"""The encoding of operations stands for ever: what is in a store today is read by every later version."""

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.crdt.ops import (
    ROOT,
    TRASH,
    Attr,
    Dot,
    Field,
    Make,
    Member,
    Namespace,
    Op,
    Place,
    Prune,
    Purge,
    Retire,
    Snapshot,
    TrashPolicy,
    Unsnapshot,
    VersionPolicy,
    Write,
    decode_ops,
    encode_ops,
)
from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import BlobName, ContentTag, EntryId, Incarnation, MachineId, NodeId, SnapshotId

GOLDEN = Path(__file__).parents[1] / "golden" / "ops-v1.bin"
GOLDEN_2 = GOLDEN.with_name("ops-v1-history.bin")
NODE = NodeId(bytes(range(16)))
ENTRY = EntryId(bytes(range(16, 32)))
OPS: tuple[Op, ...] = (
    Namespace("main", "standalone", 1_700_000_000_123_456_789),
    Member(MachineId(b"m" * 16), "laptop", b"k" * 32, Incarnation(2**64 - 1), 1, None, b"x" * 32),
    Member(MachineId(b"n" * 16), "desk", b"K" * 32, Incarnation(1), 2, MachineId(b"m" * 16)),
    Make(NODE, 1, 0o644, 1000, 1000, 0, 1_700_000_000_123_456_789),
    Make(NODE, 3, 0o777, 0, 0, 0, 0, b"../target"),
    Make(NODE, 7, 0o600, 0, 0, 2049, 1),
    Place(ENTRY, NODE, ROOT, "Bücher".encode()),
    Place(ENTRY, NODE, TRASH, b"not utf-8 \xff"),
    Write(NODE, 4096, ContentTag(b"t" * 16), b"\x00\x10" + bytes(38), None, 1_700_000_000_123_456_789),
    Write(NODE, 0, ContentTag(b"t" * 16), b"", ContentTag(b"r" * 16), -1),
    Attr(NODE, {"mode": 0o600, "mtime": -1, "btime": 2**62}),
    Field(NODE, b"x:user.comment", b"\x00\xff"),
    Field(NODE, b"p:{DAV:}displayname", None),
)
NEW_OPS: tuple[Op, ...] = (
    Place(ENTRY, NODE, TRASH, b"replaced", because=EntryId(b"c" * 16)),
    Place(ENTRY, NODE, ROOT, b"made by mkdir", made=True),
    Place(ENTRY, NODE, ROOT, b"filled again", after=EntryId(b"a" * 16)),
    Snapshot(SnapshotId(b"s" * 16), "before the move", 1_700_000_000_123_456_789),
    Snapshot(SnapshotId(b"S" * 16), "hourly-2026-12-01T10", 1_700_000_000_123_456_789, settled=False),
    Unsnapshot(SnapshotId(b"s" * 16)),
    TrashPolicy(30),
    VersionPolicy(10),
)


PURGES: tuple[Op, ...] = (Purge((ENTRY,)), Purge((EntryId(b"p" * 16), EntryId(b"q" * 16))), Purge(()))


def test_todays_encoding_of_a_purge_is_the_golden_one() -> None:
    golden = GOLDEN.with_name("ops-v1-purge.bin").read_bytes()
    assert encode_ops(PURGES) == golden
    assert decode_ops(golden) == PURGES


VERSIONS: tuple[Op, ...] = (
    Write(NODE, 4096, ContentTag(b"t" * 16), b"\x00\x10" + bytes(38), None, 1, restores=True),
    Prune(NODE, (Dot(Incarnation(2**64 - 1), 2**40), Dot(Incarnation(0), 7))),
)


def test_todays_encoding_is_the_golden_one() -> None:
    golden = GOLDEN.with_name("ops-v1-versions.bin").read_bytes()
    assert encode_ops(OPS + NEW_OPS + VERSIONS) == golden
    assert decode_ops(golden) == OPS + NEW_OPS + VERSIONS


def test_the_golden_bytes_of_before_are_read_as_they_were_meant() -> None:
    assert decode_ops(GOLDEN_2.read_bytes()) == OPS + NEW_OPS


def test_the_golden_bytes_are_read_as_they_were_meant() -> None:
    assert decode_ops(GOLDEN.read_bytes()) == OPS


def test_the_encoding_of_a_retirement_is_the_golden_one() -> None:
    golden = GOLDEN.with_name("ops-v1-retire.bin").read_bytes()
    ops = (Retire((BlobName(b"p" * 16), BlobName(b"q" * 16))),)
    assert encode_ops(ops) == golden
    assert decode_ops(golden) == ops


def test_fields_added_later_are_skipped_and_missing_ones_have_defaults() -> None:
    raw = [[5, NODE, b"x:a", b"1", "a field of a later version"], [1, NODE, 1, 0, 0, 0, 0, 0]]
    data = msgspec.msgpack.encode(raw)
    assert decode_ops(data) == (Field(NODE, b"x:a", b"1"), Make(NODE, 1, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    "raw",
    [
        [[999, NODE]],
        [[1, NODE]],
        [[5, "text", b"x:a", None]],
        [5, NODE],
        "text",
        {},
    ],
)
def test_anything_else_is_damage_of_the_log(raw: object) -> None:
    with pytest.raises(DamageError) as caught:
        decode_ops(msgspec.msgpack.encode(raw))
    assert caught.value.blob == "log"


@given(st.binary(max_size=200))
def test_random_bytes_are_operations_or_damage(data: bytes) -> None:
    try:
        ops = decode_ops(data)
    except (DamageError, NewerFormat):
        return
    assert decode_ops(encode_ops(ops)) == ops


@given(st.integers(0, 2000), st.integers(0, 7))
def test_a_flipped_bit_raises_damage_or_nothing(at: int, bit: int) -> None:
    """Most flips give other valid operations, so what is checked is that no other exception is raised."""
    data = bytearray(GOLDEN.read_bytes())
    data[at % len(data)] ^= 1 << bit
    with suppress(DamageError, NewerFormat):
        decode_ops(bytes(data))


@pytest.mark.parametrize(
    "fields",
    [
        [1, NODE, 1, 0o644, 0, 0, 0, 2**63],
        [1, NODE, 1, 0o200000, 0, 0, 0, 0],
        [1, NODE, 1, 0o644, -1, 0, 0, 0],
        [1, NODE, 1, 0o644, 0, 2**32, 0, 0],
        [1, NODE, 2**63, 0o644, 0, 0, 0, 0],
        [3, NODE, -1, b"t" * 16, b"", None, 0],
        [3, NODE, 2**63, b"t" * 16, b"", None, 0],
        [3, NODE, 1, b"t" * 16, b"", None, 2**63],
        [4, NODE, {"mtime": 2**63}],
        [17, "main", "standalone", 2**63],
    ],
)
def test_numbers_beyond_the_database_are_damage(fields: list[object]) -> None:
    with pytest.raises(DamageError):
        decode_ops(msgspec.msgpack.encode([fields]))


RESERVED = (12, 13, 14, 15, 19, 20, 21)


def test_the_numbers_that_are_reserved_stay_free() -> None:
    assert not {kind.__struct_config__.tag for kind in Op.__args__} & set(RESERVED)


@pytest.mark.parametrize("number", RESERVED)
def test_an_operation_of_a_later_program_is_no_damage(number: int) -> None:
    with pytest.raises(NewerFormat, match=f"newer tgdav .operation {number}."):
        decode_ops(msgspec.msgpack.encode([[number, NODE]]))
