"""From the configuration to a blob store."""

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
    # Telethon takes long to import, and serves one kind of store.
    from tgdav.blobs.telegram.account_store import AccountStore
    from tgdav.blobs.telegram.rate_limit import RateLimitedStore

_DIRECTORY_RETRY = RetryPolicy(give_up_after=5.0)
"""A folder that is away is away at once and comes back by hand: who asked is told soon, background work tries again."""
_TELEGRAM_RETRY = RetryPolicy(give_up_after=20.0)
"""Long enough for the rests that Telegram asks of a busy account, short enough for who waits for an answer."""


_PROBE_SECONDS = 1.0
"""How long ``status`` waits for a folder."""
_NOBODY = BlobName(bytes(16))


class Stores(msgspec.Struct, frozen=True):
    """The store in its wrappers: ``store`` is what to use, the others tell how it goes."""

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
        """The seconds until the store is asked again, or until Telegram's pace lets the next message go, and why."""
        reach = self.retrying.reachability()
        paced, reason = (0.0, "") if self.rate_limit is None else self.rate_limit.backoff
        return max(reach.waiting_seconds, paced), reason or reach.last_error

    @property
    def requested_backoff(self) -> tuple[float, str]:
        """The seconds of rest that a store which answers asks for, and why; 0 for one that merely cannot be reached."""
        return (0.0, "") if self.rate_limit is None else self.rate_limit.backoff

    def reachability(self) -> Reachability:
        """Return what is known of the store without asking it, a call that is still under way included."""
        reach = self.retrying.reachability()
        trouble = None if self.account is None else self.account.unreachable_reason
        return reach if trouble is None else msgspec.structs.replace(reach, reachable=False, last_error=trouble)

    def probe(self) -> None:
        """Ask a folder whether it is there: that is known at once. What is behind a network is not asked."""
        if self.bounded is None:
            return
        try:
            with self.bounded.time_limit(_PROBE_SECONDS):
                self.counting.find(_NOBODY)
        except StoreError as error:
            self.retrying.record_outcome(error)
        else:
            self.retrying.record_outcome(None)

    def disconnect(self) -> None:
        """Cut short what waits for the network; every call fails from now on."""
        self.stopping.set()
        if self.account is not None:
            self.account.close()
        if self.bounded is not None:
            self.bounded.give_up()


def open_store(
    config: Config, paths: StatePaths, platform: Platform, *, create: bool = False, login: TelegramLogin | None = None
) -> Stores:
    """Return the configured store; with ``create`` an embedded one is made where there is none.

    Nothing touches the network. Telegram's needs a login sooner or later: ``Stores.account.use``. Raises UsageError,
    VaultInUse (another process uses the login), AccessError.
    """
    if config.backend() == "telegram":
        return _telegram(config, platform, login)
    path = paths.for_config(config).store
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
    sending = MeasuringStore(retrying)
    return Stores(sending, retrying, counting, sending, stopping)
