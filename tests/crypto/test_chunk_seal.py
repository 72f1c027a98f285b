"""A sealed chunk opens as that chunk only."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgdav.crypto.chunk_seal import CODEC_LZ4_BLOCK, CODEC_RAW, ChunkBinding, open_chunk, seal_chunk
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, new_namespace_secret
from tgdav.crypto.sealing import OVERHEAD
from tgdav.errors import DamageError
from tgdav.ids import ChunkId, NamespaceId, VaultId

from .seeded import SeededEntropy

SPACE = NamespaceId(b"n" * 16)
SECRET = new_namespace_secret(SPACE, SeededEntropy(1)).with_new_epoch(SeededEntropy(2))
KEYS = NamespaceKeys(SPACE, SECRET)
VAULT = VaultId(b"v" * 16)
DATA = b"some data"
CHUNK = KEYS.chunk_id(DATA)


def sealed_chunk() -> bytes:
    return bytes(seal_chunk(KEYS, VAULT, ChunkBinding(CHUNK, 1, CODEC_RAW, len(DATA)), DATA, SeededEntropy(3)))


@settings(max_examples=30)
@given(st.binary(max_size=100_000), st.sampled_from([CODEC_RAW, CODEC_LZ4_BLOCK]), st.sampled_from([1, 2]))
def test_roundtrip(data: bytes, codec: int, epoch: int):
    chunk = KEYS.chunk_id(data)
    binding = ChunkBinding(chunk, epoch, codec, 2**21)
    sealed = seal_chunk(KEYS, VAULT, binding, memoryview(data), SeededEntropy(3))
    assert len(sealed) == len(data) + OVERHEAD
    assert open_chunk(KEYS, VAULT, binding, memoryview(sealed), "pack") == data


def test_everything_is_bound():
    right = [KEYS, VAULT, CHUNK, 1, CODEC_RAW, len(DATA)]
    assert open_chunk(KEYS, VAULT, ChunkBinding(*right[2:]), sealed_chunk(), "pack") == DATA
    other_space = NamespaceKeys(NamespaceId(b"o" * 16), NamespaceSecret(NamespaceId(b"o" * 16), *secret_parts()))
    wrong = [other_space, VaultId(b"w" * 16), ChunkId(bytes(32)), 2, CODEC_LZ4_BLOCK, len(DATA) + 1]
    for place, value in enumerate(wrong):
        keys, vault, *bound = [*right[:place], value, *right[place + 1 :]]
        with pytest.raises(DamageError) as raised:
            open_chunk(keys, vault, ChunkBinding(*bound), sealed_chunk(), "pack 00ff")
        assert raised.value.blob == "pack 00ff"


def secret_parts() -> tuple[bytes, dict[int, bytes]]:
    return SECRET.lasting_key, SECRET.epochs


def test_binding_holds_even_where_the_key_is_the_same():
    """Epoch and chunk id make the key; codec, length, vault and namespace stand in the associated data."""
    sealed = sealed_chunk()
    for vault, codec, length in [(VaultId(bytes(16)), 0, 9), (VAULT, 1, 9), (VAULT, 0, 8)]:
        with pytest.raises(DamageError):
            open_chunk(KEYS, vault, ChunkBinding(CHUNK, 1, codec, length), sealed, "pack")


def test_every_flipped_bit_and_truncation_is_found():
    sealed = bytes(sealed_chunk())
    for bit in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamageError):
            open_chunk(KEYS, VAULT, ChunkBinding(CHUNK, 1, 0, len(DATA)), damaged, "pack")
    for length in range(len(sealed)):
        with pytest.raises(DamageError):
            open_chunk(KEYS, VAULT, ChunkBinding(CHUNK, 1, 0, len(DATA)), sealed[:length], "pack")


def test_an_unknown_epoch_is_damage():
    with pytest.raises(DamageError, match="key number 9"):
        open_chunk(KEYS, VAULT, ChunkBinding(CHUNK, 9, 0, len(DATA)), sealed_chunk(), "pack")


def test_an_id_of_a_wrong_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        seal_chunk(KEYS, VAULT, ChunkBinding(ChunkId(b"short"), 1, 0, 1), b"x", SeededEntropy(1))
