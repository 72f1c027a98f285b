"""How long the Telegram account lives without use: Telegram deletes one that nobody used for a time its owner chose.

Asked for once a day and kept, so that it is known without network too (https://core.telegram.org/api/account-deletion).
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
"""A time of up to three months is short: a machine, and its owner, can be away as long."""
FEW_DAYS_LEFT = 30
_WARNING = (
    "choose a longer time in Telegram, Settings, Privacy and Security, 'If away for'; the vault goes with the account"
)
_DAY_NS = 86_400 * 10**9


class _Life(msgspec.Struct):
    """``days`` without use after which the account is deleted; ``asked`` in ns since 1970, when it was in use last."""

    days: int
    asked: int


class AccountExpiry:
    """What Telegram said last. ``ask`` asks it for the days. One caller of ``keep_up`` at a time."""

    def __init__(self, database: Database, clock: Clock, ask: Callable[[], int]) -> None:
        self._database, self._clock, self._ask = database, clock, ask
        with database.reading() as connection:
            kept = settings.get(connection, LIFE)
        self._life = msgspec.convert(kept, _Life) if kept else None
        self._next = clock.monotonic()
        if self._life is not None:
            self._next += max(0.0, ASK_SECONDS - max(0, clock.now_ns() - self._life.asked) / 1e9)

    def keep_up(self) -> None:
        """Ask if a day has passed, and warn of a short time. Raises LocalFailure, NoSpace."""
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + AGAIN_SECONDS
        try:
            days = self._ask()
        except TgdavError as error:  # whatever keeps Telegram away is told where it keeps work from being done
            _log.debug("Telegram did not say how long the account lives without use: %s", error)
            return
        self._next = self._clock.monotonic() + ASK_SECONDS
        life = self._life = _Life(days, self._clock.now_ns())
        self._database.writer.run(lambda transaction: _keep(transaction, life))
        if days <= SHORT_DAYS:
            _log.warning("Telegram deletes the account after %d days without use: %s", days, _WARNING)

    def report(self) -> dict[str, Any] | None:
        """Return the ``account`` object of ``status``; None while nothing is known."""
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


def _keep(transaction: Transaction, life: _Life) -> None:
    settings.put(transaction, LIFE, msgspec.to_builtins(life))
