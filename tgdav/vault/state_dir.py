"""The state directory: directories and small files, private and durable when a call returns; and the sealed local state.

``state/header`` is a copy of the vault header. ``state/vault`` is sealed under the vault's machine-wrap key and contains a
``LocalVault`` in msgpack; it is written last when a vault is created or joined, so without it there is no vault here.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tgdav.config import StatePaths
from tgdav.crypto.header import Header, decode, encode
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.sealing import Kind, associated_data
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NewerFormat, NoSpace, UsageError
from tgdav.ids import NamespaceId


def make_directory(directory: Path, disk: Disk) -> None:
    """Create a directory (0700) and its missing parents, durably. Raises NoSpace, LocalFailure."""
    missing = []
    each = directory
    while not each.exists():
        missing.append(each)
        each = each.parent
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            disk.sync_directory(path.parent)  # a new name is durable once its directory is synced
    except OSError as error:
        raise _translated(error, directory) from error


def prepare_state(paths: StatePaths, disk: Disk) -> None:
    """Create the directories of the local state, private and durable. Raises NoSpace, LocalFailure."""
    for directory in (paths.state, paths.state / "staging", paths.state / "outbox", paths.state / "overlay"):
        make_directory(directory, disk)
    make_directory(paths.cache, disk)


def write_file(path: Path, data: bytes, disk: Disk) -> None:
    """Replace a file (0600) atomically: after a crash its content is the old or the new; durable on return.

    Raises NoSpace, LocalFailure.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # the same name each time: a crash leaves at most one
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            disk.write(descriptor, data, 0)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)
        disk.rename(temporary, path)
        disk.sync_directory(path.parent)  # else a power cut may undo the rename
    except OSError as error:
        raise _translated(error, path) from error


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise NoSpace or LocalFailure for an OSError at ``path``."""
    try:
        yield
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: Path) -> NoSpace | LocalFailure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"the disk that holds {path} is full")
    return LocalFailure(f"{path} could not be used: {error.strerror}")


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
    """The vault, machine and namespaces of this state. ``machine`` is the sealed machine identity.

    ``account`` is the id of the Telegram account that stores the vault, 0 for another store. It is here too so that a lost or
    damaged login is not replaced by the login of another account.
    """

    machine: bytes
    machine_name: str
    namespaces: tuple[LocalNamespace, ...]
    account: int = 0

    def namespace(self, name: str | None) -> LocalNamespace:
        """Return the namespace with a name, the first one for None. Raises UsageError."""
        for each in self.namespaces:
            if name is None or each.name == name:
                return each
        held = ", ".join(each.name for each in self.namespaces)
        raise UsageError(
            f"the namespace '{name}' is not in this vault, which contains: {held}",
            hint="this version keeps one namespace in a vault; make another vault for it, in a TGDAV_HOME and store of its own",
        )


def vault_exists(state: Path) -> bool:
    """Return whether a vault was created or joined here."""
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
    """Return the opened ``state/vault``. Raises DamageError, NewerFormat, UsageError (no vault here)."""
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
