"""A store that counts calls, failures, blobs and bytes, for status, metrics and benchmarks."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from tgdav.blobs.interface import START, BlobInfo, BlobStore, Source
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.ids import BlobId, BlobName

Result = TypeVar("Result")
OPERATIONS = ("append", "read", "size", "list", "find", "delete")


class OperationCount(msgspec.Struct):
    """The totals of one operation since the store object was created."""

    calls: int = 0
    failures: int = 0
    """Calls that raised."""
    blobs: int = 0
    """Blobs appended, read from, listed, found, or requested to be deleted."""
    bytes: int = 0
    """Bytes read, or the source sizes of appends that returned."""


class CountingStore(StoreWrapper):
    """Passes every call to ``inner`` and counts it."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._counts = {operation: OperationCount() for operation in OPERATIONS}

    def counts(self) -> dict[str, OperationCount]:
        """Return a copy of the counts, by operation."""
        with self._lock:
            return {operation: msgspec.structs.replace(count) for operation, count in self._counts.items()}

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""
        info = self._call("append", lambda: self.inner.append(name, source, label, progress=progress))
        self._add("append", blobs=1, size=source.size)
        return info

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """See ``BlobStore.read``."""
        data = self._call("read", lambda: self.inner.read(blob_id, offset, length))
        self._add("read", blobs=1, size=len(data))
        return data

    def size(self, blob_id: BlobId) -> int:
        """See ``BlobStore.size``."""
        size = self._call("size", lambda: self.inner.size(blob_id))
        self._add("size", blobs=1)
        return size

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``. Counted as one call when iteration begins."""
        self._add("list", calls=1)
        try:
            for info in self.inner.list(after):
                self._add("list", blobs=1)
                yield info
        except Exception:
            self._add("list", failures=1)
            raise

    def find(self, name: BlobName) -> BlobInfo | None:
        """See ``BlobStore.find``."""
        info = self._call("find", lambda: self.inner.find(name))
        self._add("find", blobs=0 if info is None else 1)
        return info

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``."""
        self._call("delete", lambda: self.inner.delete(ids))
        self._add("delete", blobs=len(ids))

    def _call(self, operation: str, call: Callable[[], Result]) -> Result:
        self._add(operation, calls=1)
        try:
            return call()
        except Exception:
            self._add(operation, failures=1)
            raise

    def _add(self, operation: str, *, calls: int = 0, failures: int = 0, blobs: int = 0, size: int = 0) -> None:
        with self._lock:
            count = self._counts[operation]
            count.calls += calls
            count.failures += failures
            count.blobs += blobs
            count.bytes += size
