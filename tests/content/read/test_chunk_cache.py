import threading

import pytest

from tests.support.waiting import wait_for
from tgdav.content.read.chunk_cache import ChunkMemory, Settle
from tgdav.errors import DamageError, StoreUnavailable
from tgdav.ids import ChunkId

A, B, C = (ChunkId(letter * 32) for letter in (b"a", b"b", b"c"))


def loading(chunks: list[ChunkId], settle: Settle) -> None:
    for chunk in chunks:
        settle(chunk, bytes(chunk))


def refuse(chunks: list[ChunkId], settle: Settle) -> None:
    raise AssertionError("nothing was to be loaded")


class Held:
    """A load that waits to be let go, and then does ``then``."""

    def __init__(self, then=loading) -> None:  # type: ignore[no-untyped-def]
        self.begun, self.go, self.then = threading.Event(), threading.Event(), then

    def __call__(self, chunks: list[ChunkId], settle: Settle) -> None:
        self.begun.set()
        assert self.go.wait(10)
        self.then(chunks, settle)


class Asking(threading.Thread):
    def __init__(self, memory: ChunkMemory, chunks: list[ChunkId], load) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.memory, self.chunks, self.load = memory, chunks, load
        self.found: dict[ChunkId, bytes] = {}
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.found = self.memory.obtain(self.chunks, self.load)
        except BaseException as error:
            self.error = error


def _count_waiting(memory: ChunkMemory) -> list[int]:
    """Return a list that grows by one with each claim from now on."""
    claims: list[int] = []
    claim = memory._claim

    def counted(wanted, found):  # type: ignore[no-untyped-def]
        result = claim(wanted, found)
        claims.append(1)
        return result

    memory._claim = counted  # type: ignore[method-assign]
    return claims


def test_the_least_recently_used_goes_first() -> None:
    memory = ChunkMemory(64)
    memory.obtain([A, B], loading)
    memory.obtain([A], refuse)
    memory.obtain([C], loading)
    assert A in memory
    assert B not in memory
    assert memory.used == 64


def test_what_is_larger_than_the_bound_is_given_and_not_kept() -> None:
    memory = ChunkMemory(31)
    assert memory.obtain([A], loading) == {A: bytes(A)}
    assert memory.used == 0


def test_a_chunk_that_is_written_while_it_is_loaded_counts_once() -> None:
    memory, load = ChunkMemory(64), Held()
    asking = Asking(memory, [A], load)
    assert load.begun.wait(10)
    memory.keep(A, bytes(A))
    load.go.set()
    asking.join()
    assert memory.used == 32
    memory.obtain([B], loading)
    assert A in memory


def test_a_smaller_bound_forgets_what_is_over_it() -> None:
    memory = ChunkMemory(64)
    memory.obtain([A, B], loading)
    memory.resize(32)
    assert A not in memory
    assert B in memory
    memory.resize(64)
    memory.obtain([C], loading)
    assert memory.used == 64


def test_clearing_forgets() -> None:
    memory = ChunkMemory()
    memory.obtain([A], loading)
    memory.clear()
    assert A not in memory
    assert memory.used == 0


def test_each_waits_for_the_others_load_and_both_get_all() -> None:
    memory, first, second = ChunkMemory(), Held(), Held()
    one = Asking(memory, [A, B], first)
    assert first.begun.wait(10)
    other = Asking(memory, [B, C], second)
    assert second.begun.wait(10)
    second.go.set()
    wait_for(lambda: C in memory)
    first.go.set()
    one.join()
    other.join()
    assert one.found == {A: bytes(A), B: bytes(B)}
    assert other.found == {B: bytes(B), C: bytes(C)}


def test_an_error_reaches_those_who_wait_for_that_chunk_and_is_not_kept() -> None:
    def half(chunks: list[ChunkId], settle: Settle) -> None:
        settle(A, DamageError("bad"))
        settle(B, b"good")

    memory, load = ChunkMemory(), Held(half)
    one = Asking(memory, [A, B], load)
    assert load.begun.wait(10)
    waiting = _count_waiting(memory)
    bad, good = Asking(memory, [A], refuse), Asking(memory, [B], refuse)
    wait_for(lambda: len(waiting) == 2)
    load.go.set()
    for thread in (one, bad, good):
        thread.join()
    assert isinstance(one.error, DamageError)
    assert isinstance(bad.error, DamageError)
    assert good.found == {B: b"good"}
    assert memory.obtain([A], loading) == {A: bytes(A)}


def test_who_waited_for_a_load_that_broke_off_loads_itself() -> None:
    def break_off(chunks: list[ChunkId], settle: Settle) -> None:
        raise KeyboardInterrupt

    memory, load = ChunkMemory(), Held(break_off)
    one = Asking(memory, [A], load)
    assert load.begun.wait(10)
    waiting = _count_waiting(memory)
    other = Asking(memory, [A], loading)
    wait_for(lambda: waiting)
    load.go.set()
    one.join()
    other.join()
    assert isinstance(one.error, KeyboardInterrupt)
    assert other.found == {A: bytes(A)}
    assert not memory._flights


def test_an_error_of_a_load_leaves_nothing_behind() -> None:
    def away(chunks: list[ChunkId], settle: Settle) -> None:
        settle(A, b"good")
        raise StoreUnavailable("away")

    memory = ChunkMemory()
    with pytest.raises(StoreUnavailable):
        memory.obtain([A, B], away)
    assert A in memory
    assert not memory._flights
