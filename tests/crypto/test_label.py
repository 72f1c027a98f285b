"""Labels: one length, bound to vault and blob name, and silence for everything foreign."""

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.crypto import label as label_module
from tgdav.crypto.header import make_header_label, recognise
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.label import LABEL_CHARACTERS, BlobKind, Label, decode_label, encode_label, label_text
from tgdav.ids import BlobName, Incarnation, MachineId, NamespaceId, VaultId

from .seeded import SeededEntropy

KEYS = VaultKeys(bytes(range(32)), VaultId(b"v" * 16))
NAME = BlobName(b"blob name 16 byt")
LABEL = Label(
    kind=BlobKind.SEGMENT,
    namespace=NamespaceId(b"n" * 16),
    machine=MachineId(b"m" * 16),
    incarnation=Incarnation(7),
    number=3,
    body_hash=b"h" * 32,
    size=65536,
)
ID = st.binary(min_size=16, max_size=16)
U64, U62, U32 = st.integers(0, 2**64 - 1), st.integers(0, 2**62), st.integers(0, 2**32 - 1)
LABELS = st.builds(
    Label,
    kind=st.sampled_from(BlobKind),
    namespace=ID.map(NamespaceId),
    machine=ID.map(MachineId),
    incarnation=U64.map(Incarnation),
    number=U62,
    part=U32,
    parts=U32,
    format_version=st.integers(0, 255),
    body_hash=st.binary(min_size=32, max_size=32),
    size=U62,
)


@given(LABELS, ID, st.integers(0, 1000))
def test_roundtrip_and_length(label: Label, name: bytes, seed: int):
    text = encode_label(label, KEYS, BlobName(name), SeededEntropy(seed))
    assert len(text) == LABEL_CHARACTERS == 172
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    assert decode_label(text, KEYS, BlobName(name)) == label


def test_header_labels_have_the_same_form():
    sealed = encode_label(LABEL, KEYS, NAME, SeededEntropy(1))
    header = make_header_label(SeededEntropy(1))
    assert len(sealed) == len(header)
    assert sealed[0] == header[0]
    assert not recognise(sealed)
    assert decode_label(header, KEYS, NAME) is None


def test_another_vault_or_name_does_not_open():
    text = encode_label(LABEL, KEYS, NAME, SeededEntropy(1))
    assert decode_label(text, KEYS, BlobName(b"another name....")) is None
    assert decode_label(text, VaultKeys(bytes(32), KEYS.vault), NAME) is None
    assert decode_label(text, VaultKeys(bytes(range(32)), VaultId(b"w" * 16)), NAME) is None


def test_every_changed_character_is_found():
    text = encode_label(LABEL, KEYS, NAME, SeededEntropy(1))
    for place in range(len(text)):
        for character in string.ascii_letters + string.digits + "-_+/=\n é":
            if character != text[place]:
                assert decode_label(text[:place] + character + text[place + 1 :], KEYS, NAME) is None


def test_every_truncation_is_found():
    text = encode_label(LABEL, KEYS, NAME, SeededEntropy(1))
    for length in range(len(text)):
        assert decode_label(text[:length], KEYS, NAME) is None
    assert decode_label(text + "\n", KEYS, NAME) is None


@given(st.one_of(st.text(max_size=300), st.text(min_size=172, max_size=172)))
def test_garbage_is_no_label(text: str):
    assert decode_label(text, KEYS, NAME) is None


@given(st.binary(min_size=100, max_size=100))
def test_garbage_under_the_right_key_is_a_label_or_none(plaintext: bytes):
    sealed = KEYS.label_sealer.seal(plaintext, label_module._binding(KEYS, NAME), SeededEntropy(1))
    label = decode_label(label_text(sealed), KEYS, NAME)
    assert label is None or label_module._pack(label) == plaintext


@pytest.mark.parametrize("plaintext", [b"\0" + bytes(99), b"\x04" + bytes(99), b"\x01\x01\x00\x01" + bytes(96)])
def test_what_a_later_version_may_seal_is_none(plaintext: bytes):
    sealed = KEYS.label_sealer.seal(plaintext, label_module._binding(KEYS, NAME), SeededEntropy(1))
    assert decode_label(label_text(sealed), KEYS, NAME) is None


@pytest.mark.parametrize("change", [{"body_hash": b"short"}, {"namespace": b"n"}, {"machine": b"m" * 17}])
def test_fields_of_a_wrong_length_are_refused(change: dict[str, bytes]):
    with pytest.raises(ValueError, match="bytes"):
        encode_label(msgspec.structs.replace(LABEL, **change), KEYS, NAME, SeededEntropy(1))


def test_numbers_that_a_database_cannot_keep_make_no_label():
    for field in ("number", "size"):
        text = encode_label(msgspec.structs.replace(LABEL, **{field: 2**63}), KEYS, NAME, SeededEntropy(1))
        assert decode_label(text, KEYS, NAME) is None
