"""Whose log it is: keys, machine and incarnation; and how a machine's log begins."""

import socket

import msgspec

from tgdav.config import Config
from tgdav.crdt.ops import Member, Namespace, TrashPolicy, VersionPolicy
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys
from tgdav.crypto.machine import MachineIdentity
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.ids import Incarnation, MachineId, NamespaceId
from tgdav.metadata import settings
from tgdav.metadata.change import Change
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform

INCARNATION = "incarnation"
"""The setting with this machine's incarnation, 8 bytes."""
PREDECESSOR = "writer.predecessor"
"""The incarnation that this machine replaced as the writer, 8 bytes; absent for the first writer."""
DEFAULT_NAMESPACE = "default"


class LogIdentity(msgspec.Struct, frozen=True):
    """What sealing, labelling and signing of the log need. ``box`` is the namespace's key box."""

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


def new_policies(connection: Connection, config: Config) -> list[TrashPolicy | VersionPolicy]:
    """Return the policies of the configuration that the namespace does not have yet."""
    days = config.trash.retention_days
    versions = config.versioning.max_versions if config.versioning.enabled else 0
    found: list[TrashPolicy | VersionPolicy] = []
    if settings.get(connection, settings.TRASH_POLICY) != days:
        found.append(TrashPolicy(days))
    if settings.get(connection, settings.VERSION_POLICY) != versions:
        found.append(VersionPolicy(versions))
    return found


def apply_policies(journal: Journal, database: Database, config: Config) -> None:
    """Log the policies of the configuration that the namespace does not have yet. Raises LocalFailure, NoSpace, ReadOnly."""

    def log_new(change: Change) -> None:
        for op in new_policies(change.connection, config):
            change.emit(op)

    with database.reading() as connection:
        is_changed = bool(new_policies(connection, config))
    # A start that changes nothing sends nothing to the store.
    if is_changed:
        journal.change(log_new, durable=True)


def incarnation_of(database: Database) -> Incarnation:
    """Return this machine's incarnation. Raises DamageError."""
    with database.reading() as connection:
        found: bytes | None = settings.get(connection, INCARNATION)
    if found is None:
        raise DamageError("the local database has lost its incarnation", blob="database")
    return Incarnation(int.from_bytes(found, "big"))


def machine_name(config: Config) -> str:
    """Return this machine's name: the configured one, else its host name."""
    return config.machine.name or socket.gethostname()


def namespace_name(config: Config) -> str:
    """Return the name of the vault's namespace, as configured."""
    return config.namespaces[0].name if config.namespaces else DEFAULT_NAMESPACE


def open_journal(
    database: Database, identity: MachineIdentity, keys: NamespaceKeys, platform: Platform
) -> tuple[Journal, Incarnation]:
    """Open the journal under a fresh incarnation."""
    incarnation = Incarnation(int.from_bytes(platform.entropy.bytes(8), "big"))
    journal = Journal(database, keys, identity.machine, incarnation, platform.clock, platform.entropy, HistoryPolicy())
    return journal, incarnation


def begin_log(
    database: Database,
    config: Config,
    identity: MachineIdentity,
    journal: Journal,
    incarnation: Incarnation,
    *,
    epoch: int,
    predecessor: Member | None = None,
) -> None:
    """Log that this machine is the writer from now on, replacing ``predecessor``."""

    def begin(transaction: Transaction) -> bool:
        settings.put(transaction, INCARNATION, incarnation.to_bytes(8, "big"))
        if epoch > 1:
            # 0 if the predecessor is unknown: that the setting exists says that this machine joined.
            replaced = predecessor.incarnation if predecessor else 0
            settings.put(transaction, PREDECESSOR, replaced.to_bytes(8, "big"))
        return settings.get(transaction, settings.NAMESPACE) is not None

    is_known = database.writer.run(begin)
    mode = config.namespaces[0].type if config.namespaces else "standalone"
    member = Member(
        identity.machine,
        machine_name(config),
        identity.signing_public,
        incarnation,
        epoch,
        predecessor.machine if predecessor else None,
        identity.exchange_public,
    )

    def state_membership(change: Change) -> None:
        if not is_known:
            change.emit(Namespace(namespace_name(config), str(mode), change.time))
        change.emit(member)
        for policy in new_policies(change.connection, config):
            change.emit(policy)

    journal.change(state_membership, durable=True)
