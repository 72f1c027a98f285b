"""Reading whole blobs from the store, checked against their labels."""

from blake3 import blake3

from tgdav.blobs.contract import BlobStore
from tgdav.errors import DamageError
from tgdav.replication.survey import Found


def fetch(store: BlobStore, found: Found) -> bytes:
    """Return a blob's bytes. Raises DamageError unless they are what its label says, BlobMissing, StoreUnavailable."""
    name = found.info.name.hex()
    if found.info.size != found.label.size:
        raise DamageError(f"blob {name} has {found.info.size} bytes, not {found.label.size}", blob=name)
    blob = store.read(found.info.id, 0, found.label.size)
    if blake3(blob).digest() != found.label.body_hash:
        raise DamageError(f"blob {name} was changed in the store", blob=name)
    return blob
