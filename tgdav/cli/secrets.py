"""Sources of passphrases, recovery keys and passwords. Arguments are none: other users can read them.

The passphrase is the first that exists: ``--passphrase-file``, TGDAV_PASSPHRASE_FILE, TGDAV_PASSPHRASE,
TGDAV_PASSPHRASE_COMMAND, systemd's credential ``tgdav-passphrase``, the key file, a prompt. Where a command accepts the
recovery key instead, it is that of ``--recovery-key-file`` or TGDAV_RECOVERY_KEY, or typed at the passphrase's prompt. A
leading U+FEFF (the BOM that some editors write) and the line end are dropped from all of them.
"""

import getpass
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from tgdav.cli.invocation import Invocation
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import RecoveryKey, parse_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError, UsageError

MAX_SECRET_BYTES = 4096
CREDENTIAL = "tgdav-passphrase"
COMMAND = "TGDAV_PASSPHRASE_COMMAND"
HINT = "set TGDAV_PASSPHRASE, TGDAV_PASSPHRASE_FILE or TGDAV_PASSPHRASE_COMMAND, or use --passphrase-file"

_NEW_HINT = "type it, pipe it in, or use --new-passphrase-file"
_EITHER_HINT = f"{HINT}; a recovery key goes into TGDAV_RECOVERY_KEY or --recovery-key-file"

_LIKE_A_RECOVERY_KEY = 70
_BOM = "\ufeff"
_WEAK_SCORE = 2
"""The highest zxcvbn score of a weak passphrase. Scores are 0 to 4; 3 means more than 10^8 guesses."""
_JUDGED_CHARACTERS = 72
"""zxcvbn accepts no more, and its run time grows with the square of the length."""


def find_passphrase(invocation: Invocation) -> Passphrase | None:
    """Return the passphrase from the sources except the prompt, None when there is none. Raises UsageError, AccessError."""
    environment = invocation.environment
    directory = environment.get("CREDENTIALS_DIRECTORY")
    files: list[Path | None] = [invocation.passphrase_file, _path(environment.get("TGDAV_PASSPHRASE_FILE"))]
    for file in files:
        if file is not None:
            return Passphrase(_read(file, "passphrase", invocation))
    if environment.get("TGDAV_PASSPHRASE"):
        return Passphrase(_without_ends(environment["TGDAV_PASSPHRASE"]))
    if environment.get(COMMAND):
        return Passphrase(_from_command(environment))
    if directory and (credential := Path(directory, CREDENTIAL)).exists():
        return Passphrase(
            _read(credential, "passphrase")
        )  # no check of readers: systemd's directory is closed to others
    if (key_file := invocation.initial_paths.key_file).exists():
        return Passphrase(_read(key_file, "passphrase", invocation))
    return None


def has_passphrase(invocation: Invocation) -> bool:
    """Return whether a source has a passphrase or recovery key, without reading it."""
    environment = invocation.environment
    names = ("TGDAV_PASSPHRASE_FILE", "TGDAV_PASSPHRASE", COMMAND, "TGDAV_RECOVERY_KEY")
    directory = environment.get("CREDENTIALS_DIRECTORY")
    return (
        invocation.passphrase_file is not None
        or invocation.recovery_key_file is not None
        or any(environment.get(name) for name in names)
        or bool(directory and Path(directory, CREDENTIAL).exists())
        or invocation.initial_paths.key_file.exists()
    )


def passphrase(invocation: Invocation) -> Passphrase:
    """Return the vault's passphrase, from a prompt if no other source has one. Raises AccessError when none is given."""
    return find_passphrase(invocation) or Passphrase(ask("Passphrase", "passphrase"))


def chosen_passphrase(invocation: Invocation) -> Passphrase:
    """Return the passphrase for a new vault, with a warning if it is weak. A terminal asks for it twice.

    Raises UsageError for an empty one.
    """
    _refuse_empty(invocation)
    found = find_passphrase(invocation) or Passphrase(ask_new("Passphrase for the new vault"))
    return warned_if_weak(invocation, found)


def new_passphrase(invocation: Invocation, file: Path | None) -> Passphrase:
    """Return the new passphrase, from ``file`` or a prompt, with a warning if it is weak.

    Raises UsageError for an empty one.
    """
    if file is not None:
        return warned_if_weak(invocation, Passphrase(_read(file, "new passphrase", invocation)))
    return warned_if_weak(invocation, Passphrase(ask_new("New passphrase", "new passphrase", _NEW_HINT)))


def _refuse_empty(invocation: Invocation) -> None:
    """Raise UsageError when nobody can be asked and TGDAV_PASSPHRASE is set but empty, as by a command that failed."""
    if is_terminal():
        return
    if invocation.passphrase_file is None and invocation.environment.get("TGDAV_PASSPHRASE") == "":
        others = ("TGDAV_PASSPHRASE_FILE", COMMAND)
        if not any(invocation.environment.get(name) for name in others):
            raise UsageError("the passphrase in TGDAV_PASSPHRASE is empty", hint="set one, or unset the variable")


def warned_if_weak(invocation: Invocation, wanted: Passphrase) -> Passphrase:
    """Return the passphrase, with a warning if it is weak."""
    from zxcvbn import zxcvbn  # slow to import: it has dictionaries of 30 000 words

    found = zxcvbn(wanted.text[:_JUDGED_CHARACTERS])
    if found["score"] <= _WEAK_SCORE:
        why = found["feedback"]["warning"].rstrip(".")
        reason = f" ({why[:1].lower()}{why[1:]})" if why else ""
        invocation.output.warn(
            f"this passphrase is weak{reason}: four or five random words are better; 'tgdav passwd' sets another"
        )
    return wanted


def passphrase_or_recovery_key(invocation: Invocation) -> Secret:
    """Return the recovery key if a source has one, else the passphrase. The prompt accepts both."""
    file = invocation.recovery_key_file
    if file is not None:
        return parse_recovery_key(_read(file, "recovery key", invocation))
    if invocation.environment.get("TGDAV_RECOVERY_KEY"):
        return parse_recovery_key(_without_ends(invocation.environment["TGDAV_RECOVERY_KEY"]))
    return find_passphrase(invocation) or _either(ask("Passphrase or recovery key", "passphrase", _EITHER_HINT))


def _either(text: str) -> Secret:
    if sum(sign.isalnum() for sign in text) == _LIKE_A_RECOVERY_KEY:
        try:
            return parse_recovery_key(text)
        except AccessError:
            pass  # a passphrase may be as long as a recovery key
    return Passphrase(text)


def ask(prompt: str, what: str, hint: str = HINT) -> str:
    """Ask for a secret: on a terminal without echo, else read a line of standard input. Raises AccessError at its end."""
    text = _asked(prompt)
    if not text:
        raise AccessError(f"no {what} was given", hint=hint)
    return text


def ask_new(prompt: str, what: str = "passphrase", hint: str = HINT) -> str:
    """Ask for a new secret, on a terminal twice.

    Raises AccessError when the two differ or the input ends, UsageError for an empty one.
    """
    text = _asked(prompt)
    if text is None:
        raise AccessError(f"no {what} was given", hint=hint)
    if not text:
        raise UsageError(f"the {what} is empty", hint="choose one that is hard to guess: four or five random words")
    if is_terminal() and _asked("Once more") != text:
        raise AccessError("the two passphrases differ", hint="run the command again")
    return text


def confirm(question: str) -> None:
    """Ask for confirmation; raise UsageError on any answer but yes."""
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    if read_line().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was changed", hint="answer y, or give --yes")


def is_terminal() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def _asked(prompt: str) -> str | None:
    """Return a line without its end; None at the end of the input."""
    if is_terminal():
        text = read_hidden(prompt)
        return None if text is None else _without_ends(text)
    line = read_line()
    return _without_ends(line) if line else None


def read_hidden(prompt: str) -> str | None:
    """Return a line typed without echo; None at the end of the input. Raises UsageError."""
    try:
        return getpass.getpass(f"{prompt}: ")
    except EOFError:
        return None
    except UnicodeDecodeError:
        raise UsageError("what was typed is not text in UTF-8", hint="check the terminal's encoding") from None


def read_line() -> str:
    """Return the next line of standard input with its end; empty at the end of the input. Raises UsageError."""
    try:
        line = sys.stdin.readline(MAX_SECRET_BYTES + 1) if sys.stdin is not None else ""
    except UnicodeDecodeError:
        raise UsageError("standard input is not text in UTF-8", hint="check what is piped into the command") from None
    if len(line) > MAX_SECRET_BYTES:
        raise UsageError(f"the line on standard input is longer than {MAX_SECRET_BYTES} characters")
    return line


def make_key_file(invocation: Invocation) -> Passphrase:
    """Write a random passphrase into the key file (0600), durably, and return it."""
    # Imported here: it imports the database, which most commands that read secrets do not need.
    from tgdav.vault.unlock import key_file_passphrase

    return Passphrase(key_file_passphrase(invocation.initial_paths.key_file, invocation.platform, make=True) or "")


def drop_key_file(invocation: Invocation) -> bool:
    """Remove the key file, whose passphrase no longer opens the vault; return whether there was one."""
    file = invocation.initial_paths.key_file
    if not file.exists():
        return False
    invocation.platform.disk.unlink(file)
    invocation.platform.disk.sync_directory(file.parent)
    return True


def webdav_users(invocation: Invocation, own_password: Callable[[], str]) -> dict[str, str]:
    """Return name and password of each WebDAV user whose password is known; without configured users, of ``tgdav``.

    ``own_password`` returns the generated password; it is called only if TGDAV_WEBDAV_PASSWORD is not set.
    """
    configured = invocation.config.webdav.users
    if configured:
        return {user.name: user.password.get_secret_value() for user in configured if not user.password_is_hash}
    return {"tgdav": invocation.environment.get("TGDAV_WEBDAV_PASSWORD") or own_password()}


def webdav_hashes(invocation: Invocation) -> dict[str, str]:
    """Return name and Argon2id hash of each WebDAV user that is configured with a hash."""
    users = invocation.config.webdav.users
    return {user.name: user.password.get_secret_value() for user in users if user.password_is_hash}


def to_wire(secret: Secret) -> dict[str, str]:
    """Return a secret for the control socket."""
    if isinstance(secret, RecoveryKey):
        return {"recovery_key": secret.key.hex()}
    return {"passphrase": secret.text}


def from_wire(found: object) -> Secret:
    """Return the secret in a control request. Raises UsageError."""
    match found:
        case {"passphrase": str(text)}:
            return Passphrase(text)
        case {"recovery_key": str(text)} if len(text) == 64 and not set(text) - set("0123456789abcdef"):
            return RecoveryKey(bytes.fromhex(text))
    raise UsageError("malformed control request: no secret")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _read(file: Path, what: str, invocation: Invocation | None = None) -> str:
    """Return the secret in a file; with ``invocation``, warn if other users may read it. Raises UsageError."""
    try:
        with open(file, "rb") as source:
            if invocation is not None:
                invocation.warn_of_readers(file, os.fstat(source.fileno()))
            data = source.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a valid file name"
        raise UsageError(f"{file}: the {what} cannot be read: {reason}", hint="name a readable file") from None
    return _one_line(data, f"{file}", what)


def _one_line(data: bytes, source: str, what: str) -> str:
    """Return the only line of ``data``, which came from ``source``. Raises UsageError."""
    try:
        text = data.decode().removeprefix(_BOM).rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{source}: the {what} is not text in UTF-8", hint="write it in UTF-8") from None
    if not text:
        raise UsageError(f"{source}: the {what} is empty", hint="put one line of text there")
    if len(data) > MAX_SECRET_BYTES or "\n" in text:
        raise UsageError(
            f"{source}: the {what} is more than one line of {MAX_SECRET_BYTES} bytes", hint="put one line of text there"
        )
    return text


def _without_ends(text: str) -> str:
    """Return ``text`` without a leading BOM and one line end."""
    text = text.removeprefix(_BOM)
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n").removesuffix("\r")


def _from_command(environment: Mapping[str, str]) -> str:
    """Return the output of TGDAV_PASSPHRASE_COMMAND. It is split like a shell command, but run without a shell.

    Raises UsageError (it cannot be run, or prints no line), AccessError (it failed). The messages do not show the command.
    """
    try:
        command = shlex.split(environment[COMMAND])
        kept = None if is_terminal() else subprocess.DEVNULL  # piped input is meant for the prompts
        running = subprocess.Popen(command, stdin=kept, stdout=subprocess.PIPE, env=dict(environment))  # noqa: S603
    except (OSError, ValueError, IndexError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid command"
        raise UsageError(f"{COMMAND} cannot be run: {reason}", hint="give a program and its arguments") from None
    with running:
        assert running.stdout is not None
        data = running.stdout.read(MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES:
            running.kill()
    if running.returncode and len(data) <= MAX_SECRET_BYTES:
        raise AccessError(
            f"{COMMAND} ended with exit code {running.returncode}", hint="run the command by itself to see why"
        )
    return _one_line(data, COMMAND, "passphrase")
