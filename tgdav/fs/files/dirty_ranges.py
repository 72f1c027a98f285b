"""Which parts of a file must be cut into chunks again after random writes. Pure.

Only the chunks that dirty ranges touch are cut anew, and the cut is forced where an old chunk ends, so the boundaries
fall back into step at once: 4 KiB changed inside 1 GiB costs one or a few chunks.
"""

from collections.abc import Iterable, Iterator

from tgdav.content.format.manifest import Extent, Manifest


def dirty_regions(base: Manifest, floor: int, size: int, dirty: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges (start, end) to cut anew, sorted and apart.

    ``floor`` bytes of ``base`` still show; from there to ``size`` lies a hole but for the ``dirty`` ranges.
    """
    wanted = [_widen(base, floor, start, end) for start, end in dirty]
    if 0 < floor < base.size:
        start, end, is_chunk = _extent_at(base, floor - 1)
        if is_chunk and end > floor:
            wanted.append((start, floor))
    return list(_joined(sorted(wanted), size))


def _widen(base: Manifest, floor: int, start: int, end: int) -> tuple[int, int]:
    if start < floor:
        first, _, is_chunk = _extent_at(base, start)
        start = first if is_chunk else start
    elif start == floor and floor > 0:
        first, _, is_chunk = _extent_at(base, floor - 1)
        start = first if is_chunk else start
    if end < floor:
        first, last, is_chunk = _extent_at(base, end)
        if is_chunk and first < end:
            end = min(last, floor)
    return start, end


def _extent_at(base: Manifest, offset: int) -> tuple[int, int, bool]:
    index, within, _ = base.slice(offset, 1)[0]
    extent = base.extents[index]
    start = offset - within
    return start, start + extent.length, extent.chunk is not None


def _joined(ranges: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for start, end in ranges:
        end = min(end, size)
        if start >= end:
            continue
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current


def kept_extents(base: Manifest, floor: int, start: int, end: int) -> Iterator[Extent]:
    """Return the extents for ``start``..``end``, where nothing is cut anew: whole old chunks and parts of holes."""
    if start < min(floor, end):
        for index, _, length in base.slice(start, min(floor, end) - start):
            extent = base.extents[index]
            yield extent if extent.chunk is not None else Extent(length, None)
    if end > max(floor, start):
        yield Extent(end - max(floor, start), None)
