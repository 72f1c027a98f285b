"""The map of dirty ranges, compared with a list that has an element for each byte."""

import random
import tracemalloc

import pytest

from tgdav.content.overlay import ExtentMap, Piece

SIZE = 400


@pytest.mark.parametrize("seed", range(30))
def test_the_map_matches_a_list_of_bytes(seed: int) -> None:
    choose, found, model = random.Random(seed), ExtentMap(), [None] * SIZE
    for counter in range(120):
        if choose.random() < 0.05:
            size = choose.randrange(SIZE)
            found.cut(size)
            model[size:] = [None] * (SIZE - size)
        else:
            start = choose.randrange(SIZE - 1)
            end = choose.randrange(start + 1, min(start + 60, SIZE) + 1)
            found.put(Piece(start, end, counter, 9))
            model[start:end] = [(counter, 9 + place) for place in range(end - start)]
        first = choose.randrange(SIZE - 1)
        last = choose.randrange(first + 1, SIZE)
        shown = [None] * SIZE
        for piece in found.within(first, last):
            assert first <= piece.start < piece.end <= last
            shown[piece.start : piece.end] = [
                (piece.counter, piece.skip + place) for place in range(piece.end - piece.start)
            ]
        assert shown[first:last] == model[first:last]
        covered = {place for start, end in found.ranges() for place in range(start, end)}
        assert covered == {place for place, each in enumerate(model) if each}
        assert bool(found) == bool(covered)


def test_many_pieces_take_little_memory() -> None:
    tracemalloc.start()
    found = ExtentMap()
    for counter in range(50_000):
        found.put(Piece(counter * 8192, counter * 8192 + 4096, counter, 9))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 50_000 * 40
