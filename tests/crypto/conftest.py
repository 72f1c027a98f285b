"""A small vault with cheap Argon2 parameters, made from a seed."""

import msgspec
import pytest

from tgdav.crypto.header import Header, make_header
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys, new_namespace_secret
from tgdav.crypto.passphrase import Argon2Parameters, Passphrase
from tgdav.crypto.recovery_key import RecoveryKey, new_recovery_key
from tgdav.ids import NamespaceId, VaultId

from .seeded import SeededEntropy

CHEAP = Argon2Parameters(memory_kib=1024, iterations=1, parallelism=1)
PASSPHRASE = Passphrase("correct horse battery staple")


class Vault(msgspec.Struct):
    vault: VaultId
    master: bytes
    keys: VaultKeys
    recovery: RecoveryKey
    header: Header


@pytest.fixture
def entropy() -> SeededEntropy:
    return SeededEntropy(1)


@pytest.fixture
def vault() -> Vault:
    entropy = SeededEntropy(2)
    identity, master = VaultId(entropy.bytes(16)), entropy.bytes(32)
    recovery = new_recovery_key(entropy)
    header = make_header(identity, master, PASSPHRASE, recovery, entropy, CHEAP)
    return Vault(identity, master, VaultKeys(master, identity), recovery, header)


@pytest.fixture
def secret() -> NamespaceSecret:
    entropy = SeededEntropy(3)
    return new_namespace_secret(NamespaceId(entropy.bytes(16)), entropy)


@pytest.fixture
def keys(secret: NamespaceSecret) -> NamespaceKeys:
    return NamespaceKeys(secret.namespace, secret)
