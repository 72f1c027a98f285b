"""What tgdav asks of a store, and all that it may rely on: append-only blobs with ids that grow.

The docstrings of ``BlobStore`` are the contract; ``tests/blobs/test_conformance.py`` holds every store and every
wrapper to them, and ``docs/stores.md`` tells them to whoever writes a store. In short: a blob is appended whole and
never changed, an append is idempotent by the blob's name, ids are the append order, and nothing is renamed, compared
and swapped, or looked up by more than id or name.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from tgdav.errors import DamageError, LocalFailure
from tgdav.ids import BlobId, BlobName

NAME_BYTES = 16
"""A blob's name is this many random bytes, made before its first byte."""

START = BlobId(0)
"""Below all ids: ``list(after=START)`` gives everything."""


class BlobInfo(msgspec.Struct, frozen=True):
    """What a store tells about a blob without giving its bytes. ``size`` in bytes, as it is now in the store."""

    id: BlobId
    name: BlobName
    size: int
    label: str


class StoreTraits(msgspec.Struct, frozen=True):
    """What differs between stores, as data. Constant for the life of a store object."""

    backend: str
    """Its name in the configuration and in ``status``."""
    max_blob_bytes: int
    """The largest blob it takes."""
    max_label_characters: int
    """The longest label it takes, 1024 at most."""
    is_local: bool
    """True if reads cost no network: prefetching and keeping copies of its blobs gain nothing."""
    read_alignment: int
    """Ranges that begin and end at multiples of this many bytes cost no more than was asked for; 1 = any range."""


class Source(Protocol):
    """The bytes of one append. The same bytes each time they are asked for: an append may start over."""

    @property
    def size(self) -> int:
        """Length of the blob in bytes."""
        ...

    @property
    def path(self) -> Path | None:
        """A closed local file with exactly these bytes, never written again, that a store may hard-link; or None."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, fewer only past the end. Its errors pass through the store."""
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
    """A closed local file, never written again; its size is taken now.

    Raises DamageError if the file is gone, LocalFailure if the local disk fails, here and in ``read``.
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
        return DamageError("a local file that waits to be stored is gone", blob="staged file")
    return LocalFailure(f"a local file that waits to be stored cannot be read: {error.strerror}")


class BlobStore(Protocol):
    """An append-only store of blobs. All calls are synchronous and may come from many threads at once.

    Errors, in any call:

    - ``StoreUnavailable``: not now; the same call may succeed later, after ``retry_after`` seconds where the store
      named a time. What the call asked for may have happened all the same (the answer was lost): every call may
      therefore be repeated.
    - ``StoreRejected``: never; repeating changes nothing. Wrong arguments, a blob or label too large, an account that
      is refused, a closed store.
    - ``AccessError``: the login that a remote store needs is missing, has ended, or is somebody else's. Nothing is sent
      any more, in this and all later calls, until the store is opened again with a new login; what waits to be stored
      must be kept. Nobody retries it. An account that was frozen, banned or deleted is ``StoreRejected``.
    - ``BlobMissing``: the store answers, and has no such blob.
    - ``DamageError``: bytes are fewer than they should be, in the store (``read``) or in the source (``append``).

    A store never judges content: it gives back the bytes that it has. Whoever reads checks what was sealed.
    """

    @property
    def traits(self) -> StoreTraits:
        """What differs between stores; constant, available without the network and after ``close``."""
        ...

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """Store the source's bytes as a new blob and return what it became.

        - *Whole or not at all*: no reader and no listing ever sees a part of a blob.
        - *Durable*: when this returns, the blob survives a power cut of the store.
        - *Idempotent by name*: if a blob of this name is there, it is returned as it is (its size and label may
          differ: compare), no second copy is made, and it is durable too. After StoreUnavailable, append again.
        - *Ordered*: the id is above that of every blob that was ever there when the call began, deleted ones too.
        - *No overwriting*: two appends of one name at once may both be stored, on stores that cannot tell. The first
          in append order counts then; the rest are spare copies that ``list`` shows and ``delete`` removes by id.

        ``name`` is 16 bytes; ``label`` is base64url text (``A-Z a-z 0-9 - _``) of at most
        ``traits.max_label_characters``; else StoreRejected, before anything is sent. ``progress`` is told the bytes
        handed over so far, which grow to ``source.size`` within an attempt and begin again in the next; it is called
        on the caller's thread. What it or the source raises passes through unchanged and cancels the append: no blob.
        A source that ends early or whose file has another size raises DamageError: no blob.
        """
        ...

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises BlobMissing if there is no such blob, DamageError if it ends before ``offset + length``: callers know
        a blob's size, so a shorter one was cut. An empty range up to and at the end is empty bytes. Negative numbers
        are StoreRejected.
        """
        ...

    def size(self, blob_id: BlobId) -> int:
        """Return the blob's length in bytes as it is now. Raises BlobMissing."""
        ...

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """Go through all blobs with ids above ``after`` in append order, each once.

        Every blob whose append had returned when iteration began, and was not deleted, is there; later ones may be.
        Once a listing has shown an blob_id, no smaller id appears for the first time: who keeps the last id it saw misses
        nothing. Whatever this store's format did not make is left out, unread. Errors come while iterating.
        """
        ...

    def find(self, name: BlobName) -> BlobInfo | None:
        """Return the first blob of this name in append order, or None. May cost a listing."""
        ...

    def delete(self, ids: Sequence[BlobId]) -> None:
        """Remove blobs for good; ids that are not there are fine. Durable when it returns.

        Not atomic: after StoreUnavailable some may be gone; repeat. Their ids are never used again; their names may be.
        """
        ...

    def close(self) -> None:
        """Let go of all resources. Idempotent; every other call afterwards is StoreRejected, ``traits`` excepted."""
        ...
