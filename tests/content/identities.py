"""Keys made from a seed."""

from tests.crypto.seeded import SeededEntropy
from tgdav.content.format.sealer import ContentIdentity
from tgdav.crypto.keys import NamespaceKeys, VaultKeys, new_namespace_secret
from tgdav.ids import Incarnation, MachineId, NamespaceId, VaultId


def make_identity(seed: int = 7) -> ContentIdentity:
    entropy = SeededEntropy(seed)
    vault_keys = VaultKeys(entropy.bytes(32), VaultId(entropy.bytes(16)))
    secret = new_namespace_secret(NamespaceId(entropy.bytes(16)), entropy)
    keys = NamespaceKeys(secret.namespace, secret)
    return ContentIdentity(
        vault_keys=vault_keys, keys=keys, machine=MachineId(entropy.bytes(16)), incarnation=Incarnation(5)
    )
