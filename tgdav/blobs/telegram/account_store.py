"""The Telegram store of an open vault: its login may be missing, end, or be replaced while callers keep the store."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar

from tgdav.blobs.interface import START, BlobInfo, BlobStore, Source, StoreTraits
from tgdav.blobs.telegram.flood_waits import FloodWaits
from tgdav.blobs.telegram.session import Session
from tgdav.blobs.telegram.settings import TelegramSettings
from tgdav.blobs.telegram.store import TelegramStore
from tgdav.errors import AccessError, NotLoggedIn, StoreRejected, StoreUnavailable, TgdavError
from tgdav.ids import BlobId, BlobName
from tgdav.platform import Platform

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_CLOCK_AHEAD, MAX_CLOCK_BEHIND = 30.0, 300.0
"""Tolerated error of this machine's clock in seconds: what Telegram tolerates in the ids of messages sent to it."""


class AccountLogin(Protocol):
    """A login as the vault keeps it."""

    @property
    def session(self) -> str:
        """Telethon's StringSession; empty after a logout."""
        ...

    @property
    def user_id(self) -> int:
        """The account that the vault belongs to; 0 if unknown."""
        ...


class LoginLock(Protocol):
    """Held while a login is in use, so that no other process of this machine uses it."""

    def release(self) -> None:
        """Release the lock. Idempotent."""
        ...


class AccountStore:
    """A ``BlobStore`` that passes calls to the chat with the current login; without one, calls raise NotLoggedIn.

    ``problem`` is the error that keeps the login or the account from being used, or None. It is logged as an error
    once ``announces`` is set, before that as information. ``lock_login`` acquires the lock of a StringSession; it
    raises VaultInUse.
    """

    traits: StoreTraits = TelegramStore.traits

    def __init__(
        self, settings: TelegramSettings, *, peer: str, platform: Platform, lock_login: Callable[[str], LoginLock]
    ) -> None:
        self.settings = settings
        self._peer = peer
        self._platform = platform
        self._lock_login = lock_login
        self._flood_waits = FloodWaits(platform.clock)
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._store: TelegramStore | None = None
        self._login_lock: LoginLock | None = None
        self._is_closed = False
        self._on_blob: Callable[[BlobInfo], None] | None = None
        self.problem: TgdavError | None = None
        self.announces = False

    @property
    def backoff(self) -> tuple[float, str]:
        """Seconds until Telegram accepts requests again, and the reason; (0, "") if it accepts them now."""
        session = self._session
        return (0.0, "") if session is None else session.backoff

    @property
    def unreachable_reason(self) -> str | None:
        """Why the last connection failed; None if it works, or was never tried."""
        session = self._session
        return None if session is None else session.unreachable_reason

    @property
    def clock_ahead(self) -> float | None:
        """Seconds that this machine's clock is ahead of Telegram's, negative if behind; None if unknown."""
        session = self._session
        return None if session is None else session.clock_ahead

    @property
    def clock_problem(self) -> str | None:
        """A message if this machine's clock is wrong by more than is tolerated, else None."""
        ahead = self.clock_ahead
        if ahead is None or -MAX_CLOCK_BEHIND <= ahead <= MAX_CLOCK_AHEAD:
            return None
        offset = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{-ahead:.0f} s behind"
        return f"this machine's clock is {offset} Telegram's: correct it, because files are stamped with its time"

    def use(self, login: AccountLogin | None) -> None:
        """Replace the login. Sends nothing yet. Raises VaultInUse, AccessError."""
        self._disconnect()
        if login is None or not login.session:
            self._record_problem(NotLoggedIn())
            return
        login_lock = self._lock_login(login.session)
        try:
            session = Session(
                self.settings,
                login.session,
                clock=self._platform.clock,
                user_id=login.user_id or None,
                flood_waits=self._flood_waits,  # they limit the account, whichever login it uses
            )
        except BaseException:
            login_lock.release()
            raise
        with self._lock:
            self._login_lock, self._session, self.problem = login_lock, session, None
            self._store = TelegramStore(session, peer=self._peer, entropy=self._platform.entropy)
            self._watch(self._store)

    def watch(self, on_blob: Callable[[BlobInfo], None]) -> None:
        """Call ``on_blob`` for blobs that other logins append, with the current login and with later ones.

        This is a hint: callers must still list now and then. ``on_blob`` runs on a thread of the store and must
        neither raise nor block.
        """
        with self._lock:
            self._on_blob = on_blob
            self._watch(self._store)

    def _watch(self, store: TelegramStore | None) -> None:
        if store is not None and self._on_blob is not None:
            store.watch(self._on_blob, on_logout=lambda error: self._handle_logout(store, error))

    def _handle_logout(self, store: TelegramStore, error: AccessError) -> None:
        if store is self._store:  # an older login may end after its replacement
            self._record_problem(error)

    def close(self) -> None:
        """Disconnect. Idempotent; every later call raises StoreRejected."""
        self._is_closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        with self._lock:
            store, login_lock = self._store, self._login_lock
            self._store = self._session = self._login_lock = None
        # The lock is released last, even if closing fails: another process must not connect before this one is gone.
        with ExitStack() as stack:
            if login_lock is not None:
                stack.callback(login_lock.release)
            if store is not None:
                store.close()

    def idle_days(self) -> int:
        """Return after how many days without use Telegram deletes the account. Raises as other calls of a store."""
        store = self._store
        if store is None:
            raise NotLoggedIn
        return store.idle_days()

    # ---- the store's calls -------------------------------------------------------------------------------------------

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """See ``BlobStore.append``."""
        return self._call(lambda store: store.append(name, source, label, progress=progress))

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """See ``BlobStore.read``."""
        return self._call(lambda store: store.read(blob_id, offset, length))

    def size(self, blob_id: BlobId) -> int:
        """See ``BlobStore.size``."""
        return self._call(lambda store: store.size(blob_id))

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``."""
        infos: Iterator[BlobInfo] | None = None

        # Each step is one call, so that errors are recorded and a replaced login ends the listing.
        def step(store: BlobStore) -> BlobInfo | None:
            nonlocal infos
            infos = infos or store.list(after)
            return next(infos, None)

        while (info := self._call(step)) is not None:
            yield info

    def find(self, name: BlobName) -> BlobInfo | None:
        """See ``BlobStore.find``."""
        return self._call(lambda store: store.find(name))

    def delete(self, ids: Sequence[BlobId]) -> None:
        """See ``BlobStore.delete``."""
        self._call(lambda store: store.delete(ids))

    def _call(self, call: Callable[[BlobStore], Result]) -> Result:
        store = self._store
        if store is None:
            raise StoreRejected("the store is closed") if self._is_closed else NotLoggedIn()
        try:
            result = call(store)
        except AccessError as error:
            if store is self._store:
                self._record_problem(error)
            raise
        except StoreRejected as error:
            if self._is_closed:
                raise
            if store is not self._store:
                # The closed store of the old login refused: the same call works with the new one.
                raise StoreUnavailable("the Telegram login was just replaced") from None
            self._record_problem(error)
            raise
        if self.problem is not None and store is self._store:
            self.problem = None
        return result

    def _record_problem(self, error: TgdavError) -> None:
        if str(self.problem) != str(error):
            # Logged as a string: a log handler that keeps the record would keep the session and its buffers alive
            # through the exception's traceback.
            _log.log(logging.ERROR if self.announces else logging.INFO, "%s", str(error))
        self.problem = error
