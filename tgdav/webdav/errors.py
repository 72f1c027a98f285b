"""The translation of tgdav's errors into HTTP: a status and, where RFC 4918 §16 defines one, a ``DAV:error`` body."""

from http import HTTPStatus

from tgdav.errors import (
    AccessDenied,
    AccessError,
    Exists,
    FileTooLarge,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    ReadOnly,
    StoreUnavailable,
    TgdavError,
    UsageError,
    WriterReplaced,
)
from tgdav.http import HttpError, Response, text_response
from tgdav.http.messages import error_response


class Refused(HttpError, UsageError):
    """A request that is answered with ``status``.

    ``condition`` is the local name of a ``DAV:`` pre- or postcondition element, ``inner`` XML to put inside it.
    """

    kind = "http"

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        condition: str = "",
        inner: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> None:
        message = message or HTTPStatus(status).phrase
        super().__init__(status, message, headers=headers, close=close)
        self.condition = condition
        self.inner = inner


STATUSES: tuple[tuple[type[TgdavError], int], ...] = (
    (NotFound, 404),
    (NotADirectory, 409),
    (IsADirectory, 405),
    (Exists, 412),
    (NotEmpty, 409),
    (NameTooLong, 414),
    (InvalidArgument, 403),
    (NotPermitted, 403),
    (AccessDenied, 403),
    (ReadOnly, 403),
    (WriterReplaced, 403),
    (NoSpace, 507),
    (FileTooLarge, 413),
    (StoreUnavailable, 503),
    (AccessError, 503),
)
"""First match counts; whatever is not listed is 500."""


def status_of(error: Exception) -> int:
    """Return the HTTP status for ``error``."""
    if isinstance(error, HttpError):
        return error.status
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def error_body(condition: str, inner: str = "") -> bytes:
    """Return a ``DAV:error`` document naming one condition (RFC 4918 §16)."""
    element = f"<D:{condition}>{inner}</D:{condition}>" if inner else f"<D:{condition}/>"
    return f'<?xml version="1.0" encoding="utf-8"?><D:error xmlns:D="DAV:">{element}</D:error>'.encode()


def translate(error: TgdavError | HttpError) -> Response:
    """Return the response to a request that ended in ``error``. It never contains file names."""
    status = status_of(error)
    if isinstance(error, Refused) and error.condition:
        return Response(status, [*error.headers, XML], error_body(error.condition, error.inner), close=error.close)
    if isinstance(error, HttpError):
        return error_response(error)
    if isinstance(error, NoSpace):
        return Response(status, [XML], error_body("quota-not-exceeded"))
    retry = _retry_after(error)
    return text_response(status, f"{HTTPStatus(status).phrase}: {error}", retry)


XML = ("Content-Type", 'application/xml; charset="utf-8"')


def _retry_after(error: TgdavError) -> tuple[tuple[str, str], ...]:
    if not isinstance(error, StoreUnavailable):
        return ()
    return (("Retry-After", str(max(1, int(error.retry_after or 30)))),)
