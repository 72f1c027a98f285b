"""A blob's label: its sealed metadata, from which a listing of the store shows what the blob is.

All labels are 172 characters of base64url, those of headers too, so others cannot distinguish kinds of blob. The layout is
in ``docs/formats/label.md``.
"""

import base64
import binascii
import struct
from enum import IntEnum

import msgspec

from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.sealing import OVERHEAD, Kind, associated_data
from tgdav.entropy import Entropy
from tgdav.errors import DamageError
from tgdav.ids import BlobName, Incarnation, MachineId, NamespaceId

LABEL_VERSION = 1
BLOB_VERSION = 1
"""The highest version of blob formats that this program reads."""

_FIELDS = struct.Struct(">BBH16s16sQQII32sQ")
_NUMBER_MAX = 2**62
"""The highest number accepted: numbers derived from it must still fit into the database."""
LABEL_BYTES = OVERHEAD + _FIELDS.size
LABEL_CHARACTERS = LABEL_BYTES * 4 // 3
"""Three bytes are four characters of base64 without spare bits, so each label has one encoding."""


class BlobKind(IntEnum):
    """Kinds of blob with a sealed label. A header is recognised by ``tgdav.crypto.header.recognise``."""

    PACK = 1
    SEGMENT = 2
    CHECKPOINT = 3


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A blob's metadata.

    ``number`` counts segments or checkpoints of one incarnation (0 for packs); ``part`` is from 0 to ``parts`` - 1;
    ``body_hash`` is the BLAKE3-256 hash of the blob's bytes, ``size`` their number.
    """

    kind: BlobKind
    namespace: NamespaceId
    machine: MachineId
    incarnation: Incarnation
    number: int = 0
    part: int = 0
    parts: int = 1
    format_version: int = 1
    body_hash: bytes
    size: int


def encode_label(label: Label, vault_keys: VaultKeys, blob_name: BlobName, entropy: Entropy) -> str:
    """Return ``label`` as text, sealed and bound to the blob's name."""
    if (len(label.namespace), len(label.machine), len(label.body_hash)) != (16, 16, 32):
        raise ValueError("namespace and machine ids have 16 bytes, a body hash has 32")
    sealed = vault_keys.label_sealer.seal(_pack(label), _binding(vault_keys, blob_name), entropy)
    return label_text(sealed)


def decode_label(text: str, vault_keys: VaultKeys, blob_name: BlobName) -> Label | None:
    """Return the label, or None when ``text`` is not a label of this vault for this blob. Raises nothing."""
    sealed = label_bytes(text)
    if sealed is None:
        return None
    try:
        plaintext = vault_keys.label_sealer.open(sealed, _binding(vault_keys, blob_name), "label")
    except DamageError:
        return None
    return _unpack(plaintext)


def later_label(text: str, vault_keys: VaultKeys, blob_name: BlobName) -> int | None:
    """Return the version of a label made by a later program, which ``decode_label`` does not open; else None.

    A version in the first byte is not authenticated: anyone who can write to the store can make such a label. Then this
    program writes nothing until the blob is removed.
    """
    sealed = label_bytes(text)
    if sealed is None:
        return None
    return vault_keys.label_sealer.later_version(sealed, lambda version: _binding(vault_keys, blob_name, version))


def label_text(content: bytes) -> str:
    """Return a label's ``LABEL_BYTES`` bytes as text."""
    return base64.urlsafe_b64encode(content).decode("ascii")


def label_bytes(text: str) -> bytes | None:
    """Return a label's bytes, or None when ``text`` does not have the form of a label."""
    if len(text) != LABEL_CHARACTERS or not text.isascii():
        return None
    try:
        content = base64.b64decode(text, altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    return content if label_text(content) == text else None


def _binding(vault_keys: VaultKeys, blob_name: BlobName, version: int = LABEL_VERSION) -> bytes:
    return associated_data(vault_keys.vault, None, Kind.LABEL, blob_name, version)


def _pack(label: Label) -> bytes:
    return _FIELDS.pack(
        label.kind,
        label.format_version,
        0,
        label.namespace,
        label.machine,
        label.incarnation,
        label.number,
        label.part,
        label.parts,
        label.body_hash,
        label.size,
    )


def _unpack(plaintext: bytes) -> Label | None:
    """Return None for what only a later version can have sealed: an unknown kind or length, or reserved bits that are set."""
    if len(plaintext) != _FIELDS.size:
        return None
    fields = _FIELDS.unpack(plaintext)
    kind, format_version, reserved, namespace, machine, incarnation, number, part, parts, body_hash, size = fields
    if kind not in set(BlobKind) or reserved or max(number, size) > _NUMBER_MAX:
        return None
    return Label(
        kind=BlobKind(kind),
        namespace=namespace,
        machine=machine,
        incarnation=incarnation,
        number=number,
        part=part,
        parts=parts,
        format_version=format_version,
        body_hash=body_hash,
        size=size,
    )
