"""Key derivation: HKDF-SHA256 (RFC 5869) with an info string for each purpose, all of them in this table."""

from enum import Enum

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32


class Purpose(Enum):
    """What a derived key is used for. The value is the info string of HKDF and part of the format."""

    RECOVERY_SLOT = b"tgdav v1 recovery slot"

    VAULT_LABEL = b"tgdav v1 vault label"
    VAULT_NAMESPACE_WRAP = b"tgdav v1 vault namespace wrap"
    VAULT_MACHINE_WRAP = b"tgdav v1 vault machine wrap"
    VAULT_HEADER_MAC = b"tgdav v1 vault header mac"

    NAMESPACE_CHUNK_ID = b"tgdav v1 namespace chunk id"
    NAMESPACE_CHUNKER_SEED = b"tgdav v1 namespace chunker seed"
    NAMESPACE_CONTENT_TAG = b"tgdav v1 namespace content tag"
    NAMESPACE_DIRECTORY_NODE = b"tgdav v1 namespace directory node"
    NAMESPACE_DIRECTORY_ENTRY = b"tgdav v1 namespace directory entry"

    EPOCH_CHUNK_ROOT = b"tgdav v1 epoch chunk root"
    EPOCH_PACK_INDEX = b"tgdav v1 epoch pack index"
    EPOCH_LOG = b"tgdav v1 epoch log"

    MACHINE_SIGNING = b"tgdav v1 machine ed25519"
    MACHINE_EXCHANGE = b"tgdav v1 machine x25519"
    MACHINE_DATABASE = b"tgdav v1 machine database"
    MACHINE_STAGING = b"tgdav v1 machine staging"
    MACHINE_CACHE = b"tgdav v1 machine cache"
    MACHINE_OVERLAY = b"tgdav v1 machine overlay"


def derive(secret: bytes, purpose: Purpose, salt: bytes, length: int = KEY_BYTES) -> bytes:
    """Return a key of ``length`` bytes for ``purpose``. ``salt`` is the id of the secret's owner, or the salt of a slot."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose.value).derive(secret)
