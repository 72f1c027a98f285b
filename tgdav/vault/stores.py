"""Open the configured store, in its wrappers."""

import threading
from typing import TYPE_CHECKING

import msgspec

from tgdav.blobs.bounded import CALL_SECONDS, BoundedStore
from tgdav.blobs.counting import CountingStore
from tgdav.blobs.directory import DirectoryStore
from tgdav.blobs.interface import BlobStore
from tgdav.blobs.retry import Reachability, RetryPolicy, RetryStore
from tgdav.config import Config, StatePaths
from tgdav.errors import StoreError
from tgdav.ids import BlobName
from tgdav.platform import Platform
from tgdav.vault.lock import LoginLock
from tgdav.vault.telegram_login import TelegramLogin
from tgdav.vault.upload_stats import MeasuringStore

if TYPE_CHECKING:
    # Telethon takes long to import, and only one kind of store needs it.
    from tgdav.blobs.telegram.account_store import AccountStore
    from tgdav.blobs.telegram.rate_limit import RateLimitedStore

_DIRECTORY_RETRY = RetryPolicy(give_up_after=5.0)
"""A missing directory does not come back by itself: a call fails after 5 s; background work retries."""
_TELEGRAM_RETRY = RetryPolicy(give_up_after=20.0)
"""Longer than the flood waits of a busy account usually are, short enough for a caller that waits."""


_PROBE_SECONDS = 1.0
"""How long ``status`` waits for a directory store."""
_NO_BLOB = BlobName(bytes(16))


class Stores(msgspec.Struct, frozen=True):
    """The store in its wrappers: ``store`` is the outermost one; the others report and control."""

    store: BlobStore
    retrying: RetryStore
    counting: CountingStore
    measuring: MeasuringStore
    stopping: threading.Event
    account: "AccountStore | None" = None
    rate_limit: "RateLimitedStore | None" = None
    bounded: BoundedStore | None = None

    @property
    def backoff(self) -> tuple[float, str]:
        """Seconds until the store is tried again, or until Telegram's rate limit allows the next message; and why."""
        reach = self.retrying.reachability()
        paced, reason = (0.0, "") if self.rate_limit is None else self.rate_limit.backoff
        return max(reach.waiting_seconds, paced), reason or reach.last_error

    @property
    def requested_backoff(self) -> tuple[float, str]:
        """Seconds of backoff that a reachable store asked for, and why; 0 if it cannot be reached."""
        return (0.0, "") if self.rate_limit is None else self.rate_limit.backoff

    def reachability(self) -> Reachability:
        """Return whether the store can be reached, without calling it; a running call counts too."""
        reach = self.retrying.reachability()
        trouble = None if self.account is None else self.account.unreachable_reason
        return reach if trouble is None else msgspec.structs.replace(reach, reachable=False, last_error=trouble)

    def probe(self) -> None:
        """Check a directory store; a store behind a network is not called."""
        if self.bounded is None:
            return
        try:
            with self.bounded.time_limit(_PROBE_SECONDS):
                self.counting.find(_NO_BLOB)
        except StoreError as error:
            self.retrying.record_outcome(error)
        else:
            self.retrying.record_outcome(None)

    def disconnect(self) -> None:
        """Abort running calls; every further call fails."""
        self.stopping.set()
        if self.account is not None:
            self.account.close()
        if self.bounded is not None:
            self.bounded.give_up()


def open_store(
    config: Config, paths: StatePaths, platform: Platform, *, create: bool = False, login: TelegramLogin | None = None
) -> Stores:
    """Return the configured store; with ``create`` a missing directory store is created.

    Nothing uses the network yet. A Telegram store needs a login before its first call: ``Stores.account.use``. Raises UsageError,
    LoginInUse (another process uses the login), AccessError.
    """
    if config.backend() == "telegram":
        return _telegram(config, platform, login)
    path = paths.for_config(config).store
    # From the inside out: the directory, a bound on hanging calls, counters, retries, upload statistics.
    inner = DirectoryStore(path, disk=platform.disk, clock=platform.clock, entropy=platform.entropy)
    bounded = BoundedStore(inner, str(path))
    if create:
        bounded.run(inner.create_directory, CALL_SECONDS)
    stores = _wrapped(CountingStore(bounded), platform, threading.Event(), _DIRECTORY_RETRY)
    return msgspec.structs.replace(stores, bounded=bounded)


def _telegram(config: Config, platform: Platform, login: TelegramLogin | None) -> Stores:
    from tgdav.blobs.telegram.account_store import AccountStore
    from tgdav.blobs.telegram.rate_limit import RateLimitedStore
    from tgdav.blobs.telegram.settings import telegram_settings

    stopping = threading.Event()
    account = AccountStore(
        telegram_settings(config), peer=config.telegram.peer, platform=platform, lock_login=LoginLock
    )
    if login is not None:
        account.use(login)
    rate_limit = RateLimitedStore(
        account,
        clock=platform.clock,
        stop=stopping,
        uploads=config.telegram.max_concurrent_uploads,
        downloads=config.telegram.max_concurrent_downloads,
        inner_backoff=lambda: account.backoff,
    )
    stores = _wrapped(CountingStore(rate_limit), platform, stopping, _TELEGRAM_RETRY)
    return msgspec.structs.replace(stores, account=account, rate_limit=rate_limit)


def _wrapped(counting: CountingStore, platform: Platform, stopping: threading.Event, policy: RetryPolicy) -> Stores:
    retrying = RetryStore(
        counting, clock=platform.clock, entropy=platform.entropy, wait=stopping.wait, stop=stopping, policy=policy
    )
    measuring = MeasuringStore(retrying)
    return Stores(measuring, retrying, counting, measuring, stopping)
