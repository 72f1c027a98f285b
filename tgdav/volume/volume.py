"""An open volume: the parts of one namespace on this machine, composed, started and stopped in order.

Start: lock, header, database, content, file system, then background work. Stop is the reverse: front ends have stopped
before, dirty files are flushed, background work ends, the WAL is checkpointed, and the lock is released last.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from tgdav.blobs.interface import BlobInfo
from tgdav.check.checker import Checker
from tgdav.check.context import CheckContext
from tgdav.check.drill import DRILL_DIRECTORY, remove_leftovers
from tgdav.config import Config, StatePaths
from tgdav.crypto.header import Header, recognise, with_passphrase, with_recovery_key
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import format_recovery_key, new_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.errors import TgdavError, UsageError
from tgdav.fs import trash
from tgdav.fs.files.context import OpenFileContext
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.fs.names import JunkPolicy
from tgdav.fs.restoring import Restorer
from tgdav.fs.snapshots import Snapshots
from tgdav.fs.versions import Versions
from tgdav.metadata import settings
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.journal import Journal
from tgdav.metadata.snapshots import SnapshotRow
from tgdav.platform import Platform
from tgdav.replication.log_identity import apply_policies
from tgdav.replication.replicator import Replicator
from tgdav.threads import Worker
from tgdav.vault.disk_reserve import Reserve
from tgdav.vault.headers import HeaderKeeper
from tgdav.vault.state_dir import make_directory
from tgdav.vault.stores import Stores
from tgdav.vault.telegram_login import TelegramLogin
from tgdav.vault.unlock import argon2_parameters
from tgdav.vault.upload_stats import UploadStats
from tgdav.volume.account_expiry import AccountExpiry
from tgdav.volume.background import NOTHING_TO_DO, PeriodicTask, PeriodicTasks
from tgdav.volume.capacity import disk_capacity
from tgdav.volume.collector import Collector
from tgdav.volume.open import OpenedState, open_content, open_state
from tgdav.volume.snapshot_schedule import ScheduledSnapshots, kind_of
from tgdav.volume.sync import JOIN, KEEP_HEADERS, POLL, PUSH, Progress, Synchronizer

if TYPE_CHECKING:
    from tgdav.vault.login_service import LoginService

_log = logging.getLogger(__name__)

WEBDAV_PASSWORD = "webdav.password"  # noqa: S105 - the name of a setting
GRACE_SECONDS = 5.0
"""How long closing waits for what is being sent; it is sent again by the next start."""
LOG_WAIT_SECONDS = 1.5
"""How long closing waits before it logs what it waits for."""
PUSH_SECONDS = 60.0
JOIN_SECONDS = 5.0
HEADER_SECONDS, HEADER_RETRY_SECONDS = 3600.0, 60.0
POLL_SECONDS, POLL_RETRY_SECONDS = 900.0, 60.0
CHECKPOINT_SECONDS = 30.0
PURGE_SECONDS = 3600.0
SWEEP_SECONDS = 10.0
SCHEDULE_SECONDS, SCHEDULE_FIRST_SECONDS = 30.0, 1.0
RESTORE_RETRY_SECONDS = 60.0
UPKEEP_INTERVAL_SECONDS, UPKEEP_SECONDS = 3.0, 1.0
TRIM_SECONDS = 600.0
_COLLECTING = {"interval": 5.0, "retry": 600.0, "first": 60.0}
_SAVE_STATS = "saving upload statistics"
_COUNT, _PRUNE = "counting snapshots", "dropping versions beyond the limit"


class Volume:
    """One namespace of a vault, open. ``Volume.open`` creates it; every command and front end works through it."""

    def __init__(self, state: OpenedState) -> None:
        paths, config, platform = self.paths, self.config, self.platform = state.paths, state.config, state.platform
        stores, opened, database, log = state.stores, state.opened, state.database, state.log
        self.namespace_name = state.namespace
        self._lock, self._login = state.lock, state.login
        self.vault_keys, self.master, self._stores = opened.vault_keys, opened.master, stores
        self.database, self.log = database, log
        self.upload_stats = UploadStats(database, opened.vault_keys, platform.clock)
        stores.measuring.on_sent = self.upload_stats.record
        self.journal = Journal(
            database,
            log.keys,
            log.machine_id,
            log.incarnation,
            platform.clock,
            platform.entropy,
            HistoryPolicy(),
        )
        self.headers = HeaderKeeper(
            paths.state, database, stores.store, opened.header, opened.saved_header, opened.master, platform
        )
        account = stores.account
        self.account_expiry = None if account is None else AccountExpiry(database, platform.clock, account.idle_days)
        self.content = open_content(paths, config, platform, database, stores.store, self.log)
        outbox = paths.state / "outbox"
        self.replicator = Replicator(database, stores.store, log, self.journal, outbox, platform)
        open_files = OpenFileContext(
            self.journal,
            database,
            self.content,
            log.keys,
            log.machine,
            paths.state / "overlay",
            clock=platform.clock,
            entropy=platform.entropy,
            disk=platform.disk,
        )
        junk, space = JunkPolicy(config.webdav.junk_files), disk_capacity(paths, self.used_bytes, stores.bounded)
        self.fs = NamespaceFileSystem(open_files, junk=junk, space=space)
        self.snapshots = Snapshots(self.fs.open_files, self.fs.listeners)
        self.restorer = Restorer(self.fs.open_files, log.keys, self.fs.listeners, junk)
        self.versions = Versions(self.fs.open_files, self.fs.listeners, log.keys, junk)
        keep = config.snapshots.schedule.model_dump()
        self._schedule = ScheduledSnapshots(self.snapshots, database, platform.clock, keep)
        self.reserve = Reserve(paths, platform.disk, platform.entropy)
        self.collector = Collector(
            database,
            stores.store,
            self.content,
            self.replicator,
            self.fs.open_files,
            self._prepare_collection,
            platform.clock,
        )
        self.background = PeriodicTasks(platform.clock, self._tasks())
        self.replicator.on_joined = self.fs.start
        self.replicator.retractions.on_sealed = self.content.on_sealed
        self.content.before_packing(self._discard_temporary)
        self._synchronizer = Synchronizer(
            self.replicator, self.content, self.headers, stores, self.upload_stats, self.background, platform.clock
        )
        self._clock_problem: str | None = None
        self._closed = threading.Event()
        self._disconnecting: Worker | None = None
        self._is_closed = False

    @classmethod
    def open(
        cls,
        paths: StatePaths,
        config: Config,
        secret: Secret,
        *,
        platform: Platform,
        namespace: str | None = None,
    ) -> "Volume":
        """Open the vault of this state. ``start`` starts background work; without it only calls do anything.

        Raises UsageError (no vault, an unsupported mode), AccessError, VaultInUse, DamageError, LocalFailure.
        """
        with ExitStack() as undo:
            state = open_state(undo, paths, config, secret, platform=platform, namespace=namespace)
            volume = cls(state)
            volume._recover()
            undo.pop_all()
        if state.is_resumed:
            with suppress(TgdavError):  # else background work pushes
                volume.replicator.push()
        return volume

    def _recover(self) -> None:
        """Recover what the last process left."""
        make_directory(self.paths.state / "outbox", self.platform.disk)
        make_directory(self.paths.state / "overlay", self.platform.disk)
        remove_leftovers(self.paths.state / DRILL_DIRECTORY)
        self.replicator.start()
        self.content.start()
        try:
            if self.read_only_reason is None:
                self.fs.start()
                apply_policies(self.replicator.journal, self.database, self.config)
        except BaseException:
            self.content.stop()
            raise

    # ---- background work -----------------------------------------------------------------------------------------

    def _tasks(self) -> Iterator[PeriodicTask]:
        """Return the background work in the order in which it is done."""
        replicator, expiry = self.replicator, self.account_expiry
        yield PeriodicTask("keeping the disk reserve", self.reserve.maintain)
        yield PeriodicTask("checkpointing the database", self.database.checkpoint)
        yield PeriodicTask(_SAVE_STATS, self.upload_stats.save)
        yield PeriodicTask("checking the clock", self._check_clock)
        yield PeriodicTask(KEEP_HEADERS, self.headers.ensure, interval=HEADER_SECONDS, retry=HEADER_RETRY_SECONDS)
        if expiry is not None:
            yield PeriodicTask("checking when the account expires", expiry.refresh_if_due)
        yield PeriodicTask(JOIN, replicator.push, interval=JOIN_SECONDS, when=self._is_joining)
        writing = self._is_writing
        poll = {"interval": POLL_SECONDS, "retry": POLL_RETRY_SECONDS, "first": POLL_SECONDS}
        yield PeriodicTask(POLL, replicator.poll, when=writing, **poll)
        yield PeriodicTask("flushing idle files", self.fs.flush_idle, when=writing)
        schedule = {"interval": SCHEDULE_SECONDS, "first": SCHEDULE_FIRST_SECONDS}
        purging = {"interval": PURGE_SECONDS, "first": CHECKPOINT_SECONDS}
        yield PeriodicTask("emptying the trash", self.fs.trash.purge_expired, when=self._may_expire, **purging)
        yield PeriodicTask(
            "removing what was purged", self.fs.trash.sweep, when=writing, interval=SWEEP_SECONDS, first=SWEEP_SECONDS
        )
        yield PeriodicTask("making scheduled snapshots", self._schedule.run, when=writing, **schedule)
        retry = RESTORE_RETRY_SECONDS
        yield PeriodicTask("finishing a restore", self.restorer.resume, when=self._may_restore, retry=retry)
        often = UPKEEP_INTERVAL_SECONDS
        yield PeriodicTask(_COUNT, self._keep_up_snapshots, interval=often)
        yield PeriodicTask(_PRUNE, self._keep_up_versions, interval=often, when=writing)
        pushing = {"interval": PUSH_SECONDS, "first": PUSH_SECONDS}
        yield PeriodicTask(PUSH, self._push_if_pending, when=writing, **pushing)
        checkpoints = {"interval": CHECKPOINT_SECONDS, "first": CHECKPOINT_SECONDS}
        yield PeriodicTask("writing a checkpoint", replicator.checkpoint_if_due, when=writing, **checkpoints)
        trimming = {"interval": TRIM_SECONDS, "retry": CHECKPOINT_SECONDS, "first": CHECKPOINT_SECONDS}
        yield PeriodicTask("trimming the log", self.collector.trim, when=writing, **trimming)
        if self.config.gc.automatic:
            yield PeriodicTask("collecting garbage", self._collect, when=writing, **_COLLECTING)

    def _collect(self) -> object:
        """Do a step of a garbage collection; the next one is due at the next tick."""
        return NOTHING_TO_DO if self.collector.tick() else None

    def _may_restore(self) -> bool:
        return self.restorer.may_be_pending and self._is_writing()

    def _is_joining(self) -> bool:
        return self.replicator.is_joining

    def _is_writing(self) -> bool:
        return self.read_only_reason is None

    def _may_expire(self) -> bool:
        # Without a clock that is right nothing has expired.
        return self._is_writing() and self._clock_problem is None

    def _discard_temporary(self) -> None:
        """Discard what only temporary files contained, before it is packed and sent."""
        if not self._is_writing():
            return
        with suppress(TgdavError):  # then it is sent, which harms nobody
            self.fs.trash.sweep()
            found = self.fs.trash.take_temporary()
            if not found:
                return
            retractions = self.replicator.retractions
            with retractions.lock:
                retractions.run()
            # Most of the log is read before the change, in which others wait.
            with self.database.reading() as connection:
                named, last = retractions.named(connection, found)
            self.content.discard(
                found - named,
                lambda transaction, chunks: (
                    retractions.named(transaction, chunks, last)[0] | trash.chunks_of_local_files(transaction)
                ),
            )

    def _push_if_pending(self) -> object:
        if not self.replicator.pusher.pending_operations():
            return NOTHING_TO_DO
        return self.replicator.push()

    def _keep_up_snapshots(self) -> None:
        self._keep_up(_COUNT, self.snapshots.upkeep)

    def _keep_up_versions(self) -> None:
        self._keep_up(_PRUNE, self.versions.upkeep)

    def _keep_up(self, name: str, upkeep: Callable[[], bool]) -> None:
        """Do a part of some work in small steps, without keeping other tasks waiting for long."""
        until = self.platform.clock.monotonic() + UPKEEP_SECONDS
        while upkeep():
            if self.platform.clock.monotonic() >= until or self.background.is_stopping:
                self.background.run_soon(name)
                return

    def _check_clock(self) -> None:
        """Log when this machine's clock becomes wrong, by Telegram's clock, and when it is right again."""
        account = self._stores.account
        problem = None if account is None else account.clock_problem
        if problem is not None and self._clock_problem is None:
            _log.warning("%s", problem)
        elif problem is None and self._clock_problem is not None:
            _log.warning("this machine's clock is right again")
        self._clock_problem = problem

    def _on_notice(self, blob: BlobInfo) -> None:
        """Another login stored a blob: poll for headers or segments at the next tick. Any thread may call it."""
        if recognise(blob.label):
            self.background.run_soon(KEEP_HEADERS)
        elif self.replicator.on_notice(blob):
            self.background.run_soon(POLL)

    # ---- start and stop ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start background work."""
        if self._stores.account is not None:
            self._stores.account.announces = True
            self._stores.account.watch(self._on_notice)
        self.background.start()

    def close(self) -> None:
        """Flush dirty files, stop background work, make everything durable, release the vault. Idempotent."""
        is_closed, self._is_closed = self._is_closed, True
        if is_closed:
            return
        self.disconnect_soon()
        with suppress(TgdavError):  # what was written is durable before anything waits for the store
            self.fs.sync()
        with ExitStack() as closing:
            closing.callback(self._closed.set)
            closing.callback(self._lock.release)
            closing.callback(self._stores.store.close)
            closing.callback(self.database.close)
            closing.callback(self.background.run, _SAVE_STATS)
            closing.callback(self.content.stop)
            closing.callback(self._stores.stopping.set)
            closing.callback(self.fs.stop)
            self.background.stop()

    def disconnect_soon(self) -> None:
        """Abort calls to the store that have not returned after GRACE_SECONDS, and stop waiting for staging space at once.

        Stopping must not wait for a dead connection, nor for space that may never be freed. Call it before stopping front ends;
        ``close`` calls it too. Idempotent.
        """
        if self._disconnecting is None:
            self.content.stop_waiting()
            self._disconnecting = Worker("tgdav-disconnect", self._disconnect_unless_closed, restart=False)
            self._disconnecting.start()

    def _disconnect_unless_closed(self) -> None:
        if self._closed.wait(LOG_WAIT_SECONDS):
            return
        _log.warning("stopping: waiting for unfinished calls to the store, %.0f s at most", GRACE_SECONDS)
        if not self._closed.wait(GRACE_SECONDS - LOG_WAIT_SECONDS):
            _log.warning("the calls to the store did not finish: the next start sends what is not stored yet")
            self._stores.disconnect()

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
        return self.replicator.read_only_reason

    def used_bytes(self) -> int:
        """Return the bytes of content of all files, without holes."""
        return self.fs.used_bytes()

    # ---- commands ------------------------------------------------------------------------------------------------

    def pending(self) -> dict[str, int]:
        """Return what is not in the store yet."""
        return self._synchronizer.pending()

    def sync(self, wait: bool = False, progress: Progress | None = None) -> dict[str, Any]:
        """Push now; with ``wait``, until nothing is pending. Raises StoreUnavailable, WriterReplaced, DamageError."""
        self.fs.flush_all()
        return self._synchronizer.run(wait=wait, progress=progress)

    def make_snapshot(self, name: str) -> SnapshotRow:
        """Make a snapshot that the user has named. Raises UsageError for names of the schedule, and as ``Snapshots.make``."""
        kind = kind_of(name)
        if kind is not None:
            raise UsageError(f"'{name}' is a name of {kind} automatic snapshots", hint="choose another name")
        return self.snapshots.make(name)

    def list_snapshots(self) -> list[SnapshotRow]:
        """Return all snapshots, the oldest first. Without background work, those that are not counted yet are counted now."""
        while not self.background.is_running and self.snapshots.upkeep():
            pass
        return self.snapshots.listed()

    def check(
        self,
        read_data: float | None = None,
        repair: bool = False,
        progress: Progress | None = None,
        *,
        dry_run: bool = False,
        drill: bool = False,
    ) -> dict[str, Any]:
        """Return the ``check`` object. ``read_data``: percent of the blobs to read, None for none."""
        context = CheckContext(
            self.database,
            self._stores.store,
            self.headers,
            self.content,
            self.replicator,
            self.platform,
            self.config,
            self.paths.state / DRILL_DIRECTORY,
            self.fs.trash.sweep,
        )
        with self.collector.paused():
            return Checker(context).run(
                read_data=read_data, repair=repair, dry_run=dry_run, drill=drill, progress=progress
            )

    def _prepare_collection(self) -> None:
        self.fs.flush_all()
        self.fs.trash.sweep()
        self.fs.sweep_local()
        while self.versions.upkeep():
            continue
        self.snapshots.sweep()

    def gc(self, dry_run: bool = False, progress: Progress | None = None) -> dict[str, Any]:
        """Return the ``gc`` object. Raises as ``Collector.run``."""
        return self.collector.run(dry_run=dry_run, progress=progress)

    def change_passphrase(self, new: str) -> None:
        """Change the passphrase to ``new``.

        Raises StoreUnavailable: then the old one stays valid, unless the new header reached the store, where the next start
        finds it and completes the change.
        """
        parameters = argon2_parameters(self.config)
        header = with_passphrase(self.header, self.master, Passphrase(new), self.platform.entropy, parameters)
        self.headers.replace(header)

    def new_recovery_key(self) -> str:
        """Create a recovery key and return it as text; the old one no longer opens the vault. Raises as above."""
        recovery = new_recovery_key(self.platform.entropy)
        self.headers.replace(with_recovery_key(self.header, self.master, recovery, self.platform.entropy))
        return format_recovery_key(recovery)

    def log_in(self, login: TelegramLogin) -> None:
        """Use a new Telegram login from now on. Raises AccessError (another account), UsageError (the store is not Telegram)."""
        self._telegram_login().log_in(login)
        self.background.run_soon(KEEP_HEADERS, JOIN, POLL, PUSH)
        self.content.flush(0)  # retries failed uploads without their delay
        self.content.uploader.wake()

    def log_out(self) -> bool:
        """End the Telegram login; return whether there was one. Raises StoreUnavailable, UsageError (no Telegram store)."""
        return self._telegram_login().log_out()

    def _telegram_login(self) -> "LoginService":
        if self._login is None:
            raise UsageError("the store of this vault is not Telegram, so there is nothing to log in to")
        return self._login

    def webdav_password(self) -> tuple[str, bool]:
        """Return the generated WebDAV password, and whether this call generated it."""
        with self.database.reading() as connection:
            found: str | None = settings.get(connection, WEBDAV_PASSWORD)
        if found is not None:
            return found, False
        made = self.platform.entropy.bytes(15).hex()
        self.database.writer.run(lambda t: settings.put(t, WEBDAV_PASSWORD, made), durable=True)
        return made, True
