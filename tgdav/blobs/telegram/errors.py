"""The translation of Telethon's exceptions into this project's errors.

The classes here are internal to this package, which usually handles them itself (a lost part, a stale reference). All
are StoreUnavailable, so that a caller that does get one may repeat the call.
"""

import asyncio

from telethon import errors as telethon

from tgdav.errors import AccessError, StoreRejected, StoreUnavailable, TgdavError


class PremiumWait(StoreUnavailable):
    """FLOOD_PREMIUM_WAIT: free accounts are slowed down after much traffic."""


class TransportFlood(StoreUnavailable):
    """Error 429 of the transport, which names no time to wait."""


class NoResponse(StoreUnavailable):
    """Nothing was received for the whole patience: the connection or the network is dead."""


class PartMissing(StoreUnavailable):
    """The server lost one part of an upload."""

    def __init__(self, part: int) -> None:
        super().__init__(f"Telegram lost part {part} of an upload")
        self.part = part


class UploadCorrupted(StoreUnavailable):
    """The server received other bytes than were sent: upload again."""


class AlreadySent(StoreUnavailable):
    """The ``random_id`` of a message was used before."""


class ReferenceStale(StoreUnavailable):
    """The file reference expired: fetch the message again."""


class FileRefused(ReferenceStale):
    """The server does not know the file: a fresh reference may help, or the file is gone."""


class OtherDc(StoreUnavailable):
    """The file is stored in data centre ``dc``."""

    def __init__(self, dc: int) -> None:
        super().__init__(f"the file is in data centre {dc}")
        self.dc = dc


class ShortRead(StoreUnavailable):
    """Fewer bytes were received than requested."""


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
    # The account moved to another data centre, where this login does not exist.
    telethon.UserMigrateError,
    telethon.NetworkMigrateError,
)
_CONNECTION = (OSError, EOFError, BufferError, asyncio.TimeoutError, telethon.SecurityError, telethon.BadMessageError)
_LOG_IN = "run 'tgdav auth' to log in again"


def translate(error: Exception) -> Exception:
    """Return this project's error for an exception of Telethon; unrelated exceptions are returned unchanged."""
    if isinstance(error, TgdavError):
        return error
    return _upload_or_file(error) or _flood_wait(error) or _account(error) or _other(error)


def _upload_or_file(error: Exception) -> TgdavError | None:
    if isinstance(error, telethon.FilePart0MissingError):
        return PartMissing(0)
    if isinstance(error, telethon.FilePartMissingError):
        return PartMissing(error.which)
    if isinstance(error, telethon.Md5ChecksumInvalidError):
        return UploadCorrupted("Telegram received other bytes than were sent")
    if isinstance(error, telethon.RandomIdDuplicateError):
        return AlreadySent("Telegram has received this message before")
    if isinstance(error, telethon.FileIdInvalidError):
        return FileRefused("Telegram does not know the file")
    if isinstance(error, _REFERENCES):
        return ReferenceStale("Telegram requires a fresh file reference")
    if isinstance(error, telethon.FileMigrateError):
        return OtherDc(error.new_dc)
    return None


def _flood_wait(error: Exception) -> TgdavError | None:
    if isinstance(error, telethon.FloodPremiumWaitError):
        return PremiumWait("Telegram slows free accounts down", retry_after=float(error.seconds))
    if isinstance(error, _FLOODS):
        return StoreUnavailable(f"Telegram requires a wait of {error.seconds} s", retry_after=float(error.seconds))
    # Errors of the transport (https://core.telegram.org/mtproto/mtproto-transports#transport-errors): 429 means too
    # many connections, 404 an unknown authorization key.
    if isinstance(error, telethon.InvalidBufferError) and error.code == 429:
        return TransportFlood("Telegram refuses connections for a while")
    if isinstance(error, telethon.InvalidBufferError) and error.code == 404:
        return AccessError("Telegram no longer knows this login", hint=_LOG_IN)
    return None


def _account(error: Exception) -> TgdavError | None:
    if isinstance(error, _ACCOUNT_LOST):
        hint = "files that are on this machine stay readable; see https://telegram.org/faq#account-frozen"
        return StoreRejected("Telegram has frozen, banned or deleted this account", hint=hint)
    if isinstance(error, telethon.AuthKeyDuplicatedError):
        return AccessError("Telegram ended this login because two programs used it at once", hint=_LOG_IN)
    if isinstance(error, _LOGIN):
        return AccessError("Telegram has ended this login", hint=_LOG_IN)
    return None


def _other(error: Exception) -> Exception:
    if isinstance(error, _BUSY):
        return StoreUnavailable("Telegram has an internal error")
    if isinstance(error, telethon.RPCError):
        message = getattr(error, "message", "") or ""
        return StoreRejected(f"Telegram refuses: {type(error).__name__.removesuffix('Error')} {message}".rstrip())
    if isinstance(error, _CONNECTION):
        return StoreUnavailable("the connection to Telegram broke")
    return error
