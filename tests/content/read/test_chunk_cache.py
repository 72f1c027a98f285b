import threading

import pytest

from tests.support.waiting import wait_for
from tgdav.content.read.chunk_cache import ChunkCache, Deliver
from tgdav.errors import DamageError, StoreUnavailable
from tgdav.ids import ChunkId

A, B, C = (ChunkId(letter * 32) for letter in (b"a", b"b", b"c"))


def loading(chunks: list[ChunkId], deliver: Deliver) -> None:
    for chunk in chunks:
        deliver(chunk, bytes(chunk))


def refuse(chunks: list[ChunkId], deliver: Deliver) -> None:
    raise AssertionError("nothing was to be loaded")


class Held:
    """A load that waits for ``go``, then calls ``then``."""

    def __init__(self, then=loading) -> None:  # type: ignore[no-untyped-def]
        self.begun, self.go, self.then = threading.Event(), threading.Event(), then

    def __call__(self, chunks: list[ChunkId], deliver: Deliver) -> None:
        self.begun.set()
        assert self.go.wait(10)
        self.then(chunks, deliver)


class Asking(threading.Thread):
    def __init__(self, cache: ChunkCache, chunks: list[ChunkId], load) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.cache, self.chunks, self.load = cache, chunks, load
        self.found: dict[ChunkId, bytes] = {}
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.found = self.cache.get(self.chunks, self.load)
        except BaseException as error:
            self.error = error


def _count_waiting(cache: ChunkCache) -> list[int]:
    """Return a list that gets an element for each later claim."""
    claims: list[int] = []
    claim = cache._claim

    def counted(wanted, found):  # type: ignore[no-untyped-def]
        result = claim(wanted, found)
        claims.append(1)
        return result

    cache._claim = counted  # type: ignore[method-assign]
    return claims


def test_the_least_recently_used_is_dropped_first() -> None:
    cache = ChunkCache(64)
    cache.get([A, B], loading)
    cache.get([A], refuse)
    cache.get([C], loading)
    assert A in cache
    assert B not in cache
    assert cache.used == 64


def test_a_chunk_larger_than_the_limit_is_returned_but_not_kept() -> None:
    cache = ChunkCache(31)
    assert cache.get([A], loading) == {A: bytes(A)}
    assert cache.used == 0


def test_a_chunk_that_is_written_while_it_is_loaded_counts_once() -> None:
    cache, load = ChunkCache(64), Held()
    asking = Asking(cache, [A], load)
    assert load.begun.wait(10)
    cache.add(A, bytes(A))
    load.go.set()
    asking.join()
    assert cache.used == 32
    cache.get([B], loading)
    assert A in cache


def test_a_smaller_limit_drops_what_exceeds_it() -> None:
    cache = ChunkCache(64)
    cache.get([A, B], loading)
    cache.resize(32)
    assert A not in cache
    assert B in cache
    cache.resize(64)
    cache.get([C], loading)
    assert cache.used == 64


def test_clearing_drops_everything() -> None:
    cache = ChunkCache()
    cache.get([A], loading)
    cache.clear()
    assert A not in cache
    assert cache.used == 0


def test_two_threads_wait_for_each_others_chunks_and_both_get_all() -> None:
    cache, first, second = ChunkCache(), Held(), Held()
    one = Asking(cache, [A, B], first)
    assert first.begun.wait(10)
    other = Asking(cache, [B, C], second)
    assert second.begun.wait(10)
    second.go.set()
    wait_for(lambda: C in cache)
    first.go.set()
    one.join()
    other.join()
    assert one.found == {A: bytes(A), B: bytes(B)}
    assert other.found == {B: bytes(B), C: bytes(C)}


def test_an_error_reaches_the_threads_that_wait_for_that_chunk_and_is_not_kept() -> None:
    def half(chunks: list[ChunkId], deliver: Deliver) -> None:
        deliver(A, DamageError("bad"))
        deliver(B, b"good")

    cache, load = ChunkCache(), Held(half)
    one = Asking(cache, [A, B], load)
    assert load.begun.wait(10)
    waiting = _count_waiting(cache)
    bad, good = Asking(cache, [A], refuse), Asking(cache, [B], refuse)
    wait_for(lambda: len(waiting) == 2)
    load.go.set()
    for thread in (one, bad, good):
        thread.join()
    assert isinstance(one.error, DamageError)
    assert isinstance(bad.error, DamageError)
    assert good.found == {B: b"good"}
    assert cache.get([A], loading) == {A: bytes(A)}


def test_a_thread_that_waited_for_an_interrupted_load_loads_itself() -> None:
    def break_off(chunks: list[ChunkId], deliver: Deliver) -> None:
        raise KeyboardInterrupt

    cache, load = ChunkCache(), Held(break_off)
    one = Asking(cache, [A], load)
    assert load.begun.wait(10)
    waiting = _count_waiting(cache)
    other = Asking(cache, [A], loading)
    wait_for(lambda: waiting)
    load.go.set()
    one.join()
    other.join()
    assert isinstance(one.error, KeyboardInterrupt)
    assert other.found == {A: bytes(A)}
    assert not cache._in_flight


def test_a_failed_load_leaves_nothing_in_flight() -> None:
    def away(chunks: list[ChunkId], deliver: Deliver) -> None:
        deliver(A, b"good")
        raise StoreUnavailable("away")

    cache = ChunkCache()
    with pytest.raises(StoreUnavailable):
        cache.get([A, B], away)
    assert A in cache
    assert not cache._in_flight
