"""Which ranges are chunked again after random writes: the file stays complete, and distant chunks stay as they are."""

from hypothesis import given
from hypothesis import strategies as st

from tgdav.content.format.manifest import Extent, Manifest
from tgdav.fs.files.dirty_ranges import dirty_regions, kept_extents
from tgdav.ids import ChunkId


def manifest(*lengths: int, holes: tuple[int, ...] = ()) -> Manifest:
    """Return a manifest of chunks with these lengths; the numbers in ``holes`` are holes."""
    return Manifest.from_extents(
        [
            Extent(length, None if number in holes else ChunkId(bytes([number + 1]) * 32))
            for number, length in enumerate(lengths)
        ]
    )


def test_a_write_inside_a_chunk_needs_that_chunk_only() -> None:
    base = manifest(100, 100, 100)
    assert dirty_regions(base, 300, 300, [(150, 160)]) == [(100, 200)]
    assert list(kept_extents(base, 300, 0, 100)) == [base.extents[0]]
    assert list(kept_extents(base, 300, 200, 300)) == [base.extents[2]]


def test_a_write_over_a_border_needs_both_chunks() -> None:
    assert dirty_regions(manifest(100, 100, 100), 300, 300, [(190, 210)]) == [(100, 300)]


def test_an_append_continues_the_last_chunk() -> None:
    assert dirty_regions(manifest(100, 100), 200, 250, [(200, 250)]) == [(100, 250)]


def test_a_write_into_a_hole_leaves_the_rest_of_the_hole() -> None:
    base = manifest(100, 100, 100, holes=(1,))
    assert dirty_regions(base, 300, 300, [(140, 150)]) == [(140, 150)]
    assert list(kept_extents(base, 300, 150, 300)) == [Extent(50, None), base.extents[2]]


def test_truncating_through_a_chunk_needs_what_is_left_of_it() -> None:
    assert dirty_regions(manifest(100, 100), 150, 150, []) == [(100, 150)]
    assert dirty_regions(manifest(100, 100), 100, 100, []) == []


def test_an_extension_is_a_hole() -> None:
    assert dirty_regions(manifest(100), 100, 500, []) == []
    assert list(kept_extents(manifest(100), 100, 100, 500)) == [Extent(400, None)]


@given(
    lengths=st.lists(st.integers(1, 50), max_size=6),
    holes=st.sets(st.integers(0, 5)),
    cut=st.integers(0, 300),
    added=st.integers(0, 100),
    writes=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=4),
)
def test_regions_and_kept_extents_make_the_whole_file(
    lengths: list[int], holes: set[int], cut: int, added: int, writes: list[tuple[int, int]]
) -> None:
    base = manifest(*lengths, holes=tuple(holes))
    floor = min(cut, base.size)
    dirty = sorted((start, start + length) for start, length in writes)
    merged: list[tuple[int, int]] = []
    for start, end in dirty:  # as an overlay returns them: sorted and disjoint
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    size = max([floor + added, *(end for _, end in merged)])
    position, total = 0, 0
    known = {extent.chunk: extent.length for extent in base.extents}
    for start, end in [*dirty_regions(base, floor, size, merged), (size, size)]:
        for extent in kept_extents(base, floor, position, start):
            total += extent.length
            assert extent.chunk is None or known[extent.chunk] == extent.length, "a kept chunk is whole"
        total += end - start
        position = end
    assert total == size
    regions = dirty_regions(base, floor, size, merged)
    assert all(any(start <= first and last <= end for start, end in regions) for first, last in merged)
