"""The saved Telegram login of this machine: sealed, with the id of its account.

``state/telegram`` is sealed under the vault's machine-wrap key. Where no vault exists yet, ``state/telegram-new`` holds
the login: a slot as in the vault's header, with a salt of its own, opens a random key under which it is sealed. Creating
or joining a vault seals it again and removes that file. Layout: ``docs/formats.md``.
"""

from pathlib import Path

import msgspec

from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.passphrase import Argon2Limits, Argon2Parameters
from tgdav.crypto.sealing import Kind, associated_data, open_sealed, seal
from tgdav.crypto.slots import SLOT_BYTES, Secret, decode_slot, make_slot, open_slot
from tgdav.errors import AccessError, DamageError, NewerFormat
from tgdav.ids import VaultId
from tgdav.platform import Platform
from tgdav.vault.state_dir import write_file

SEALED = "telegram"
PENDING = "telegram-new"
LOG_IN = "run 'tgdav auth'"

_VERSION = 1
_NO_VAULT = VaultId(bytes(16))
_WHAT = "Telegram login"


class TelegramLogin(msgspec.Struct, array_like=True, frozen=True):
    """``session`` is Telethon's StringSession, empty after a logout; ``user_id`` is the account that stores the vault."""

    session: str
    user_id: int

    def __repr__(self) -> str:
        return f"TelegramLogin(user_id={self.user_id})"


def load_login(state: Path, vault_keys: VaultKeys) -> TelegramLogin | None:
    """Return the vault's login, None if there never was one. Raises DamageError."""
    sealed = _read(state / SEALED)
    if sealed is None:
        return None
    try:
        return _decode(vault_keys.machine_wrap.open(sealed, _binding(vault_keys.vault), _WHAT))
    except DamageError:
        version = vault_keys.machine_wrap.later_version(sealed, lambda each: _binding(vault_keys.vault, each))
        if version is None:
            raise
        raise NewerFormat("the Telegram login kept here", version) from None


def save_login(state: Path, login: TelegramLogin, vault_keys: VaultKeys, platform: Platform) -> None:
    """Save the vault's login, durably. The caller removes the one from before the vault. Raises NoSpace, LocalFailure."""
    sealed = vault_keys.machine_wrap.seal(msgspec.msgpack.encode(login), _binding(vault_keys.vault), platform.entropy)
    write_file(state / SEALED, sealed, platform.disk)


def load_pending(state: Path, secret: Secret) -> TelegramLogin | None:
    """Return the login from before a vault, None if there is none. Raises AccessError, DamageError."""
    data = _read(state / PENDING)
    if data is None:
        return None
    if len(data) <= SLOT_BYTES:
        raise DamageError("the Telegram login is cut off", blob=_WHAT, hint=LOG_IN)
    key = open_slot(decode_slot(data[:SLOT_BYTES]), _NO_VAULT, secret, Argon2Limits())
    if key is None:
        raise AccessError(
            "this is not what the Telegram login was sealed with", hint=f"give the same, or {LOG_IN} again with this"
        )
    return _decode(open_sealed(key, data[SLOT_BYTES:], _binding(_NO_VAULT), _WHAT))


def save_pending(
    state: Path, login: TelegramLogin, secret: Secret, parameters: Argon2Parameters, platform: Platform
) -> None:
    """Save a login until there is a vault, durably. Raises NoSpace, LocalFailure."""
    key = platform.entropy.bytes(32)
    slot = make_slot(_NO_VAULT, key, secret, 1, parameters, Argon2Limits(), platform.entropy)
    sealed = seal(key, msgspec.msgpack.encode(login), _binding(_NO_VAULT), platform.entropy)
    write_file(state / PENDING, slot.encode() + sealed, platform.disk)


def drop_pending(state: Path, platform: Platform) -> None:
    """Remove the login from before the vault, if there is one, durably."""
    if (state / PENDING).exists():
        platform.disk.unlink(state / PENDING)
        platform.disk.sync_directory(state)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _decode(plaintext: bytes) -> TelegramLogin:
    try:
        return msgspec.msgpack.decode(plaintext, type=TelegramLogin)
    except msgspec.MsgspecError as error:
        raise DamageError("the Telegram login cannot be read", blob=_WHAT, hint=LOG_IN) from error


def _binding(vault: VaultId, version: int = _VERSION) -> bytes:
    return associated_data(vault, None, Kind.LOCAL, b"telegram login", version)
