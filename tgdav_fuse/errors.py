"""The translation of errors into errno, for all request handlers."""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, TypeVarTuple

from pyfuse3 import FUSEError

from tgdav.errors import (
    AccessError,
    BlobMissing,
    DamageError,
    FileSystemError,
    StoreRejected,
    StoreUnavailable,
    TgdavError,
    WriterReplaced,
)

_log = logging.getLogger(__name__)

A = TypeVarTuple("A")
R = TypeVar("R")


class CountsRequests(Protocol):
    """An object with request handlers. ``in_progress`` is the number of requests that may be waiting."""

    in_progress: int


C = TypeVar("C", bound=CountsRequests)
S = TypeVar("S")

_ERRNO: dict[type[TgdavError], int] = {
    TgdavError: errno.EIO,
    DamageError: errno.EIO,
    BlobMissing: errno.EIO,
    StoreUnavailable: errno.EIO,
    StoreRejected: errno.EIO,
    AccessError: errno.EACCES,
    WriterReplaced: errno.EROFS,
}


def errno_of(error: Exception) -> int:
    """Return the errno for ``error``: its own, that of its nearest base class in the table, or EIO."""
    if isinstance(error, FileSystemError):
        return error.errno
    return next((_ERRNO[kind] for kind in type(error).__mro__ if kind in _ERRNO), errno.EIO)


def async_handler(handler: Callable[[C, *A], Coroutine[Any, Any, R]]) -> Callable[[C, *A], Coroutine[Any, Any, R]]:
    """Translate what a request handler raises into errno, and count the request as in progress meanwhile.

    An error that is not a TgdavError is a bug: it is logged and the request fails with EIO, but the mount goes on.
    """

    @functools.wraps(handler)
    async def handle(self: C, /, *args: *A) -> R:
        self.in_progress += 1
        try:
            return await handler(self, *args)
        except FUSEError:
            raise
        except Exception as error:
            raise _translated(handler.__name__, error) from error
        finally:
            self.in_progress -= 1

    return handle


def sync_handler(handler: Callable[[S, *A], R]) -> Callable[[S, *A], Coroutine[Any, Any, R]]:
    """The same for a handler that never waits."""

    @functools.wraps(handler)
    async def handle(self: S, /, *args: *A) -> R:
        try:
            return handler(self, *args)
        except FUSEError:
            raise
        except Exception as error:
            raise _translated(handler.__name__, error) from error

    return handle


def _translated(name: str, error: Exception) -> FUSEError:
    if not isinstance(error, TgdavError):  # a bug in one handler must not end the mount
        _log.error("%s failed", name, exc_info=error)
        return FUSEError(errno.EIO)
    number = errno_of(error)
    if number == errno.EIO:
        _log.warning("%s failed: %s", name, error)
    return FUSEError(number)
