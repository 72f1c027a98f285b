"""Every store and every benign wrapper, each as a fixture parameter of the conformance suite."""

import random
import threading
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest

from tests.mtproto.harness import ServerProcess
from tests.support.faulty_store import (
    Alternating,
    AwayStore,
    FailingStore,
    LostAnswerStore,
    RollingBackStore,
    Seeded,
    SlowStore,
    TearingStore,
    never,
)
from tests.support.telegram import TelegramAccount
from tgdav.blobs import BlobStore
from tgdav.blobs.bounded import BoundedStore
from tgdav.blobs.counting import CountingStore
from tgdav.blobs.directory import DirectoryStore
from tgdav.blobs.memory import MemoryBlobs, MemoryStore
from tgdav.blobs.retry import RetryPolicy, RetryStore
from tgdav.blobs.telegram.rate_limit import RateLimitedStore
from tgdav.clock import SystemClock
from tgdav.disk import SystemDisk
from tgdav.ids import BlobName


class MovedClock:
    """Time that passes only when it is waited for."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.waits: list[float] = []

    def now_ns(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.seconds += seconds
        return False


class SeededEntropy:
    """The same bytes in each run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def bytes(self, count: int) -> bytes:
        with self._lock:
            return self._random.randbytes(count)


def name_of(number: int) -> BlobName:
    """A blob name for a number."""
    return BlobName(random.Random(number).randbytes(16))


def directory_store(path: Path, clock: MovedClock | None = None, disk: SystemDisk | None = None) -> DirectoryStore:
    """A directory store; the temporary names of two stores never meet, as with real entropy."""
    entropy = SeededEntropy(random.SystemRandom().getrandbits(64))
    return DirectoryStore(path, disk=disk or SystemDisk(), clock=clock or MovedClock(), entropy=entropy)


def retrying(inner: BlobStore) -> RetryStore:
    """A retrying store that never gives up and does not really wait."""
    clock = MovedClock()
    policy = RetryPolicy(give_up_after=inf)
    return RetryStore(
        inner, clock=clock, entropy=SeededEntropy(), stop=threading.Event(), wait=clock.wait, policy=policy
    )


def slow(inner: BlobStore) -> SlowStore:
    store = SlowStore(inner)
    store.gate.set()
    return store


Wrap = Callable[[BlobStore], BlobStore]
REAL = [
    ("directory", "bare"),
    ("directory", "all at once"),
    ("telegram", "bare"),
    ("telegram", "all at once"),
    ("telegram channel", "bare"),
]
"""The real stores. A wrapper behaves alike over every store, so the other wrappers run over the memory store only."""
WRAPPERS: dict[str, Wrap] = {
    "bare": lambda inner: inner,
    "retrying": retrying,
    "counting": CountingStore,
    "bounded": lambda inner: BoundedStore(inner, "of a test"),
    "rate-limited": lambda inner: RateLimitedStore(inner, clock=SystemClock(), stop=threading.Event()),
    "not rolled back": RollingBackStore,
    "failing, retried": lambda inner: retrying(FailingStore(inner, Alternating())),
    "lost answers, retried": lambda inner: retrying(LostAnswerStore(inner, Alternating())),
    "torn, retried": lambda inner: retrying(TearingStore(inner, Alternating())),
    "all at once": lambda inner: CountingStore(
        retrying(
            TearingStore(LostAnswerStore(FailingStore(inner, Seeded(1, 0.2)), Seeded(2, 0.2)), Seeded(3, 0.2)),
        )
    ),
    "faulty stores at rest": lambda inner: AwayStore(slow(FailingStore(inner, never))),
}


class Place:
    """A place for blobs, on which stores can be opened. All opened stores are closed at the end."""

    def __init__(self, make: Callable[[], BlobStore], wrap: Wrap) -> None:
        self._make = make
        self._wrap = wrap
        self._opened: list[BlobStore] = []

    def open(self) -> BlobStore:
        store = self._wrap(self._make())
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()


def maker(base: str, directory: Path, request: pytest.FixtureRequest) -> Callable[[], BlobStore]:
    """Return a function that opens a store object on a new and empty place of this kind."""
    if base == "directory":
        directory_store(directory)._directory.create()
        return lambda: directory_store(directory)
    if base == "memory":
        blobs = MemoryBlobs()
        return lambda: MemoryStore(blobs)
    account = TelegramAccount(request.getfixturevalue("telegram_server"), channel=base == "telegram channel")
    return account.open


@pytest.fixture(scope="session")
def telegram_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("telegram"), seed=1) as server:
        yield server
        statistics = server.statistics()
        assert (statistics["violations"], statistics["bugs"]) == ({}, [])


@pytest.fixture(params=[("memory", wrapper) for wrapper in WRAPPERS] + REAL, ids="-".join)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    base, wrapper = request.param
    place = Place(maker(base, tmp_path / "store", request), WRAPPERS[wrapper])
    yield place
    place.close()


@pytest.fixture
def store(place: Place) -> BlobStore:
    return place.open()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of a new directory store."""
    path = tmp_path / "store"
    DirectoryStore.create(path, disk=SystemDisk(), clock=MovedClock(), entropy=SeededEntropy()).close()
    return path
