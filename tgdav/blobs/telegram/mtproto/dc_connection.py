"""A connection to one data centre: Telethon's sender on ``tcp_full``, without its reconnecting and update handling.

A broken connection is never repaired: the session makes a new one. So no request waits for ever in the queue of a dead
connection.

Telethon's sender has no public interface for these changes, so this module uses its private attributes.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from telethon.crypto import AuthKey
from telethon.network import MTProtoSender
from telethon.tl import functions
from telethon.tl.alltlobjects import LAYER

from tgdav.blobs.telegram.errors import NoResponse, TransportFlood, translate
from tgdav.blobs.telegram.mtproto.state import ConnectionState
from tgdav.blobs.telegram.mtproto.tcp_full import FramedConnection
from tgdav.blobs.telegram.settings import TelegramSettings
from tgdav.errors import StoreUnavailable

_MAX_PATIENCES = 4
"""A single response may take this many times the patience, as long as others arrive."""


class _Loggers(dict[str, logging.Logger]):
    def __missing__(self, key: str) -> logging.Logger:
        return logging.getLogger(key if key.startswith("telethon") else f"telethon.{key}")


class _Updates:
    """Takes the place of the queue into which Telethon's sender puts updates."""

    def __init__(self, on_update: Callable[[Any], None]) -> None:
        self.put_nowait = on_update


def _ignore_update(_update: Any) -> None:
    pass


def _ignore_time(_ahead: float) -> None:
    pass


def _do_nothing() -> None:
    pass


class DcConnection:
    """A connection. ``key`` is the authorization key, None to negotiate one. All calls are made in the session's loop.

    ``on_update`` is called with each update, ``on_broken`` once when an open connection ends, ``on_time`` with the
    seconds by which this machine's clock is ahead of Telegram's.
    """

    def __init__(
        self,
        settings: TelegramSettings,
        key: AuthKey | None,
        *,
        on_update: Callable[[Any], None] = _ignore_update,
        on_broken: Callable[[], None] = _do_nothing,
        on_time: Callable[[float], None] = _ignore_time,
    ) -> None:
        self._settings = settings
        loggers = _Loggers()
        self._sender = MTProtoSender(
            key,
            loggers=loggers,
            retries=0,
            delay=0,
            auto_reconnect=False,
            connect_timeout=settings.connect_timeout,
            updates_queue=_Updates(on_update),
        )
        # The sender and its queue share one state object, so both references are replaced.
        state = ConnectionState(self._sender.auth_key, loggers, on_time)
        self._sender._state = self._sender._send_queue._state = state  # noqa: SLF001
        self._on_broken = on_broken
        self._loggers = loggers
        self._last_response = 0.0
        self._closed = False
        self._connection: FramedConnection | None = None
        self._broken: asyncio.Future[Any] | None = None

    @property
    def key(self) -> AuthKey:
        """The authorization key in use."""
        return self._sender.auth_key

    @property
    def is_alive(self) -> bool:
        """Whether requests can be sent."""
        return not self._closed and bool(self._sender._transport_connected()) and self._sender.is_connected()  # noqa: SLF001

    @property
    def refusal(self) -> TransportFlood | None:
        """Telegram's refusal of connections, if that ended this one.

        Of several pending requests Telethon reports it to the first alone, whose error handling closes the connection.
        """
        refusal = self._connection.refusal if self._connection is not None else None
        error = None if refusal is None else self._translated(refusal)
        return error if isinstance(error, TransportFlood) else None

    async def open(self, address: str, port: int, dc: int, first: Any) -> Any:
        """Connect, introduce this client together with the request ``first``, and return its result."""
        settings = self._settings
        proxy = settings.proxy.as_telethon() if settings.proxy else None
        try:
            async with asyncio.timeout(settings.connect_timeout + settings.patience):
                self._connection = FramedConnection(address, port, dc, loggers=self._loggers, proxy=proxy)
                await self._sender.connect(self._connection)
                # Telethon may leave queued requests of a broken connection pending, so ``_wait`` waits for this future too.
                self._broken = asyncio.ensure_future(self._sender.disconnected)
                self._broken.add_done_callback(retrieve_exception)
                self._sender._disconnected.add_done_callback(retrieve_exception)  # noqa: SLF001
                response = await self.invoke(_with_introduction(settings, first))
                # Only now: a connection that was refused during the introduction does not count as open.
                self._broken.add_done_callback(lambda _: self._on_broken())
                return response
        except TimeoutError as error:
            await self.close()
            raise NoResponse("Telegram does not respond on a new connection") from error
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception):
                raise self._translated(error) from error
            raise

    async def invoke(self, request: Any) -> Any:
        """Send a request and return its result. Raises translated errors."""
        loop = asyncio.get_running_loop()
        try:
            response = self._sender.send(request)
        except ConnectionError as error:
            raise self._translated(error) from error
        try:
            await self._wait(loop, response)
        finally:
            response.cancel()  # no effect on a completed response; otherwise a late one is ignored
        if response.cancelled() or not response.done():
            raise self.refusal or StoreUnavailable("the connection to Telegram broke")
        self._last_response = loop.time()
        failure = response.exception()
        if isinstance(failure, Exception):
            raise self._translated(failure) from failure
        return response.result()

    def _translated(self, error: Exception) -> Exception:
        translated = translate(error)
        if isinstance(translated, TransportFlood):
            translated.retry_after = self._settings.transport_backoff
        return translated

    async def _wait(self, loop: asyncio.AbstractEventLoop, response: "asyncio.Future[Any]") -> None:
        patience = self._settings.patience
        for _ in range(_MAX_PATIENCES):
            futures = [response] if self._broken is None else [response, self._broken]
            done, _ = await asyncio.wait(futures, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            # Responses to other requests show that the connection works and the server is merely slow.
            if loop.time() - self._last_response >= patience:
                break
        await self.close()
        raise NoResponse(f"Telegram did not respond within {patience:g} s")

    async def close(self) -> None:
        """Close the connection; pending requests raise."""
        self._closed = True
        await self._sender.disconnect()


def retrieve_exception(future: "asyncio.Future[Any]") -> None:
    """Retrieve a future's exception, so that asyncio does not log it as never retrieved."""
    if not future.cancelled():
        future.exception()


def without_updates(request: Any) -> Any:
    """Wrap a request so that the server does not send updates on this connection because of it."""
    return functions.InvokeWithoutUpdatesRequest(request)


def _with_introduction(settings: TelegramSettings, first: Any) -> Any:
    introduction = functions.InitConnectionRequest(
        api_id=settings.api_id,
        device_model="tgdav",
        system_version="1",
        app_version="1",
        system_lang_code="en",
        lang_pack="",
        lang_code="en",
        query=first,
    )
    # Without this wrapper the server would send updates; only the requests of the update watcher subscribe to them.
    return functions.InvokeWithLayerRequest(LAYER, without_updates(introduction))
