"""Which ranges of packs to ask the store for. Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from tgdav.content.types import SMALL_CHUNK, ChunkPlace
from tgdav.crypto.sealing import OVERHEAD

WINDOW = 256 * 1024
"""Bytes fetched at once around a small chunk: small files tend to be opened in the order of their packs."""
_OVERHANG = SMALL_CHUNK + OVERHEAD
"""How far a small chunk that begins in a window may reach beyond it; fetched with it."""
_MOST = 8 * 1024 * 1024
"""Bytes asked for at once."""
_GAP = 64 * 1024
"""Dead bytes between two chunks that are cheaper to fetch than another request."""


class Run(msgspec.Struct, frozen=True):
    """Bytes [start, end) of one pack; ``places``: the chunks wanted from it, by offset."""

    places: list[ChunkPlace]
    start: int
    end: int

    def alone(self) -> Iterator["Run"]:
        """Go through the chunks as runs of their own, exactly as long as each."""
        for place in self.places:
            yield run_of([place])

    @property
    def is_exact(self) -> bool:
        """Whether it is one chunk and nothing else."""
        return len(self.places) == 1 and self.end - self.start == self.places[0].stored


def run_of(places: list[ChunkPlace]) -> Run:
    """Return the run from the first to the last of ``places``."""
    return Run(places, places[0].offset, places[-1].offset + places[-1].stored)


def is_small(place: ChunkPlace) -> bool:
    """Whether a chunk is likely to lie among small ones, and a window to hold some of them."""
    return place.length <= SMALL_CHUNK


def coalesced(places: Iterable[ChunkPlace]) -> Iterator[Run]:
    """Join chunks that lie side by side in one pack."""
    joined: list[ChunkPlace] = []
    for place in sorted(places, key=lambda place: (place.blob or 0, place.offset)):
        if joined and not _goes_on(joined, place):
            yield run_of(joined)
            joined = []
        joined.append(place)
    if joined:
        yield run_of(joined)


def _goes_on(joined: list[ChunkPlace], place: ChunkPlace) -> bool:
    last = joined[-1]
    gap = place.offset - (last.offset + last.stored)
    total = place.offset + place.stored - joined[0].offset
    return place.blob == last.blob and gap <= _GAP and total <= _MOST


def windows(places: Iterable[ChunkPlace]) -> dict[tuple[int, int], list[ChunkPlace]]:
    """Group small chunks by (blob, number of the window that they begin in), each group by offset."""
    grouped: dict[tuple[int, int], list[ChunkPlace]] = {}
    for place in sorted(places, key=lambda place: (place.blob or 0, place.offset)):
        grouped.setdefault((place.blob or 0, place.offset // WINDOW), []).append(place)
    return grouped


def window(places: list[ChunkPlace], size: int) -> Run:
    """Return the run that is the window around ``places``, within a pack of ``size`` bytes (0: not known)."""
    exact = run_of(places)
    start = places[0].offset // WINDOW * WINDOW
    return Run(places, start, max(exact.end, min(start + WINDOW + _OVERHANG, size)))
