"""Joining a vault, which is also recovering it: the local state is rebuilt from the store, and this machine writes on.

An interrupted attempt leaves nothing that counts: the next one begins anew. Once the state is complete the vault is
joined here, and the store is told by the next start if not now.
"""

from contextlib import closing

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.config import Config, StatePaths
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys, wrap_namespace
from tgdav.crypto.machine import MachineIdentity
from tgdav.crypto.slots import Secret
from tgdav.errors import DamageError
from tgdav.platform import Platform
from tgdav.replication.intake import LeftOut, left_out
from tgdav.replication.rebuild import Progress, Rebuilt, find_secret
from tgdav.replication.survey import Survey
from tgdav.volume import making
from tgdav.volume.findings import described
from tgdav.volume.folders import prepare_state
from tgdav.volume.local_state import LocalNamespace, save_header
from tgdav.volume.lock import StateLock
from tgdav.volume.log_start import machine_name, namespace_name
from tgdav.volume.rebuilding import rebuild
from tgdav.volume.stores import open_store
from tgdav.volume.telegram_login import TelegramLogin
from tgdav.volume.unlock import unlock_store
from tgdav.volume.volume import Volume
from tgdav.wording import machine_names


class MachineReport(msgspec.Struct, frozen=True):
    """The last thing that the store shows of a machine. ``last_operation`` in ns since 1970, 0 if there is none."""

    id: str
    name: str
    last_operation: int
    last_sequence: int


class JoinedVault(msgspec.Struct):
    """What joining or rebuilding found. ``damage`` holds a line for everything that is missing or does not open.

    ``replaced`` is what to call the writer before: its name, with its short id where a machine's name repeats.
    ``name`` is this machine's. ``left_out``: what was made after its machine had been replaced. ``held``: why this machine
    is not the writer yet.
    """

    epoch: int
    replaced: str
    machines: list[MachineReport]
    damage: list[str]
    name: str = ""
    left_out: list[LeftOut] = []
    held: str = ""


def join_vault(
    places: StatePaths, config: Config, secret: Secret, *, platform: Platform, progress: Progress | None = None
) -> JoinedVault:
    """Rebuild the local state from the store, and become the writer. ``recover`` is the same.

    Raises AccessError (wrong secret, no login at Telegram), UsageError (a vault is here, or none in the store),
    StoreUnavailable, DamageError (no header or no log opens), WriterReplaced (another machine joined meanwhile).
    """
    places = places.for_config(config)
    making.refuse_existing(places)
    prepare_state(places, platform.disk)
    lock = StateLock(places.lock_file)
    try:
        making.refuse_existing(places)
        result = _join_local(places, config, secret, platform, progress or _silent)
    finally:
        lock.release()
    volume = Volume.open(places, config, secret, platform=platform)
    try:
        volume.sync(wait=True)
    except DamageError as error:
        # What was rebuilt is here and is shown; joining goes on once a check has said what is missing.
        result.held = str(error)
    finally:
        with volume.database.reading() as connection:
            result.left_out = left_out(connection)
        volume.close()
    return result


recover_vault = join_vault


def _silent(_what: str, _done: int, _total: int) -> None:
    return


def _join_local(
    places: StatePaths, config: Config, secret: Secret, platform: Platform, progress: Progress
) -> JoinedVault:
    login = making.login_before_vault(places, config, secret)
    with closing(open_store(config, places, platform, login=login).store) as store:
        return _join_from(store, places, config, secret, login, platform, progress)


def _join_from(
    store: BlobStore,
    places: StatePaths,
    config: Config,
    secret: Secret,
    login: TelegramLogin | None,
    platform: Platform,
    progress: Progress,
) -> JoinedVault:
    blobs = list(store.list())
    master, header = unlock_store(store, blobs, secret)
    vault_keys = VaultKeys(master, header.vault)
    survey = Survey(blobs, vault_keys)
    survey.refuse_later()
    found = survey.namespaces()
    if not found:
        raise DamageError("the store holds a vault's header, but nothing of its log", blob="log")
    namespace_secret = find_secret(store, survey, vault_keys, found[0])
    result, identity, local = _rebuild(places, config, store, survey, vault_keys, namespace_secret, platform, progress)
    save_header(places.state, header, platform.disk)
    making.save_local(places, vault_keys, identity, config, local, login, platform)
    return result


def _rebuild(
    places: StatePaths,
    config: Config,
    store: BlobStore,
    survey: Survey,
    vault_keys: VaultKeys,
    secret: NamespaceSecret,
    platform: Platform,
    progress: Progress,
) -> tuple[JoinedVault, MachineIdentity, LocalNamespace]:
    identity = making.new_identity(config, platform)
    keys = NamespaceKeys(secret.namespace, secret)
    box = wrap_namespace(vault_keys, secret, platform.entropy)
    local = LocalNamespace(secret.namespace, namespace_name(config), box)
    database = making.fresh_database(places, local, identity, platform)
    try:
        rebuilt, epoch = rebuild(database, store, survey, vault_keys, keys, identity, config, platform, progress)
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
    damage = [described(each.blob, each.kind, each.reason) for each in rebuilt.damage]
    return JoinedVault(epoch, replaced, machines, damage, name)
