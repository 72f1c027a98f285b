"""The counting store: what it counts, and that it counts right from many threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.blobs.calls import MISSING, ids, put
from tests.blobs.conftest import name_of
from tests.support.faulty_store import FailingStore, Seeded, TearingStore, only
from tgdav.blobs.counting import CountingStore, OperationCount
from tgdav.blobs.memory import MemoryStore
from tgdav.errors import BlobMissing, StoreUnavailable


def test_counts_calls_blobs_and_bytes_by_operation() -> None:
    store = CountingStore(MemoryStore())
    infos = [put(store, number, bytes(10 * number)) for number in range(4)]
    store.read(infos[3].id, 5, 7)
    store.size(infos[3].id)
    assert len(ids(store)) == 4
    store.find(name_of(1))
    store.find(name_of(99))
    store.delete([infos[0].id, infos[1].id])
    assert store.counts() == {
        "append": OperationCount(calls=4, blobs=4, bytes=60),
        "read": OperationCount(calls=1, blobs=1, bytes=7),
        "size": OperationCount(calls=1, blobs=1),
        "list": OperationCount(calls=1, blobs=4),
        "find": OperationCount(calls=2, blobs=1),
        "delete": OperationCount(calls=1, blobs=2),
    }


def test_counts_failures_and_nothing_else_of_them() -> None:
    store = CountingStore(FailingStore(MemoryStore(), only("append")))
    with pytest.raises(StoreUnavailable):
        put(store, 1, b"abc")
    with pytest.raises(BlobMissing):
        store.read(MISSING, 0, 1)
    assert store.counts()["append"] == store.counts()["read"] == OperationCount(calls=1, failures=1)


def test_counts_a_broken_listing() -> None:
    inner = MemoryStore()
    for number in range(4):
        put(inner, number)
    store = CountingStore(TearingStore(inner))
    with pytest.raises(StoreUnavailable):
        ids(store)
    assert store.counts()["list"] == OperationCount(calls=1, failures=1, blobs=2)


def test_counts_are_a_copy() -> None:
    store = CountingStore(MemoryStore())
    before = store.counts()
    put(store, 1)
    assert before["append"].calls == 0


def test_counts_from_eight_threads() -> None:
    failing = FailingStore(MemoryStore(), Seeded(1, 0.5))
    store = CountingStore(failing)

    def append(number: int) -> None:
        try:
            put(store, number, b"ab")
        except StoreUnavailable:
            return

    with ThreadPoolExecutor(8) as threads:
        [*threads.map(append, range(400))]
    count = store.counts()["append"]
    assert (count.calls, count.failures) == (400, failing.faults["append"])
    assert count.bytes == 2 * count.blobs == 2 * (400 - count.failures)
