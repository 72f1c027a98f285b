"""Under which keys, and in whose name, a log is written and read."""

import msgspec

from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys
from tgdav.crypto.machine import MachineIdentity
from tgdav.ids import Incarnation, MachineId, NamespaceId

INCARNATION = "incarnation"
"""The setting with this machine's incarnation, 8 bytes."""


class LogIdentity(msgspec.Struct, frozen=True):
    """What sealing, labelling and signing need. ``box`` is the namespace's key box."""

    vault_keys: VaultKeys
    keys: NamespaceKeys
    secret: NamespaceSecret
    box: bytes
    machine: MachineIdentity
    machine_name: str
    incarnation: Incarnation

    @property
    def namespace(self) -> NamespaceId:
        """The namespace whose log it is."""
        return self.keys.namespace

    @property
    def machine_id(self) -> MachineId:
        """The author."""
        return self.machine.machine
