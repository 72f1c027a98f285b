"""The calls that most tests of stores make, in their short form."""

from pathlib import Path

from tests.blobs.conftest import name_of
from tgdav.blobs import BlobInfo, BlobStore, BytesSource
from tgdav.ids import BlobId

BLOCK = 1 << 20
MISSING = BlobId(10**12)


def put(store: BlobStore, number: int, data: bytes = b"sealed", label: str = "label") -> BlobInfo:
    return store.append(name_of(number), BytesSource(data), label)


def ids(store: BlobStore, after: int = 0) -> list[int]:
    return [info.id for info in store.list(BlobId(after))]


def content(store: BlobStore, info: BlobInfo) -> bytes:
    return store.read(info.id, 0, info.size)


def private_file(directory: Path, data: bytes) -> Path:
    path = directory / "staged"
    path.write_bytes(data)
    path.chmod(0o600)
    return path
