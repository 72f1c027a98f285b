"""Log in to Telegram (phone number and code, or QR code; then the two-step password) and out again.

What the user is asked and shown goes through ``Prompts``. Nothing is written to disk: the login is returned as a
string that gives access to the whole account, so the caller seals it.
"""

import asyncio
import base64
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from telethon import TelegramClient, events
from telethon import errors as telethon
from telethon.sessions import StringSession
from telethon.tl import functions, types

from tgdav.blobs.telegram.errors import translate
from tgdav.blobs.telegram.mtproto.dc_connection import retrieve_exception
from tgdav.blobs.telegram.session import read_login
from tgdav.blobs.telegram.settings import TelegramSettings
from tgdav.errors import AccessError, StoreUnavailable, TgdavError, UsageError

MISTYPED = (
    telethon.PhoneCodeInvalidError,
    telethon.PhoneCodeEmptyError,
    telethon.PasswordHashInvalidError,
)
"""Errors of a mistyped code or password: ask again."""

_MY_TELEGRAM = "take api_id and api_hash from https://my.telegram.org/apps"
_MESSAGES: dict[type[Exception], tuple[str, str]] = {
    telethon.PhoneCodeInvalidError: ("the code is wrong", ""),
    telethon.PhoneCodeEmptyError: ("the code is missing", ""),
    telethon.PhoneCodeExpiredError: ("the code has expired", "run 'tgdav auth' again for a new one"),
    telethon.PasswordHashInvalidError: ("the password is wrong", "it is the one of Telegram's two-step verification"),
    telethon.PhoneNumberInvalidError: (
        "Telegram does not know this phone number",
        "write it with the country code, as +49 151 1234567",
    ),
    telethon.PhoneNumberBannedError: ("Telegram has banned this phone number", "see https://telegram.org/faq_spam"),
    telethon.PhoneNumberUnoccupiedError: (
        "this phone number has no Telegram account",
        "sign up in Telegram's own application first",
    ),
    telethon.ApiIdInvalidError: ("Telegram does not know this api_id with this api_hash", _MY_TELEGRAM),
    telethon.ApiIdPublishedFloodError: ("Telegram refuses this api_id because it was published", _MY_TELEGRAM),
    telethon.UserDeactivatedError: ("Telegram has deleted this account", ""),
    telethon.UserDeactivatedBanError: ("Telegram has banned this account", "see https://telegram.org/faq_spam"),
    telethon.PhoneNumberFloodError: ("too many codes were requested", "wait a day"),
    telethon.PhonePasswordFloodError: ("too many logins were attempted", "wait a day"),
    telethon.AuthTokenExpiredError: ("the QR code has expired", "try again"),
}


def describe(error: Exception) -> TgdavError | None:
    """Return the error to show for a refused login; None if the exception is not about logging in."""
    if isinstance(error, telethon.FloodWaitError):
        wait = _duration(error.seconds)
        return StoreUnavailable(
            f"Telegram is rate-limiting logins; try again in {wait}", retry_after=float(error.seconds)
        )
    for kind, (message, hint) in _MESSAGES.items():
        if isinstance(error, kind):
            return AccessError(message, hint=hint)
    return None


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes" if seconds < 7200 else f"{-(-seconds // 3600)} hours"


log = logging.getLogger(__name__)
Result = TypeVar("Result")

TRIES = 3
"""How often a phone number, code or password is asked for."""
QR_SECONDS = 28.0
"""A QR code is valid for 30 s."""
QR_CODES = 10


class Login(msgspec.Struct, frozen=True):
    """A login: ``session`` is Telethon's StringSession, a secret; ``user_id`` and ``name`` are of its account."""

    session: str
    user_id: int
    name: str

    def __repr__(self) -> str:
        return f"Login(user_id={self.user_id})"


class Prompts(Protocol):
    """Asks the user. All methods are called on the thread that logs in; their exceptions pass through."""

    def phone(self) -> str:
        """Return the phone number, with the country code."""
        ...

    def code(self) -> str:
        """Return the code that Telegram sent."""
        ...

    def password(self, hint: str) -> str:
        """Return the password of two-step verification; ``hint`` is the user's own, or empty."""
        ...

    def show_qr(self, address: str) -> None:
        """Show a ``tg://`` address as a QR code, in place of the previous one."""
        ...

    def show_error(self, text: str) -> None:
        """Show why the input was refused; the same question follows."""
        ...


def log_in_by_code(settings: TelegramSettings, prompts: Prompts) -> Login:
    """Log in by phone number and code.

    Raises AccessError (refused), UsageError (no phone number), StoreUnavailable (no response, or rate-limited).
    """
    return _run(settings, "", lambda client: _by_code(client, settings, prompts))


def log_in_by_qr(settings: TelegramSettings, prompts: Prompts) -> Login:
    """Log in by a QR code that the user scans with another Telegram application. Raises as ``log_in_by_code``."""
    return _run(settings, "", lambda client: _by_qr(client, settings, prompts))


def log_out(settings: TelegramSettings, session: str) -> None:
    """End a login at Telegram; one that has already ended is ignored. Raises StoreUnavailable."""
    _run(settings, session, lambda client: _log_out(client, settings))


def end_login(settings: TelegramSettings, session: str) -> None:
    """End a login that is no longer used. Best effort: if this fails, the user still sees it in the list of devices."""
    if not session:
        return
    try:
        log_out(settings, session)
    except TgdavError as error:
        log.info("an unused Telegram login could not be ended: %s", error.message)


_REFUSALS = (
    *(telethon.RPCError, telethon.AuthKeyNotFound, telethon.SecurityError, telethon.InvalidChecksumError),
    *(telethon.BadMessageError, OSError, EOFError, BufferError, ValueError),
)


def _run(settings: TelegramSettings, session: str, work: Callable[[Any], Awaitable[Result]]) -> Result:
    async def connected() -> Result:
        async with _client(settings, session) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except _REFUSALS as error:
        raise describe(error) or translate(error) from None


@asynccontextmanager
async def _client(settings: TelegramSettings, session: str) -> AsyncIterator[Any]:
    client = TelegramClient(
        _session(settings, session),
        settings.api_id,
        settings.api_hash,
        proxy=settings.proxy.as_telethon() if settings.proxy else None,
        timeout=settings.connect_timeout,
        connection_retries=1,
        retry_delay=0,
        request_retries=1,
        flood_sleep_threshold=0,  # raise FloodWaitError instead of sleeping inside Telethon
        raise_last_call_error=True,
        device_model="tgdav",
    )
    try:
        await _within(settings, client.connect())
        yield client
    finally:
        # Telethon's sender may set an exception on this future that nobody awaits.
        client._sender._disconnected.add_done_callback(retrieve_exception)  # noqa: SLF001
        await client.disconnect()


def _session(settings: TelegramSettings, session: str) -> Any:
    if session:
        return read_login(settings, session)
    fresh = StringSession()
    if settings.test_server is not None:
        server = settings.test_server
        settings.trust_test_server()
        fresh.set_dc(server.dc, server.address, server.port)
    return fresh


async def _within(settings: TelegramSettings, call: Awaitable[Result]) -> Result:
    try:
        async with asyncio.timeout(settings.connect_timeout + settings.patience):
            return await call
    except TimeoutError:
        raise StoreUnavailable("Telegram does not respond") from None


def phone_number(text: str) -> str | None:
    """Return the digits of a phone number with its country code (ITU-T E.164), or None if it is not one."""
    digits = re.sub("[ ()./-]", "", text.strip()).removeprefix("+")
    return digits if re.fullmatch("[0-9]{5,15}", digits) else None


def _phone(prompts: Prompts) -> str:
    """Ask for the phone number until it is valid, at most three times. Raises UsageError."""
    for left in reversed(range(TRIES)):
        if (phone := phone_number(prompts.phone())) is not None:
            return phone
        if left:
            prompts.show_error("that is not a phone number with its country code, as +49 151 1234567")
    raise UsageError("no phone number was given", hint="write it with the country code, as +49 151 1234567")


async def _by_code(client: Any, settings: TelegramSettings, prompts: Prompts) -> Login:
    phone = _phone(prompts)
    await _within(settings, client.send_code_request(phone))

    async def enter(code: str) -> Any:
        return await client.sign_in(phone, code)

    try:
        user = await _ask_until_right(settings, prompts, prompts.code, enter)
    except telethon.SessionPasswordNeededError:
        user = await _by_password(client, settings, prompts)
    return _login(client, user)


async def _by_password(client: Any, settings: TelegramSettings, prompts: Prompts) -> Any:
    known = await _within(settings, client(functions.account.GetPasswordRequest()))

    async def enter(password: str) -> Any:
        return await client.sign_in(password=password)

    return await _ask_until_right(settings, prompts, lambda: prompts.password(known.hint or ""), enter)


def _checked(text: str) -> str:
    """Return the input. Raises UsageError if it is not valid UTF-8, because it cannot be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the input is not valid UTF-8", hint="check what is piped into the command") from None
    return text


async def _ask_until_right(
    settings: TelegramSettings, prompts: Prompts, ask: Callable[[], str], enter: Callable[[str], Awaitable[Any]]
) -> Any:
    """Ask until the input is right, at most three times."""
    for left in reversed(range(TRIES)):
        try:
            return await _within(settings, enter(_checked(ask().strip())))
        except MISTYPED as error:
            if not left:
                raise
            prompts.show_error((describe(error) or AccessError("the input is wrong")).message)
    raise AccessError("the input is wrong")  # never reached: the last attempt raises


async def _by_qr(client: Any, settings: TelegramSettings, prompts: Prompts) -> Login:
    scanned = asyncio.Event()

    async def on_update(_update: Any) -> None:
        scanned.set()

    # Telegram sends this update when the code was scanned; the token is then exported again, which returns the login.
    client.add_event_handler(on_update, events.Raw(types.UpdateLoginToken))
    try:
        user = await _scanned(client, settings, prompts, scanned)
    except telethon.SessionPasswordNeededError:
        user = await _by_password(client, settings, prompts)
    return _login(client, user)


async def _scanned(client: Any, settings: TelegramSettings, prompts: Prompts, scanned: asyncio.Event) -> Any:
    """Show codes until one is scanned. If the account is in another data centre, the login is made there."""
    request = functions.auth.ExportLoginTokenRequest(client.api_id, client.api_hash, [])
    for _ in range(QR_CODES):
        answer = await _within(settings, client(request))
        if isinstance(answer, types.auth.LoginTokenMigrateTo):
            # Telethon switches by itself for phone numbers only, and has no public method for it.
            await _within(settings, client._switch_dc(answer.dc_id))  # noqa: SLF001
            answer = await _within(settings, client(functions.auth.ImportLoginTokenRequest(answer.token)))
        if isinstance(answer, types.auth.LoginTokenSuccess):
            return answer.authorization.user
        scanned.clear()
        prompts.show_qr("tg://login?token=" + base64.urlsafe_b64encode(answer.token).decode().rstrip("="))
        try:
            await asyncio.wait_for(scanned.wait(), QR_SECONDS)
        except TimeoutError:
            log.debug("a QR code was not scanned in time; showing the next")
    raise AccessError("no application scanned the QR code", hint="try again, or log in with phone number and code")


async def _log_out(client: Any, settings: TelegramSettings) -> None:
    try:
        await _within(settings, client(functions.auth.LogOutRequest()))
    except telethon.UnauthorizedError:
        log.info("the login had already ended")


def _login(client: Any, user: Any) -> Login:
    name = " ".join(part for part in (user.first_name, user.last_name) if part)
    return Login(str(client.session.save()), int(user.id), name)
