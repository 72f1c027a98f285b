"""The header: every bit is watched, nothing malformed gets through, and only the right secret opens it."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.crypto import header as header_module
from tgdav.crypto.header import HEADER_BYTES, decode, encode, make_header_label, recognise
from tgdav.errors import DamageError

from .conftest import Vault
from .seeded import SeededEntropy

FIELDS_END = 59 + 2 * 114 + 32
CHECKED_END = HEADER_BYTES - 32


def sealed_again(body: bytes) -> bytes:
    """A header blob whose checksum is right whatever its body is: what a forger without keys can make."""
    seed = SeededEntropy(9).bytes(32)
    clear = (seed + body).ljust(CHECKED_END, b"\0")[:CHECKED_END]
    return seed + header_module._mask(seed, clear[32:] + header_module._checksum(clear))


def body_of(blob: bytes) -> bytearray:
    return bytearray(header_module._mask(blob[:32], blob[32:])[:-32])


def test_roundtrip_and_size(vault: Vault):
    blob = encode(vault.header)
    assert len(blob) == HEADER_BYTES
    assert decode(memoryview(blob)) == vault.header
    assert encode(decode(blob)) == blob


def test_it_looks_random(vault: Vault):
    """No byte value is much more frequent than chance has it, no run of zeros betrays the padding."""
    counts = Counter(encode(vault.header))
    expected = HEADER_BYTES / 256
    assert len(counts) == 256
    assert max(abs(count - expected) for count in counts.values()) < 6 * math.sqrt(expected)
    assert b"tgdav" not in encode(vault.header)


def flip(blob: bytes, bit: int) -> bytearray:
    damaged = bytearray(blob)
    damaged[bit // 8] ^= 1 << bit % 8
    return damaged


def test_flipped_bits_are_found(vault: Vault):
    """All bits of seed, fields, MAC and checksum, and a sample of the padding's."""
    blob = encode(vault.header)
    places = [*range(FIELDS_END), *range(HEADER_BYTES - 64, HEADER_BYTES)]
    bits = [place * 8 + bit for place in places for bit in range(8)]
    bits += random.Random(1).sample(range(FIELDS_END * 8, (HEADER_BYTES - 64) * 8), 2000)
    for bit in bits:
        with pytest.raises(DamageError):
            decode(flip(blob, bit))


@pytest.mark.torture
def test_every_flipped_bit_is_found(vault: Vault):
    blob = encode(vault.header)
    for bit in range(HEADER_BYTES * 8):
        with pytest.raises(DamageError):
            decode(flip(blob, bit))


@pytest.mark.parametrize("length", [0, 1, 31, 32, 64, 300, HEADER_BYTES - 1, HEADER_BYTES + 1, 2 * HEADER_BYTES])
def test_wrong_lengths_are_found(vault: Vault, length: int):
    with pytest.raises(DamageError, match="length"):
        decode((encode(vault.header) * 2)[:length])


def change_magic(body: bytearray) -> None:
    body[0] ^= 1


def change_version(body: bytearray) -> None:
    body[9] = 0


def no_slots(body: bytearray) -> None:
    body[26] = 0


def too_few_slots(body: bytearray) -> None:
    body[26] = 1


def too_many_slots(body: bytearray) -> None:
    body[26] = 255


def unknown_slot_kind(body: bytearray) -> None:
    body[27] = 3


def same_slot_twice(body: bytearray) -> None:
    body[27 + 114 : 27 + 228] = body[27 : 27 + 114]


def slots_exchanged(body: bytearray) -> None:
    body[27 : 27 + 228] = body[27 + 114 : 27 + 228] + body[27 : 27 + 114]


def generation_zero(body: bytearray) -> None:
    body[28:36] = bytes(8)


def generation_huge(body: bytearray) -> None:
    body[28:36] = b"\xff" * 8


def recovery_slot_with_cost(body: bytearray) -> None:
    body[27 + 114 + 41 + 3] = 1


def padding_in_use(body: bytearray) -> None:
    body[1000] = 1


@pytest.mark.parametrize(
    "forge",
    [
        change_magic,
        change_version,
        no_slots,
        too_few_slots,
        too_many_slots,
        unknown_slot_kind,
        same_slot_twice,
        slots_exchanged,
        generation_zero,
        generation_huge,
        recovery_slot_with_cost,
        padding_in_use,
    ],
)
def test_malformed_bodies_with_a_right_checksum_are_refused(vault: Vault, forge):
    body = body_of(encode(vault.header))
    decode(sealed_again(bytes(body)))
    forge(body)
    with pytest.raises(DamageError):
        decode(sealed_again(bytes(body)))


@given(st.binary(max_size=400))
def test_garbage_raises_damage_and_nothing_else(garbage: bytes):
    for blob in (garbage, garbage.ljust(HEADER_BYTES, b"x"), sealed_again(garbage)):
        with pytest.raises(DamageError):
            decode(blob)


@given(st.integers(1, 3), st.binary(min_size=228, max_size=228), st.binary(max_size=20))
def test_fuzzed_slots_decode_to_what_encodes_again_or_raise_damage(count: int, slots: bytes, padding: bytes):
    blob = sealed_again(b"tgdavhdr\0\1" + bytes(16) + bytes([count]) + slots + padding)
    try:
        header = decode(blob)
    except DamageError:
        return
    assert encode(header) == blob


def test_header_labels_are_recognised():
    label = make_header_label(SeededEntropy(1))
    assert recognise(label)
    assert label != make_header_label(SeededEntropy(2))


def test_changed_header_labels_are_not_recognised():
    label = make_header_label(SeededEntropy(1))
    for place, character in enumerate(label):
        assert not recognise(label[:place] + ("B" if character == "A" else "A") + label[place + 1 :])
    for text in ("", label[:-1], label + "A", label[:-4] + "====", "é" * len(label)):
        assert not recognise(text)


@given(st.text(max_size=200))
def test_garbage_is_no_header_label(text: str):
    assert not recognise(text)


def test_two_headers_share_no_bytes_worth_mentioning(vault: Vault):
    """The same slots under another seed look unrelated."""
    again = header_module._finish(vault.vault, vault.master, vault.header.slots, SeededEntropy(77))
    same = sum(one == other for one, other in zip(encode(vault.header), encode(again), strict=True))
    assert same < 500
