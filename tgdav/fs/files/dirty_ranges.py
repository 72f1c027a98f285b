"""Files with random writes: reading them through the overlay, and turning the overlay into content.

Only the chunks that dirty ranges touch are chunked again. The new chunks end where an old chunk ends, so all following chunks
stay the same: 4 KiB changed inside 1 GiB costs one or a few chunks. The choice of ranges is pure.
"""

from collections.abc import Iterable, Iterator

from tgdav.content.format.manifest import Extent, Manifest
from tgdav.content.overlay import Overlay
from tgdav.content.staging.stream import StagedContent
from tgdav.content.store import ContentStore

_BLOCK = 1 << 20


def read_overlaid(content: ContentStore, base: Manifest, overlay: Overlay, offset: int, length: int) -> bytes:
    """Return the bytes of ``base`` with the writes of ``overlay`` over them; fewer only at the end of the file."""
    length = min(length, overlay.size - offset)
    if length <= 0:
        return b""
    result = bytearray(length)
    visible_end = min(overlay.floor, offset + length)
    pieces = overlay.map.within(offset, offset + length)
    is_covered = len(pieces) == 1 and pieces[0].end - pieces[0].start == length
    if offset < visible_end and not is_covered:
        below = content.reader.read(base, offset, visible_end - offset)
        result[: len(below)] = below
    for piece in pieces:
        result[piece.start - offset : piece.end - offset] = overlay.read(piece)
    return bytes(result)


def stage_overlaid(
    content: ContentStore, base: Manifest, overlay: Overlay, *, local: bool
) -> tuple[Manifest, list[StagedContent]]:
    """Stage the dirty ranges; return the manifest of the whole file, and what was staged for it.

    Raises NoSpace, LocalFailure, and DamageError or StoreError if old content around a write cannot be read.
    """
    extents: list[Extent] = []
    staged: list[StagedContent] = []
    position = 0
    try:
        for start, end in dirty_regions(base, overlay.floor, overlay.size, overlay.map.ranges()):
            extents += kept_extents(base, overlay.floor, position, start)
            part = _stage(content, base, overlay, start, end, local=local)
            staged.append(part)
            extents += part.manifest.extents
            position = end
    except BaseException:
        for part in staged:
            part.release()
        raise
    extents += kept_extents(base, overlay.floor, position, overlay.size)
    return Manifest.from_extents(extents), staged


def _stage(
    content: ContentStore, base: Manifest, overlay: Overlay, start: int, end: int, *, local: bool
) -> StagedContent:
    stream = content.open_stream(local=local)
    try:
        for offset in range(start, end, _BLOCK):
            stream.write(read_overlaid(content, base, overlay, offset, min(_BLOCK, end - offset)))
        return stream.finish()
    except BaseException:
        stream.abort()
        raise


def dirty_regions(base: Manifest, floor: int, size: int, dirty: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges (start, end) to chunk again, sorted and disjoint.

    The first ``floor`` bytes of ``base`` are still visible; from there to ``size`` the file is a hole except for the ``dirty``
    ranges.
    """
    wanted = [_widen(base, floor, start, end) for start, end in dirty]
    if 0 < floor < base.size:
        # A truncate may have cut through a chunk: its visible part becomes a chunk of its own.
        start, end, is_chunk = _extent_at(base, floor - 1)
        if is_chunk and end > floor:
            wanted.append((start, floor))
    return list(_merged(sorted(wanted), size))


def _widen(base: Manifest, floor: int, start: int, end: int) -> tuple[int, int]:
    """Return a dirty range widened to the borders of the old chunks that it touches."""
    if start < floor:
        first, _, is_chunk = _extent_at(base, start)
        start = first if is_chunk else start
    elif start == floor and floor > 0:
        # An append continues the last chunk; otherwise many small appends would leave many small chunks.
        first, _, is_chunk = _extent_at(base, floor - 1)
        start = first if is_chunk else start
    if end < floor:
        first, last, is_chunk = _extent_at(base, end)
        if is_chunk and first < end:
            end = min(last, floor)
    return start, end


def _extent_at(base: Manifest, offset: int) -> tuple[int, int, bool]:
    """Return start and end of the extent at ``offset``, and whether it is a chunk."""
    index, within, _ = base.slice(offset, 1)[0]
    extent = base.extents[index]
    start = offset - within
    return start, start + extent.length, extent.chunk is not None


def _merged(ranges: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Yield sorted ranges, clipped to ``size``, with those that touch each other merged."""
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
    """Yield the extents of ``start``..``end``, a range that is not chunked again: whole old chunks and parts of holes."""
    if start < min(floor, end):
        for index, _, length in base.slice(start, min(floor, end) - start):
            extent = base.extents[index]
            yield extent if extent.chunk is not None else Extent(length, None)
    if end > max(floor, start):
        yield Extent(end - max(floor, start), None)
