"""Where a machine's log begins, and in whose name it goes on: its incarnation, its journal, its first operations."""

import socket

from tgdav.config import Config
from tgdav.crdt.ops import Member, Namespace
from tgdav.crypto.keys import NamespaceKeys, unwrap_namespace
from tgdav.crypto.machine import MachineIdentity
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.ids import Incarnation
from tgdav.metadata import settings
from tgdav.metadata.change import Change
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform
from tgdav.replication.identity import INCARNATION, LogIdentity
from tgdav.replication.watch import PREDECESSOR
from tgdav.volume.local_state import LocalNamespace
from tgdav.volume.unlock import Unlocked

DEFAULT_NAMESPACE = "default"


def history_policy(config: Config) -> HistoryPolicy:
    """Return how many versions the configuration keeps."""
    return HistoryPolicy(config.versioning.max_versions if config.versioning.enabled else 0)


def incarnation_of(database: Database) -> Incarnation:
    """Return this machine's incarnation. Raises DamageError."""
    with database.reading() as connection:
        found: bytes | None = settings.get(connection, INCARNATION)
    if found is None:
        raise DamageError("the local database has lost its incarnation", blob="database")
    return Incarnation(int.from_bytes(found, "big"))


def log_identity(opened: Unlocked, namespace: LocalNamespace, database: Database) -> LogIdentity:
    """Return in whose name the log of a namespace is written here. Raises DamageError."""
    secret = unwrap_namespace(opened.vault_keys, namespace.id, namespace.box)
    keys = NamespaceKeys(namespace.id, secret)
    return LogIdentity(
        opened.vault_keys,
        keys,
        secret,
        namespace.box,
        opened.identity,
        opened.local.machine_name,
        incarnation_of(database),
    )


def machine_name(config: Config) -> str:
    """Return what this machine is called: as configured, else its host name."""
    return config.machine.name or socket.gethostname()


def namespace_name(config: Config) -> str:
    """Return the name of the vault's namespace, as configured."""
    return config.namespaces[0].name if config.namespaces else DEFAULT_NAMESPACE


def open_journal(
    database: Database, config: Config, identity: MachineIdentity, keys: NamespaceKeys, platform: Platform
) -> tuple[Journal, Incarnation]:
    """Open the journal under a fresh incarnation."""
    incarnation = Incarnation(int.from_bytes(platform.entropy.bytes(8), "big"))
    policy = history_policy(config)
    return Journal(database, keys, identity.machine, incarnation, platform.clock, platform.entropy, policy), incarnation


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
    """Log that this machine is the writer from now on, in the place of ``predecessor``."""

    def begin(transaction: Transaction) -> bool:
        settings.put(transaction, INCARNATION, incarnation.to_bytes(8, "big"))
        if epoch > 1:
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

    def work(change: Change) -> None:
        if not is_known:
            change.emit(Namespace(namespace_name(config), str(mode), change.time))
        change.emit(member)

    journal.change(work, durable=True)
