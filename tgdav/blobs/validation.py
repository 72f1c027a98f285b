"""The argument checks that all stores share."""

import re

from tgdav.blobs.interface import NAME_BYTES, Source, StoreTraits
from tgdav.errors import DamageError, StoreRejected
from tgdav.ids import BlobId, BlobName

_LABEL = re.compile(r"[A-Za-z0-9_-]*")


def check_append(traits: StoreTraits, name: BlobName, source: Source, label: str) -> None:
    """Raise StoreRejected for a name, size or label that the store does not accept."""
    check_name(name)
    if source.size > traits.max_blob_bytes:
        raise StoreRejected(f"a blob of {source.size} bytes is larger than the {traits.backend} store accepts")
    if not _LABEL.fullmatch(label):
        raise StoreRejected("a label must be base64url text: A-Z a-z 0-9 - _")
    if len(label) > traits.max_label_characters:
        allowed = traits.max_label_characters
        raise StoreRejected(f"a label of {len(label)} characters is longer than the {allowed} that the store accepts")


def check_name(name: BlobName) -> None:
    """Raise StoreRejected unless ``name`` is 16 bytes."""
    if not isinstance(name, bytes) or len(name) != NAME_BYTES:
        raise StoreRejected(f"a blob's name must be {NAME_BYTES} bytes")


def check_range(offset: int, length: int) -> None:
    """Raise StoreRejected for negative numbers."""
    if offset < 0 or length < 0:
        raise StoreRejected("offset and length of a read must not be negative")


def check_within(blob_id: BlobId, name: BlobName, size: int, end: int) -> None:
    """Raise DamageError if a range that ends at ``end`` exceeds a blob's ``size``."""
    if end > size:
        raise DamageError(f"blob {blob_id} has {size} bytes, fewer than the expected {end}", blob=name.hex())


def read_source(name: BlobName, source: Source, offset: int, length: int) -> bytes:
    """Return exactly ``length`` bytes of a source. Raises DamageError if it ends early."""
    data = source.read(offset, length)
    if len(data) != length:
        raise DamageError(f"the data to be stored ends early, at {offset + len(data)} bytes", blob=name.hex())
    return data


def check_source_end(name: BlobName, source: Source) -> None:
    """Raise DamageError if a source has more bytes than its size."""
    if source.read(source.size, 1):
        raise DamageError(f"the data to be stored is longer than {source.size} bytes", blob=name.hex())
