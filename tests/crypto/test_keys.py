"""Keys differ where they must, agree where they must, and travel in key boxes only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.crypto import keys as keys_module
from tgdav.crypto.derivation import Purpose, derive
from tgdav.crypto.keys import (
    KEY_BOX_STEP,
    NamespaceKeys,
    NamespaceSecret,
    VaultKeys,
    new_namespace_secret,
    unwrap_namespace,
    wrap_namespace,
)
from tgdav.crypto.sealing import OVERHEAD
from tgdav.errors import DamageError
from tgdav.ids import ChunkId, NamespaceId, NodeId, VaultId

from .conftest import Vault
from .seeded import SeededEntropy

PARENT = NodeId(b"p" * 16)


def test_every_purpose_has_an_info_and_a_key_of_its_own():
    infos = [purpose.value for purpose in Purpose]
    assert len(set(infos)) == len(infos)
    assert len({derive(b"secret", purpose, b"salt") for purpose in Purpose}) == len(infos)


def test_derivation_is_rfc_5869():
    import hashlib
    import hmac

    pseudorandom = hmac.digest(b"salt", b"secret", hashlib.sha256)
    expected = hmac.digest(pseudorandom, Purpose.EPOCH_LOG.value + b"\x01", hashlib.sha256)
    assert derive(b"secret", Purpose.EPOCH_LOG, b"salt") == expected


def test_key_box_roundtrip(vault: Vault, secret: NamespaceSecret, entropy: SeededEntropy):
    for _ in range(20):
        box = wrap_namespace(vault.keys, secret, entropy)
        assert unwrap_namespace(vault.keys, secret.namespace, memoryview(box)) == secret
        assert (len(box) - OVERHEAD) % KEY_BOX_STEP == 0
        secret = secret.with_new_epoch(entropy)
    assert sorted(secret.epochs) == list(range(1, 22))


def test_key_boxes_of_few_epochs_have_one_length(vault: Vault, secret: NamespaceSecret, entropy: SeededEntropy):
    newer = secret.with_new_epoch(entropy)
    assert len(wrap_namespace(vault.keys, secret, entropy)) == len(wrap_namespace(vault.keys, newer, entropy))


def test_key_box_of_another_namespace_or_vault(vault: Vault, secret: NamespaceSecret, entropy: SeededEntropy):
    box = wrap_namespace(vault.keys, secret, entropy)
    with pytest.raises(DamageError):
        unwrap_namespace(vault.keys, NamespaceId(b"x" * 16), box)
    for other in (VaultKeys(bytes(32), vault.vault), VaultKeys(vault.master, VaultId(b"x" * 16))):
        with pytest.raises(DamageError):
            unwrap_namespace(other, secret.namespace, box)


def test_damaged_key_box(vault: Vault, secret: NamespaceSecret, entropy: SeededEntropy):
    box = wrap_namespace(vault.keys, secret, entropy)
    for place in range(len(box)):
        with pytest.raises(DamageError):
            unwrap_namespace(vault.keys, secret.namespace, box[:place] + bytes([box[place] ^ 1]) + box[place + 1 :])
        with pytest.raises(DamageError):
            unwrap_namespace(vault.keys, secret.namespace, box[:place])


@given(st.binary(max_size=600))
def test_fuzzed_key_box_plaintext(plaintext: bytes):
    vault_keys, namespace = VaultKeys(bytes(32), VaultId(bytes(16))), NamespaceId(bytes(16))
    binding = keys_module._box_binding(vault_keys, namespace)
    with pytest.raises(DamageError):
        unwrap_namespace(vault_keys, namespace, vault_keys.namespace_wrap.seal(plaintext, binding, SeededEntropy(1)))


def test_a_key_box_has_one_form_only(vault: Vault, secret: NamespaceSecret, entropy: SeededEntropy):
    """No bytes where zeros are due, no epochs out of order or twice, no missing padding."""
    right = secret.with_new_epoch(entropy).encode()
    one, two = right[50:86], right[86:122]
    forms = [right[:-1] + b"x", right + bytes(KEY_BOX_STEP), right[:122], right[:50] + two + one + right[122:]]
    forms.append(right[:50] + one + one + right[122:])
    binding = keys_module._box_binding(vault.keys, secret.namespace)
    assert unwrap_namespace(
        vault.keys, secret.namespace, vault.keys.namespace_wrap.seal(right, binding, entropy)
    ) == secret.with_new_epoch(SeededEntropy(1))
    for form in forms:
        with pytest.raises(DamageError, match="malformed"):
            unwrap_namespace(vault.keys, secret.namespace, vault.keys.namespace_wrap.seal(form, binding, entropy))


@pytest.mark.parametrize("epochs", [{}, {number: bytes(32) for number in range(1001)}])
def test_secrets_of_no_or_too_many_epochs(epochs: dict[int, bytes]):
    with pytest.raises(ValueError, match="epochs"):
        NamespaceSecret(NamespaceId(bytes(16)), bytes(32), epochs)


def test_the_secret_of_another_namespace_is_refused(secret: NamespaceSecret):
    with pytest.raises(ValueError, match="another namespace"):
        NamespaceKeys(NamespaceId(b"x" * 16), secret)


def test_a_master_key_of_a_wrong_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        VaultKeys(b"short", VaultId(bytes(16)))


def test_which_keys_change_with_the_epoch(secret: NamespaceSecret, entropy: SeededEntropy):
    old, new = (NamespaceKeys(secret.namespace, each) for each in (secret, secret.with_new_epoch(entropy)))
    chunk = old.chunk_id(b"data")
    assert (old.current_epoch, new.current_epoch) == (1, 2)
    assert chunk == new.chunk_id(b"data")
    assert old.chunker_seed == new.chunker_seed
    assert old.content_tag(b"manifest") == new.content_tag(b"manifest")
    assert old.directory_id(PARENT, b"a") == new.directory_id(PARENT, b"a")
    for key in (lambda keys, epoch: keys.chunk_key(chunk, epoch), NamespaceKeys.pack_index_key, NamespaceKeys.log_key):
        assert key(old, 1) == key(new, 1) != key(new, 2)
        with pytest.raises(DamageError, match="key number 2"):
            key(old, 2)


def test_namespaces_have_nothing_in_common(secret: NamespaceSecret):
    """Not even with one secret: every key is salted with the namespace's id."""
    other = NamespaceSecret(NamespaceId(b"o" * 16), secret.lasting_key, secret.epochs)
    one, two = NamespaceKeys(secret.namespace, secret), NamespaceKeys(other.namespace, other)
    chunk = ChunkId(bytes(32))
    assert one.chunk_id(b"x") != two.chunk_id(b"x")
    assert one.chunk_key(chunk, 1) != two.chunk_key(chunk, 1)
    assert one.chunker_seed != two.chunker_seed
    assert one.content_tag(b"x") != two.content_tag(b"x")
    assert one.directory_id(PARENT, b"x") != two.directory_id(PARENT, b"x")


def test_all_keys_of_a_namespace_differ(keys: NamespaceKeys):
    chunk = keys.chunk_id(b"x")
    made = [chunk, keys.chunk_key(chunk, 1), keys.pack_index_key(1), keys.log_key(1)]
    made += [keys.content_tag(b"x"), keys.directory_id(PARENT, b""), keys.directory_entry_id(PARENT, b"")]
    assert len(set(made)) == len(made)


def test_directory_ids(keys: NamespaceKeys):
    other = NodeId(b"q" * 16)
    places = [(PARENT, b"a"), (PARENT, b"b"), (PARENT, b""), (other, b"a")]
    made = [make(*place) for place in places for make in (keys.directory_id, keys.directory_entry_id)]
    assert len(set(made)) == len(made)
    assert {len(each) for each in made} == {16}
    with pytest.raises(ValueError, match="16 bytes"):
        keys.directory_id(NodeId(b"short"), b"a")


def test_lengths(keys: NamespaceKeys):
    assert len(keys.chunk_id(memoryview(b"x"))) == 32
    assert len(keys.chunk_key(keys.chunk_id(b""), 1)) == 32
    assert len(keys.content_tag(b"")) == 16
    assert 0 <= keys.chunker_seed < 2**64


def test_nothing_shows_a_key(vault: Vault, secret: NamespaceSecret, keys: NamespaceKeys):
    shown = repr((vault.keys, secret, keys))
    assert repr(secret.lasting_key) not in shown
    assert secret.lasting_key.hex() not in shown


def test_fresh_secrets_differ(entropy: SeededEntropy):
    namespace = NamespaceId(bytes(16))
    assert new_namespace_secret(namespace, entropy) != new_namespace_secret(namespace, entropy)
    assert new_namespace_secret(namespace, entropy) != "text"
    assert len({new_namespace_secret(namespace, SeededEntropy(seed)) for seed in (1, 1, 2)}) == 2
