"""When the Telegram account expires: Telegram deletes an account that was not used for a time that its owner chose.

The time is requested once a day and saved, so that it is known offline too (https://core.telegram.org/api/account-deletion).
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from tgdav.clock import Clock
from tgdav.db import Transaction
from tgdav.db.database import Database
from tgdav.errors import TgdavError
from tgdav.metadata import settings

_log = logging.getLogger(__name__)

LIFE = "store.account-life"
ASK_SECONDS = 86_400.0
AGAIN_SECONDS = 600.0
SHORT_DAYS = 93
"""A time of up to three months is short: a machine can be unused that long."""
FEW_DAYS_LEFT = 30
_WARNING = (
    "choose a longer time in Telegram, Settings, Privacy and Security, 'If away for';"
    " the vault is deleted with the account"
)
_DAY_NS = 86_400 * 10**9


class _Life(msgspec.Struct):
    """``days`` without use after which the account is deleted; ``asked``: last known use, in ns since 1970."""

    days: int
    asked: int


class AccountExpiry:
    """The last value from Telegram. ``ask`` requests the days. ``refresh_if_due`` must not run twice at once."""

    def __init__(self, database: Database, clock: Clock, ask: Callable[[], int]) -> None:
        self._database, self._clock, self._ask = database, clock, ask
        with database.reading() as connection:
            kept = settings.get(connection, LIFE)
        self._life = msgspec.convert(kept, _Life) if kept else None
        self._next = clock.monotonic()
        if self._life is not None:
            self._next += max(0.0, ASK_SECONDS - max(0, clock.now_ns() - self._life.asked) / 1e9)

    def refresh_if_due(self) -> None:
        """Request the time if a day has passed, and log a warning if it is short. Raises LocalFailure, NoSpace."""
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + AGAIN_SECONDS
        try:
            days = self._ask()
        except TgdavError as error:  # reported where it keeps work from being done
            _log.debug("Telegram did not return when the account expires: %s", error)
            return
        self._next = self._clock.monotonic() + ASK_SECONDS
        life = self._life = _Life(days, self._clock.now_ns())
        self._database.writer.run(lambda transaction: _save(transaction, life))
        if days <= SHORT_DAYS:
            _log.warning("Telegram deletes the account after %d days without use: %s", days, _WARNING)

    def report(self) -> dict[str, Any] | None:
        """Return the ``account`` object of ``status``, None if nothing is known yet."""
        life = self._life
        if life is None:
            return None
        end = life.asked + life.days * _DAY_NS
        left = min(max(-((self._clock.now_ns() - end) // _DAY_NS), 0), life.days)
        return {
            "deleted_after_days": life.days,
            "days_left": left,
            "not_before": datetime.fromtimestamp(end // 10**9, UTC).date().isoformat(),
            "warning": _WARNING if life.days <= SHORT_DAYS or left <= FEW_DAYS_LEFT else None,
        }


def _save(transaction: Transaction, life: _Life) -> None:
    settings.put(transaction, LIFE, msgspec.to_builtins(life))
