"""Where passphrases, recovery keys and passwords come from; never from arguments.

The passphrase, first that is there: ``--passphrase-file``, TGDAV_PASSPHRASE_FILE, TGDAV_PASSPHRASE, systemd's credential
``tgdav-passphrase``, the key file, a prompt. The recovery key stands in for it where a command allows that:
``--recovery-key-file``, TGDAV_RECOVERY_KEY, or typed at the passphrase's prompt.
"""

import getpass
import sys
from collections.abc import Callable
from pathlib import Path

from tgdav.cli.invocation import Invocation
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import RecoveryKey, parse_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError, UsageError

MAX_SECRET_BYTES = 4096
CREDENTIAL = "tgdav-passphrase"
HINT = "set TGDAV_PASSPHRASE or TGDAV_PASSPHRASE_FILE, or use --passphrase-file"

_NEW_HINT = "type it, pipe it in, or use --new-passphrase-file"
_EITHER_HINT = f"{HINT}; a recovery key goes into TGDAV_RECOVERY_KEY or --recovery-key-file"

_LIKE_A_RECOVERY_KEY = 70


def find_passphrase(invocation: Invocation) -> Passphrase | None:
    """Return the passphrase that is given without asking, None when there is none. Raises UsageError, AccessError."""
    environment = invocation.environment
    folder = environment.get("CREDENTIALS_DIRECTORY")
    files: list[Path | None] = [invocation.passphrase_file, _path(environment.get("TGDAV_PASSPHRASE_FILE"))]
    for file in files:
        if file is not None:
            return Passphrase(_read(file, "passphrase"))
    if environment.get("TGDAV_PASSPHRASE"):
        return Passphrase(environment["TGDAV_PASSPHRASE"])
    optional = [Path(folder, CREDENTIAL)] if folder else []
    for file in [*optional, invocation.bare_places.key_file]:
        if file.exists():
            return Passphrase(_read(file, "passphrase"))
    return None


def passphrase(invocation: Invocation) -> Passphrase:
    """Return the vault's passphrase, asking for it at last. Raises AccessError when none is given."""
    return find_passphrase(invocation) or Passphrase(ask("Passphrase", "passphrase"))


def chosen_passphrase(invocation: Invocation) -> Passphrase:
    """Return the passphrase for a new vault; on a terminal it is asked for twice."""
    return find_passphrase(invocation) or Passphrase(ask_new("Passphrase for the new vault"))


def new_passphrase(file: Path | None) -> Passphrase:
    """Return the passphrase that replaces the one in force: from ``file``, else asked for."""
    return Passphrase(_read(file, "new passphrase") if file else ask_new("New passphrase", "new passphrase", _NEW_HINT))


def passphrase_or_recovery_key(invocation: Invocation) -> Secret:
    """Return the recovery key if one is given, else the passphrase; at the prompt either can be typed."""
    file = invocation.recovery_key_file
    if file is not None:
        return parse_recovery_key(_read(file, "recovery key"))
    if invocation.environment.get("TGDAV_RECOVERY_KEY"):
        return parse_recovery_key(invocation.environment["TGDAV_RECOVERY_KEY"])
    return find_passphrase(invocation) or _either(ask("Passphrase or recovery key", "passphrase", _EITHER_HINT))


def _either(text: str) -> Secret:
    if sum(sign.isalnum() for sign in text) == _LIKE_A_RECOVERY_KEY:
        try:
            return parse_recovery_key(text)
        except AccessError:
            pass  # a passphrase may be as long as a recovery key
    return Passphrase(text)


def ask(words: str, what: str, hint: str = HINT) -> str:
    """Ask on the terminal without echo, or read one line when standard input is none. Raises AccessError at its end."""
    text = _asked(words)
    if not text:
        raise AccessError(f"no {what} was given", hint=hint)
    return text


def ask_new(words: str, what: str = "passphrase", hint: str = HINT) -> str:
    """Ask for a secret to be; on a terminal twice. Raises AccessError when the two differ or nothing is given."""
    text = ask(words, what, hint)
    if sys.stdin.isatty() and _asked("Once more") != text:
        raise AccessError("the two passphrases differ", hint="run the command again")
    return text


def _asked(words: str) -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            return getpass.getpass(f"{words}: ")
        except EOFError:
            return ""
    line = sys.stdin.readline(MAX_SECRET_BYTES + 1) if sys.stdin is not None else ""
    if len(line) > MAX_SECRET_BYTES:
        raise UsageError(f"the line on standard input is longer than {MAX_SECRET_BYTES} characters")
    return line.rstrip("\r\n")


def make_key_file(invocation: Invocation) -> Passphrase:
    """Write a random passphrase into the key file (0600), durably, and return it."""
    # Making vaults brings the database along; every command reads secrets, one makes this file.
    from tgdav.volume.vault import key_file_passphrase

    return Passphrase(key_file_passphrase(invocation.bare_places.key_file, invocation.seams, make=True) or "")


def drop_key_file(invocation: Invocation) -> bool:
    """Remove the key file, whose passphrase opens nothing any more; return whether there was one."""
    file = invocation.bare_places.key_file
    if not file.exists():
        return False
    invocation.seams.disk.unlink(file)
    invocation.seams.disk.sync_folder(file.parent)
    return True


def webdav_users(invocation: Invocation, own_password: Callable[[], str]) -> dict[str, str]:
    """Return name and password of each WebDAV user whose password is known; where none is configured, of ``tgdav``.

    ``own_password`` gives the sealed password; it is asked only when nothing else is given.
    """
    configured = invocation.config.webdav.users
    if configured:
        return {user.name: user.password.get_secret_value() for user in configured if not user.password_is_hash}
    return {"tgdav": invocation.environment.get("TGDAV_WEBDAV_PASSWORD") or own_password()}


def webdav_hashes(invocation: Invocation) -> dict[str, str]:
    """Return name and Argon2id hash of each WebDAV user whose password is given as one."""
    users = invocation.config.webdav.users
    return {user.name: user.password.get_secret_value() for user in users if user.password_is_hash}


def to_wire(secret: Secret) -> dict[str, str]:
    """Return a secret for the control socket."""
    if isinstance(secret, RecoveryKey):
        return {"recovery_key": secret.key.hex()}
    return {"passphrase": secret.text}


def from_wire(found: object) -> Secret:
    """Return the secret that came over the control socket. Raises UsageError."""
    match found:
        case {"passphrase": str(text)}:
            return Passphrase(text)
        case {"recovery_key": str(text)} if len(text) == 64 and not set(text) - set("0123456789abcdef"):
            return RecoveryKey(bytes.fromhex(text))
    raise UsageError("the control socket got something that is no secret")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _read(file: Path, what: str) -> str:
    try:
        with open(file, "rb") as source:
            data = source.read(MAX_SECRET_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise UsageError(f"the file with the {what} cannot be read: {error.strerror}", hint=f"look at {file}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the file with the {what} is no text in UTF-8", hint=f"look at {file}") from None
    text = text.rstrip("\r\n")
    if len(data) > MAX_SECRET_BYTES or not text or "\n" in text:
        raise UsageError(f"the file with the {what} does not hold one line of text", hint=f"look at {file}")
    return text
