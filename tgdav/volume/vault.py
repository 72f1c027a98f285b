"""A vault's life outside a running volume: making, joining, rebuilding it, and changing who opens it.

Local state is complete and durable before the store hears of a new vault, so an interrupted ``init`` leaves a vault that
the next start brings to the store, never a store that no machine can open.
"""

import os
import socket
from pathlib import Path

import msgspec

from tgdav.blobs.contract import BlobStore
from tgdav.config import Config, Places
from tgdav.crdt.ops import Member, Namespace
from tgdav.crypto.header import make_header
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys, new_namespace_secret, wrap_namespace
from tgdav.crypto.machine import MachineIdentity, seal_machine
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import format_recovery_key, new_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.db.database import Database
from tgdav.db.writer import Transaction
from tgdav.errors import DamageError, UsageError
from tgdav.ids import Incarnation, MachineId, NamespaceId, VaultId
from tgdav.metadata import settings
from tgdav.metadata.change import Change
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.journal import Journal
from tgdav.replication.rebuild import Progress, Rebuilder, Rebuilt, find_secret
from tgdav.replication.survey import Survey, header_blobs
from tgdav.replication.watch import SEEN
from tgdav.volume.folders import make_folder
from tgdav.volume.local_state import LocalNamespace, LocalVault, save_header, save_vault, vault_exists
from tgdav.volume.lock import StateLock
from tgdav.volume.seams import Seams
from tgdav.volume.stores import open_store
from tgdav.volume.unlock import argon2_parameters, unlock_store
from tgdav.volume.volume import INCARNATION, Volume

DEFAULT_NAMESPACE = "default"


class CreatedVault(msgspec.Struct, frozen=True):
    """A new vault. The recovery key is shown once and kept nowhere in the clear."""

    vault: VaultId
    recovery_key: str


class MachineReport(msgspec.Struct, frozen=True):
    """The last thing that the store shows of a machine. ``last_operation`` in ns since 1970, 0 if there is none."""

    id: str
    name: str
    last_operation: int
    last_sequence: int


class JoinedVault(msgspec.Struct, frozen=True):
    """What joining or rebuilding found. ``damage`` holds a line for everything that is missing or does not open."""

    epoch: int
    replaced: str
    machines: list[MachineReport]
    damage: list[str]


def machine_name(config: Config) -> str:
    """Return what this machine is called: as configured, else its host name."""
    return config.machine.name or socket.gethostname()


def prepare_state(places: Places, seams: Seams) -> None:
    """Make the folders of the local state, private and durable."""
    for folder in (places.state, places.state / "staging", places.state / "outbox", places.state / "overlay"):
        make_folder(folder, seams.disk)
    make_folder(places.cache, seams.disk)


def _refuse_existing(places: Places) -> None:
    if vault_exists(places.state):
        raise UsageError("there is a vault here already", hint="move its folder away first")


# ---- making --------------------------------------------------------------------------------------------------------


def create_vault(places: Places, config: Config, passphrase: str, *, seams: Seams) -> CreatedVault:
    """Make a vault in the configured store. Raises UsageError where one is, here or there; StoreUnavailable."""
    places = places.for_config(config)
    _refuse_existing(places)
    prepare_state(places, seams)
    lock = StateLock(places.lock_file)
    try:
        stores = open_store(config, places, seams, create=True)
        if any(True for _ in header_blobs(stores.store.list())):
            raise UsageError("the store holds a vault already", hint="use 'tgdav init --join' to join it")
        stores.store.close()
        created = _make_local(places, config, passphrase, seams)
    finally:
        lock.release()
    volume = Volume.open(places, config, Passphrase(passphrase), seams=seams)
    try:
        volume.sync(wait=True)
    finally:
        volume.close()
    return created


def _make_local(places: Places, config: Config, passphrase: str, seams: Seams) -> CreatedVault:
    entropy = seams.entropy
    vault, master, recovery = VaultId(entropy.bytes(16)), entropy.bytes(32), new_recovery_key(entropy)
    header = make_header(vault, master, Passphrase(passphrase), recovery, entropy, argon2_parameters(config))
    vault_keys = VaultKeys(master, vault)
    namespace = NamespaceId(entropy.bytes(16))
    secret = new_namespace_secret(namespace, entropy)
    identity = _identity(config, entropy.bytes(32), seams)
    local = LocalNamespace(namespace, _namespace_name(config), wrap_namespace(vault_keys, secret, entropy))
    database = _fresh_database(places, local, identity, seams)
    try:
        incarnation = _new_incarnation(seams)
        journal = _open_journal(database, config, identity, NamespaceKeys(namespace, secret), incarnation, seams)
        _begin_log(database, config, identity, local, journal, incarnation, None)
    finally:
        database.close()
    save_header(places.state, header, seams.disk)
    _save(places, vault_keys, identity, machine_name(config), local, seams)
    return CreatedVault(vault, format_recovery_key(recovery))


def _namespace_name(config: Config) -> str:
    return config.namespaces[0].name if config.namespaces else DEFAULT_NAMESPACE


def _identity(config: Config, root: bytes, seams: Seams) -> MachineIdentity:
    if config.machine.id in ("", "auto", None):
        return MachineIdentity.new(seams.entropy)
    return MachineIdentity(MachineId(bytes.fromhex(str(config.machine.id).replace("-", ""))), root)


def _fresh_database(places: Places, namespace: LocalNamespace, identity: MachineIdentity, seams: Seams) -> Database:
    """Open an empty database; what an interrupted attempt left is no vault's state, and goes."""
    for ending in ("", "-wal", "-shm"):
        path = places.state / (namespace.database + ending)
        if path.exists():
            seams.disk.unlink(path)
    database = Database.open(places.state / namespace.database, identity.database_key, disk=seams.disk)
    seams.disk.sync_folder(places.state)
    return database


def _open_journal(
    database: Database,
    config: Config,
    identity: MachineIdentity,
    keys: NamespaceKeys,
    incarnation: Incarnation,
    seams: Seams,
) -> Journal:
    policy = HistoryPolicy(config.versioning.max_versions if config.versioning.enabled else 0)
    return Journal(database, keys, identity.machine, incarnation, seams.clock, seams.entropy, policy)


def _new_incarnation(seams: Seams) -> Incarnation:
    return Incarnation(int.from_bytes(seams.entropy.bytes(8), "big"))


def _begin_log(
    database: Database,
    config: Config,
    identity: MachineIdentity,
    namespace: LocalNamespace,
    journal: Journal,
    incarnation: Incarnation,
    rebuilt: Rebuilt | None,
) -> int:
    """Log that this machine is the writer from now on; return the epoch."""
    writer = rebuilt.writer if rebuilt else None
    epoch = writer.epoch + 1 if writer else 1
    name = machine_name(config)

    def begin(transaction: Transaction) -> None:
        settings.put(transaction, INCARNATION, incarnation.to_bytes(8, "big"))

    database.writer.run(begin)
    mode = config.namespaces[0].type if config.namespaces else "standalone"
    replaces = writer.machine if writer else None
    member = Member(
        identity.machine, name, identity.signing_public, incarnation, epoch, replaces, identity.exchange_public
    )

    def work(change: Change) -> None:
        if writer is None:
            change.emit(Namespace(namespace.name, str(mode), change.time))
        change.emit(member)

    journal.change(work, durable=True)
    return epoch


def _save(
    places: Places,
    vault_keys: VaultKeys,
    identity: MachineIdentity,
    name: str,
    namespace: LocalNamespace,
    seams: Seams,
) -> None:
    sealed = seal_machine(identity, vault_keys, seams.entropy)
    save_vault(places.state, LocalVault(sealed, name, (namespace,)), vault_keys, seams.entropy, seams.disk)


# ---- joining and rebuilding ----------------------------------------------------------------------------------------


def join_vault(
    places: Places, config: Config, secret: Secret, *, seams: Seams, progress: Progress | None = None
) -> JoinedVault:
    """Rebuild the local state from the store, and become the writer. ``recover`` is the same.

    Raises AccessError (wrong secret), UsageError (a vault is here, or none in the store), StoreUnavailable, DamageError
    (no header or no log opens).
    """
    places = places.for_config(config)
    _refuse_existing(places)
    prepare_state(places, seams)
    lock = StateLock(places.lock_file)
    try:
        store = open_store(config, places, seams).store
        blobs = list(store.list())
        master, header = unlock_store(store, blobs, secret)
        vault_keys = VaultKeys(master, header.vault)
        survey = Survey(blobs, vault_keys)
        found = survey.namespaces()
        if not found:
            raise DamageError("the store holds a vault's header, but nothing of its log", blob="log")
        namespace_secret = find_secret(store, survey, vault_keys, found[0])
        joined = _rebuild(places, config, store, survey, vault_keys, namespace_secret, seams, progress or _silent)
        save_header(places.state, header, seams.disk)
        result, identity, local = joined
        _save(places, vault_keys, identity, machine_name(config), local, seams)
        store.close()
    finally:
        lock.release()
    volume = Volume.open(places, config, secret, seams=seams)
    try:
        volume.sync(wait=True)
    finally:
        volume.close()
    return result


recover_vault = join_vault


def _silent(_what: str, _done: int, _total: int) -> None:
    return


def _rebuild(
    places: Places,
    config: Config,
    store: BlobStore,
    survey: Survey,
    vault_keys: VaultKeys,
    secret: NamespaceSecret,
    seams: Seams,
    progress: Progress,
) -> tuple[JoinedVault, MachineIdentity, LocalNamespace]:
    identity = _identity(config, seams.entropy.bytes(32), seams)
    keys = NamespaceKeys(secret.namespace, secret)
    box = wrap_namespace(vault_keys, secret, seams.entropy)
    local = LocalNamespace(secret.namespace, _namespace_name(config), box)
    database = _fresh_database(places, local, identity, seams)
    try:
        incarnation = _new_incarnation(seams)

        def open_journal() -> Journal:
            return _open_journal(database, config, identity, keys, incarnation, seams)

        rebuilder = Rebuilder(store, survey, vault_keys, keys, database, seams.clock, open_journal, progress)
        rebuilt, journal = rebuilder.run()
        database.writer.run(lambda transaction: settings.put(transaction, SEEN, survey.last))
        epoch = _begin_log(database, config, identity, local, journal, incarnation, rebuilt)
    finally:
        database.close()
    return _report(rebuilt, epoch), identity, local


def _report(rebuilt: Rebuilt, epoch: int) -> JoinedVault:
    machines = []
    for machine, member in rebuilt.members.items():
        heads = [head for head in rebuilt.heads.values() if head.machine == machine]
        last = max(heads, key=lambda head: head.time, default=None)
        machines.append(
            MachineReport(machine.hex(), member.name, last.time if last else 0, last.sequence if last else 0)
        )
    replaced = rebuilt.writer.name if rebuilt.writer else ""
    return JoinedVault(epoch, replaced, machines, [f"{kind} {blob}: {reason}" for blob, kind, reason in rebuilt.damage])


def key_file_passphrase(path: Path, seams: Seams, *, make: bool) -> str | None:
    """Return the passphrase in the key file; with ``make`` a new one is made where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        if not make:
            return None
    make_folder(path.parent, seams.disk)
    text = seams.entropy.bytes(32).hex()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        seams.disk.write(descriptor, text.encode() + b"\n", 0)
        seams.disk.sync(descriptor)
    finally:
        os.close(descriptor)
    seams.disk.sync_folder(path.parent)
    return text
