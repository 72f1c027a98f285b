"""The Telegram chat as a store whose login may come, go and be replaced while everything above it runs."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeVar

from tgdav.blobs.interface import START, BlobInfo, BlobStore, Source, StoreTraits
from tgdav.blobs.telegram import FloodWaits, Session, TelegramProxy, TelegramSettings, TelegramStore, TelegramTestServer
from tgdav.blobs.telegram.login import log_out
from tgdav.config import Config
from tgdav.errors import AccessError, StoreRejected, StoreUnavailable, TgdavError, UsageError
from tgdav.ids import BlobId, BlobName
from tgdav.platform import Platform
from tgdav.volume.lock import LoginLock
from tgdav.volume.telegram_login import NotLoggedIn, TelegramLogin

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

FURTHEST_AHEAD, FURTHEST_BEHIND = 30.0, 300.0
"""Seconds that a clock may be off: what Telegram allows the messages that it is sent."""


def telegram_settings(config: Config) -> TelegramSettings:
    """Return how to reach Telegram. Raises UsageError for what is missing."""
    telegram = config.telegram
    if telegram.api_id is None or telegram.api_hash is None:
        raise UsageError(
            "telegram.api_id and telegram.api_hash must be set",
            hint="take them from https://my.telegram.org, and give them to 'tgdav init' or to the configuration",
        )
    return TelegramSettings(telegram.api_id, telegram.api_hash.get_secret_value(), _proxy(config), _test_server(config))


def _proxy(config: Config) -> TelegramProxy | None:
    proxy = config.telegram.proxy
    if proxy is None:
        return None
    password = None if proxy.password is None else proxy.password.get_secret_value()
    return TelegramProxy(proxy.type, proxy.host, proxy.port, proxy.username, password)


def _test_server(config: Config) -> TelegramTestServer | None:
    server = config.telegram.test_server
    if server is None:
        return None
    try:
        key = server.public_key_file.read_text(encoding="ascii") if server.public_key_file else ""
    except (OSError, UnicodeDecodeError):
        key = ""
    if not key:
        raise UsageError("telegram.test_server.public_key_file is no file with a key", hint="correct the configuration")
    return TelegramTestServer(server.address, server.port, server.dc, key)


class AccountStore:
    """A ``BlobStore``: passes calls to the chat by the login in use; without one every call raises NotLoggedIn.

    ``problem`` is the error that keeps the login or the account from being used, None while nothing does; where
    ``announces`` is set, the log says it too.
    """

    traits: StoreTraits = TelegramStore.traits

    def __init__(self, config: Config, platform: Platform) -> None:
        self.settings = telegram_settings(config)
        self._peer = config.telegram.peer
        self._platform = platform
        self._flood_waits = FloodWaits(platform.clock)
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._store: TelegramStore | None = None
        self._held: LoginLock | None = None
        self._is_closed = False
        self._found: Callable[[BlobInfo], None] | None = None
        self.problem: TgdavError | None = None
        self.announces = False

    @property
    def backoff(self) -> tuple[float, str]:
        """How long Telegram asks for rest, in seconds, and with what."""
        session = self._session
        return (0.0, "") if session is None else session.backoff

    @property
    def unreachable_reason(self) -> str | None:
        """Why Telegram cannot be reached, as far as the connections tell; None where it can, or was not asked yet."""
        session = self._session
        return None if session is None else session.unreachable_reason

    @property
    def clock_ahead(self) -> float | None:
        """Seconds that this machine's clock is ahead of Telegram's, negative if behind; None while that is not known."""
        session = self._session
        return None if session is None else session.clock_ahead

    @property
    def clock_problem(self) -> str | None:
        """What is wrong with this machine's clock, None if nothing is, or nothing is known."""
        ahead = self.clock_ahead
        if ahead is None or -FURTHEST_BEHIND <= ahead <= FURTHEST_AHEAD:
            return None
        words = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{-ahead:.0f} s behind"
        return f"this machine's clock is {words} Telegram's: set it right, for what is written carries its time"

    def use(self, login: TelegramLogin | None) -> None:
        """Use this login from now on, the one before no more. Nothing is sent yet. Raises VaultInUse, AccessError."""
        self._let_go()
        if login is None or not login.session:
            self._note(NotLoggedIn())
            return
        held = LoginLock(login.session)
        try:
            session = Session(
                self.settings,
                login.session,
                clock=self._platform.clock,
                user_id=login.user_id or None,
                flood_waits=self._flood_waits,  # Telegram asked the account, whatever login it has
            )
        except BaseException:
            held.release()
            raise
        with self._lock:
            self._held, self._session, self.problem = held, session, None
            self._store = TelegramStore(session, peer=self._peer, entropy=self._platform.entropy)
            self._watch(self._store)

    def watch(self, found: Callable[[BlobInfo], None]) -> None:
        """Tell ``found`` of blobs that other logins append, by this login and by those that replace it.

        A shortcut for whoever lists now and then. It is called on a thread of the store's and must not raise or wait.
        """
        with self._lock:
            self._found = found
            self._watch(self._store)

    def _watch(self, store: TelegramStore | None) -> None:
        if store is not None and self._found is not None:
            store.watch(self._found, lost=lambda error: self._lost(store, error))

    def _lost(self, store: TelegramStore, error: AccessError) -> None:
        if store is self._store:
            self._note(error)

    def close(self) -> None:
        """Hang up. Idempotent; every other call is StoreRejected then."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            store, held = self._store, self._held
            self._store = self._session = self._held = None
        with ExitStack() as ending:
            if held is not None:
                ending.callback(held.release)
            if store is not None:
                store.close()

    def idle_days(self) -> int:
        """Return the days without use after which Telegram deletes the account. Raises as the calls of a store do."""
        store = self._store
        if store is None:
            raise NotLoggedIn
        return store.idle_days()

    # ---- calls -------------------------------------------------------------------------------------------------------

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

    def _call(self, work: Callable[[BlobStore], Result]) -> Result:
        store = self._store
        if store is None:
            raise StoreRejected("the store is closed") if self._is_closed else NotLoggedIn()
        try:
            result = work(store)
        except AccessError as error:
            if store is self._store:
                self._note(error)
            raise
        except StoreRejected as error:
            if self._is_closed:
                raise
            if store is not self._store:
                raise StoreUnavailable("the login at Telegram was just replaced") from None
            self._note(error)
            raise
        if self.problem is not None and store is self._store:
            self.problem = None
        return result

    def _note(self, error: TgdavError) -> None:
        if str(self.problem) != str(error):
            # As text: whoever keeps the record would keep the session and its buffers, by the error's traceback.
            _log.log(logging.ERROR if self.announces else logging.INFO, "%s", str(error))
        self.problem = error


def end_login(settings: TelegramSettings, login: TelegramLogin | None) -> None:
    """End a login that nothing uses any more, if Telegram can be reached; else the user still sees it in the list of
    devices.
    """
    if login is None or not login.session:
        return
    try:
        log_out(settings, login.session)
    except TgdavError as error:
        _log.info("a login that is no longer used could not be ended: %s", error.message)
