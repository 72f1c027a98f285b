"""``tgdav auth``: logs in to Telegram, or out. Code and password are typed or piped in, never given as arguments."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.secrets import (
    has_passphrase,
    is_terminal,
    passphrase,
    passphrase_or_recovery_key,
    read_hidden,
    read_line,
)
from tgdav.cli.session import BUSY_SECONDS
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError, UsageError, VaultInUse
from tgdav.vault.state_dir import vault_exists
from tgdav.volume.control_client import ControlClient
from tgdav.wording import printable

if TYPE_CHECKING:
    from tgdav.blobs.telegram import TelegramSettings
    from tgdav.blobs.telegram.login import Login

_PAUSE = 0.1
PHONE_HINT = "write it with the country code, as +49 151 1234567"


@command("auth", example="tgdav auth --phone '+49 151 1234567'")
@click.option("--phone", metavar="+N", help="The account's phone number (default: a prompt).")
@click.option(
    "--qr", is_flag=True, help="Show a QR code to scan with Telegram on your phone, instead of asking for a code."
)
@click.option(
    "--logout", is_flag=True, help="End the login. The vault stays, and can be written to until staging is full."
)
@global_options
@click.pass_obj
def auth(invocation: Invocation, *, phone: str | None, qr: bool, logout: bool) -> int:
    """Log in to the Telegram account that holds, or will hold, the vault.

    Works before and after 'init', and beside a running server.
    """
    if invocation.config.backend() != "telegram":
        raise _no_telegram(invocation)
    if (logout and (qr or phone is not None)) or (qr and phone is not None):
        raise UsageError("--phone, --qr and --logout exclude each other", hint="give one of them, or none")
    # Imported here: Telethon takes long to import.
    from tgdav.blobs.telegram.login import phone_number
    from tgdav.blobs.telegram.settings import telegram_settings

    if phone is not None and phone_number(phone) is None:
        raise UsageError(f"--phone: {phone!r} is not a phone number", hint=PHONE_HINT)
    settings = telegram_settings(invocation.config)
    keeper = _LoginTarget(invocation)
    return _log_out(invocation, keeper) if logout else _log_in(invocation, keeper, settings, phone, qr=qr)


def _no_telegram(invocation: Invocation) -> UsageError:
    if vault_exists(invocation.paths.state) or invocation.config.storage.backend == "directory":
        return UsageError("the store is a directory, which needs no login", hint="Telegram needs a vault of its own")
    return UsageError(
        "nothing is set up for Telegram here",
        hint="run 'tgdav init --api-id N --api-hash H' first; take both from https://my.telegram.org/apps",
    )


def _log_in(
    invocation: Invocation, keeper: "_LoginTarget", settings: "TelegramSettings", phone: str | None, *, qr: bool
) -> int:
    from tgdav.blobs.telegram.login import end_login, log_in_by_code, log_in_by_qr

    login = (log_in_by_qr if qr else log_in_by_code)(settings, _Terminal(phone))
    try:
        keeper.log_in(login)
    except BaseException:
        end_login(settings, login.session)
        raise
    found = {"account": login.user_id, "name": login.name}
    more = () if vault_exists(invocation.paths.state) else ("now run 'tgdav init', or 'tgdav init --join'",)
    invocation.output.result(found, (f"logged in to Telegram as {login.name} (account {login.user_id})", *more))
    return ExitCode.DONE


def _log_out(invocation: Invocation, keeper: "_LoginTarget") -> int:
    was = keeper.log_out()
    invocation.output.result({"logged_out": was}, ["logged out of Telegram" if was else "there was no login"])
    return ExitCode.DONE


class _LoginTarget:
    """Stores a login: through the process that has the vault open, else in the state itself.

    Asks for the secret at the start, before the login, unless a process has the vault open. Raises AccessError, DamageError.
    """

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        client = self._running()
        if client is None:
            self._secret: Secret | None = self._ask()
            self._closed()
        else:
            client.__exit__()
            self._secret = None

    def log_in(self, login: "Login") -> None:
        from tgdav.vault.telegram_login import TelegramLogin

        found = TelegramLogin(login.session, login.user_id)
        self._do("telegram-login", msgspec.structs.asdict(found), lambda: self._closed().log_in(found))

    def log_out(self) -> bool:
        result = False

        def here() -> None:
            nonlocal result
            result = self._closed().log_out()

        answer = self._do("telegram-logout", {}, here)
        return result if answer is None else bool(answer.get("logged_out"))

    def _do(self, command: str, arguments: dict[str, Any], here: Callable[[], None]) -> Mapping[str, Any] | None:
        """Call the process that has the vault open, else ``here``. Retry while a process is opening or closing the vault."""
        clock = self._invocation.platform.clock
        deadline = clock.monotonic() + BUSY_SECONDS
        while True:
            client = self._running()
            if client is not None:
                with client:
                    return client.call(command, arguments, lambda _stage, _done, _total: None)
            try:
                here()
            except VaultInUse:
                if clock.monotonic() > deadline:
                    raise
            else:
                return None
            threading.Event().wait(_PAUSE)

    def _running(self) -> ControlClient | None:
        return ControlClient.connect(self._invocation.paths.control_file)

    def _has_vault(self) -> bool:
        return vault_exists(self._invocation.paths.state)

    def _ask(self) -> Secret:
        if self._has_vault():
            return passphrase(self._invocation)
        if is_terminal() and not has_passphrase(self._invocation):
            self._invocation.output.notice(
                "the login is stored encrypted: choose the vault's passphrase now, and give the same one to 'tgdav init'"
            )
        return passphrase_or_recovery_key(self._invocation)

    def _closed(self) -> Any:
        from tgdav.vault.login_service import ClosedState

        invocation = self._invocation
        self._secret = self._secret or self._ask()
        return ClosedState(
            invocation.paths, invocation.config, self._secret, invocation.platform, has_vault=self._has_vault()
        )


class _Terminal:
    """Asks on the terminal, or reads a line of standard input for each question. QR codes go to standard error."""

    def __init__(self, phone: str | None) -> None:
        self._phone = phone

    def phone(self) -> str:
        """Return the phone number."""
        return self._phone or _line("Phone number, with the country code (+49 151 1234567)", "phone number")

    def code(self) -> str:
        """Return the login code."""
        return _line("Code that Telegram sent, to your other devices, by SMS or by mail", "code")

    def password(self, hint: str) -> str:
        """Return the password of two-step verification."""
        shown = f" (hint: {printable(hint)})" if hint else ""
        return _line(f"Password of two-step verification{shown}", "password", hidden=True)

    def show_qr(self, address: str) -> None:
        """Draw a QR code."""
        import segno

        click.echo("Scan this in Telegram: Settings, Devices, Link Desktop Device", err=True)
        segno.make(address, error="l", micro=False).terminal(out=sys.stderr, compact=True, border=2)
        sys.stderr.flush()

    def show_error(self, text: str) -> None:
        """Print what was wrong with the last answer."""
        click.echo(f"tgdav: {printable(text)}; try again", err=True)


def _line(prompt: str, what: str, *, hidden: bool = False) -> str:
    """Ask for one line; a terminal is asked until there is one. Raises AccessError (no line), UsageError (too long)."""
    terminal = is_terminal()
    while True:
        with _interruptible():
            text = _typed(prompt, hidden=hidden, terminal=terminal)
        if line := text.removeprefix("\ufeff").strip("\r\n"):
            return line
        if not terminal or not text:
            raise AccessError(f"no {what} was given", hint="type it when asked, or give it on standard input")


def _typed(prompt: str, *, hidden: bool, terminal: bool) -> str:
    """Return a line with its end; empty at the end of the input."""
    if hidden and terminal:
        secret = read_hidden(prompt)
        return "" if secret is None else f"{secret}\n"
    click.echo(f"{prompt}: ", nl=False, err=True)
    try:
        return read_line()
    finally:
        if not terminal:
            click.echo(err=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make Ctrl-C interrupt the prompt: the event loop of the login would handle it only after the line is read."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
