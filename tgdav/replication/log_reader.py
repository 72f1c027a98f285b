"""Read blobs of the log from the store: check them against their labels, open and decode them."""

import msgspec
from blake3 import blake3

from tgdav.blobs.interface import BlobInfo, BlobStore
from tgdav.crypto.keys import NamespaceKeys, VaultKeys
from tgdav.crypto.label import Label
from tgdav.crypto.sealing import Kind
from tgdav.errors import BlobMissing, DamageError
from tgdav.replication.blob_listing import LabelledBlob
from tgdav.replication.format import checkpoint as checkpoint_format
from tgdav.replication.format import envelope, segment
from tgdav.replication.format.checkpoint import Part
from tgdav.replication.format.segment import Segment


def fetch(store: BlobStore, found: LabelledBlob) -> bytes:
    """Return a blob's bytes, from the first copy that matches its label.

    Raises DamageError or BlobMissing if none does, StoreUnavailable.
    """
    first_error: DamageError | BlobMissing | None = None
    for info in (found.info, *found.spares):
        try:
            return _fetch(store, info, found.label)
        except (DamageError, BlobMissing) as error:
            first_error = first_error or error  # the first copy is the one to report
    assert first_error is not None, "there is one copy at least"
    raise first_error


def _fetch(store: BlobStore, info: BlobInfo, label: Label) -> bytes:
    name = info.name.hex()
    if info.size != label.size:
        raise DamageError(f"blob {name} has {info.size} bytes, not {label.size}", blob=name)
    blob = store.read(info.id, 0, label.size)
    if blake3(blob).digest() != label.body_hash:
        raise DamageError(f"blob {name} was changed in the store", blob=name)
    return blob


class OpenedSegment(msgspec.Struct, frozen=True):
    """A segment from the store. ``content`` is what its signature covers; ``hash`` is that of the whole blob."""

    found: LabelledBlob
    segment: Segment
    content: bytes

    @property
    def hash(self) -> bytes:
        """BLAKE3 of the blob."""
        return self.found.label.body_hash

    @property
    def name(self) -> str:
        """The blob's name in hex."""
        return self.found.info.name.hex()


class LogReader:
    """Opens blobs of one namespace's log."""

    def __init__(self, store: BlobStore, vault_keys: VaultKeys, keys: NamespaceKeys) -> None:
        self._store, self._vault_keys, self._keys = store, vault_keys, keys

    def segment(self, found: LabelledBlob) -> OpenedSegment:
        """Return a segment, its signature not yet checked. Raises DamageError, BlobMissing, StoreUnavailable."""
        name, label = found.info.name, found.label
        content = self._unwrap(found, Kind.SEGMENT)
        opened = segment.decode(content, name)
        if (opened.machine, opened.incarnation, opened.number) != (label.machine, label.incarnation, label.number):
            raise DamageError(f"segment {name.hex()} is not what its label says", blob=name.hex())
        return OpenedSegment(found, opened, content)

    def part(self, found: LabelledBlob) -> Part:
        """Return a part of a checkpoint. Raises DamageError, BlobMissing, StoreUnavailable."""
        return checkpoint_format.decode(self._unwrap(found, Kind.CHECKPOINT_PART), found.info.name)

    def _unwrap(self, found: LabelledBlob, kind: Kind) -> bytes:
        blob = fetch(self._store, found)  # its hash is that of the label; opening it authenticates the rest
        return envelope.unwrap(self._vault_keys, self._keys, kind, found.info.name, blob)
