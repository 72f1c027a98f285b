"""This machine's identity: a UUID and a random root key, which is independent of the master key.

Both private keys, and the keys of local files, are derived from the root key. The identity is kept in a local file, sealed
under the vault's machine wrap key (layout: ``docs/formats/keys.md``).
"""

import uuid
from functools import cached_property

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tgdav.crypto.derivation import KEY_BYTES, Purpose, derive
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.sealing import Data, Kind, associated_data, later_frame
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import MachineId, NodeId

MACHINE_VERSION = 1
OVERLAY_SALT_BYTES = 16

_ID_BYTES = 16


class MachineIdentity:
    """The identity of one installation. Thread-safe. ``repr`` shows no keys."""

    def __init__(self, machine: MachineId, root: bytes) -> None:
        if len(machine) != _ID_BYTES or len(root) != KEY_BYTES:
            raise ValueError("a machine id has 16 bytes, a machine root 32")
        self.machine = machine
        self.root = root

    @classmethod
    def new(cls, entropy: Entropy) -> "MachineIdentity":
        """Return a new identity with a UUID v4 (RFC 9562)."""
        machine = uuid.UUID(bytes=entropy.bytes(_ID_BYTES), version=4).bytes
        return cls(MachineId(machine), entropy.bytes(KEY_BYTES))

    @cached_property
    def signing_key(self) -> Ed25519PrivateKey:
        """The Ed25519 key that signs this machine's segments."""
        return Ed25519PrivateKey.from_private_bytes(self._key(Purpose.MACHINE_SIGNING))

    @cached_property
    def exchange_key(self) -> X25519PrivateKey:
        """The X25519 key for which others can wrap namespace keys."""
        return X25519PrivateKey.from_private_bytes(self._key(Purpose.MACHINE_EXCHANGE))

    @cached_property
    def signing_public(self) -> bytes:
        """The public key, 32 bytes, that verifies this machine's signatures."""
        return self.signing_key.public_key().public_bytes_raw()

    @cached_property
    def exchange_public(self) -> bytes:
        """The public key, 32 bytes, for which others wrap keys."""
        return self.exchange_key.public_key().public_bytes_raw()

    @cached_property
    def database_key(self) -> bytes:
        """The 32-byte raw SQLCipher key of the local database."""
        return self._key(Purpose.MACHINE_DATABASE)

    @cached_property
    def staging_key(self) -> bytes:
        """The 32-byte key that seals what is in staging and not yet sealed for the store."""
        return self._key(Purpose.MACHINE_STAGING)

    @cached_property
    def cache_key(self) -> bytes:
        """The 32-byte key that seals the metadata of the disk cache."""
        return self._key(Purpose.MACHINE_CACHE)

    @cached_property
    def _overlay_root(self) -> bytes:
        return self._key(Purpose.MACHINE_OVERLAY)

    def overlay_key(self, node: NodeId, salt: bytes) -> bytes:
        """Return the 32-byte key of one overlay file; ``salt`` is 16 random bytes, chosen when the file is created."""
        if len(node) != _ID_BYTES or len(salt) != OVERLAY_SALT_BYTES:
            raise ValueError("a node id and an overlay's salt have 16 bytes")
        return blake3(node + salt, key=self._overlay_root).digest()

    def sign(self, message: Data) -> bytes:
        """Return the 64-byte Ed25519 signature (RFC 8032) of ``message``."""
        return self.signing_key.sign(message)

    def _key(self, purpose: Purpose) -> bytes:
        return derive(self.root, purpose, self.machine)


def verify(public: bytes, signature: bytes, message: Data) -> bool:
    """Return whether ``signature`` is the Ed25519 signature of ``message`` under the key ``public`` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def seal_machine(identity: MachineIdentity, vault_keys: VaultKeys, entropy: Entropy) -> bytes:
    """Return the identity sealed under the vault's keys, for the local file."""
    return vault_keys.machine_wrap.seal(identity.machine + identity.root, _binding(vault_keys), entropy)


def open_machine(sealed: Data, vault_keys: VaultKeys) -> MachineIdentity:
    """Return the identity in the bytes of the local file. Raises ``DamageError`` when they were changed."""
    try:
        plaintext = vault_keys.machine_wrap.open(sealed, _binding(vault_keys), "machine identity")
    except DamageError:
        version = vault_keys.machine_wrap.later_version(sealed, lambda each: _binding(vault_keys, each))
        if version is None or version == later_frame(sealed):
            raise
        raise NewerFormat("this machine's identity", version) from None
    if len(plaintext) != _ID_BYTES + KEY_BYTES:
        raise DamageError("machine identity: malformed", blob="machine identity")
    return MachineIdentity(MachineId(plaintext[:_ID_BYTES]), plaintext[_ID_BYTES:])


def _binding(vault_keys: VaultKeys, version: int = MACHINE_VERSION) -> bytes:
    return associated_data(vault_keys.vault, None, Kind.MACHINE, b"", version)
