"""The small sealed file that says which vault, machine and namespaces this state belongs to.

``state/header`` is a copy of the vault header; ``state/vault`` is sealed under the vault's machine-wrap key and holds a
``LocalVault`` in msgpack. It is written last when a vault is made or joined: without it there is no vault here.
"""

from pathlib import Path

import msgspec

from tgdav.crypto.header import Header, decode, encode
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.sealing import Kind, associated_data
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, NewerFormat, UsageError
from tgdav.ids import NamespaceId
from tgdav.volume.folders import write_file

_VERSION = 1


class LocalNamespace(msgspec.Struct, array_like=True, frozen=True):
    """A namespace whose database is here, with its key box."""

    id: NamespaceId
    name: str
    box: bytes

    @property
    def database(self) -> str:
        """The database's file name."""
        return f"{self.id.hex()}.db"


class LocalVault(msgspec.Struct, array_like=True, frozen=True):
    """What this state belongs to. ``machine`` is the sealed machine identity.

    ``account`` is the number of the Telegram account that the vault lies in, 0 for another store: known here too, so that
    a login that was lost or damaged is not replaced by another account's.
    """

    machine: bytes
    machine_name: str
    namespaces: tuple[LocalNamespace, ...]
    account: int = 0

    def namespace(self, name: str | None) -> LocalNamespace:
        """Return the namespace of a name, the first one for None. Raises UsageError."""
        for each in self.namespaces:
            if name is None or each.name == name:
                return each
        held = ", ".join(each.name for each in self.namespaces)
        raise UsageError(
            f"the namespace '{name}' is not in this vault, which holds: {held}",
            hint="this version keeps one namespace in a vault; make another vault for it, in a TGDAV_HOME and store of its own",
        )


def vault_exists(state: Path) -> bool:
    """Return whether a vault was made or joined here."""
    return (state / "vault").exists()


def load_header(state: Path) -> Header:
    """Return the local copy of the header. Raises DamageError, UsageError (no vault here)."""
    try:
        return decode((state / "header").read_bytes())
    except FileNotFoundError:
        raise UsageError("there is no vault here", hint="run 'tgdav init', or 'tgdav init --join'") from None


def save_header(state: Path, header: Header, disk: Disk) -> None:
    """Replace the local copy, durably."""
    write_file(state / "header", encode(header), disk)


def load_vault(state: Path, vault_keys: VaultKeys) -> LocalVault:
    """Return what this state belongs to. Raises DamageError, NewerFormat, UsageError (no vault here)."""
    try:
        sealed = (state / "vault").read_bytes()
    except FileNotFoundError:
        raise UsageError("there is no vault here", hint="run 'tgdav init', or 'tgdav init --join'") from None
    try:
        plaintext = vault_keys.machine_wrap.open(sealed, _binding(vault_keys), "local state")
    except DamageError:
        version = vault_keys.machine_wrap.later_version(sealed, lambda each: _binding(vault_keys, each))
        if version is None:
            raise
        raise NewerFormat("the local state", version) from None
    try:
        return msgspec.msgpack.decode(plaintext, type=LocalVault)
    except msgspec.MsgspecError as error:
        raise DamageError("the local state cannot be read", blob="local state") from error


def save_vault(state: Path, vault: LocalVault, vault_keys: VaultKeys, entropy: Entropy, disk: Disk) -> None:
    """Replace the file, durably."""
    sealed = vault_keys.machine_wrap.seal(msgspec.msgpack.encode(vault), _binding(vault_keys), entropy)
    write_file(state / "vault", sealed, disk)


def _binding(vault_keys: VaultKeys, version: int = _VERSION) -> bytes:
    return associated_data(vault_keys.vault, None, Kind.LOCAL, b"vault", version)
