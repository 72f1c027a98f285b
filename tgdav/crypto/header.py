"""The vault header: the blob from which a passphrase or recovery key recovers the vault's master key.

It is indistinguishable from random bytes, and is recognised by its label, without a key. Its first 32 bytes are the seed of a
mask over all others; a checksum without a key covers every byte; a MAC under a key derived from the master key prevents
that slots of different headers are combined. The layout is in ``docs/formats/header.md``; slots are in ``tgdav.crypto.slots``.
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
from tgdav.crypto.sealing import SEALING_VERSION, Data, is_later
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
from tgdav.errors import AccessError, DamageError, NewerFormat
from tgdav.ids import VaultId

HEADER_BYTES = 65536
HEADER_VERSION = 1
MAX_ARGON2_WORK = 12 * Argon2Parameters().work
"""KiB filled by all Argon2 runs together after which no further slot is tried: a dozen default runs, some seconds."""

_SEED_BYTES = 32
_HASH_BYTES = 32
_MAGIC = b"tgdavhdr"
_HEAD = struct.Struct(">8sH16sB")
_BODY_BYTES = HEADER_BYTES - _SEED_BYTES - 2 * _HASH_BYTES
_MASK_CONTEXT = "tgdav v1 header mask"
_CHECKSUM_CONTEXT = "tgdav v1 header checksum"
_LABEL_CONTEXT = "tgdav v1 header label"
_LABEL_SEED_BYTES = 16
_FOREIGN_HINT = "if it is right, someone else with access to the store added headers: remove those that are not yours"
_LIMITS = Argon2Limits()
_COST = Argon2Parameters()


class Header(msgspec.Struct, frozen=True):
    """A decoded header: at most one slot of each kind, sorted by kind. ``mac`` is verified once the master key is known."""

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
    """Return the first header of a vault, with both slots at generation 1. Costs one Argon2 run."""
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
    """Return the header with a new passphrase slot of the next generation. Costs one Argon2 run."""
    return _with_secret(header, master, passphrase, parameters, limits, entropy)


def with_recovery_key(header: Header, master: bytes, recovery: RecoveryKey, entropy: Entropy) -> Header:
    """Return the header with a new recovery-key slot of the next generation."""
    return _with_secret(header, master, recovery, _COST, _LIMITS, entropy)


def unlock(header: Header, secret: Secret, limits: Argon2Limits = _LIMITS) -> bytes:
    """Return the master key. Costs at most one Argon2 run.

    Raises ``AccessError`` when the secret does not open the header, ``DamageError`` when its Argon2 parameters are
    outside ``limits`` (checked first) or its MAC is wrong: it was made by someone without the master key.
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

    Anyone with access to the store may have added headers, to waste time or to make a right passphrase look wrong. So each
    distinct slot is tried once, in this order: slots that occur in several headers (a vault keeps two copies of its own),
    cheap ones, new generations. Slots whose parameters exceed ``limits`` are skipped, and no run is started once all runs have
    cost ``MAX_ARGON2_WORK``. Raises ``AccessError`` when no slot opens, ``NewerFormat`` when one has the format of a later
    program, ``DamageError`` when none could be tried or only forged headers open.
    """
    headers = list(headers)
    problem: DamageError | NewerFormat | None = None
    work = tried = passed_over = 0
    for slot, owners in _by_slot(headers, kind_for(secret)):
        if work >= MAX_ARGON2_WORK:
            passed_over += 1
            continue
        try:
            master = open_slot(slot, owners[0].vault, secret, limits)
        except (DamageError, NewerFormat) as error:
            problem = error
            continue
        tried += 1
        work += slot.parameters.work
        genuine = None if master is None else next((owner for owner in owners if is_genuine(owner, master)), None)
        if master is not None and genuine is not None:
            return master, genuine
        if master is not None:
            problem = DamageError("vault header: not made by this vault's owner", blob="vault header")
            tried -= 1
    if problem is not None and not tried:
        raise problem
    raise _refusal(secret, families(headers), passed_over)


def families(headers: Iterable[Header]) -> int:
    """Return the number of groups of headers without a common slot.

    Headers of one vault are in one group: a change of one secret keeps the slot of the other. This needs no key, so a
    forger can copy a slot and be counted in the group.
    """
    groups: list[set[tuple[VaultId, Slot]]] = []
    for header in headers:
        own = {(header.vault, slot) for slot in header.slots}
        apart = [group for group in groups if group.isdisjoint(own)]
        groups = [*apart, own.union(*(group for group in groups if not group.isdisjoint(own)))]
    return len(groups)


def superseded(old: Header, new: Header) -> bool:
    """Return whether ``new`` replaces ``old``: it has each slot of ``old``, equal or newer, and at least one newer.

    Headers that two machines changed concurrently do not replace each other. ``new`` must have been made or unlocked here:
    anyone can write a header with high generations.
    """
    if old.vault != new.vault or set(old.slots) <= set(new.slots):
        return False
    return all(_covers(new.slot(slot.kind), slot) for slot in old.slots)


def encode(header: Header) -> bytes:
    """Return the header's ``HEADER_BYTES`` bytes. Equal headers have equal bytes."""
    signed = _signed_part(header.vault, header.slots, header.seed)
    clear = signed + header.mac
    return header.seed + _mask(header.seed, clear[_SEED_BYTES:] + _checksum(clear))


def decode(blob: Data) -> Header:
    """Return the header in a blob. Needs no key.

    Raises ``DamageError`` when any bit differs from what ``encode`` returned, ``NewerFormat`` when a later program made it. The
    Argon2 parameters are not checked here but before their use.
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
    """Return a label for a header blob. It has the form of a sealed label, and is recognised without a key."""
    return _header_label(entropy.bytes(_LABEL_SEED_BYTES))


def recognise(label: str) -> bool:
    """Return whether ``label`` is that of a header."""
    return _label_version(label) == SEALING_VERSION


def later_header_label(label: str) -> int | None:
    """Return the version in a header's label if it is that of a later program, else None."""
    version = _label_version(label)
    return version if version is not None and is_later(version) else None


def _label_version(label: str) -> int | None:
    """Return the first byte of a header's label, None for other labels. Later versions change only that byte."""
    content = label_bytes(label)
    if content is None or content[1:] != _label_rest(content[1 : 1 + _LABEL_SEED_BYTES]):
        return None
    return content[0]


def _header_label(seed: bytes) -> str:
    return label_text(bytes([SEALING_VERSION]) + _label_rest(seed))


def _label_rest(seed: bytes) -> bytes:
    return seed + blake3(seed, derive_key_context=_LABEL_CONTEXT).digest(LABEL_BYTES - 1 - _LABEL_SEED_BYTES)


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
    """Return whether ``header`` was made with the master key: its MAC is right."""
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
    if magic == _MAGIC and version > HEADER_VERSION:
        raise NewerFormat("the vault header", version)
    if magic != _MAGIC or version != HEADER_VERSION:
        raise _malformed("it has another format")
    starts = range(_HEAD.size, _HEAD.size + count * SLOT_BYTES, SLOT_BYTES)
    slots = tuple(decode_slot(body[start : start + SLOT_BYTES]) for start in starts)
    kinds = [slot.kind for slot in slots]
    if not slots or kinds != sorted(set(kinds)) or any(body[starts.stop :]):
        raise _malformed("its slots are out of order")
    return VaultId(vault), slots


def _mask(seed: bytes, content: bytes) -> bytes:
    """Apply or remove the mask: XOR with BLAKE3(seed). It makes the header look random; it does not keep anything secret."""
    stream = blake3(seed, derive_key_context=_MASK_CONTEXT).digest(len(content))
    return (int.from_bytes(content, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(content), "big")


def _checksum(clear: bytes) -> bytes:
    return blake3(clear, derive_key_context=_CHECKSUM_CONTEXT).digest()


def _by_slot(headers: Iterable[Header], kind: SlotKind) -> list[tuple[Slot, list[Header]]]:
    """Group headers by their slot of ``kind``, in the order in which slots are tried. In a group, the newest header is first."""
    groups: dict[tuple[VaultId, Slot], list[Header]] = {}
    for header in headers:
        slot = header.slot(kind)
        if slot is not None:
            groups.setdefault((header.vault, slot), []).append(header)
    for owners in groups.values():
        owners.sort(key=lambda owner: sum(slot.generation for slot in owner.slots), reverse=True)
    ordered = sorted(((slot, owners) for (_, slot), owners in groups.items()), key=_rank)
    return [(slot, owners) for slot, owners in ordered]


def _rank(group: tuple[Slot, list[Header]]) -> tuple[bool, int, int]:
    slot, owners = group
    return len(owners) < 2, slot.parameters.work, -slot.generation


def _covers(new: Slot | None, old: Slot) -> bool:
    return new is not None and (new == old or new.generation > old.generation)


def _refusal(secret: Secret, apart: int = 1, passed_over: int = 0) -> AccessError:
    name = "passphrase" if isinstance(secret, Passphrase) else "recovery key"
    if passed_over:
        return AccessError(
            f"this {name} opens none of the vault headers that were tried; {passed_over} more in the store were not",
            hint=_FOREIGN_HINT,
        )
    if apart > 1:
        return AccessError(
            f"{apart} unrelated vault headers are in the store, and this {name} opens none", hint=_FOREIGN_HINT
        )
    return AccessError(f"wrong {name}")


def _malformed(reason: str) -> DamageError:
    return DamageError(f"vault header: {reason}", blob="vault header")
