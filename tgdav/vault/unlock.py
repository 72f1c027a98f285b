"""Unlock a vault with a secret: by the headers in the store, or by the local header; the key file; the cost of unlocking."""

from collections.abc import Callable, Iterable
from pathlib import Path

from tgdav.blobs.interface import BlobInfo, BlobStore
from tgdav.config import Config, StatePaths
from tgdav.crypto.header import HEADER_BYTES, Header, decode, later_header_label, recognise, try_headers
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.machine import MachineIdentity, open_machine
from tgdav.crypto.passphrase import Argon2Parameters
from tgdav.crypto.slots import Secret, kind_for
from tgdav.errors import AccessError, BlobMissing, DamageError, NewerFormat, StoreUnavailable, TgdavError, UsageError
from tgdav.platform import Platform
from tgdav.vault.state_dir import LocalVault, load_header, load_vault, make_directory, write_file
from tgdav.vault.stores import Stores


def unlock_store(
    store: BlobStore,
    blobs: Iterable[BlobInfo],
    secret: Secret,
    worth_trying: Callable[[Header], bool] = lambda _header: True,
) -> tuple[bytes, Header]:
    """Return the master key and the newest header in the store that ``secret`` opens.

    Raises UsageError (no vault), DamageError (no header can be read), NewerFormat (none opens, and a later program made one),
    AccessError.
    """
    headers: list[Header] = []
    problem: TgdavError | None = None  # reported only if no header opens; a newer format explains most
    for info in blobs:
        try:
            if (version := later_header_label(info.label)) is not None:
                raise NewerFormat("the vault in the store", version)
            if recognise(info.label):
                headers.append(decode(store.read(info.id, 0, HEADER_BYTES)))
        except (DamageError, BlobMissing, NewerFormat) as error:
            problem = error if not isinstance(problem, NewerFormat) else problem
    try:
        if headers:
            return try_headers([header for header in headers if worth_trying(header)], secret)
    except AccessError:
        if isinstance(problem, NewerFormat):
            raise problem from None
        raise
    if problem is not None:
        raise problem
    raise UsageError("the store has no vault", hint="use 'tgdav init' to create one")


class Unlocked:
    """Keys and local state that the secret opened.

    Raises AccessError, DamageError, UsageError (no vault here).
    """

    def __init__(self, paths: StatePaths, secret: Secret, stores: Stores) -> None:
        header = self.saved_header = load_header(paths.state)
        try:
            self.master, self.header = try_headers([header], secret)
        except AccessError as error:
            # Another machine may have changed the secret; then only the headers in the store show it.
            if stores.account is not None:
                # The login that reaches the store is sealed by this very vault.
                raise AccessError(error.message, hint=CHANGED_ELSEWHERE) from None
            self.master, self.header = _from_store(stores.store, secret, header, error)
        self.vault_keys = VaultKeys(self.master, self.header.vault)
        self.local: LocalVault = load_vault(paths.state, self.vault_keys)
        self.identity: MachineIdentity = open_machine(self.local.machine, self.vault_keys)


def _from_store(store: BlobStore, secret: Secret, local: Header, refusal: AccessError) -> tuple[bytes, Header]:
    """Try the headers in the store, except the slot that refused the secret already: each attempt costs an Argon2 run."""
    kind = kind_for(secret)
    tried = local.slot(kind)
    try:
        master, header = unlock_store(
            store, store.list(), secret, lambda each: each.vault == local.vault and each.slot(kind) != tried
        )
    except NewerFormat:
        raise
    except (StoreUnavailable, UsageError, DamageError, AccessError):
        raise refusal from None
    return master, header


CHANGED_ELSEWHERE = (
    "if it was changed on another machine, run 'tgdav sync' once with the one from before, then the new one opens;"
    " or set one for all machines with 'tgdav passwd' and the recovery key"
)
"""The hint if the headers in the store cannot be read because the login for it is sealed by this vault."""


def argon2_parameters(config: Config) -> Argon2Parameters:
    """Return the configured Argon2 parameters for the passphrase."""
    wanted = config.encryption
    return Argon2Parameters(wanted.argon2_memory_kib, wanted.argon2_iterations, wanted.argon2_parallelism)


def unlock_local(state: Path, secret: Secret) -> VaultKeys:
    """Return the vault's keys by the local header alone. Raises AccessError, DamageError, UsageError (no vault here)."""
    try:
        master, header = try_headers([load_header(state)], secret)
    except AccessError as error:
        raise AccessError(error.message, hint=CHANGED_ELSEWHERE) from None
    return VaultKeys(master, header.vault)


def key_file_passphrase(path: Path, platform: Platform, *, make: bool) -> str | None:
    """Return the passphrase in the key file, None if there is no file; ``make`` creates it with a random passphrase.

    Raises DamageError (the file is empty), NoSpace, LocalFailure.
    """
    try:
        found = path.read_text(encoding="utf-8-sig", errors="replace").strip()
    except FileNotFoundError:
        if not make:
            return None
    else:
        if not found:
            raise DamageError(f"the key file {path} is empty", blob="key file", hint="put the passphrase into it")
        return found
    made = platform.entropy.bytes(32).hex()
    make_directory(path.parent, platform.disk)
    write_file(path, made.encode() + b"\n", platform.disk)
    return made
