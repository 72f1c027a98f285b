"""A vault's life outside a running volume, for those who call it: making, joining, rebuilding."""

from tgdav.volume.joining import JoinedVault, MachineReport, join_vault, recover_vault
from tgdav.volume.key_file import key_file_passphrase
from tgdav.volume.making import CreatedVault, create_vault

__all__ = [
    "CreatedVault",
    "JoinedVault",
    "MachineReport",
    "create_vault",
    "join_vault",
    "key_file_passphrase",
    "recover_vault",
]
