"""A login at Telegram: its thread, its connections, and the one bridge that other threads call it through.

Telegram destroys a login whose key is used on two main connections at once, so a session has one main connection, and
a program one session. Connections are made when they are needed; one that broke is replaced at the next request. The
login itself (Telethon's StringSession) comes in as text and stays in memory; the caller keeps it sealed.
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

_BRIDGE_SLACK = 10.0


class Session:
    """A login, given as a StringSession's text.

    ``user_id`` is who the vault belongs to; a login of somebody else raises AccessError in every request. None takes
    whoever it is. ``rests`` are the account's, known from a login before. Threads may call everything at once. Nothing
    touches the network before the first request.
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
        self._wanted_user = user_id
        self._login = read_login(settings, login)
        self._connections: dict[int, DcConnection] = {}
        self._keys: dict[int, AuthKey] = {}
        self._doors: dict[int, asyncio.Lock] = {}
        self._options: list[Any] = []
        self._pending: set[PendingResponse] = set()
        self._dead: AccessError | None = None
        self._on_update: Callable[[Any], None] | None = None
        self._on_line: Callable[[], None] | None = None
        self._user_id = 0
        self.clock_ahead: float | None = None
        """Seconds that this machine's clock is ahead of Telegram's, negative if behind; None before the first answer."""
        self.unreachable_reason: str | None = None
        """Why Telegram cannot be reached: what made the last connection fail, or fall silent; None since it answers."""
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Worker | None = None

    @property
    def user_id(self) -> int:
        """The account's number; 0 before the first answer."""
        return self._user_id

    @property
    def backoff(self) -> tuple[float, str]:
        """How long Telegram still asks for rest, in seconds, and with what; 0 and nothing if it does not."""
        return self._flood_waits.longest()

    def window(self, kind: str) -> RequestWindow:
        """Return how many requests of a kind (``upload``, ``download``) to have under way; the account's."""
        return self._flood_waits.window(kind, self.settings.parts_in_flight)

    # The bridge.

    def submit(self, request: Any, *, dc: int | None = None, subscribe: bool = False) -> PendingResponse:
        """Send a request to a data centre (None: the login's own) and return at once; ``wait`` gives the answer.

        ``subscribe``: from then on Telegram sends updates down the connection that the request went through.
        """
        asked = request if subscribe else without_updates(request)
        with self._starting:
            loop = self._running()
            answer = asyncio.run_coroutine_threadsafe(self._answer(request, asked, dc or self._login.dc_id), loop)
            self._pending.add(answer)
        answer.add_done_callback(self._pending.discard)
        return answer

    def result(self, answer: PendingResponse) -> Any:
        """Return an answer. Raises translated errors, StoreUnavailable if none comes, StoreRejected once closed."""
        try:
            return answer.result(self.settings.connect_timeout + 8 * self.settings.patience + _BRIDGE_SLACK)
        except concurrent.futures.CancelledError:
            raise StoreRejected("the store is closed") from None
        except TimeoutError:
            answer.cancel()
            raise StoreUnavailable("Telegram does not answer") from None

    def invoke(self, request: Any, *, dc: int | None = None, subscribe: bool = False) -> Any:
        """Send a request and return its answer."""
        return self.result(self.submit(request, dc=dc, subscribe=subscribe))

    def set_handlers(self, update: Callable[[Any], None] | None, line: Callable[[], None] | None) -> None:
        """Have ``update`` told of what Telegram sends unasked, and ``line`` of each home connection that begins or ends.

        Both are called in the session's loop and must return at once; None ends it.
        """
        self._on_update, self._on_line = update, line

    def _handle_update(self, update: Any) -> None:
        if self._on_update is not None:
            self._on_update(update)

    def _record_clock(self, ahead: float) -> None:
        self.clock_ahead = ahead

    def _connection_changed(self) -> None:
        if self._on_line is not None:
            self._on_line()

    def pause(self, seconds: float) -> None:
        """Wait. Raises StoreRejected when the session is closed meanwhile."""
        if self._closing.wait(seconds):
            raise StoreRejected("the store is closed")

    def close(self) -> None:
        """Hang up and end the thread. Idempotent."""
        with self._starting:
            self._closing.set()
            thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
            thread.join()
            self._loop.close()
            for answer in [*self._pending]:
                with suppress(concurrent.futures.InvalidStateError):  # it was answered, or given up, just now
                    answer.set_exception(StoreRejected("the store is closed"))

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, started when it is first needed. The caller holds the lock, so that it does not end meanwhile."""
        if self._closing.is_set():
            raise StoreRejected("the store is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            loop = self._loop
            self._thread = Worker("telegram", lambda: _serve(loop))
            self._thread.start()
        return self._loop

    # In the loop.

    async def _answer(self, request: Any, asked: Any, dc: int) -> Any:
        self._check_allowed(type(request))
        line = self._connections.get(dc)
        if line is None or not line.is_alive:
            line = await self._connected(dc)
            self._check_allowed(type(request))  # others may have been told to wait meanwhile
        try:
            answer = await line.invoke(asked)
        except AccessError as error:
            await self._end(error, line, dc)
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
        return answer

    def _check_allowed(self, kind: type) -> None:
        """Send nothing with a dead login, and nothing that Telegram asked to wait with."""
        if self._dead is not None:
            raise AccessError(self._dead.message, hint=self._dead.hint)
        self._flood_waits.check(kind)

    async def _end(self, error: AccessError, line: DcConnection, dc: int) -> None:
        """The login is over; elsewhere than at home only the copy of it that was taken there."""
        await line.close()
        if dc != self._login.dc_id:
            self._keys.pop(dc, None)
            raise StoreUnavailable(f"data centre {dc} wants to be introduced again") from error
        log.info("the login at Telegram is over: %s", error.message)
        self._dead = error

    async def _connected(self, dc: int) -> DcConnection:
        """Return a live line to a data centre; of all who want one, one connects and the others wait for it."""
        async with self._doors.setdefault(dc, asyncio.Lock()):
            line = self._connections.get(dc)
            if line is not None and line.is_alive:
                return line
            if line is not None:
                await line.close()
                del self._connections[dc]
                if line.refusal is not None:
                    self._flood_waits.record_refusal(dc, line.refusal)
            self._flood_waits.check_connection(dc)
            if self._closing.is_set():
                raise StoreRejected("the store is closed")
            try:
                line = await (self._open_home() if dc == self._login.dc_id else self._open_other(dc))
            except StoreUnavailable as error:
                self._flood_waits.record_refusal(dc, error)
                self.unreachable_reason = error.message
                raise
            except AccessError as error:
                self._dead = error
                raise
            self._connections[dc] = line
            self.unreachable_reason = None
            if self._closing.is_set():
                await line.close()
            return line

    async def _open_home(self) -> DcConnection:
        login = self._login
        line = DcConnection(
            self.settings,
            login.auth_key,
            on_update=self._handle_update,
            on_broken=self._connection_changed,
            on_time=self._record_clock,
        )
        me = functions.users.GetUsersRequest([types.InputUserSelf()])
        users = await line.open(login.server_address, login.port, login.dc_id, me)
        self._user_id = users[0].id
        if self._wanted_user not in (None, self._user_id):
            await line.close()
            raise AccessError(
                "the login is another Telegram account's than the vault's", hint="run 'tgdav auth' with the right one"
            )
        self._connection_changed()
        return line

    async def _open_other(self, dc: int) -> DcConnection:
        """A line to a data centre that only holds files: its own key, and the login taken along."""
        home = await self._connected(self._login.dc_id)
        option = await self._option(home, dc)
        line = DcConnection(self.settings, self._keys.get(dc))
        export = await home.invoke(without_updates(functions.auth.ExportAuthorizationRequest(dc)))
        first = functions.auth.ImportAuthorizationRequest(export.id, export.bytes)
        try:
            await line.open(option.ip_address, option.port, dc, first)
        except AccessError as error:  # of the copy; the login itself is as good as before
            await self._end(error, line, dc)
        self._keys[dc] = line.key
        return line

    async def _option(self, home: DcConnection, dc: int) -> Any:
        if not self._options:
            self._options = (await home.invoke(without_updates(functions.help.GetConfigRequest()))).dc_options
        fitting = [it for it in self._options if it.id == dc and not it.ipv6 and not it.cdn and not it.tcpo_only]
        if not fitting:
            raise StoreUnavailable(f"Telegram names no address of data centre {dc}")
        return fitting[0]

    async def _shut_down(self) -> None:
        """End everything in the loop, and the loop whatever happens: ``close`` waits for its end."""
        loop = asyncio.get_running_loop()
        try:
            others = asyncio.all_tasks(loop) - {asyncio.current_task()}
            await self._hang_up()
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._hang_up()
            await asyncio.sleep(0)  # connections given up while being made close their sockets in the next round
        finally:
            loop.stop()

    async def _hang_up(self) -> None:
        for line in [*self._connections.values()]:  # others end and replace lines meanwhile
            await line.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    use_all_cores()
    asyncio.set_event_loop(loop)
    loop.run_forever()


def read_login(settings: TelegramSettings, login: str) -> Any:
    """Return Telethon's StringSession. Raises AccessError for text that is none, or holds no key."""
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
