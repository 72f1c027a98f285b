"""A store that delegates to another store: the base of the retrying, counting, bounded and rate-limited stores."""

from collections.abc import Callable, Iterator, Sequence

from tgdav.blobs.interface import START, BlobInfo, BlobStore, Source, StoreTraits
from tgdav.ids import BlobId, BlobName


class StoreWrapper:
    """Passes every call to ``inner`` unchanged. Subclasses override the calls that they change."""

    def __init__(self, inner: BlobStore) -> None:
        self.inner = inner

    @property
    def traits(self) -> StoreTraits:
        """See ``BlobStore.traits``."""
        return self.inner.traits

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""
        return self.inner.append(name, source, label, progress=progress)

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """See ``BlobStore.read``."""
        return self.inner.read(blob_id, offset, length)

    def size(self, blob_id: BlobId) -> int:
        """See ``BlobStore.size``."""
        return self.inner.size(blob_id)

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``."""
        return self.inner.list(after)

    def find(self, name: BlobName) -> BlobInfo | None:
        """See ``BlobStore.find``."""
        return self.inner.find(name)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``."""
        self.inner.delete(ids)

    def close(self) -> None:
        """See ``BlobStore.close``."""
        self.inner.close()
