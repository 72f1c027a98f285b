"""A login at Telegram: its connections, their event loop and its thread, and the synchronous calls of other threads.

Telegram ends a login whose key is used on two main connections at once. So a session has one main connection, and a
program one session. Connections are made when needed; a broken one is replaced at the next request. The login
(Telethon's StringSession) is kept in memory only; the caller stores it sealed.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from telethon.crypto import AuthKey
from telethon.sessions import StringSession
from telethon.tl import functions, types

from tgdav.blobs.telegram.errors import NoResponse, PremiumWait, translate
from tgdav.blobs.telegram.flood_waits import FloodWaits, RequestWindow
from tgdav.blobs.telegram.mtproto.dc_connection import DcConnection, without_updates
from tgdav.blobs.telegram.settings import TelegramSettings
from tgdav.clock import Clock
from tgdav.cpu_affinity import use_all_cores
from tgdav.errors import AccessError, StoreRejected, StoreUnavailable
from tgdav.threads import Worker

log = logging.getLogger(__name__)
PendingResponse = concurrent.futures.Future[Any]

_RESULT_SLACK = 10.0


class Session:
    """A login, given as a StringSession. Thread-safe; the network is not used before the first request.

    ``user_id`` is the account that the vault belongs to: with a login of another account every request raises
    AccessError. None accepts any account. ``flood_waits`` are those of the account, known from an earlier login.
    """

    def __init__(
        self,
        settings: TelegramSettings,
        login: str,
        *,
        clock: Clock,
        user_id: int | None = None,
        flood_waits: FloodWaits | None = None,
    ) -> None:
        self.settings = settings
        self._flood_waits = FloodWaits(clock) if flood_waits is None else flood_waits
        self._expected_user = user_id
        self._login = read_login(settings, login)
        self._connections: dict[int, DcConnection] = {}
        self._keys: dict[int, AuthKey] = {}
        self._connect_locks: dict[int, asyncio.Lock] = {}
        self._options: list[Any] = []
        self._pending: set[PendingResponse] = set()
        self._ended: AccessError | None = None
        self._on_update: Callable[[Any], None] | None = None
        self._on_connection: Callable[[], None] | None = None
        self._user_id = 0
        self.clock_ahead: float | None = None
        """Seconds that this machine's clock is ahead of Telegram's, negative if behind; None before the first response."""
        self.unreachable_reason: str | None = None
        """Why the last connection failed or stopped responding; None while Telegram responds."""
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Worker | None = None

    @property
    def user_id(self) -> int:
        """The account's number; 0 before the first response."""
        return self._user_id

    @property
    def backoff(self) -> tuple[float, str]:
        """Seconds until Telegram's last wait ends, and its reason; (0, "") if there is none."""
        return self._flood_waits.longest()

    def window(self, kind: str) -> RequestWindow:
        """Return the account's window of concurrent requests of a kind (``upload``, ``download``)."""
        return self._flood_waits.window(kind, self.settings.parts_in_flight)

    # ---- called from any thread --------------------------------------------------------------------------------------

    def submit(self, request: Any, *, dc: int | None = None, subscribe: bool = False) -> PendingResponse:
        """Send a request to a data centre (None: the login's own) without waiting; ``result`` returns its result.

        With ``subscribe`` Telegram sends updates on the connection of this request from then on.
        """
        wrapped = request if subscribe else without_updates(request)
        with self._starting:
            loop = self._running_loop()
            pending = asyncio.run_coroutine_threadsafe(self._invoke(request, wrapped, dc or self._login.dc_id), loop)
            self._pending.add(pending)
        pending.add_done_callback(self._pending.discard)
        return pending

    def result(self, pending: PendingResponse) -> Any:
        """Wait for a result. Raises translated errors, StoreUnavailable if none arrives, StoreRejected if closed."""
        try:
            # Longer than all time limits in the loop together, so that the error of the one that expired is raised.
            return pending.result(self.settings.connect_timeout + 8 * self.settings.patience + _RESULT_SLACK)
        except concurrent.futures.CancelledError:
            raise StoreRejected("the store is closed") from None
        except TimeoutError:
            pending.cancel()
            raise StoreUnavailable("Telegram does not respond") from None

    def invoke(self, request: Any, *, dc: int | None = None, subscribe: bool = False) -> Any:
        """Send a request and return its result."""
        return self.result(self.submit(request, dc=dc, subscribe=subscribe))

    def set_handlers(self, on_update: Callable[[Any], None] | None, on_connection: Callable[[], None] | None) -> None:
        """Call ``on_update`` with each update, and ``on_connection`` when a main connection begins or ends.

        Both are called in the session's loop and must not block; None removes a handler.
        """
        self._on_update, self._on_connection = on_update, on_connection

    def _handle_update(self, update: Any) -> None:
        if self._on_update is not None:
            self._on_update(update)

    def _record_clock(self, ahead: float) -> None:
        self.clock_ahead = ahead

    def _connection_changed(self) -> None:
        if self._on_connection is not None:
            self._on_connection()

    def pause(self, seconds: float) -> None:
        """Wait. Raises StoreRejected if the session is closed meanwhile."""
        if self._closing.wait(seconds):
            raise StoreRejected("the store is closed")

    def close(self) -> None:
        """Close all connections and end the thread. Idempotent."""
        with self._starting:
            self._closing.set()
            thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
            thread.join()
            self._loop.close()
            for pending in [*self._pending]:
                with suppress(concurrent.futures.InvalidStateError):  # it completed or was cancelled just now
                    pending.set_exception(StoreRejected("the store is closed"))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, started at the first call. The caller holds the lock, so that the loop does not end meanwhile."""
        if self._closing.is_set():
            raise StoreRejected("the store is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            loop = self._loop
            self._thread = Worker("telegram", lambda: _serve(loop))
            self._thread.start()
        return self._loop

    # ---- called in the loop ------------------------------------------------------------------------------------------

    async def _invoke(self, request: Any, wrapped: Any, dc: int) -> Any:
        self._check_sendable(type(request))
        connection = self._connections.get(dc)
        if connection is None or not connection.is_alive:
            connection = await self._connection(dc)
            self._check_sendable(type(request))  # another request may have met a FLOOD_WAIT meanwhile
        try:
            result = await connection.invoke(wrapped)
        except AccessError as error:
            await self._end_login(error, connection, dc)
            raise
        except PremiumWait as error:
            error.retry_after = self._flood_waits.record_slowdown(error.retry_after or 0)
            raise
        except NoResponse as error:
            self.unreachable_reason = error.message
            raise
        except StoreUnavailable as error:
            self._flood_waits.record(type(request), dc, error)
            error.retry_after = self._flood_waits.remaining(type(request)) or error.retry_after
            raise
        self.unreachable_reason = None
        return result

    def _check_sendable(self, kind: type) -> None:
        """Raise if the login has ended, or while requests of this kind must wait."""
        if self._ended is not None:
            raise AccessError(self._ended.message, hint=self._ended.hint)
        self._flood_waits.check(kind)  # a request during a FLOOD_WAIT may extend it

    async def _end_login(self, error: AccessError, connection: DcConnection, dc: int) -> None:
        """Record the end of the login; in another data centre only that of its copy there."""
        await connection.close()
        if dc != self._login.dc_id:
            self._keys.pop(dc, None)
            raise StoreUnavailable(f"data centre {dc} requires another authorization") from error
        log.info("the login at Telegram has ended: %s", error.message)
        self._ended = error

    async def _connection(self, dc: int) -> DcConnection:
        """Return a live connection to a data centre. Of concurrent callers one connects, the others wait for it."""
        async with self._connect_locks.setdefault(dc, asyncio.Lock()):
            connection = self._connections.get(dc)
            if connection is not None and connection.is_alive:
                return connection
            if connection is not None:
                await connection.close()
                del self._connections[dc]
                if connection.refusal is not None:
                    self._flood_waits.record_refusal(dc, connection.refusal)
            self._flood_waits.check_connection(dc)
            if self._closing.is_set():
                raise StoreRejected("the store is closed")
            try:
                connection = await (self._connect_home() if dc == self._login.dc_id else self._connect_other(dc))
            except StoreUnavailable as error:
                self._flood_waits.record_refusal(dc, error)
                self.unreachable_reason = error.message
                raise
            except AccessError as error:
                self._ended = error
                raise
            self._connections[dc] = connection
            self.unreachable_reason = None
            if self._closing.is_set():  # ``close`` may have passed its last iteration over the connections
                await connection.close()
            return connection

    async def _connect_home(self) -> DcConnection:
        login = self._login
        connection = DcConnection(
            self.settings,
            login.auth_key,
            on_update=self._handle_update,
            on_broken=self._connection_changed,
            on_time=self._record_clock,
        )
        me = functions.users.GetUsersRequest([types.InputUserSelf()])
        users = await connection.open(login.server_address, login.port, login.dc_id, me)
        self._user_id = users[0].id
        if self._expected_user not in (None, self._user_id):
            await connection.close()
            raise AccessError(
                "the login belongs to another Telegram account than the vault's",
                hint="run 'tgdav auth' with the right one",
            )
        self._connection_changed()
        return connection

    async def _connect_other(self, dc: int) -> DcConnection:
        """Connect to a data centre that only holds files, with a key of its own and an exported authorization."""
        home = await self._connection(self._login.dc_id)
        option = await self._option(home, dc)
        connection = DcConnection(self.settings, self._keys.get(dc))
        export = await home.invoke(without_updates(functions.auth.ExportAuthorizationRequest(dc)))
        first = functions.auth.ImportAuthorizationRequest(export.id, export.bytes)
        try:
            await connection.open(option.ip_address, option.port, dc, first)
        except AccessError as error:  # the copy of the login was refused; the login itself still works
            await self._end_login(error, connection, dc)
        self._keys[dc] = connection.key
        return connection

    async def _option(self, home: DcConnection, dc: int) -> Any:
        if not self._options:
            self._options = (await home.invoke(without_updates(functions.help.GetConfigRequest()))).dc_options
        # cdn: caches of public files; tcpo_only: addresses for obfuscated transports, which tcp_full is not.
        fitting = [it for it in self._options if it.id == dc and not it.ipv6 and not it.cdn and not it.tcpo_only]
        if not fitting:
            raise StoreUnavailable(f"Telegram lists no address of data centre {dc}")
        return fitting[0]

    async def _shut_down(self) -> None:
        """End all tasks, then the loop, even after an error: ``close`` waits for the end of the loop."""
        loop = asyncio.get_running_loop()
        try:
            others = asyncio.all_tasks(loop) - {asyncio.current_task()}
            # Closing makes pending requests raise; what still connects is cancelled, then closed too.
            await self._close_connections()
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._close_connections()
            # Cancelled connection attempts close their sockets in the next iteration of the loop.
            await asyncio.sleep(0)
        finally:
            loop.stop()

    async def _close_connections(self) -> None:
        for connection in [*self._connections.values()]:  # tasks replace connections meanwhile
            await connection.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    use_all_cores()
    asyncio.set_event_loop(loop)
    loop.run_forever()


def read_login(settings: TelegramSettings, login: str) -> Any:
    """Return Telethon's StringSession. Raises AccessError if the string is malformed or has no key."""
    try:
        session = StringSession(login)
    except Exception as error:
        raise AccessError("the stored Telegram login is damaged", hint="run 'tgdav auth'") from translate(error)
    if session.auth_key is None:
        raise AccessError("there is no Telegram login yet", hint="run 'tgdav auth'")
    if settings.test_server is not None:
        server = settings.test_server
        settings.trust_test_server()
        if session.dc_id == server.dc:
            session.set_dc(server.dc, server.address, server.port)
    return session
