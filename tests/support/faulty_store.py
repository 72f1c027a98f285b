"""Stores that misbehave on purpose: each wraps a store and breaks one promise on a schedule.

A schedule is asked before each call and answers whether this one goes wrong. ``faults`` counts what was done, by
operation, so that a test can show that its fault did happen. The same schedule and calls give the same faults.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tgdav.blobs.interface import START, BlobInfo, BlobStore, Source
from tgdav.blobs.validation import check_append
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.errors import BlobMissing, StoreUnavailable
from tgdav.ids import BlobId, BlobName

Result = TypeVar("Result")
Progress = Callable[[int], None] | None
Schedule = Callable[[str], bool]

DEADLINE_SECONDS = 30.0


def always(_operation: str) -> bool:
    return True


def never(_operation: str) -> bool:
    return False


def only(*operations: str) -> Schedule:
    """Every call of these operations."""
    return lambda operation: operation in operations


class First:
    """The first ``count`` calls of each operation (of ``operations``, if given)."""

    def __init__(self, count: int, *operations: str) -> None:
        self.count = count
        self.operations = operations
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, operation: str) -> bool:
        if self.operations and operation not in self.operations:
            return False
        with self._lock:
            self._seen[operation] += 1
            return self._seen[operation] <= self.count


class Alternating:
    """Every first, third, fifth … call, over all operations: an immediate retry succeeds."""

    def __init__(self) -> None:
        self._next = True
        self._lock = threading.Lock()

    def __call__(self, _operation: str) -> bool:
        with self._lock:
            now, self._next = self._next, not self._next
            return now


class Seeded:
    """Each call with ``probability``, but never more than ``in_a_row`` in a row."""

    def __init__(self, seed: int, probability: float, in_a_row: int = 3) -> None:
        self._random = random.Random(seed)
        self._probability = probability
        self._in_a_row = in_a_row
        self._row = 0
        self._lock = threading.Lock()

    def __call__(self, _operation: str) -> bool:
        with self._lock:
            wrong = self._random.random() < self._probability and self._row < self._in_a_row
            self._row = self._row + 1 if wrong else 0
            return wrong


class FaultyStore(StoreWrapper):
    """Base: passes everything on, and knows its schedule and counts. ``schedule`` may be replaced at any time."""

    def __init__(self, inner: BlobStore, schedule: Schedule = always) -> None:
        super().__init__(inner)
        self.schedule = schedule
        self.faults: Counter[str] = Counter()
        self._lock = threading.Lock()

    def _goes_wrong(self, operation: str) -> bool:
        if not self.schedule(operation):
            return False
        self._count(operation)
        return True

    def _count(self, operation: str) -> None:
        with self._lock:
            self.faults[operation] += 1


class CallsStore(FaultyStore):
    """Base of the stores that treat every operation alike: ``_call`` decides what happens."""

    def _call(self, operation: str, call: Callable[[], Result]) -> Result:
        return call()

    def append(self, name: BlobName, source: Source, label: str, *, progress: Progress = None) -> BlobInfo:
        return self._call("append", lambda: self.inner.append(name, source, label, progress=progress))

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        return self._call("read", lambda: self.inner.read(blob_id, offset, length))

    def size(self, blob_id: BlobId) -> int:
        return self._call("size", lambda: self.inner.size(blob_id))

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        infos = self._call("list", lambda: iter([*self.inner.list(after)]))
        yield from infos

    def find(self, name: BlobName) -> BlobInfo | None:
        return self._call("find", lambda: self.inner.find(name))

    def delete(self, ids: Sequence[BlobId]) -> None:
        self._call("delete", lambda: self.inner.delete(ids))


class FailingStore(CallsStore):
    """Fails before it does anything."""

    def __init__(self, inner: BlobStore, schedule: Schedule = always, *, retry_after: float | None = None) -> None:
        super().__init__(inner, schedule)
        self.retry_after = retry_after

    def _call(self, operation: str, call: Callable[[], Result]) -> Result:
        if self._goes_wrong(operation):
            raise StoreUnavailable("the store failed on purpose", retry_after=self.retry_after)
        return call()


class LostAnswerStore(CallsStore):
    """Performs the call, then fails."""

    def _call(self, operation: str, call: Callable[[], Result]) -> Result:
        result = call()
        if self._goes_wrong(operation):
            raise StoreUnavailable("the answer was lost on purpose")
        return result


class AwayStore(CallsStore):
    """Is not reachable while ``away``. ``schedule`` plays no part."""

    away = False

    def _call(self, operation: str, call: Callable[[], Result]) -> Result:
        if self.away:
            self._count(operation)
            raise StoreUnavailable("the store is away on purpose")
        return call()


class SlowStore(CallsStore):
    """Holds calls back until ``gate`` is set. ``waiting`` is released once for each call that arrived at it."""

    def __init__(self, inner: BlobStore, schedule: Schedule = always) -> None:
        super().__init__(inner, schedule)
        self.gate = threading.Event()
        self.waiting = threading.Semaphore(0)

    def _call(self, operation: str, call: Callable[[], Result]) -> Result:
        if self._goes_wrong(operation):
            self.waiting.release()
            if not self.gate.wait(DEADLINE_SECONDS):
                raise AssertionError("nobody opened the gate of a slow store")
        return call()


class TearingStore(FaultyStore):
    """Fails in the middle of an upload; nothing of it is visible. A list stops half-way."""

    def append(self, name: BlobName, source: Source, label: str, *, progress: Progress = None) -> BlobInfo:
        check_append(self.traits, name, source, label)
        if not self._goes_wrong("append"):
            return self.inner.append(name, source, label, progress=progress)
        half = len(source.read(0, source.size // 2))
        if progress:
            progress(half)
        raise StoreUnavailable(f"the connection broke on purpose after {half} bytes")

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        infos = [*self.inner.list(after)]
        if len(infos) < 2 or not self._goes_wrong("list"):
            yield from infos
            return
        yield from infos[: len(infos) // 2]
        raise StoreUnavailable("the listing broke on purpose")


class LosingStore(FaultyStore):
    """Acknowledges an append and loses the blob. ``lost`` are their ids."""

    def __init__(self, inner: BlobStore, schedule: Schedule = always) -> None:
        super().__init__(inner, schedule)
        self.lost: set[BlobId] = set()

    def append(self, name: BlobName, source: Source, label: str, *, progress: Progress = None) -> BlobInfo:
        info = self.inner.append(name, source, label, progress=progress)
        if self._goes_wrong("append"):
            self.inner.delete([info.id])
            self.lost.add(info.id)
        return info


class RepeatingStore(FaultyStore):
    """Shows blobs twice in listings."""

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        for info in self.inner.list(after):
            yield info
            if self._goes_wrong("list"):
                yield info


class ReorderingStore(FaultyStore):
    """Lists blobs in an order of its own, drawn from a seed."""

    def __init__(self, inner: BlobStore, schedule: Schedule = always, *, seed: int = 0) -> None:
        super().__init__(inner, schedule)
        self._random = random.Random(seed)

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        infos = [*self.inner.list(after)]
        if self._goes_wrong("list"):
            with self._lock:
                self._random.shuffle(infos)
        yield from infos


class CorruptingStore(FaultyStore):
    """Reads wrong bytes: ``flip`` one bit, ``truncate`` by one byte, or ``swap`` with another blob's same range."""

    def __init__(self, inner: BlobStore, schedule: Schedule = always, *, how: str = "flip", seed: int = 0) -> None:
        super().__init__(inner, schedule)
        self.how = how
        self._random = random.Random(seed)

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        data = self.inner.read(blob_id, offset, length)
        if not data or not self.schedule("read"):
            return data
        wrong = self._damage(blob_id, offset, data)
        if wrong != data:
            self._count("read")
        return wrong

    def _damage(self, blob_id: BlobId, offset: int, data: bytes) -> bytes:
        if self.how == "truncate":
            return data[:-1]
        if self.how == "swap":
            return self._from_another(blob_id, offset, data)
        with self._lock:
            place = self._random.randrange(len(data) * 8)
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        return bytes(damaged)

    def _from_another(self, blob_id: BlobId, offset: int, data: bytes) -> bytes:
        """The same range of the first other blob that is long enough, else the bytes as they are."""
        for info in self.inner.list():
            if info.id != blob_id and info.size >= offset + len(data):
                return self.inner.read(info.id, offset, len(data))
        return data


class RollingBackStore(FaultyStore):
    """Can show an older state: blobs appended since ``mark`` are gone, blobs deleted since are back.

    Nothing is really deleted from the inner store, so it holds more than it shows. ``schedule`` plays no part.
    """

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner, never)
        self._hidden: frozenset[BlobId] = frozenset()

    def mark(self) -> tuple[BlobId, frozenset[BlobId]]:
        """Name the present state."""
        return max((info.id for info in self.inner.list()), default=START), self._hidden

    def roll_back(self, mark: tuple[BlobId, frozenset[BlobId]]) -> None:
        """Show the state of ``mark``; later appends are visible."""
        last, hidden = mark
        self._hidden = hidden | {info.id for info in self.inner.list(last)}
        self._count("roll-back")

    def append(self, name: BlobName, source: Source, label: str, *, progress: Progress = None) -> BlobInfo:
        while (found := self.inner.find(name)) is not None and found.id in self._hidden:
            self.inner.delete([found.id])  # else the inner store would answer with a blob that is not to be seen
        return self.inner.append(name, source, label, progress=progress)

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        self._check_visible(blob_id)
        return self.inner.read(blob_id, offset, length)

    def size(self, blob_id: BlobId) -> int:
        self._check_visible(blob_id)
        return self.inner.size(blob_id)

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        return (info for info in self.inner.list(after) if info.id not in self._hidden)

    def find(self, name: BlobName) -> BlobInfo | None:
        self.inner.find(name)  # for its refusals
        return next((info for info in self.list() if info.name == name), None)

    def delete(self, ids: Sequence[BlobId]) -> None:
        self.inner.delete([])  # for its refusals
        there = {info.id for info in self.inner.list()}
        with self._lock:
            self._hidden |= there.intersection(ids)

    def _check_visible(self, blob_id: BlobId) -> None:
        if blob_id in self._hidden:
            raise BlobMissing(f"blob {blob_id} is not in the store")
