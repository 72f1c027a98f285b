"""A seal opens under its key and binding only, and only when every bit is there."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.crypto.sealing import OVERHEAD, Kind, Sealer, associated_data, open_sealed, seal
from tgdav.errors import DamageError
from tgdav.ids import NamespaceId, VaultId

from .seeded import SeededEntropy

KEY = bytes(range(32))
VAULT = VaultId(b"v" * 16)
SPACE = NamespaceId(b"n" * 16)


@given(st.binary(max_size=5000), st.binary(max_size=200))
def test_roundtrip_in_both_forms(plaintext: bytes, associated: bytes):
    sealed = seal(KEY, plaintext, associated, SeededEntropy(1))
    there, back = bytearray(b"?" * 5100), bytearray(b"?" * 5100)
    large = Sealer(KEY).seal_into(there, memoryview(plaintext), associated, SeededEntropy(1))
    assert sealed == large == there[: len(large)]
    assert len(sealed) == len(plaintext) + OVERHEAD
    assert open_sealed(KEY, memoryview(large), associated, "thing") == plaintext
    assert Sealer(KEY).open_into(back, large, associated, "thing") == plaintext == back[: len(plaintext)]
    assert set(there[len(large) :]) | set(back[len(plaintext) :]) == {ord("?")}


def test_layout_is_version_nonce_ciphertext_tag():
    sealed = seal(KEY, b"abc", b"", SeededEntropy(1))
    assert sealed[0] == 1
    assert sealed[1:13] == SeededEntropy(1).bytes(12)


def test_every_flipped_bit_is_found():
    sealed = seal(KEY, b"some plaintext", b"binding", SeededEntropy(1))
    for bit in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamageError):
            Sealer(KEY).open_into(bytearray(100), damaged, b"binding", "thing")
        with pytest.raises(DamageError) as raised:
            open_sealed(KEY, damaged, b"binding", "pack 17")
        assert raised.value.blob == "pack 17"


def test_every_truncation_and_any_addition_is_found():
    sealed = seal(KEY, b"some plaintext", b"binding", SeededEntropy(1))
    for damaged in [sealed[:length] for length in range(len(sealed))] + [sealed + b"\0", b"\0" + sealed]:
        with pytest.raises(DamageError):
            open_sealed(KEY, damaged, b"binding", "thing")


@given(st.binary(max_size=200))
def test_garbage_raises_damage_and_nothing_else(garbage: bytes):
    with pytest.raises(DamageError):
        open_sealed(KEY, garbage, b"", "thing")


def test_another_key_or_binding_does_not_open():
    sealed = seal(KEY, b"x", b"binding", SeededEntropy(1))
    for key, associated in [(bytes(32), b"binding"), (KEY, b"bindinG"), (KEY, b"")]:
        with pytest.raises(DamageError):
            open_sealed(key, sealed, associated, "thing")


def test_bindings_that_differ_in_anything_differ():
    bindings = [
        associated_data(vault, namespace, kind, name, version)
        for vault in (VAULT, VaultId(bytes(16)))
        for namespace in (SPACE, NamespaceId(bytes(16)), None)
        for kind in Kind
        for name in (b"", b"\0", b"\0\0", b"name")
        for version in (1, 2)
    ]
    for one, other in itertools.combinations(bindings, 2):
        assert one != other


@pytest.mark.parametrize("vault", [b"", b"v" * 15, b"v" * 17])
def test_ids_of_a_wrong_length_are_refused(vault: bytes):
    with pytest.raises(ValueError, match="16 bytes"):
        associated_data(VaultId(vault), None, Kind.LABEL, b"", 1)
    with pytest.raises(ValueError, match="16 bytes"):
        associated_data(VAULT, NamespaceId(vault), Kind.LABEL, b"", 1)


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(b"k" * 16)


def test_kinds_keep_their_numbers():
    assert {kind.name: kind.value for kind in Kind} == {
        "HEADER": 1,
        "LABEL": 2,
        "PACK_INDEX": 3,
        "PACK_TRAILER": 4,
        "CHUNK": 5,
        "SEGMENT": 6,
        "CHECKPOINT_PART": 7,
        "KEY_BOX": 8,
        "MACHINE": 9,
        "STAGING": 10,
        "OVERLAY": 11,
        "CACHE": 12,
        "LOCAL": 13,
    }
