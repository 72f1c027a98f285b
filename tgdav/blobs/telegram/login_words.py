"""What Telegram says when it refuses a login, in plain words."""

from telethon import errors as telethon

from tgdav.errors import AccessError, StoreUnavailable, TgdavError

WRONG = (
    telethon.PhoneCodeInvalidError,
    telethon.PhoneCodeEmptyError,
    telethon.PasswordHashInvalidError,
)
"""Mistyped: worth asking again."""

_MY_TELEGRAM = "take api_id and api_hash from https://my.telegram.org/apps"
_WORDS: dict[type[Exception], tuple[str, str]] = {
    telethon.PhoneCodeInvalidError: ("the code is wrong", ""),
    telethon.PhoneCodeEmptyError: ("the code is missing", ""),
    telethon.PhoneCodeExpiredError: ("the code has expired", "run 'tgdav auth' again for a new one"),
    telethon.PasswordHashInvalidError: ("the password is wrong", "it is the one of Telegram's two-step verification"),
    telethon.PhoneNumberInvalidError: (
        "Telegram knows no such phone number",
        "write it with the country's prefix, as +49 151 1234567",
    ),
    telethon.PhoneNumberBannedError: ("Telegram has banned this phone number", "see https://telegram.org/faq_spam"),
    telethon.PhoneNumberUnoccupiedError: (
        "this phone number has no Telegram account",
        "sign up in Telegram's own application first",
    ),
    telethon.ApiIdInvalidError: ("Telegram does not know this api_id with this api_hash", _MY_TELEGRAM),
    telethon.ApiIdPublishedFloodError: ("this api_id is a published one, which Telegram refuses", _MY_TELEGRAM),
    telethon.UserDeactivatedError: ("Telegram has deleted this account", ""),
    telethon.UserDeactivatedBanError: ("Telegram has banned this account", "see https://telegram.org/faq_spam"),
    telethon.PhoneNumberFloodError: ("codes were asked for too often", "wait a day"),
    telethon.PhonePasswordFloodError: ("logins were tried too often", "wait a day"),
    telethon.AuthTokenExpiredError: ("the QR code has expired", "try again"),
}


def in_plain_words(error: Exception) -> TgdavError | None:
    """Return what to tell the user about a refused login; None for what is not about logging in."""
    if isinstance(error, telethon.FloodWaitError):
        wait = _duration(error.seconds)
        return StoreUnavailable(
            f"Telegram wants no more tries for {wait}", retry_after=float(error.seconds), hint="try again then"
        )
    for kind, (message, hint) in _WORDS.items():
        if isinstance(error, kind):
            return AccessError(message, hint=hint)
    return None


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes" if seconds < 7200 else f"{-(-seconds // 3600)} hours"
