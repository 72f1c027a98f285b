"""The vault header: the blob with which an account and a passphrase are enough to open a vault.

It looks random and is recognised without a key, by its label. Its first 32 bytes mask all others, a keyless checksum
covers every byte, and a MAC under a key of the master key keeps slots of different headers from being put together.
The layout is in ``docs/formats/header.md``; the slots are made and opened in ``tgdav.crypto.slots``.
"""

import hmac
import struct
from collections.abc import Iterable

import msgspec
from blake3 import blake3

from tgdav.crypto.derivation import KEY_BYTES
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.label import LABEL_BYTES, label_bytes, label_text
from tgdav.crypto.passphrase import Argon2Limits, Argon2Parameters, Passphrase
from tgdav.crypto.recovery_key import RecoveryKey
from tgdav.crypto.sealing import SEALING_VERSION, Data
from tgdav.crypto.slots import (
    SLOT_BYTES,
    Secret,
    Slot,
    SlotKind,
    decode_slot,
    kind_for,
    make_slot,
    open_slot,
)
from tgdav.entropy import Entropy
from tgdav.errors import AccessError, DamageError
from tgdav.ids import VaultId

HEADER_BYTES = 65536
HEADER_VERSION = 1
MAX_ARGON2_RUNS = 4

_SEED_BYTES = 32
_HASH_BYTES = 32
_MAGIC = b"tgdavhdr"
_HEAD = struct.Struct(">8sH16sB")
_BODY_BYTES = HEADER_BYTES - _SEED_BYTES - 2 * _HASH_BYTES
_MASK_CONTEXT = "tgdav v1 header mask"
_CHECKSUM_CONTEXT = "tgdav v1 header checksum"
_LABEL_CONTEXT = "tgdav v1 header label"
_LABEL_SEED_BYTES = 16
_LIMITS = Argon2Limits()
_COST = Argon2Parameters()


class Header(msgspec.Struct, frozen=True):
    """A decoded header: one slot a kind, in the order of their kinds. ``mac`` is checked once the master key is known."""

    vault: VaultId
    slots: tuple[Slot, ...]
    seed: bytes
    mac: bytes

    def slot(self, kind: SlotKind) -> Slot | None:
        """Return the slot of ``kind``, if there is one."""
        return next((slot for slot in self.slots if slot.kind is kind), None)


def make_header(
    vault: VaultId,
    master: bytes,
    passphrase: Passphrase,
    recovery: RecoveryKey,
    entropy: Entropy,
    parameters: Argon2Parameters = _COST,
    limits: Argon2Limits = _LIMITS,
) -> Header:
    """Return the first header of a vault, both slots at generation 1. Takes one Argon2 run."""
    secrets: tuple[Secret, ...] = (passphrase, recovery)
    slots = [make_slot(vault, master, secret, 1, parameters, limits, entropy) for secret in secrets]
    return _finish(vault, master, slots, entropy)


def with_passphrase(
    header: Header,
    master: bytes,
    passphrase: Passphrase,
    entropy: Entropy,
    parameters: Argon2Parameters = _COST,
    limits: Argon2Limits = _LIMITS,
) -> Header:
    """Return the header with a new passphrase slot of the next generation. Takes one Argon2 run."""
    return _with_secret(header, master, passphrase, parameters, limits, entropy)


def with_recovery_key(header: Header, master: bytes, recovery: RecoveryKey, entropy: Entropy) -> Header:
    """Return the header with a new recovery-key slot of the next generation."""
    return _with_secret(header, master, recovery, _COST, _LIMITS, entropy)


def unlock(header: Header, secret: Secret, limits: Argon2Limits = _LIMITS) -> bytes:
    """Return the master key. Takes at most one Argon2 run.

    Raises ``AccessError`` when the secret does not open the header, ``DamageError`` when its Argon2 parameters are
    outside ``limits`` (checked before any work) or when it was put together by somebody without the master key.
    """
    slot = header.slot(kind_for(secret))
    master = None if slot is None else open_slot(slot, header.vault, secret, limits)
    if master is None:
        raise _refusal(secret)
    if not is_genuine(header, master):
        raise DamageError("vault header: not made by this vault's owner", blob="vault header")
    return master


def try_headers(headers: Iterable[Header], secret: Secret, limits: Argon2Limits = _LIMITS) -> tuple[bytes, Header]:
    """Return the master key and the newest header that ``secret`` opens.

    Tries each distinct slot once, newest generation first, with at most ``MAX_ARGON2_RUNS`` runs over all headers; slots
    that ask for an impossible run are passed over. Raises ``AccessError`` when none opens, ``DamageError`` when none
    could be tried or the only ones that open are forged.
    """
    damage: DamageError | None = None
    tried = 0
    for slot, owners in _by_slot(headers, kind_for(secret)):
        try:
            master = open_slot(slot, owners[0].vault, secret, limits)
        except DamageError as error:
            damage = error
            continue
        genuine = None if master is None else next((owner for owner in owners if is_genuine(owner, master)), None)
        if master is not None and genuine is not None:
            return master, genuine
        if master is not None:
            raise DamageError("vault header: not made by this vault's owner", blob="vault header")
        tried += 1
        if isinstance(secret, Passphrase) and tried == MAX_ARGON2_RUNS:
            break
    if damage is not None and not tried:
        raise damage
    raise _refusal(secret)


def superseded(old: Header, new: Header) -> bool:
    """Tell whether ``new`` makes ``old`` useless: no slot of ``old`` is needed any more and one is out of date.

    Each slot of ``old`` must be in ``new``, the very same or of a newer generation, and at least one newer. Headers
    that were changed on two machines at once, each in its own way, do not supersede each other. ``new`` must be one that
    was made or unlocked here, for anybody can write a header with high generations.
    """
    if old.vault != new.vault or set(old.slots) <= set(new.slots):
        return False
    return all(_covers(new.slot(slot.kind), slot) for slot in old.slots)


def encode(header: Header) -> bytes:
    """Return the header's ``HEADER_BYTES`` bytes; equal headers give equal bytes."""
    signed = _signed_part(header.vault, header.slots, header.seed)
    clear = signed + header.mac
    return header.seed + _mask(header.seed, clear[_SEED_BYTES:] + _checksum(clear))


def decode(blob: Data) -> Header:
    """Return the header in a blob; needs no key.

    Raises ``DamageError`` when any bit differs from what ``encode`` gave, or the header is of an unknown version. The
    Argon2 parameters are not judged here but before their use.
    """
    if len(blob) != HEADER_BYTES:
        raise _malformed("its length is wrong")
    seed = bytes(blob[:_SEED_BYTES])
    clear = seed + _mask(seed, bytes(blob[_SEED_BYTES:]))
    if not hmac.compare_digest(_checksum(clear[:-_HASH_BYTES]), clear[-_HASH_BYTES:]):
        raise _malformed("its checksum is wrong")
    body = clear[_SEED_BYTES : _SEED_BYTES + _BODY_BYTES]
    vault, slots = _decode_body(body)
    return Header(vault, slots, seed, clear[-2 * _HASH_BYTES : -_HASH_BYTES])


def make_header_label(entropy: Entropy) -> str:
    """Return a label for a header blob: of the same form as a sealed label, recognised without a key."""
    return _header_label(entropy.bytes(_LABEL_SEED_BYTES))


def recognise(label: str) -> bool:
    """Tell whether ``label`` is a header's."""
    content = label_bytes(label)
    return content is not None and label == _header_label(content[1 : 1 + _LABEL_SEED_BYTES])


def _header_label(seed: bytes) -> str:
    rest = blake3(seed, derive_key_context=_LABEL_CONTEXT).digest(LABEL_BYTES - 1 - _LABEL_SEED_BYTES)
    return label_text(bytes([SEALING_VERSION]) + seed + rest)


def _with_secret(
    header: Header,
    master: bytes,
    secret: Secret,
    parameters: Argon2Parameters,
    limits: Argon2Limits,
    entropy: Entropy,
) -> Header:
    kind = kind_for(secret)
    old = header.slot(kind)
    generation = 1 if old is None else old.generation + 1
    made = make_slot(header.vault, master, secret, generation, parameters, limits, entropy)
    kept = [slot for slot in header.slots if slot.kind is not kind]
    return _finish(header.vault, master, sorted([*kept, made], key=lambda slot: slot.kind), entropy)


def _finish(vault: VaultId, master: bytes, slots: Iterable[Slot], entropy: Entropy) -> Header:
    unsigned = Header(vault, tuple(slots), entropy.bytes(_SEED_BYTES), b"")
    return msgspec.structs.replace(unsigned, mac=_mac(unsigned, master))


def is_genuine(header: Header, master: bytes) -> bool:
    """Return whether whoever made ``header`` had the master key."""
    return len(master) == KEY_BYTES and hmac.compare_digest(header.mac, _mac(header, master))


def _mac(header: Header, master: bytes) -> bytes:
    signed = _signed_part(header.vault, header.slots, header.seed)
    return blake3(signed, key=VaultKeys(master, header.vault).header_mac_key).digest()


def _signed_part(vault: VaultId, slots: tuple[Slot, ...], seed: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, HEADER_VERSION, vault, len(slots))
    body = head + b"".join(slot.encode() for slot in slots)
    return seed + body.ljust(_BODY_BYTES, b"\0")


def _decode_body(body: bytes) -> tuple[VaultId, tuple[Slot, ...]]:
    magic, version, vault, count = _HEAD.unpack_from(body)
    if magic != _MAGIC or version != HEADER_VERSION:
        raise _malformed(f"version {version} is unknown here" if magic == _MAGIC else "it is none")
    starts = range(_HEAD.size, _HEAD.size + count * SLOT_BYTES, SLOT_BYTES)
    slots = tuple(decode_slot(body[start : start + SLOT_BYTES]) for start in starts)
    kinds = [slot.kind for slot in slots]
    if not slots or kinds != sorted(set(kinds)) or any(body[starts.stop :]):
        raise _malformed("its slots are out of order")
    return VaultId(vault), slots


def _mask(seed: bytes, content: bytes) -> bytes:
    """Add or remove the mask: XOR with BLAKE3's output of the seed. It hides nothing from who knows the format."""
    stream = blake3(seed, derive_key_context=_MASK_CONTEXT).digest(len(content))
    return (int.from_bytes(content, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(content), "big")


def _checksum(clear: bytes) -> bytes:
    return blake3(clear, derive_key_context=_CHECKSUM_CONTEXT).digest()


def _by_slot(headers: Iterable[Header], kind: SlotKind) -> list[tuple[Slot, list[Header]]]:
    """Group headers by their slot of ``kind``, newest generation first; within a group the newest header first."""
    groups: dict[tuple[VaultId, Slot], list[Header]] = {}
    for header in headers:
        slot = header.slot(kind)
        if slot is not None:
            groups.setdefault((header.vault, slot), []).append(header)
    for owners in groups.values():
        owners.sort(key=lambda owner: sum(slot.generation for slot in owner.slots), reverse=True)
    newest_first = sorted(groups.items(), key=lambda group: group[0][1].generation, reverse=True)
    return [(slot, owners) for (_, slot), owners in newest_first]


def _covers(new: Slot | None, old: Slot) -> bool:
    return new is not None and (new == old or new.generation > old.generation)


def _refusal(secret: Secret) -> AccessError:
    return AccessError("wrong passphrase" if isinstance(secret, Passphrase) else "wrong recovery key")


def _malformed(reason: str) -> DamageError:
    return DamageError(f"vault header: {reason}", blob="vault header")
