"""A machine's identity: kept sealed, signs, and its keys are nobody else's."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.machine import MachineIdentity, open_machine, seal_machine, verify
from tgdav.errors import DamageError
from tgdav.ids import MachineId, NodeId, VaultId

from .conftest import Vault
from .seeded import SeededEntropy

NODE, SALT = NodeId(b"n" * 16), b"s" * 16


@pytest.fixture
def identity(entropy: SeededEntropy) -> MachineIdentity:
    return MachineIdentity.new(entropy)


def all_keys(identity: MachineIdentity) -> list[bytes]:
    keys = [identity.database_key, identity.staging_key, identity.cache_key, identity.overlay_key(NODE, SALT)]
    return [*keys, identity.signing_key.private_bytes_raw(), identity.exchange_key.private_bytes_raw()]


def test_the_id_is_a_uuid_of_version_4(identity: MachineIdentity):
    assert uuid.UUID(bytes=identity.machine).version == 4
    assert uuid.UUID(bytes=identity.machine).variant == uuid.RFC_4122


def test_roundtrip(identity: MachineIdentity, vault: Vault, entropy: SeededEntropy):
    opened = open_machine(seal_machine(identity, vault.keys, entropy), vault.keys)
    assert opened.machine == identity.machine
    assert all_keys(opened) == all_keys(identity)
    assert opened.signing_public == identity.signing_public
    assert opened.exchange_public == identity.exchange_public


def test_damage_and_other_vaults(identity: MachineIdentity, vault: Vault, entropy: SeededEntropy):
    sealed = seal_machine(identity, vault.keys, entropy)
    for place in range(len(sealed)):
        with pytest.raises(DamageError):
            open_machine(sealed[:place] + bytes([sealed[place] ^ 128]) + sealed[place + 1 :], vault.keys)
        with pytest.raises(DamageError):
            open_machine(sealed[:place], vault.keys)
    for other in (VaultKeys(bytes(32), vault.vault), VaultKeys(vault.master, VaultId(b"x" * 16))):
        with pytest.raises(DamageError):
            open_machine(sealed, other)


def test_a_key_box_does_not_pass_for_an_identity(identity: MachineIdentity, vault: Vault, entropy: SeededEntropy):
    with pytest.raises(DamageError):
        open_machine(vault.keys.namespace_wrap.seal(identity.machine + identity.root, b"", entropy), vault.keys)


def test_an_identity_of_a_wrong_length_under_the_right_key(vault: Vault, entropy: SeededEntropy):
    from tgdav.crypto import machine

    sealed = vault.keys.machine_wrap.seal(bytes(47), machine._binding(vault.keys), entropy)
    with pytest.raises(DamageError, match="malformed"):
        open_machine(sealed, vault.keys)


@given(st.binary(max_size=200))
def test_garbage_raises_damage(garbage: bytes):
    with pytest.raises(DamageError):
        open_machine(garbage, VaultKeys(bytes(32), VaultId(bytes(16))))


def test_signatures(identity: MachineIdentity, entropy: SeededEntropy):
    signature = identity.sign(b"message")
    other = MachineIdentity.new(entropy)
    assert verify(identity.signing_public, signature, b"message")
    assert not verify(identity.signing_public, signature, b"Message")
    assert not verify(other.signing_public, signature, b"message")
    for bit in range(512):
        damaged = bytearray(signature)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not verify(identity.signing_public, bytes(damaged), b"message")


@given(st.binary(max_size=40), st.binary(max_size=80))
def test_garbage_verifies_nothing(public: bytes, signature: bytes):
    assert not verify(public, signature, b"message")


def test_all_keys_differ(identity: MachineIdentity, entropy: SeededEntropy):
    keys = all_keys(identity) + all_keys(MachineIdentity.new(entropy))
    assert len(set(keys)) == 12
    assert {len(key) for key in keys} == {32}


def test_overlay_keys_are_one_a_file(identity: MachineIdentity):
    keys = {identity.overlay_key(node, salt) for node in (NODE, NodeId(bytes(16))) for salt in (SALT, bytes(16))}
    assert len(keys) == 4
    for node, salt in [(NodeId(b"n" * 15), SALT), (NODE, b"s" * 17)]:
        with pytest.raises(ValueError, match="16 bytes"):
            identity.overlay_key(node, salt)


@pytest.mark.parametrize(("machine", "root"), [(b"m" * 15, bytes(32)), (b"m" * 16, bytes(31))])
def test_parts_of_a_wrong_length_are_refused(machine: bytes, root: bytes):
    with pytest.raises(ValueError, match="16 bytes"):
        MachineIdentity(MachineId(machine), root)


def test_nothing_shows_a_key(identity: MachineIdentity):
    shown = repr(identity) + str(identity)
    assert not any(repr(key) in shown or key.hex() in shown for key in [identity.root, *all_keys(identity)])
