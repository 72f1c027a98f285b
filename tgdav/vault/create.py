"""Create the local state of a new vault; and the steps that creating and joining share.

The local state is complete and durable before anything of a new vault is stored, so an interrupted ``init`` leaves a vault
that the next start brings to the store, never a store that no machine can open.
"""

from collections.abc import Iterable
from contextlib import closing

import msgspec

from tgdav.blobs.interface import BlobInfo
from tgdav.config import Config, StatePaths
from tgdav.crypto.header import later_header_label, make_header, recognise
from tgdav.crypto.keys import NamespaceKeys, VaultKeys, new_namespace_secret, wrap_namespace
from tgdav.crypto.label import label_bytes
from tgdav.crypto.machine import MachineIdentity, seal_machine
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import format_recovery_key, new_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.db.database import Database
from tgdav.errors import NewerFormat, NotLoggedIn, UsageError
from tgdav.ids import MachineId, NamespaceId, VaultId
from tgdav.platform import Platform
from tgdav.replication.log_identity import begin_log, machine_name, namespace_name, open_journal
from tgdav.vault.lock import StateLock
from tgdav.vault.state_dir import LocalNamespace, LocalVault, prepare_state, save_header, save_vault, vault_exists
from tgdav.vault.stores import open_store
from tgdav.vault.telegram_login import TelegramLogin, drop_pending, load_pending, save_login
from tgdav.vault.unlock import argon2_parameters


class CreatedVault(msgspec.Struct, frozen=True):
    """A new vault. The recovery key is shown once and not stored in plaintext."""

    vault: VaultId
    recovery_key: str


def create_state(paths: StatePaths, config: Config, passphrase: str, *, platform: Platform) -> CreatedVault:
    """Create the local state of a new vault; ``paths`` are those of ``config``. The store is read, not written.

    Raises UsageError if a vault exists here or in the store; StoreUnavailable; AccessError (no login at Telegram).
    """
    refuse_existing(paths)
    prepare_state(paths, platform.disk)
    lock = StateLock(paths.lock_file)
    try:
        refuse_existing(paths)  # again: another process may have created one before this one had the lock
        login = login_before_vault(paths, config, Passphrase(passphrase))
        with closing(open_store(config, paths, platform, create=True, login=login).store) as store:
            refuse_vault(store.list())
        return _create_local(paths, config, passphrase, login, platform)
    finally:
        lock.release()


def _create_local(
    paths: StatePaths, config: Config, passphrase: str, login: TelegramLogin | None, platform: Platform
) -> CreatedVault:
    entropy = platform.entropy
    vault, master, recovery = VaultId(entropy.bytes(16)), entropy.bytes(32), new_recovery_key(entropy)
    header = make_header(vault, master, Passphrase(passphrase), recovery, entropy, argon2_parameters(config))
    vault_keys = VaultKeys(master, vault)
    namespace = NamespaceId(entropy.bytes(16))
    secret = new_namespace_secret(namespace, entropy)
    identity = new_identity(config, platform)
    local = LocalNamespace(namespace, namespace_name(config), wrap_namespace(vault_keys, secret, entropy))
    database = fresh_database(paths, local, identity, platform)
    try:
        journal, incarnation = open_journal(database, identity, NamespaceKeys(namespace, secret), platform)
        begin_log(database, config, identity, journal, incarnation, epoch=1)
    finally:
        database.close()
    save_header(paths.state, header, platform.disk)
    save_local(paths, vault_keys, identity, config, local, login, platform)
    return CreatedVault(vault, format_recovery_key(recovery))


# ---- shared with joining ---------------------------------------------------------------------------------------------


def login_before_vault(paths: StatePaths, config: Config, secret: Secret) -> TelegramLogin | None:
    """Return the login that was made before the vault; None for a store that needs none.

    Raises NotLoggedIn, AccessError (sealed with another secret), DamageError.
    """
    if config.backend() != "telegram":
        return None
    found = load_pending(paths.state, secret)
    if found is None:
        raise NotLoggedIn
    return found


def refuse_vault(blobs: Iterable[BlobInfo]) -> None:
    """Raise UsageError if the store has a vault header, or blobs of a vault without one; NewerFormat if a later program
    made it.
    """
    others = 0
    for info in blobs:
        if (version := later_header_label(info.label)) is not None:
            raise NewerFormat("the vault in the store", version)
        if recognise(info.label):
            raise UsageError("the store already has a vault", hint="use 'tgdav init --join' to join it")
        others += label_bytes(info.label) is not None
    if others:
        raise UsageError(
            f"the store has {others} blobs of a vault, and no header that this version knows",
            hint="use another directory or chat, or remove what is there if you do not need it",
        )


def refuse_existing(paths: StatePaths) -> None:
    """Raise UsageError if a vault exists here."""
    if vault_exists(paths.state):
        raise UsageError("there is a vault here already", hint="move its directory away first")


def new_identity(config: Config, platform: Platform) -> MachineIdentity:
    """Return a fresh identity, under the configured machine id if there is one."""
    if config.machine.id in ("", "auto", None):
        return MachineIdentity.new(platform.entropy)
    machine = MachineId(bytes.fromhex(str(config.machine.id).replace("-", "")))
    return MachineIdentity(machine, platform.entropy.bytes(32))


def fresh_database(
    paths: StatePaths, namespace: LocalNamespace, identity: MachineIdentity, platform: Platform
) -> Database:
    """Create an empty database. What an interrupted attempt left is removed: it is not the state of a vault."""
    for ending in ("", "-wal", "-shm"):
        path = paths.state / (namespace.database + ending)
        if path.exists():
            platform.disk.unlink(path)
    database = Database.open(paths.state / namespace.database, identity.database_key, disk=platform.disk)
    platform.disk.sync_directory(paths.state)
    return database


def save_local(
    paths: StatePaths,
    vault_keys: VaultKeys,
    identity: MachineIdentity,
    config: Config,
    namespace: LocalNamespace,
    login: TelegramLogin | None,
    platform: Platform,
) -> None:
    """Save the sealed local state, durably: the last step of creating and joining. From then on a vault exists here."""
    if login is not None:
        save_login(paths.state, login, vault_keys, platform)
    sealed = seal_machine(identity, vault_keys, platform.entropy)
    local = LocalVault(sealed, machine_name(config), (namespace,), 0 if login is None else login.user_id)
    save_vault(paths.state, local, vault_keys, platform.entropy, platform.disk)
    drop_pending(paths.state, platform)  # last: until ``save_vault`` returned, the login was needed for another attempt
