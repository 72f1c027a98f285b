"""Join a vault, which is also how to recover it: rebuild the local state from the store, and become the writer.

An interrupted attempt has no effect: the next one starts again. Once the state is complete the vault is joined locally; this
machine's first segment, which makes it the writer, is pushed afterwards, by the next start if it was interrupted.
"""

from contextlib import closing

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.config import Config, StatePaths
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys, wrap_namespace
from tgdav.crypto.machine import MachineIdentity
from tgdav.crypto.slots import Secret
from tgdav.errors import DamageError
from tgdav.ids import Incarnation
from tgdav.platform import Platform
from tgdav.replication.blob_listing import BlobListing
from tgdav.replication.intake import LeftOut
from tgdav.replication.log_identity import LogIdentity, machine_name, namespace_name
from tgdav.replication.rebuild import Progress, Rebuilt, find_secret, rebuild
from tgdav.vault import create
from tgdav.vault.lock import StateLock
from tgdav.vault.state_dir import LocalNamespace, prepare_state, save_header
from tgdav.vault.stores import open_store
from tgdav.vault.telegram_login import TelegramLogin
from tgdav.vault.unlock import unlock_store
from tgdav.wording import describe_damage, machine_names


class MachineReport(msgspec.Struct, frozen=True):
    """The last operation of a machine in the store. ``last_operation`` in ns since 1970, 0 if there is none."""

    id: str
    name: str
    last_operation: int
    last_sequence: int


class JoinedVault(msgspec.Struct):
    """What joining found. ``damage`` has a line for everything that is missing or does not open.

    ``replaced`` is the name of the writer before, with its short id if the name repeats; ``name`` is this machine's.
    ``left_out``: what machines wrote after they had been replaced. ``held``: why this machine is not the writer yet.
    """

    epoch: int
    replaced: str
    machines: list[MachineReport]
    damage: list[str]
    name: str = ""
    left_out: list[LeftOut] = []
    held: str = ""


def join_state(
    paths: StatePaths, config: Config, secret: Secret, *, platform: Platform, progress: Progress | None = None
) -> JoinedVault:
    """Rebuild the local state from the store, under a membership that the store does not have yet.

    ``paths`` are those of ``config``. Raises AccessError (wrong secret, no login at Telegram), UsageError (a vault is here,
    or none in the store), StoreUnavailable, DamageError (no header or no log opens).
    """
    create.refuse_existing(paths)
    prepare_state(paths, platform.disk)
    lock = StateLock(paths.lock_file)
    try:
        create.refuse_existing(paths)  # again: another process may have joined before this one had the lock
        return _join_local(paths, config, secret, platform, progress or _silent)
    finally:
        lock.release()


def _silent(_what: str, _done: int, _total: int) -> None:
    return


def _join_local(
    paths: StatePaths, config: Config, secret: Secret, platform: Platform, progress: Progress
) -> JoinedVault:
    login = create.login_before_vault(paths, config, secret)
    with closing(open_store(config, paths, platform, login=login).store) as store:
        return _join_from(store, paths, config, secret, login, platform, progress)


def _join_from(
    store: BlobStore,
    paths: StatePaths,
    config: Config,
    secret: Secret,
    login: TelegramLogin | None,
    platform: Platform,
    progress: Progress,
) -> JoinedVault:
    blobs = list(store.list())
    master, header = unlock_store(store, blobs, secret)
    vault_keys = VaultKeys(master, header.vault)
    listing = BlobListing(blobs, vault_keys)
    listing.refuse_later()
    found = listing.namespaces()
    if not found:
        raise DamageError("the store has a vault header, but no segment of its log", blob="log")
    namespace_secret = find_secret(store, listing, vault_keys, found[0])
    result, identity, local = _rebuild(paths, config, store, listing, vault_keys, namespace_secret, platform, progress)
    save_header(paths.state, header, platform.disk)
    create.save_local(paths, vault_keys, identity, config, local, login, platform)
    return result


def _rebuild(
    paths: StatePaths,
    config: Config,
    store: BlobStore,
    listing: BlobListing,
    vault_keys: VaultKeys,
    secret: NamespaceSecret,
    platform: Platform,
    progress: Progress,
) -> tuple[JoinedVault, MachineIdentity, LocalNamespace]:
    identity = create.new_identity(config, platform)
    keys = NamespaceKeys(secret.namespace, secret)
    box = wrap_namespace(vault_keys, secret, platform.entropy)
    log = LogIdentity(vault_keys, keys, secret, box, identity, machine_name(config), Incarnation(0))
    local = LocalNamespace(secret.namespace, namespace_name(config), box)
    database = create.fresh_database(paths, local, identity, platform)
    try:
        rebuilt, epoch = rebuild(database, store, listing, log, config, platform, progress)
    finally:
        database.close()
    return _report(rebuilt, epoch, machine_name(config)), identity, local


def _report(rebuilt: Rebuilt, epoch: int, name: str) -> JoinedVault:
    machines = []
    for machine, member in rebuilt.members.items():
        heads = [head for head in rebuilt.heads.values() if head.machine == machine]
        last = max(heads, key=lambda head: head.time, default=None)
        machines.append(
            MachineReport(machine.hex(), member.name, last.time if last else 0, last.sequence if last else 0)
        )
    names = machine_names([*((each.id, each.name) for each in machines), ("", name)])
    replaced = names[rebuilt.writer.machine.hex()] if rebuilt.writer else ""
    damage = [describe_damage(each.blob, each.kind, each.reason) for each in rebuilt.damage]
    return JoinedVault(epoch, replaced, machines, damage, name)
