"""The interface of a store: append-only blobs with growing ids.

The docstrings of ``BlobStore`` are the contract. ``tests/blobs/test_conformance*.py`` run it on every store and every
wrapper; ``docs/stores.md`` describes it for authors of stores. In short: a blob is appended as a whole and never
changed, an append is idempotent by the blob's name, and ids are the append order. Stores need neither renaming nor
compare-and-swap, nor a lookup by anything but id and name.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from tgdav.errors import DamageError, LocalFailure
from tgdav.ids import BlobId, BlobName

NAME_BYTES = 16
"""Length of a blob's name: random bytes, chosen before the blob is written."""

START = BlobId(0)
"""Less than every id: ``list(after=START)`` yields all blobs."""


class BlobInfo(msgspec.Struct, frozen=True):
    """A blob's metadata. ``size`` is its current length in the store, in bytes."""

    id: BlobId
    name: BlobName
    size: int
    label: str


class StoreTraits(msgspec.Struct, frozen=True):
    """The properties in which stores differ. Constant during the lifetime of a store object."""

    backend: str
    """The store's name in the configuration and in ``status``."""
    max_blob_bytes: int
    """The largest accepted blob."""
    max_label_characters: int
    """The longest accepted label, at most 1024."""
    is_local: bool
    """True if reads need no network, so that prefetching and caching its blobs gain nothing."""
    read_alignment: int
    """Ranges aligned to this many bytes transfer no more than was requested; 1 means any range."""


class Source(Protocol):
    """The bytes of one append. Repeated reads return the same bytes, because an append may start over."""

    @property
    def size(self) -> int:
        """Length of the blob in bytes."""
        ...

    @property
    def path(self) -> Path | None:
        """A local file with exactly these bytes, never written again, that a store may hard-link; or None."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, fewer only at the end. The store does not catch its errors."""
        ...


class BytesSource:
    """A source in memory."""

    path: Path | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, fewer only past the end."""
        return self._data[offset : offset + length]


class FileSource:
    """A local file that is never written again; its size is read now.

    The constructor and ``read`` raise DamageError if the file is missing, LocalFailure if the local disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self._path = path
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise _local(error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, fewer only past the end."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
            try:
                return os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _local(error) from error


def _local(error: OSError) -> DamageError | LocalFailure:
    if isinstance(error, FileNotFoundError):
        return DamageError("a local file that is to be stored is missing", blob="staged file")
    return LocalFailure(f"a local file that is to be stored cannot be read: {error.strerror}")


class BlobStore(Protocol):
    """An append-only store of blobs. All calls are synchronous and thread-safe.

    Every call may raise:

    - ``StoreUnavailable``: temporary. The same call may succeed later, after ``retry_after`` seconds if the store
      named a time. The call may have taken effect although it failed (its response was lost), so every call can be
      repeated.
    - ``StoreRejected``: permanent. Wrong arguments, a blob or label that is too large, a refused account, a closed
      store.
    - ``AccessError``: the login that a remote store needs is missing, has ended, or belongs to another account. This
      and all later calls send nothing until the store is opened with a new login. Callers keep what is not stored
      yet and do not retry. An account that was frozen, banned or deleted is ``StoreRejected``.
    - ``BlobMissing``: the store responds and has no such blob.
    - ``DamageError``: there are fewer bytes than expected, in the store (``read``) or in the source (``append``).

    A store does not verify content: it returns the bytes that it has. The reader checks the seal.
    """

    @property
    def traits(self) -> StoreTraits:
        """Constant properties, available without the network and after ``close``."""
        ...

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """Store the source's bytes as a new blob and return its metadata.

        - *Atomic*: no reader and no listing ever sees a part of a blob.
        - *Durable*: when this returns, the blob survives a power cut of the store.
        - *Idempotent by name*: if a blob of this name exists, it is made durable and returned unchanged (its size
          and label may differ, so compare them); no second copy is made. After StoreUnavailable, append again.
        - *Ordered*: the id is greater than that of every blob that existed when the call began, deleted ones included.
        - *Never overwriting*: a store that cannot exclude it may store two concurrent appends of one name. Then the
          first in append order counts; the others are spare copies that ``list`` yields and ``delete`` removes by id.

        ``name`` is 16 bytes; ``label`` is base64url text (``A-Z a-z 0-9 - _``) of at most
        ``traits.max_label_characters``; otherwise StoreRejected is raised before anything is sent.

        ``progress`` is called on the caller's thread with the number of bytes transferred so far. It grows to
        ``source.size`` within an attempt and starts again in the next. An exception of ``progress`` or of the source
        passes through unchanged and cancels the append. A source that ends early, or whose file has another size,
        raises DamageError. In all these cases no blob is stored.
        """
        ...

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises BlobMissing if there is no such blob, DamageError if it ends before ``offset + length`` (callers know
        a blob's size, so a shorter blob was truncated), StoreRejected for negative numbers. An empty range that ends
        at or before the end of the blob returns empty bytes.
        """
        ...

    def size(self, blob_id: BlobId) -> int:
        """Return the blob's current length in bytes. Raises BlobMissing."""
        ...

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """Yield all blobs with ids greater than ``after`` in append order, each once.

        Every blob whose append returned before iteration began, and that was not deleted, is included; later ones may
        be. After a listing has yielded an id, no smaller id appears for the first time, so a reader that keeps the
        last id misses nothing. Anything that is not a blob of this format is skipped, unread. Errors are raised
        during iteration.
        """
        ...

    def find(self, name: BlobName) -> BlobInfo | None:
        """Return the first blob of this name in append order, or None. May need a full listing."""
        ...

    def delete(self, ids: Sequence[BlobId]) -> None:
        """Delete blobs; missing ids are ignored. Durable when it returns.

        Not atomic: after StoreUnavailable some may be deleted, so repeat the call. An id is never used again; a name
        may be.
        """
        ...

    def close(self) -> None:
        """Release all resources. Idempotent. Afterwards every other call raises StoreRejected; ``traits`` still works."""
        ...
