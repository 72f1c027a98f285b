"""An open volume: everything of one namespace on this machine, put together, started and stopped in order.

Start: lock, header, database, content, file system, then the background work. Stop is the reverse: the front ends are
gone first, then dirty files settle, background work ends, the log is folded back, the lock goes last.
"""

import logging
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from tgdav.config import Config, StatePaths
from tgdav.crypto.header import Header, with_passphrase, with_recovery_key
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import format_recovery_key, new_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.errors import TgdavError, UsageError
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.fs.names import JunkPolicy
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform
from tgdav.replication.checkpoint import CheckpointWriter
from tgdav.replication.outbox import remove_leftovers
from tgdav.replication.pusher import Pusher
from tgdav.replication.watch import LogWatch
from tgdav.threads import Worker
from tgdav.volume import report
from tgdav.volume.account_life import AccountLife
from tgdav.volume.budget import Budget
from tgdav.volume.check import Checker
from tgdav.volume.content import open_content
from tgdav.volume.folders import Reserve, make_folder
from tgdav.volume.headers import HeaderKeeper
from tgdav.volume.housekeeping import Housekeeping
from tgdav.volume.local_keys import argon2_parameters
from tgdav.volume.log_start import history_policy
from tgdav.volume.opening import Parts, open_parts
from tgdav.volume.space import space_of
from tgdav.volume.stores import Stores
from tgdav.volume.telegram_login import TelegramLogin

if TYPE_CHECKING:
    from tgdav.volume.login_keeper import LoginKeeper

_log = logging.getLogger(__name__)

WEBDAV_PASSWORD = "webdav.password"  # noqa: S105 - the name of a setting
GRACE_SECONDS = 5.0
"""How long closing waits for what is being sent; it is sent again by the next start."""
SAY_SECONDS = 1.5
"""How long it takes before what is waited for is said."""
JOINING = "joining this vault is not finished: the store has not been told yet"
"""Why a machine that joined changes nothing until its first segment is stored."""


class Volume:
    """One namespace of a vault, open. Made by ``Volume.open``; every command and front end works through it."""

    def __init__(self, parts: Parts) -> None:
        places, config, platform = self.places, self.config, self.platform = parts.places, parts.config, parts.platform
        stores, opened, database, log = parts.stores, parts.opened, parts.database, parts.log
        self.namespace_name = parts.namespace
        self._lock, self._login = parts.lock, parts.login
        self.vault_keys, self.master, self._stores = opened.vault_keys, opened.master, stores
        self.database, self.log = database, log
        self.budget = Budget(database, opened.vault_keys, platform.clock)
        stores.sending.on_sent = self.budget.note
        self.journal = Journal(
            database,
            log.keys,
            log.machine_id,
            log.incarnation,
            platform.clock,
            platform.entropy,
            history_policy(config),
        )
        self.headers = HeaderKeeper(
            places.state, database, stores.store, opened.header, opened.saved_header, opened.master, platform
        )
        account = stores.account
        self.account_life = None if account is None else AccountLife(database, platform.clock, account.idle_days)
        self.content = open_content(places, config, platform, database, stores.store, self.log)
        self._replication()
        self.fs = NamespaceFileSystem(
            database,
            self.journal,
            self.content,
            log.keys,
            log.machine,
            places.state / "overlay",
            junk=JunkPolicy(config.webdav.junk_files),
            space=space_of(places, self.used_bytes, stores.bounded),
            clock=platform.clock,
            entropy=platform.entropy,
            disk=platform.disk,
        )
        self.reserve = Reserve(places, platform.disk, platform.entropy)
        self.housekeeping = Housekeeping(self)
        self._closed = threading.Event()
        self._hang_up: Worker | None = None
        self._is_closed = False

    @classmethod
    def open(
        cls,
        places: StatePaths,
        config: Config,
        secret: Secret,
        *,
        platform: Platform,
        namespace: str | None = None,
    ) -> "Volume":
        """Open the vault of this state. ``start`` begins background work; without it only calls do anything.

        Raises UsageError (no vault, a mode that is not built), AccessError, VaultInUse, DamageError, LocalFailure.
        """
        with ExitStack() as undo:
            parts = open_parts(undo, places, config, secret, platform=platform, namespace=namespace)
            volume = cls(parts)
            volume._take_up()
            undo.pop_all()
        if parts.is_resumed:
            with suppress(TgdavError):  # else background work tells the store
                volume.housekeeping.push()
        return volume

    def _take_up(self) -> None:
        """Go on where the last process stopped."""
        outbox = self.places.state / "outbox"
        make_folder(outbox, self.platform.disk)
        make_folder(self.places.state / "overlay", self.platform.disk)
        remove_leftovers(self.database, outbox, self.platform.disk)
        self.journal.read_only = self.watch.replaced() or (None if self.watch.has_joined() else JOINING)
        self.content.start()
        try:
            if self.journal.read_only is None:
                self.fs.start()
        except BaseException:
            self.content.stop()
            raise

    def _replication(self) -> None:
        outbox = self.places.state / "outbox"
        parts = (self.database, self._stores.store, self.log, outbox)
        self.pusher = Pusher(*parts, entropy=self.platform.entropy, disk=self.platform.disk)
        self.checkpoints = CheckpointWriter(*parts, entropy=self.platform.entropy, disk=self.platform.disk)
        self.watch = LogWatch(self.database, self._stores.store, self.log)

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin background work."""
        if self._stores.account is not None:
            self._stores.account.announces = True
            self._stores.account.watch(self.housekeeping.hear)
        self.housekeeping.start()

    def close(self) -> None:
        """Finish: settle dirty files, end background work, make all durable, give the vault up. Once is enough."""
        is_closed, self._is_closed = self._is_closed, True
        if is_closed:
            return
        self.hang_up_soon()
        with suppress(TgdavError):  # what was written is on disk before anything that may have to wait for the store
            self.fs.sync()
        with ExitStack() as rest:
            rest.callback(self._closed.set)
            rest.callback(self._lock.release)
            rest.callback(self._stores.store.close)
            rest.callback(self.database.close)
            rest.callback(self.housekeeping.save_counts)
            rest.callback(self.content.stop)
            rest.callback(self._stores.stopping.set)
            rest.callback(self.fs.stop)
            self.housekeeping.stop()

    def hang_up_soon(self) -> None:
        """Let what waits for the store go on for a moment, then cut it short: nothing that stops may wait for a dead line, nor
        for space that may never come.

        For whoever stops front ends before ``close``. Calling it again changes nothing.
        """
        if self._hang_up is None:
            self.content.stop_waiting()
            self._hang_up = Worker("tgdav-hang-up", self._hang_up_unless_closed, restart=False)
            self._hang_up.start()

    def _hang_up_unless_closed(self) -> None:
        if self._closed.wait(SAY_SECONDS):
            return
        _log.warning("stopping: waiting for the store to end what is under way, %.0f s at most", GRACE_SECONDS)
        if not self._closed.wait(GRACE_SECONDS - SAY_SECONDS):
            _log.warning("the store did not end it: what is not there yet is sent by the next start")
            self._stores.hang_up()

    @property
    def stores(self) -> Stores:
        """The store in its wrappers."""
        return self._stores

    @property
    def header(self) -> Header:
        """The newest header known."""
        return self.headers.header

    @property
    def read_only_reason(self) -> str | None:
        """Why nothing can be changed here, or None."""
        return self.journal.read_only

    @property
    def is_joining(self) -> bool:
        """Whether this machine is the writer, and the store does not know yet."""
        return self.journal.read_only == JOINING

    def finish_joining(self) -> None:
        """The store knows that this machine is the writer: changes are welcome."""
        self.journal.read_only = None
        self.fs.start()

    def used_bytes(self) -> int:
        """Bytes of content of all files, holes left out."""
        return self.fs.used_bytes()

    # ---- commands ------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the ``status`` object."""
        return report.status(self)

    def pending(self) -> dict[str, int]:
        """Return what is not in the store yet."""
        return {"bytes": self.content.pending(), "operations": self.pusher.pending_operations()}

    def sync(self, wait: bool = False, progress: Any = None) -> dict[str, Any]:
        """Push now; with ``wait``, until nothing is pending. Raises StoreUnavailable, WriterReplaced, DamageError."""
        self.fs.flush_all()
        return self.housekeeping.sync(wait=wait, progress=progress)

    def keep_headers(self) -> None:
        """See to two copies of the header in the store, and note them. Raises StoreUnavailable."""
        self.headers.keep()

    def check(self, read_data: float | None = None, repair: bool = False, progress: Any = None) -> dict[str, Any]:
        """Return the ``check`` object. ``read_data``: percent of the blobs to read, None for none."""
        return Checker(self, progress).run(read_data=read_data, repair=repair)

    def cache_statistics(self) -> dict[str, Any]:
        """Return the ``cache`` object."""
        return report.cache(self)

    def clear_cache(self) -> dict[str, Any]:
        """Drop what can be fetched again; return the ``cache`` object."""
        self.content.reader.clear()
        return report.cache(self)

    def change_passphrase(self, new: str) -> None:
        """Open the vault with ``new`` from now on.

        Raises StoreUnavailable: then the old one stays, unless the new header reached the store, where the next start
        finds it and finishes.
        """
        parameters = argon2_parameters(self.config)
        header = with_passphrase(self.header, self.master, Passphrase(new), self.platform.entropy, parameters)
        self.headers.replace(header)

    def new_recovery_key(self) -> str:
        """Make a new recovery key and return it as text; the old one no longer opens the vault. Raises as above."""
        recovery = new_recovery_key(self.platform.entropy)
        self.headers.replace(with_recovery_key(self.header, self.master, recovery, self.platform.entropy))
        return format_recovery_key(recovery)

    def log_in(self, login: TelegramLogin) -> None:
        """Use a new login at Telegram from now on. Raises AccessError for another account's, UsageError (no Telegram)."""
        self._telegram_login().log_in(login)
        self.housekeeping.try_again()
        self.content.flush(0)  # no longer puts off what failed
        self.content.uploader.wake()

    def log_out(self) -> bool:
        """End the login at Telegram; return whether there was one. Raises StoreUnavailable, UsageError (no Telegram)."""
        return self._telegram_login().log_out()

    def _telegram_login(self) -> "LoginKeeper":
        if self._login is None:
            raise UsageError("the store of this vault is not Telegram, so there is nothing to log in to")
        return self._login

    def webdav_password(self) -> tuple[str, bool]:
        """Return the WebDAV password that was made here, and whether this call made it."""
        with self.database.reading() as connection:
            found: str | None = settings.get(connection, WEBDAV_PASSWORD)
        if found is not None:
            return found, False
        made = self.platform.entropy.bytes(15).hex()
        self.database.writer.run(lambda t: settings.put(t, WEBDAV_PASSWORD, made), durable=True)
        return made, True
