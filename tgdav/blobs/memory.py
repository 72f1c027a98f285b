"""A store in the memory of this process, for tests and benchmarks: the simplest implementation of the contract."""

import threading
from collections.abc import Callable, Iterator, Sequence

from tgdav.blobs.interface import START, BlobInfo, Source, StoreTraits
from tgdav.blobs.validation import check_append, check_name, check_range, check_source_end, check_within, read_source
from tgdav.errors import BlobMissing, StoreRejected
from tgdav.ids import BlobId, BlobName

BLOCK_BYTES = 1 << 20


class MemoryBlobs:
    """The blobs, which several ``MemoryStore`` objects may share and which outlive them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.last_id = 0
        self.blobs: dict[BlobId, tuple[BlobInfo, bytes]] = {}

    def first(self, name: BlobName) -> BlobInfo | None:
        """Return the first blob of this name, or None. The caller holds the lock."""
        return next((info for info, _ in self.blobs.values() if info.name == name), None)


class MemoryStore:
    """The ``BlobStore`` of a ``MemoryBlobs``."""

    traits = StoreTraits(
        backend="memory", max_blob_bytes=1 << 31, max_label_characters=1024, is_local=True, read_alignment=1
    )

    def __init__(self, blobs: MemoryBlobs | None = None) -> None:
        self._shared = blobs or MemoryBlobs()
        self._is_closed = False

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """Store the source's bytes as a new blob; see ``BlobStore.append``."""
        self._check_open()
        check_append(self.traits, name, source, label)
        data = _collect(name, source, progress)
        with self._shared.lock:
            existing = self._shared.first(name)
            if existing is not None:
                return existing
            self._shared.last_id += 1
            info = BlobInfo(BlobId(self._shared.last_id), name, len(data), label)
            self._shared.blobs[info.id] = (info, data)
            return info

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``; see ``BlobStore.read``."""
        self._check_open()
        check_range(offset, length)
        info, data = self._get(blob_id)
        check_within(blob_id, info.name, len(data), offset + length)
        return data[offset : offset + length]

    def size(self, blob_id: BlobId) -> int:
        """Return the blob's length in bytes. Raises BlobMissing."""
        self._check_open()
        return len(self._get(blob_id)[1])

    def _get(self, blob_id: BlobId) -> tuple[BlobInfo, bytes]:
        with self._shared.lock:
            found = self._shared.blobs.get(blob_id)
        if found is None:
            raise BlobMissing(f"blob {blob_id} is not in the store")
        return found

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """Yield all blobs with ids greater than ``after`` in append order."""
        self._check_open()
        with self._shared.lock:
            infos = [info for info, _ in self._shared.blobs.values() if info.id > after]
        yield from infos

    def find(self, name: BlobName) -> BlobInfo | None:
        """Return the first blob of this name in append order, or None."""
        self._check_open()
        check_name(name)
        with self._shared.lock:
            return self._shared.first(name)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """Delete blobs; missing ids are ignored."""
        self._check_open()
        with self._shared.lock:
            for blob_id in ids:
                self._shared.blobs.pop(blob_id, None)

    def close(self) -> None:
        """Refuse all further calls. The blobs remain in their ``MemoryBlobs``."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreRejected("the store is closed")


def _collect(name: BlobName, source: Source, progress: Callable[[int], None] | None) -> bytes:
    data = bytearray()
    for offset in range(0, source.size, BLOCK_BYTES):
        data += read_source(name, source, offset, min(BLOCK_BYTES, source.size - offset))
        if progress:
            progress(len(data))
    check_source_end(name, source)
    if progress and not data:
        progress(0)
    return bytes(data)
