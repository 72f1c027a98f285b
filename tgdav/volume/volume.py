"""An open volume: everything of one namespace on this machine, put together, started and stopped in order.

Start: lock, header, database, content, file system, then the background work. Stop is the reverse: the front ends are
gone first, then dirty files settle, background work ends, the log is folded back, the lock goes last.
"""

import logging
from typing import Any

from tgdav.config import Config, Places, namespace_of, require_built
from tgdav.content.cache import DiskCache
from tgdav.content.reader import ReadSettings
from tgdav.content.store import ContentStore
from tgdav.content.types import ContentIdentity, ContentSettings
from tgdav.crypto.header import Header, try_headers, with_passphrase, with_recovery_key
from tgdav.crypto.keys import NamespaceKeys, VaultKeys, unwrap_namespace
from tgdav.crypto.machine import MachineIdentity, open_machine
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import format_recovery_key, new_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.db.database import Database
from tgdav.errors import AccessError, DamageError, StoreUnavailable, UsageError
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.fs.names import JunkPolicy
from tgdav.ids import BlobId, Incarnation
from tgdav.metadata import settings
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.journal import Journal
from tgdav.replication.checkpoint import CheckpointWriter
from tgdav.replication.identity import LogIdentity
from tgdav.replication.outbox import remove_leftovers
from tgdav.replication.pusher import Pusher
from tgdav.replication.watch import LogWatch
from tgdav.volume import report
from tgdav.volume.check import Checker
from tgdav.volume.headers import place_headers
from tgdav.volume.housekeeping import Housekeeping
from tgdav.volume.local_state import LocalNamespace, LocalVault, load_header, load_vault, save_header
from tgdav.volume.lock import StateLock
from tgdav.volume.seams import Seams
from tgdav.volume.space import space_of
from tgdav.volume.stores import Stores, open_store
from tgdav.volume.unlock import argon2_parameters, unlock_store

_log = logging.getLogger(__name__)

INCARNATION = "incarnation"
WEBDAV_PASSWORD = "webdav.password"  # noqa: S105 - the name of a setting


class Unlocked:
    """What the secret opened: keys and local state, before anything is started."""

    def __init__(self, places: Places, secret: Secret, stores: Stores) -> None:
        header = self.saved_header = load_header(places.state)
        try:
            self.master, self.header = try_headers([header], secret)
        except AccessError:
            # Another machine may have changed the passphrase; only the store's headers know.
            self.master, self.header = _from_store(stores, secret, header)
        self.vault_keys = VaultKeys(self.master, self.header.vault)
        self.local: LocalVault = load_vault(places.state, self.vault_keys)
        self.identity: MachineIdentity = open_machine(self.local.machine, self.vault_keys)


def _from_store(stores: Stores, secret: Secret, local: Header) -> tuple[bytes, Header]:
    try:
        master, header = unlock_store(stores.store, stores.store.list(), secret)
    except (StoreUnavailable, UsageError, DamageError):
        raise AccessError("wrong passphrase") from None
    if header.vault != local.vault:
        raise AccessError("wrong passphrase")
    return master, header


class Volume:
    """One namespace of a vault, open. Made by ``Volume.open``; every command and front end works through it."""

    def __init__(
        self, places: Places, config: Config, seams: Seams, stores: Stores, opened: Unlocked, namespace: LocalNamespace
    ) -> None:
        self.places, self.config, self.seams = places, config, seams
        self.namespace_name = namespace.name
        self.vault_keys, self.header = opened.vault_keys, opened.header
        self.master, self._stores, self._saved_header = opened.master, stores, opened.saved_header
        secret = unwrap_namespace(opened.vault_keys, namespace.id, namespace.box)
        keys = NamespaceKeys(namespace.id, secret)
        identity = opened.identity
        path = places.state / namespace.database
        if not path.exists():
            raise DamageError(
                "the local database is gone", blob="database", hint="move the state folder away and run 'tgdav recover'"
            )
        self.database = Database.open(path, identity.database_key, disk=seams.disk)
        incarnation = self._incarnation()
        self.log = LogIdentity(
            opened.vault_keys, keys, secret, namespace.box, identity, opened.local.machine_name, incarnation
        )
        self.journal = Journal(
            self.database, keys, identity.machine, incarnation, seams.clock, seams.entropy, _history(config)
        )
        self.content = self._content()
        self._replication()
        self.fs = NamespaceFileSystem(
            self.database,
            self.journal,
            self.content,
            keys,
            identity,
            places.state / "overlay",
            junk=JunkPolicy(config.webdav.junk_files),
            space=space_of(stores.store.traits, places, self.used_bytes),
            clock=seams.clock,
            entropy=seams.entropy,
            disk=seams.disk,
        )
        self.housekeeping = Housekeeping(self)
        self.last_error = ""

    @classmethod
    def open(
        cls,
        places: Places,
        config: Config,
        secret: Secret,
        *,
        seams: Seams,
        namespace: str | None = None,
    ) -> "Volume":
        """Open the vault of this state. ``start`` begins background work; without it only calls do anything.

        Raises UsageError (no vault, a mode that is not built), AccessError, VaultInUse, DamageError.
        """
        require_built(config, namespace)
        places = places.for_config(config)
        load_header(places.state)
        lock = StateLock(places.lock_file)
        try:
            stores = open_store(config, places, seams)
            opened = Unlocked(places, secret, stores)
            wanted = opened.local.namespace(namespace_of(config, namespace).name if namespace else None)
            volume = cls(places, config, seams, stores, opened, wanted)
        except BaseException:
            lock.release()
            raise
        volume._lock = lock
        try:
            volume._take_up()
        except BaseException:
            volume._let_go()
            raise
        return volume

    _lock: StateLock

    def _take_up(self) -> None:
        """Go on where the last process stopped."""
        remove_leftovers(self.database, self.places.state / "outbox", self.seams.disk)
        self.journal.read_only = self.watch.replaced()
        self.content.start()
        if self.journal.read_only is None:
            self.fs.start()

    def _incarnation(self) -> Incarnation:
        with self.database.reading() as connection:
            found: bytes | None = settings.get(connection, INCARNATION)
        if found is None:
            raise DamageError("the local database has lost its incarnation", blob="database")
        return Incarnation(int.from_bytes(found, "big"))

    def _content(self) -> ContentStore:
        config, log = self.config, self.log
        chunk, cache = config.chunk, config.cache
        return ContentStore.open(
            self.database,
            self._stores.store,
            self.places.state / "staging",
            ContentIdentity(
                vault_keys=log.vault_keys, keys=log.keys, machine=log.machine_id, incarnation=log.incarnation
            ),
            ContentSettings(
                chunk_size=chunk.chunk_size,
                average_size=chunk.average_size,
                compression_enabled=chunk.compression_enabled,
                dedup_enabled=chunk.dedup_enabled,
                max_concurrent_uploads=config.telegram.max_concurrent_uploads,
                staging_bytes=_staging_bytes(config),
            ),
            clock=self.seams.clock,
            entropy=self.seams.entropy,
            disk=self.seams.disk,
            cache=DiskCache(self.places.cache, cache.max_bytes, disk=self.seams.disk, clock=self.seams.clock),
            read_settings=ReadSettings(prefetch_enabled=cache.prefetch_enabled, prefetch_count=cache.prefetch_count),
        )

    def _replication(self) -> None:
        outbox = self.places.state / "outbox"
        parts = (self.database, self._stores.store, self.log, outbox)
        self.pusher = Pusher(*parts, entropy=self.seams.entropy, disk=self.seams.disk)
        self.checkpoints = CheckpointWriter(*parts, entropy=self.seams.entropy, disk=self.seams.disk)
        self.watch = LogWatch(self.database, self._stores.store, self.log)

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin background work."""
        self.housekeeping.start()

    def close(self) -> None:
        """Finish: settle dirty files, end background work, make all durable, give the vault up."""
        self.housekeeping.stop()
        try:
            self.fs.stop()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._stores.stopping.set()
        self.content.stop()
        self.database.close()
        self._stores.store.close()
        self._lock.release()

    @property
    def stores(self) -> Stores:
        """The store in its wrappers."""
        return self._stores

    @property
    def read_only_reason(self) -> str | None:
        """Why nothing can be changed here, or None."""
        return self.journal.read_only

    def used_bytes(self) -> int:
        """Bytes of content of all files."""
        return self.fs.totals()[1]

    # ---- commands ------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the ``status`` object."""
        return report.status(self)

    def pending(self) -> dict[str, int]:
        """Return what is not in the store yet."""
        return {"bytes": self.content.pending(), "operations": self.pusher.pending_operations()}

    def sync(self, wait: bool = False, progress: Any = None) -> dict[str, Any]:
        """Push now; with ``wait``, until nothing is pending. Raises StoreUnavailable, WriterReplaced."""
        self.fs.settle_all()
        return self.housekeeping.sync(wait=wait, progress=progress)

    def keep_headers(self) -> None:
        """See to two copies of the header in the store, and note them."""
        store = self._stores.store
        placed = place_headers(store, self.header, self.master, self.seams.entropy)
        report.note_headers(self.database, placed.copies, [])
        if placed.header != self._saved_header:
            save_header(self.places.state, placed.header, self.seams.disk)
            self.header = self._saved_header = placed.header
        if placed.outdated:
            report.note_headers(self.database, [], placed.outdated)
            store.delete(placed.outdated)

    def replace_lost_headers(self, names: list[str]) -> None:
        """Put new copies of the header where the named ones were lost, and expect those no longer."""
        with self.database.reading() as connection:
            lost = [
                BlobId(row[0])
                for name in names
                for row in connection.all("SELECT id FROM blobs WHERE name = ?", (bytes.fromhex(name),))
            ]
        self.keep_headers()
        report.note_headers(self.database, [], lost)
        self._stores.store.delete(lost)

    def check(self, read_data: float | None = None, repair: bool = False, progress: Any = None) -> dict[str, Any]:
        """Return the ``check`` object."""
        return Checker(self, progress).run(read_data=read_data, repair=repair)

    def cache_statistics(self) -> dict[str, Any]:
        """Return the ``cache`` object."""
        return report.cache(self)

    def clear_cache(self) -> dict[str, Any]:
        """Drop what can be fetched again; return the ``cache`` object."""
        self.content.reading.clear()
        return report.cache(self)

    def change_passphrase(self, new: str) -> None:
        """Open the vault with ``new`` from now on. Raises StoreUnavailable: then the next start finishes."""
        parameters = argon2_parameters(self.config)
        header = with_passphrase(self.header, self.master, Passphrase(new), self.seams.entropy, parameters)
        self._replace_header(header)

    def new_recovery_key(self) -> str:
        """Make a new recovery key and return it as text; the old one no longer opens the vault."""
        recovery = new_recovery_key(self.seams.entropy)
        self._replace_header(with_recovery_key(self.header, self.master, recovery, self.seams.entropy))
        return format_recovery_key(recovery)

    def _replace_header(self, header: Header) -> None:
        """Two new copies in the store, the local one, then the old ones go; after a crash in between the next start goes on."""
        self.header = header
        self.keep_headers()

    def webdav_password(self) -> tuple[str, bool]:
        """Return the WebDAV password that was made here, and whether this call made it."""
        with self.database.reading() as connection:
            found: str | None = settings.get(connection, WEBDAV_PASSWORD)
        if found is not None:
            return found, False
        made = self.seams.entropy.bytes(15).hex()
        self.database.writer.run(lambda t: settings.put(t, WEBDAV_PASSWORD, made), durable=True)
        return made, True


def _history(config: Config) -> HistoryPolicy:
    return HistoryPolicy(config.versioning.max_versions if config.versioning.enabled else 0)


def _staging_bytes(config: Config) -> int | None:
    wanted = config.staging.max_size_gb
    return None if wanted is None else int(wanted * 1024**3)
