"""The one translation of what Telethon raises into the project's errors.

The classes here are for this room's own use: what it mends itself (a lost part, a stale reference) before anybody sees
it. All are StoreUnavailable, because a caller who does meet one may ask again.
"""

import asyncio

from telethon import errors as telethon

from tgdav.errors import AccessError, StoreRejected, StoreUnavailable, TgdavError


class Paced(StoreUnavailable):
    """Free accounts are slowed after much traffic: repeat after a rest, with fewer parts in flight."""


class TransportFlood(StoreUnavailable):
    """The transport itself said 429; it names no time to wait."""


class Silence(StoreUnavailable):
    """Nothing came for as long as one waits for an answer: the line, or all of the network, is dead."""


class PartMissing(StoreUnavailable):
    """The server lost part ``part`` of an upload."""

    def __init__(self, part: int) -> None:
        super().__init__(f"Telegram lost part {part} of an upload")
        self.part = part


class UploadSpoiled(StoreUnavailable):
    """The server has other bytes than were sent: upload again."""


class AlreadySent(StoreUnavailable):
    """This random_id was used before."""


class ReferenceStale(StoreUnavailable):
    """The file reference is no longer good: fetch the message again."""


class FileRefused(ReferenceStale):
    """The server knows no such file: perhaps a fresh reference helps, perhaps it is gone."""


class OtherDc(StoreUnavailable):
    """The file lies in data centre ``dc``."""

    def __init__(self, dc: int) -> None:
        super().__init__(f"the file is in data centre {dc}")
        self.dc = dc


class ShortRead(StoreUnavailable):
    """Fewer bytes came than were asked for."""


_FLOODS = (telethon.FloodWaitError, telethon.SlowModeWaitError, telethon.FloodTestPhoneWaitError)
_REFERENCES = (
    telethon.FileReferenceExpiredError,
    telethon.FileReferenceInvalidError,
    telethon.FileReferenceEmptyError,
    telethon.FilerefUpgradeNeededError,
)
_ACCOUNT_LOST = (
    telethon.UserDeactivatedError,
    telethon.UserDeactivatedBanError,
    telethon.PhoneNumberBannedError,
    telethon.FrozenMethodInvalidError,
    telethon.FrozenParticipantMissingError,
)
_BUSY = (
    telethon.ServerError,
    telethon.TimedOutError,
    telethon.RpcCallFailError,
    telethon.RpcMcgetFailError,
    telethon.InterdcCallErrorError,
    telethon.InterdcCallRichErrorError,
)
_LOGIN = (
    telethon.UnauthorizedError,
    telethon.AuthKeyError,
    telethon.AuthKeyNotFound,
    telethon.UserMigrateError,
    telethon.NetworkMigrateError,
)
_LINE = (OSError, EOFError, BufferError, asyncio.TimeoutError, telethon.SecurityError, telethon.BadMessageError)
_LOG_IN = "run 'tgdav auth' to log in again"


def translate(error: Exception) -> Exception:
    """Return the project's error for one of Telethon's; an error that is no answer of Telegram's comes back unchanged."""
    if isinstance(error, TgdavError):
        return error
    return _upload_or_file(error) or _waiting(error) or _account(error) or _rest(error)


def _upload_or_file(error: Exception) -> TgdavError | None:
    if isinstance(error, telethon.FilePart0MissingError):
        return PartMissing(0)
    if isinstance(error, telethon.FilePartMissingError):
        return PartMissing(error.which)
    if isinstance(error, telethon.Md5ChecksumInvalidError):
        return UploadSpoiled("Telegram received other bytes than were sent")
    if isinstance(error, telethon.RandomIdDuplicateError):
        return AlreadySent("Telegram has seen this message before")
    if isinstance(error, telethon.FileIdInvalidError):
        return FileRefused("Telegram knows no such file")
    if isinstance(error, _REFERENCES):
        return ReferenceStale("Telegram wants a fresh file reference")
    if isinstance(error, telethon.FileMigrateError):
        return OtherDc(error.new_dc)
    return None


def _waiting(error: Exception) -> TgdavError | None:
    if isinstance(error, telethon.FloodPremiumWaitError):
        return Paced("Telegram slows free accounts down", retry_after=float(error.seconds))
    if isinstance(error, _FLOODS):
        return StoreUnavailable(f"Telegram requires a wait of {error.seconds} s", retry_after=float(error.seconds))
    if isinstance(error, telethon.InvalidBufferError) and error.code == 429:
        return TransportFlood("Telegram refuses connections for a while")
    if isinstance(error, telethon.InvalidBufferError) and error.code == 404:
        return AccessError("Telegram has forgotten this login", hint=_LOG_IN)
    return None


def _account(error: Exception) -> TgdavError | None:
    if isinstance(error, _ACCOUNT_LOST):
        hint = "what is on this machine can still be read; see https://telegram.org/faq#account-frozen"
        return StoreRejected("Telegram has frozen, banned or deleted this account", hint=hint)
    if isinstance(error, telethon.AuthKeyDuplicatedError):
        return AccessError("Telegram ended this login, because two programs used it at once", hint=_LOG_IN)
    if isinstance(error, _LOGIN):
        return AccessError("Telegram has ended this login", hint=_LOG_IN)
    return None


def _rest(error: Exception) -> Exception:
    if isinstance(error, _BUSY):
        return StoreUnavailable("Telegram has trouble of its own")
    if isinstance(error, telethon.RPCError):
        said = getattr(error, "message", "") or ""
        return StoreRejected(f"Telegram refuses: {type(error).__name__.removesuffix('Error')} {said}".rstrip())
    if isinstance(error, _LINE):
        return StoreUnavailable("the connection to Telegram broke")
    return error
