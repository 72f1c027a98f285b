"""The slots of the vault header: the master key, sealed once for the passphrase and once for the recovery key."""

import struct
from enum import IntEnum

import msgspec

from tgdav.crypto.derivation import KEY_BYTES, Purpose, derive
from tgdav.crypto.passphrase import Argon2Limits, Argon2Parameters, Passphrase, stretch
from tgdav.crypto.recovery_key import RecoveryKey
from tgdav.crypto.sealing import OVERHEAD, Kind, Sealer, associated_data, later_frame, seal
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, NewerFormat, UsageError
from tgdav.ids import VaultId

SALT_BYTES = 32
SLOT_VERSION = 1

Secret = Passphrase | RecoveryKey

_FIELDS = struct.Struct(">BQ32sIII")
_SEALED_BYTES = KEY_BYTES + OVERHEAD
SLOT_BYTES = _FIELDS.size + _SEALED_BYTES
_WHAT = "the vault header"
_MAX_GENERATION = 2**63
_NO_PARAMETERS = Argon2Parameters(memory_kib=0, iterations=0, parallelism=0)


class SlotKind(IntEnum):
    """Which secret opens a slot."""

    PASSPHRASE = 1
    RECOVERY_KEY = 2


class Slot(msgspec.Struct, frozen=True):
    """The master key, sealed for one secret. ``generation`` is 1 at first, and grows by one when the secret is changed.

    ``parameters`` are zero in a recovery-key slot: 256 random bits need no Argon2, only HKDF.
    """

    kind: SlotKind
    generation: int
    salt: bytes
    parameters: Argon2Parameters
    sealed_master: bytes

    def bound_fields(self) -> bytes:
        """Return the slot's bytes before the sealed master key; the seal is bound to them."""
        cost = self.parameters
        return _FIELDS.pack(self.kind, self.generation, self.salt, cost.memory_kib, cost.iterations, cost.parallelism)

    def encode(self) -> bytes:
        """Return the slot's ``SLOT_BYTES`` bytes."""
        return self.bound_fields() + self.sealed_master


def kind_for(secret: Secret) -> SlotKind:
    """Return the kind of slot that ``secret`` opens."""
    return SlotKind.PASSPHRASE if isinstance(secret, Passphrase) else SlotKind.RECOVERY_KEY


def make_slot(
    vault: VaultId,
    master: bytes,
    secret: Secret,
    generation: int,
    parameters: Argon2Parameters,
    limits: Argon2Limits,
    entropy: Entropy,
) -> Slot:
    """Return a slot that ``secret`` opens. ``parameters`` apply to a passphrase only.

    Raises ``UsageError`` when ``parameters`` are outside ``limits``: such a slot would be refused when it is opened.
    """
    kind = kind_for(secret)
    if kind is SlotKind.PASSPHRASE and not limits.allow(parameters):
        raise UsageError("the Argon2 parameters are outside the range that vault headers allow")
    cost = parameters if kind is SlotKind.PASSPHRASE else _NO_PARAMETERS
    empty = Slot(kind, generation, entropy.bytes(SALT_BYTES), cost, b"")
    key = _wrapping_key(empty, secret, limits)
    return msgspec.structs.replace(empty, sealed_master=seal(key, master, _binding(vault, empty), entropy))


def open_slot(slot: Slot, vault: VaultId, secret: Secret, limits: Argon2Limits) -> bytes | None:
    """Return the master key, or None when ``secret`` does not open the slot.

    Raises ``DamageError`` when the slot's Argon2 parameters are outside ``limits`` (checked first), ``NewerFormat`` when a
    later program sealed it.
    """
    if (version := later_frame(slot.sealed_master)) is not None:
        raise NewerFormat(_WHAT, version)
    sealer = Sealer(_wrapping_key(slot, secret, limits))
    try:
        return sealer.open(slot.sealed_master, _binding(vault, slot), "header slot")
    except DamageError:
        later = sealer.later_version(slot.sealed_master, lambda version: _binding(vault, slot, version))
    if later is not None:
        raise NewerFormat(_WHAT, later)
    return None


def decode_slot(encoded: bytes) -> Slot:
    """Return the slot in ``SLOT_BYTES`` bytes. Raises ``DamageError`` when they are malformed."""
    kind, generation, salt, *cost = _FIELDS.unpack(encoded[: _FIELDS.size])
    if kind not in set(SlotKind) or not 1 <= generation < _MAX_GENERATION:
        raise DamageError("vault header: malformed slot", blob="vault header")
    parameters = Argon2Parameters(*cost)
    if kind == SlotKind.RECOVERY_KEY and parameters != _NO_PARAMETERS:
        raise DamageError("vault header: malformed slot", blob="vault header")
    return Slot(SlotKind(kind), generation, salt, parameters, encoded[_FIELDS.size :])


def _wrapping_key(slot: Slot, secret: Secret, limits: Argon2Limits) -> bytes:
    if isinstance(secret, Passphrase):
        return stretch(secret, slot.salt, slot.parameters, limits)
    return derive(secret.key, Purpose.RECOVERY_SLOT, slot.salt)


def _binding(vault: VaultId, slot: Slot, version: int = SLOT_VERSION) -> bytes:
    return associated_data(vault, None, Kind.HEADER, slot.bound_fields(), version)
