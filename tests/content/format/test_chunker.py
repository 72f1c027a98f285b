import random

import pyfastcdc.cy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgdav.content.format import chunker
from tgdav.content.format.chunker import Chunker, chunk_sizes

SIZES = chunk_sizes(128 * 1024)
CONTENT = random.Random(1).randbytes(3_000_000)


def cut(content: bytes, steps: list[int], seed: int = 9) -> list[bytes]:
    cutter = Chunker(SIZES, seed)
    chunks, at = [], 0
    for step in [*steps, len(content)]:
        chunks += [bytes(chunk) for chunk in cutter.feed(content[at : at + step])]
        at += step
    return chunks + [bytes(chunk) for chunk in cutter.finish()]


def test_the_compiled_build_is_used() -> None:
    assert chunker.FastCDC is pyfastcdc.cy.FastCDC
    assert type(chunker.FastCDC).__name__ == "type"
    assert chunker.FastCDC.__module__ == "pyfastcdc.cy.fastcdc"


def test_default_sizes_are_those_of_the_design() -> None:
    sizes = chunk_sizes(1024 * 1024)
    assert (sizes.minimum, sizes.maximum) == (256 * 1024, 2 * 1024 * 1024 - 64 * 1024)


def test_chunks_join_to_the_content_within_their_bounds() -> None:
    chunks = cut(CONTENT, [])
    assert b"".join(chunks) == CONTENT
    assert len(chunks) > 10
    assert all(SIZES.minimum <= len(chunk) <= SIZES.maximum for chunk in chunks[:-1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 700_000), max_size=12))
def test_cuts_do_not_depend_on_how_content_is_fed(steps: list[int]) -> None:
    assert cut(CONTENT, steps) == cut(CONTENT, [])


@pytest.mark.parametrize("length", [0, 1, SIZES.minimum, SIZES.maximum, 2 * SIZES.maximum, 2 * SIZES.maximum + 1])
def test_contents_at_the_boundaries(length: int) -> None:
    zeros = bytes(length)
    assert b"".join(cut(zeros, [])) == zeros
    assert cut(zeros, [1, SIZES.minimum]) == cut(zeros, [])


def test_the_seed_moves_the_cuts() -> None:
    assert [len(c) for c in cut(CONTENT, [], seed=1)] != [len(c) for c in cut(CONTENT, [], seed=2)]


def test_cuts_are_the_same_again_after_an_insertion() -> None:
    before, after = set(cut(CONTENT, [])), cut(b"x" + CONTENT, [])
    assert sum(len(chunk) for chunk in after if chunk not in before) <= 3 * SIZES.maximum


def test_memory_does_not_grow_with_the_content() -> None:
    cutter = Chunker(SIZES, 3)
    list(cutter.feed(CONTENT))
    blocks = [view.obj for _ in range(3) for view in cutter.feed(CONTENT)]
    assert len({id(block) for block in blocks}) == 1
    assert len(blocks[0]) == 2 * SIZES.maximum


def test_every_seed_of_64_bits_is_accepted() -> None:
    assert cut(CONTENT, [], seed=2**64 - 1) == cut(CONTENT, [], seed=2**63 - 1)
