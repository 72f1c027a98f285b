"""From a state folder to what an open volume is made of: lock, store, keys, database, and in whose name it writes."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgdav.config import Config, StatePaths, find_namespace, require_supported
from tgdav.crypto.slots import Secret
from tgdav.db.database import Database
from tgdav.errors import DamageError
from tgdav.platform import Platform
from tgdav.replication.identity import LogIdentity
from tgdav.volume.folders import Reserve
from tgdav.volume.local_state import LocalNamespace, load_header
from tgdav.volume.lock import StateLock
from tgdav.volume.log_start import log_identity
from tgdav.volume.resuming import resume_if_restored
from tgdav.volume.stores import Stores, open_store
from tgdav.volume.unlock import Unlocked

if TYPE_CHECKING:
    from tgdav.volume.login_keeper import LoginKeeper


@dataclass(frozen=True, slots=True)
class Parts:
    """What opening found. ``namespace`` is its name here; ``is_resumed``: the state had been restored from a backup, and goes
    on under a fresh incarnation that the store does not know yet.
    """

    places: StatePaths
    config: Config
    platform: Platform
    lock: StateLock
    stores: Stores
    opened: Unlocked
    namespace: str
    database: Database
    log: LogIdentity
    is_resumed: bool
    login: "LoginKeeper | None"


def open_parts(
    undo: ExitStack, places: StatePaths, config: Config, secret: Secret, *, platform: Platform, namespace: str | None
) -> Parts:
    """Open them in order; ``undo`` takes in how to close them again.

    Raises UsageError (no vault, a mode that is not built), AccessError, VaultInUse, DamageError, LocalFailure.
    """
    require_supported(config, namespace)
    places = places.for_config(config)
    load_header(places.state)
    lock = StateLock(places.lock_file)
    undo.callback(lock.release)
    Reserve(places, platform.disk, platform.entropy).make_room()
    stores = open_store(config, places, platform)
    undo.callback(stores.store.close)
    opened = Unlocked(places, secret, stores)
    wanted = opened.local.namespace(find_namespace(config, namespace).name if namespace else None)
    database = _open_database(places, wanted, opened, platform)
    undo.callback(database.close)
    login = _use_login(places, stores, opened, platform)
    before = log_identity(opened, wanted, database)
    log = resume_if_restored(database, stores, before, config, platform)
    return Parts(places, config, platform, lock, stores, opened, wanted.name, database, log, log is not before, login)


def _use_login(places: StatePaths, stores: Stores, opened: Unlocked, platform: Platform) -> "LoginKeeper | None":
    """Let a store that is Telegram's use the login that is kept here."""
    if stores.account is None:
        return None
    # Only where there is Telegram: Telethon takes long to import.
    from tgdav.volume.login_keeper import LoginKeeper

    keeper = LoginKeeper(places.state, opened.vault_keys, stores.account.settings, platform, stores.account)
    keeper.start()
    return keeper


def _open_database(places: StatePaths, namespace: LocalNamespace, opened: Unlocked, platform: Platform) -> Database:
    path = places.state / namespace.database
    if not path.exists():
        raise DamageError(
            "the local database is gone", blob="database", hint="move the state folder away and run 'tgdav recover'"
        )
    return Database.open(path, opened.identity.database_key, disk=platform.disk, entropy=platform.entropy)
