"""One connection to one data centre: Telethon's sender, without its reconnecting and update handling, on our own frames.

A broken line is never mended: the session makes a new one. So no request can wait for ever in a queue of a dead one.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from telethon.crypto import AuthKey
from telethon.network import MTProtoSender
from telethon.tl import functions
from telethon.tl.alltlobjects import LAYER

from tgdav.blobs.telegram.errors import Silence, TransportFlood, translate
from tgdav.blobs.telegram.mtproto.state import ConnectionState
from tgdav.blobs.telegram.mtproto.tcp_full import FramedConnection
from tgdav.blobs.telegram.settings import TelegramSettings
from tgdav.errors import StoreUnavailable

_LONGEST_ANSWER = 4
"""A single answer may take this many times the patience, as long as others come."""


class _Loggers(dict[str, logging.Logger]):
    def __missing__(self, key: str) -> logging.Logger:
        return logging.getLogger(key if key.startswith("telethon") else f"telethon.{key}")


class _Updates:
    """Where Telethon's sender leaves what was not asked for."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self.put_nowait = take


def _drop(update: Any) -> None:
    """Nobody asked."""


def _ignore(_ahead: float) -> None:
    """Nobody wants to know the time."""


def _do_nothing() -> None:
    """Nobody wants to know."""


class DcConnection:
    """A connection. ``key`` is the authorization key, None to have one made. All calls in the session's loop.

    ``on_update`` takes what Telegram sends unasked, ``on_broken`` is called once when an open connection ends,
    ``on_time`` with the seconds that this machine's clock is ahead of Telegram's.
    """

    def __init__(
        self,
        settings: TelegramSettings,
        key: AuthKey | None,
        *,
        on_update: Callable[[Any], None] = _drop,
        on_broken: Callable[[], None] = _do_nothing,
        on_time: Callable[[float], None] = _ignore,
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
        state = ConnectionState(self._sender.auth_key, loggers, on_time)
        self._sender._state = self._sender._send_queue._state = state  # noqa: SLF001
        self._on_broken = on_broken
        self._loggers = loggers
        self._last_answer = 0.0
        self._closed = False
        self._connection: FramedConnection | None = None
        self._broken: asyncio.Future[Any] | None = None

    @property
    def key(self) -> AuthKey:
        """The authorization key in use."""
        return self._sender.auth_key

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return not self._closed and bool(self._sender._transport_connected()) and self._sender.is_connected()  # noqa: SLF001

    @property
    def refusal(self) -> TransportFlood | None:
        """Telegram's refusal of connections, if that ended the line; who is told first hangs up, and the others learn
        no reason from Telethon.
        """
        said = self._connection.refusal if self._connection is not None else None
        error = None if said is None else self._translated(said)
        return error if isinstance(error, TransportFlood) else None

    async def open(self, address: str, port: int, dc: int, first: Any) -> Any:
        """Connect, say who we are with ``first`` as the first request, and return its answer."""
        settings = self._settings
        proxy = settings.proxy.as_telethon() if settings.proxy else None
        try:
            async with asyncio.timeout(settings.connect_timeout + settings.patience):
                self._connection = FramedConnection(address, port, dc, loggers=self._loggers, proxy=proxy)
                await self._sender.connect(self._connection)
                self._broken = asyncio.ensure_future(self._sender.disconnected)
                self._broken.add_done_callback(take_note)
                self._sender._disconnected.add_done_callback(take_note)  # noqa: SLF001
                answer = await self.invoke(_introduced(settings, first))
                self._broken.add_done_callback(lambda _: self._on_broken())
                return answer
        except TimeoutError as error:
            await self.close()
            raise Silence("Telegram does not answer on a new connection") from error
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception):
                raise self._translated(error) from error
            raise

    async def invoke(self, request: Any) -> Any:
        """Send a request and return its answer. Raises translated errors."""
        loop = asyncio.get_running_loop()
        try:
            answer = self._sender.send(request)
        except ConnectionError as error:
            raise self._translated(error) from error
        try:
            await self._wait(loop, answer)
        finally:
            answer.cancel()
        if answer.cancelled() or not answer.done():
            raise self.refusal or StoreUnavailable("the connection to Telegram broke")
        self._last_answer = loop.time()
        failure = answer.exception()
        if isinstance(failure, Exception):
            raise self._translated(failure) from failure
        return answer.result()

    def _translated(self, error: Exception) -> Exception:
        translated = translate(error)
        if isinstance(translated, TransportFlood):
            translated.retry_after = self._settings.transport_backoff
        return translated

    async def _wait(self, loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[Any]") -> None:
        patience = self._settings.patience
        for _ in range(_LONGEST_ANSWER):
            over = [answer] if self._broken is None else [answer, self._broken]
            done, _ = await asyncio.wait(over, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            if loop.time() - self._last_answer >= patience:
                break
        await self.close()
        raise Silence(f"Telegram did not answer within {patience:g} s")

    async def close(self) -> None:
        """Hang up; what waits for an answer is told."""
        self._closed = True
        await self._sender.disconnect()


def take_note(broken: "asyncio.Future[Any]") -> None:
    """Look at a future's exception, so that asyncio does not report it as overlooked."""
    if not broken.cancelled():
        broken.exception()


def without_updates(request: Any) -> Any:
    """Return the request in the wrapper that keeps the server from sending updates down this connection."""
    return functions.InvokeWithoutUpdatesRequest(request)


def _introduced(settings: TelegramSettings, first: Any) -> Any:
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
    return functions.InvokeWithLayerRequest(LAYER, without_updates(introduction))
