"""Calls of a store that hangs in the kernel end, and the store works again when it responds again."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.blobs.calls import content, put
from tests.blobs.conftest import directory_store, name_of
from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.waiting import wait_for
from tgdav.blobs import bounded
from tgdav.blobs.bounded import BoundedStore
from tgdav.blobs.interface import BytesSource
from tgdav.errors import StoreUnavailable

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForgetfulDisk]:
    for name in ("CALL_SECONDS", "LIST_SECONDS", "APPEND_SECONDS", "STUCK_SECONDS"):
        monkeypatch.setattr(bounded, name, 0.2)
    monkeypatch.setattr(bounded, "_SLICE", 0.1)
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def store(disk: ForgetfulDisk) -> Iterator[BoundedStore]:
    inner = directory_store(disk.path / "store")
    inner.create_directory()
    store = BoundedStore(inner, "of a test")
    yield store
    disk.answer()
    store.close()


@pytest.mark.timeout(60)
def test_every_call_ends_and_works_again(disk: ForgetfulDisk, store: BoundedStore) -> None:
    info = put(store, 1, b"data")
    calls: list[Callable[[], object]] = [
        lambda: store.read(info.id, 0, 4),
        lambda: store.size(info.id),
        lambda: store.find(name_of(1)),
        lambda: list(store.list()),
        lambda: put(store, 2),
        lambda: store.delete([info.id]),
    ]
    disk.hang()
    for call in calls:
        with pytest.raises(StoreUnavailable, match="does not respond"):
            call()
    assert store.is_stuck
    disk.answer()
    wait_for(lambda: not store.is_stuck, what="the calls that were left alone to return")
    other = put(store, 3, b"other")
    assert content(store, other) == b"other"


@pytest.mark.timeout(60)
def test_the_threads_that_wait_are_bounded(
    disk: ForgetfulDisk, store: BoundedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "MOST_STUCK", 3)
    others = set(threading.enumerate())  # stores of other tests in this process have threads of the same name
    disk.hang()
    for _ in range(6):
        with pytest.raises(StoreUnavailable):
            store.find(name_of(1))
    assert sum(thread.name == "tgdav-store" for thread in set(threading.enumerate()) - others) <= 4
    disk.answer()
    wait_for(lambda: not store.is_stuck, what="the calls that were left alone to return")
    assert store.find(name_of(1)) is None


@pytest.mark.timeout(60)
def test_giving_up_ends_waiting_calls(
    disk: ForgetfulDisk, store: BoundedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "CALL_SECONDS", 1000.0)
    disk.hang()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            store.find(name_of(1))
        except StoreUnavailable as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    store.give_up()
    waiting.join(30)
    assert errors
    with pytest.raises(StoreUnavailable):
        store.find(name_of(2))


class Stopped(Exception):
    """What a progress callback raises."""


def test_progress_is_called_on_the_callers_thread_and_cancels(store: BoundedStore) -> None:
    threads: list[int] = []

    def progress(count: int) -> None:
        threads.append(threading.get_ident())
        if count:
            raise Stopped

    with pytest.raises(Stopped):
        store.append(name_of(1), BytesSource(bytes(5 << 20)), "x", progress=progress)
    assert set(threads) == {threading.get_ident()}
    assert store.find(name_of(1)) is None
