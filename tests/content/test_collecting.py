"""The decisions of garbage collection, without a store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.content.chunk_set import ChunkSet
from tgdav.content.collecting import (
    Activity,
    GcRule,
    GcState,
    GcStep,
    PackContents,
    PackUse,
    StoreFacts,
    is_due,
    next_step,
    plan,
)
from tgdav.content.format.manifest import Extent, Manifest, chunk_prefixes, encode
from tgdav.content.format.pack import MIN_PACK, padme
from tgdav.errors import DamageError
from tgdav.ids import BlobName, ChunkId

MIB = 1 << 20


def chunk(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(8, "big") * 4)


def pack(number: int, sizes: dict[int, int], size: int | None = None) -> PackContents:
    """A pack of (chunk, bytes), padded unless ``size`` is given."""
    total = padme(sum(sizes.values())) if size is None else size
    return PackContents(
        number, BlobName(bytes([number]) * 16), total, [(chunk(key), each) for key, each in sizes.items()]
    )


def numbers(packs: tuple[PackUse, ...]) -> list[int]:
    return [each.number for each in packs]


def test_dead_packs_are_dropped_sparse_ones_rewritten_and_others_kept() -> None:
    packs = [
        pack(1, {1: 10 * MIB}),
        pack(2, {2: 4 * MIB, 3: 6 * MIB}),
        pack(3, {4: 2 * MIB, 5: 8 * MIB}),
        pack(4, {}, MIN_PACK),
    ]
    found = plan(packs, {chunk(2), chunk(4)}, GcRule())
    assert (numbers(found.drop), numbers(found.repack), found.keep) == ([1, 4], [3, 2], 0)
    found = plan(packs, {chunk(2), chunk(3), chunk(4)}, GcRule())
    assert (numbers(found.drop), numbers(found.repack), found.keep) == ([1, 4], [3], 1)
    assert found.freed == sum(each.size for each in packs if each.number != 2) - padme(2 * MIB)


def test_nothing_dead_is_no_plan() -> None:
    found = plan([pack(1, {1: MIB}), pack(2, {2: MIB})], {chunk(1), chunk(2)}, GcRule())
    assert not found
    assert (found.keep, found.freed) == (2, 0)


def test_a_lone_small_pack_is_not_rewritten_but_several_are_joined() -> None:
    small = [pack(number, {number: 9000}) for number in range(1, 9)]
    live = {chunk(number) for number in range(1, 9)}
    assert not plan(small[:1], live, GcRule())
    assert len(plan(small, live, GcRule()).repack) == 8


def test_a_budget_takes_first_what_frees_most() -> None:
    packs = [pack(1, {1: 4 * MIB, 2: 6 * MIB}), pack(2, {3: MIB, 4: 9 * MIB}), pack(3, {5: 3 * MIB, 6: 7 * MIB})]
    live = {chunk(1), chunk(3), chunk(5)}
    assert numbers(plan(packs, live, GcRule(budget=4 * MIB)).repack) == [2, 3]
    assert numbers(plan(packs, live, GcRule(budget=1)).repack) == [2], "one at least"


@given(
    st.lists(st.dictionaries(st.integers(1, 300), st.integers(1, 3 * MIB), max_size=6), max_size=12),
    st.sets(st.integers(1, 300)),
)
def test_repeated_plans_end_and_never_lose_a_live_chunk(contents: list[dict[int, int]], alive: set[int]) -> None:
    """Apply plans until there is none: all live chunks are still in a pack, and the packs get smaller each time."""
    seen: set[int] = set()
    state = {}
    for number, sizes in enumerate(contents, 1):
        state[number] = {key: size for key, size in sizes.items() if key not in seen}
        seen |= set(sizes)
    live = {chunk(key) for key in alive}
    wanted = {key for sizes in state.values() for key in sizes if key in alive}
    for turn in range(20):
        packs = [pack(number, sizes, None if sizes else MIN_PACK) for number, sizes in state.items()]
        found = plan(packs, live, GcRule())
        if not found:
            break
        assert found.freed > 0
        moved = {key: size for use in found.repack for key, size in state[use.number].items() if key in alive}
        for use in (*found.drop, *found.repack):
            assert use in found.repack or not {key for key in state[use.number] if key in alive}
            del state[use.number]
        if moved:
            state[max(state, default=0) + 100 + turn] = moved
    else:
        raise AssertionError("the plans never end")
    assert {key for sizes in state.values() for key in sizes if key in alive} == wanted


USE = PackUse(1, BlobName(b"p" * 16), MIB, 0)


@pytest.mark.parametrize(
    ("state", "facts", "step"),
    [
        (GcState(), StoreFacts(), GcStep.DONE),
        (GcState(), StoreFacts(is_staged=True, is_unsent=True), GcStep.DONE),
        (GcState(repack=[USE], retire=[USE]), StoreFacts(is_staged=True), GcStep.REPACK),
        (GcState(repack=[USE]), StoreFacts(is_staged=True, is_full=True), GcStep.PUSH),
        (GcState(retire=[USE]), StoreFacts(is_staged=True), GcStep.PUSH),
        (GcState(retire=[USE]), StoreFacts(is_unsent=True), GcStep.RETIRE),
        (GcState(), StoreFacts(retired=1, is_unsent=True), GcStep.PUSH),
        (GcState(), StoreFacts(retired=1, is_staged=True), GcStep.PUSH),
        (GcState(), StoreFacts(retired=1), GcStep.CHECKPOINT),
        (GcState(retire=[USE]), StoreFacts(deletable=2), GcStep.DELETE),
        (GcState(deleted=[3]), StoreFacts(deletable=2), GcStep.FORGET),
    ],
)
def test_each_step_follows_from_what_is_there(state: GcState, facts: StoreFacts, step: GcStep) -> None:
    assert next_step(state, facts) is step


@pytest.mark.parametrize(
    ("activity", "due"),
    [
        (Activity(False, 9999, 9999, 10**9, 0), False),
        (Activity(True, 61, 901, 0, 0), True),
        (Activity(True, 59, 901, 0, 0), False),
        (Activity(True, 61, 899, 0, 0), False),
        (Activity(True, 6, 10, 64 * MIB, 0), True),
        (Activity(True, 4, 10, 64 * MIB, 0), False),
        (Activity(True, 6, 10, 1200 * MIB, 1000 * MIB), False),
        (Activity(True, 6, 10, 1250 * MIB, 1000 * MIB), True),
    ],
)
def test_when_a_collection_is_due(activity: Activity, due: bool) -> None:
    assert is_due(activity) is due


@given(st.lists(st.tuples(st.integers(1, 2 * MIB), st.binary(min_size=32, max_size=32) | st.none()), max_size=20))
def test_prefixes_are_those_of_the_chunks(extents: list[tuple[int, bytes | None]]) -> None:
    manifest = Manifest.from_extents(Extent(length, None if id_ is None else ChunkId(id_)) for length, id_ in extents)
    found = [prefix for prefix in chunk_prefixes(encode(manifest)) if prefix]
    expected = [int.from_bytes(id_[:8], "big") for id_ in manifest.chunk_ids()]
    assert found == [prefix for prefix in expected if prefix]


def test_a_broken_manifest_is_damage() -> None:
    with pytest.raises(DamageError):
        list(chunk_prefixes(bytes(41)))


@given(st.sets(st.binary(min_size=32, max_size=32), max_size=50), st.binary(min_size=32, max_size=32))
def test_a_set_of_prefixes_has_what_was_put_in(chunks: set[bytes], other: bytes) -> None:
    from array import array

    found = ChunkSet.of_prefixes(array("Q", [int.from_bytes(each[:8], "big") for each in chunks] * 2))
    assert all(each in found for each in chunks)
    assert (other in found) == any(each[:8] == other[:8] for each in chunks)
