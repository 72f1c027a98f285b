"""Open the parts of a volume: lock, store, keys, database, log identity, content store."""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgdav.config import Config, StatePaths, find_namespace, require_supported
from tgdav.crypto.keys import NamespaceKeys, unwrap_namespace
from tgdav.crypto.slots import Secret
from tgdav.db.database import Database
from tgdav.errors import DamageError, TgdavError
from tgdav.platform import Platform
from tgdav.replication.log_identity import LogIdentity, incarnation_of
from tgdav.replication.restored_state import resume_if_restored
from tgdav.replication.writer_check import WriterCheck, WriterStatus
from tgdav.threads import Worker
from tgdav.vault.disk_reserve import Reserve
from tgdav.vault.lock import StateLock
from tgdav.vault.state_dir import LocalNamespace, load_header
from tgdav.vault.stores import Stores, open_store
from tgdav.vault.unlock import Unlocked

if TYPE_CHECKING:
    from tgdav.vault.login_service import LoginService


from tgdav.blobs.interface import BlobStore
from tgdav.content.format.sealer import ContentIdentity
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.read.reader import ReadSettings
from tgdav.content.staging.context import ContentSettings
from tgdav.content.store import ContentStore

_log = logging.getLogger(__name__)

POLL_SECONDS = 3.0
"""How long opening waits for the first poll of a store behind a network."""


@dataclass(frozen=True, slots=True)
class OpenedState:
    """The opened parts. ``namespace`` is its name; ``is_resumed``: the state had been restored from a backup, and was resumed
    under a fresh incarnation that the store does not know yet.
    """

    paths: StatePaths
    config: Config
    platform: Platform
    lock: StateLock
    stores: Stores
    opened: Unlocked
    namespace: str
    database: Database
    log: LogIdentity
    is_resumed: bool
    login: "LoginService | None"


def open_state(
    undo: ExitStack, paths: StatePaths, config: Config, secret: Secret, *, platform: Platform, namespace: str | None
) -> OpenedState:
    """Open the parts in order, and register with ``undo`` how to close them.

    Raises UsageError (no vault, an unsupported mode), AccessError, VaultInUse, DamageError, LocalFailure.
    """
    require_supported(config, namespace)
    paths = paths.for_config(config)
    load_header(paths.state)  # fails without a vault, before a lock file is created
    lock = StateLock(paths.lock_file)
    undo.callback(lock.release)
    # Before the database: opening it needs space.
    Reserve(paths, platform.disk, platform.entropy).free_space()
    stores = open_store(config, paths, platform)
    undo.callback(stores.store.close)
    opened = Unlocked(paths, secret, stores)
    wanted = opened.local.namespace(find_namespace(config, namespace).name if namespace else None)
    database = _open_database(paths, wanted, opened, platform)
    undo.callback(database.close)
    login = _use_login(paths, stores, opened, platform)
    before = _log_identity(opened, wanted, database)
    log = resume_if_restored(
        database, stores.store, before, config, platform, lambda: _first_poll(database, stores, before)
    )
    return OpenedState(
        paths, config, platform, lock, stores, opened, wanted.name, database, log, log is not before, login
    )


def _use_login(paths: StatePaths, stores: Stores, opened: Unlocked, platform: Platform) -> "LoginService | None":
    """Log the Telegram store in with the saved login; None for another store."""
    if stores.account is None:
        return None
    # Imported for a Telegram store only: Telethon takes long to import.
    from tgdav.vault.login_service import LoginService

    keeper = LoginService(paths.state, opened.vault_keys, stores.account.settings, platform, stores.account)
    keeper.start()
    return keeper


def _open_database(paths: StatePaths, namespace: LocalNamespace, opened: Unlocked, platform: Platform) -> Database:
    path = paths.state / namespace.database
    if not path.exists():
        raise DamageError(
            "the local database is missing",
            blob="database",
            hint="move the state directory away and run 'tgdav recover'",
        )
    return Database.open(path, opened.identity.database_key, disk=platform.disk, entropy=platform.entropy)


def open_content(
    paths: StatePaths, config: Config, platform: Platform, database: Database, store: BlobStore, log: LogIdentity
) -> ContentStore:
    """Open the content store of a namespace. Raises LocalFailure, NoSpace, UsageError."""
    chunk, cache = config.chunk, config.cache
    return ContentStore.open(
        database,
        store,
        paths.state / "staging",
        ContentIdentity(vault_keys=log.vault_keys, keys=log.keys, machine=log.machine_id, incarnation=log.incarnation),
        ContentSettings(
            chunk_size=chunk.chunk_size,
            average_size=chunk.average_size,
            compression_enabled=chunk.compression_enabled,
            dedup_enabled=chunk.dedup_enabled,
            max_concurrent_uploads=config.telegram.max_concurrent_uploads,
            staging_bytes=_staging_bytes(config),
        ),
        platform,
        cache=DiskCache(paths.cache, cache.max_bytes, disk=platform.disk, clock=platform.clock),
        read_settings=ReadSettings(prefetch_enabled=cache.prefetch_enabled, prefetch_count=cache.prefetch_count),
    )


def _staging_bytes(config: Config) -> int | None:
    wanted = config.staging.max_size_gb
    return None if wanted is None else int(wanted * 1024**3)


def _log_identity(opened: Unlocked, namespace: LocalNamespace, database: Database) -> LogIdentity:
    """Return the identity under which this machine writes the log of a namespace. Raises DamageError."""
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


def _first_poll(database: Database, stores: Stores, log: LogIdentity) -> WriterStatus | None:
    """Check the log in the store once; None if that fails or takes too long: background work repeats it and reports."""
    check, polled = WriterCheck(database, stores.counting, log), list[WriterStatus]()

    def poll() -> None:
        try:
            polled.append(check.poll(at_start=True))
        except TgdavError as error:
            _log.info("the store could not be checked: %s", error.message)

    if stores.bounded is not None:
        with stores.bounded.time_limit(POLL_SECONDS):
            poll()
    else:
        thread = Worker("tgdav-first-poll", poll, restart=False)
        thread.start()
        thread.join(POLL_SECONDS)
    return polled[0] if polled else None
