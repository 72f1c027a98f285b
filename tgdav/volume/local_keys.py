"""Opening a vault's keys by what lies on this machine, and what it costs to."""

from pathlib import Path

from tgdav.config import Config
from tgdav.crypto.header import try_headers
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.passphrase import Argon2Parameters
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError
from tgdav.volume.local_state import load_header

CHANGED_ELSEWHERE = (
    "if it was changed on another machine, run 'tgdav sync' once with the one from before, then the new one opens;"
    " or set one for all machines with 'tgdav passwd' and the recovery key"
)
"""What to do where the login, sealed by the vault, is needed to learn from the store what opens the vault."""


def argon2_parameters(config: Config) -> Argon2Parameters:
    """Return the configured cost of opening the vault by passphrase."""
    wanted = config.encryption
    return Argon2Parameters(wanted.argon2_memory_kib, wanted.argon2_iterations, wanted.argon2_parallelism)


def unlock_local(state: Path, secret: Secret) -> VaultKeys:
    """Return the vault's keys by the local header alone. Raises AccessError, DamageError, UsageError (no vault here)."""
    try:
        master, header = try_headers([load_header(state)], secret)
    except AccessError as error:
        raise AccessError(error.message, hint=CHANGED_ELSEWHERE) from None
    return VaultKeys(master, header.vault)
