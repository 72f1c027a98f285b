"""Log in to Telegram and out: a new login is saved first, then used, then the previous one is ended."""

import logging
import threading
from pathlib import Path

from tgdav.blobs.telegram import TelegramSettings
from tgdav.blobs.telegram.account_store import AccountStore
from tgdav.blobs.telegram.login import end_login, log_out
from tgdav.blobs.telegram.settings import telegram_settings
from tgdav.config import Config, StatePaths
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError, DamageError, TgdavError
from tgdav.platform import Platform
from tgdav.vault.lock import LoginLock, StateLock
from tgdav.vault.state_dir import load_vault, prepare_state
from tgdav.vault.telegram_login import TelegramLogin, drop_pending, load_login, load_pending, save_login, save_pending
from tgdav.vault.unlock import argon2_parameters, unlock_local

_log = logging.getLogger(__name__)


class LoginService:
    """Manages the login of a vault; ``account`` is the store that uses it, if the vault is open. Thread-safe."""

    def __init__(
        self,
        state: Path,
        vault_keys: VaultKeys,
        settings: TelegramSettings,
        platform: Platform,
        account: AccountStore | None = None,
    ) -> None:
        self._state, self._vault_keys, self._settings = state, vault_keys, settings
        self._platform, self._account = platform, account
        self._lock = threading.Lock()

    def start(self) -> None:
        """Use the saved login. Raises LoginInUse (a copied state)."""
        assert self._account is not None
        self._account.use(self._saved())
        drop_pending(self._state, self._platform)

    def log_in(self, login: TelegramLogin) -> None:
        """Use a new login of the vault's account.

        Raises AccessError for one of another account, which changes nothing; NoSpace, LocalFailure.
        """
        with self._lock:
            before = self._saved()
            if self._owner(before) not in (0, login.user_id):
                raise AccessError(
                    "this vault is in another Telegram account", hint="log in with the account that it was created in"
                )
            save_login(self._state, login, self._vault_keys, self._platform)
            if self._account is not None:
                self._account.use(login)
            end_login(self._settings, "" if before is None else before.session)

    def log_out(self) -> bool:
        """End the login, but keep which account the vault is in. Return whether there was a login. Raises StoreUnavailable."""
        with self._lock:
            before = self._saved()
            if before is None or not before.session:
                return False
            if self._account is not None:
                self._account.use(None)
            try:
                _end(self._settings, before)
            except TgdavError:
                if self._account is not None:
                    self._account.use(before)
                raise
            save_login(self._state, TelegramLogin("", before.user_id), self._vault_keys, self._platform)
            return True

    def _owner(self, kept: TelegramLogin | None) -> int:
        """Return the id of the account that stores the vault, 0 if it is not known."""
        return load_vault(self._state, self._vault_keys).account or (0 if kept is None else kept.user_id)

    def _saved(self) -> TelegramLogin | None:
        """Return the saved login; None if it is damaged, so that a new one can replace it."""
        try:
            return load_login(self._state, self._vault_keys)
        except DamageError as error:
            _log.error("%s; run 'tgdav auth'", error.message)
            return None


def _end(settings: TelegramSettings, login: TelegramLogin) -> None:
    lock = LoginLock(login.session)
    try:
        log_out(settings, login.session)
    except AccessError:
        return  # it has ended already
    finally:
        lock.release()


class ClosedState:
    """Logs in and out for a state that no process has open; the vault may not exist yet.

    Raises VaultInUse, AccessError (the secret does not open the vault), DamageError.
    """

    def __init__(
        self, paths: StatePaths, config: Config, secret: Secret, platform: Platform, *, has_vault: bool
    ) -> None:
        self._paths, self._config, self._secret, self._platform = paths, config, secret, platform
        self._settings = telegram_settings(config)
        self._keeper: LoginService | None = None
        if has_vault:
            keys = unlock_local(paths.state, secret)
            self._keeper = LoginService(paths.state, keys, self._settings, platform)
        else:
            prepare_state(paths, platform.disk)

    def log_in(self, login: TelegramLogin) -> None:
        """Save the login. Raises as ``LoginService.log_in``, VaultInUse."""
        lock = StateLock(self._paths.lock_file)
        try:
            if self._keeper is not None:
                self._keeper.log_in(login)
                return
            before = self._pending()
            save_pending(self._paths.state, login, self._secret, argon2_parameters(self._config), self._platform)
            end_login(self._settings, "" if before is None else before.session)
        finally:
            lock.release()

    def log_out(self) -> bool:
        """End the login; return whether there was one. Raises StoreUnavailable, VaultInUse, AccessError."""
        lock = StateLock(self._paths.lock_file)
        try:
            if self._keeper is not None:
                return self._keeper.log_out()
            before = load_pending(self._paths.state, self._secret)
            if before is None:
                return False
            _end(self._settings, before)
            drop_pending(self._paths.state, self._platform)
            return True
        finally:
            lock.release()

    def _pending(self) -> TelegramLogin | None:
        """Return the login that the new one replaces, if this secret opens it."""
        try:
            return load_pending(self._paths.state, self._secret)
        except TgdavError:
            return None
