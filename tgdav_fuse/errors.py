"""The one translation of our errors into errno, for every request of the kernel."""

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


class Counting(Protocol):
    """What has request handlers. ``under_way`` counts those requests that may be waiting for something."""

    under_way: int


C = TypeVar("C", bound=Counting)
S = TypeVar("S")

_TABLE: dict[type[TgdavError], int] = {
    TgdavError: errno.EIO,
    DamageError: errno.EIO,
    BlobMissing: errno.EIO,
    StoreUnavailable: errno.EIO,
    StoreRejected: errno.EIO,
    AccessError: errno.EACCES,
    WriterReplaced: errno.EROFS,
}


def number_of(error: Exception) -> int:
    """Return the errno that says ``error`` to a program; EIO for what has none of its own."""
    if isinstance(error, FileSystemError):
        return error.errno
    return next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), errno.EIO)


def async_handler(handler: Callable[[C, *A], Coroutine[Any, Any, R]]) -> Callable[[C, *A], Coroutine[Any, Any, R]]:
    """Let a request handler, which may wait, raise our errors; the kernel gets their errno.

    An error that is none of ours is a fault of the program: it is logged, the request fails with EIO, the mount goes on.
    """

    @functools.wraps(handler)
    async def handle(self: C, /, *args: *A) -> R:
        self.under_way += 1
        try:
            return await handler(self, *args)
        except FUSEError:
            raise
        except Exception as error:
            raise _translated(handler.__name__, error) from error
        finally:
            self.under_way -= 1

    return handle


def sync_handler(handler: Callable[[S, *A], R]) -> Callable[[S, *A], Coroutine[Any, Any, R]]:
    """As ``async_handler``, of a handler that waits for nothing."""

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
    if not isinstance(error, TgdavError):  # the boundary: an unforeseen error must not end the mount
        _log.error("%s failed", name, exc_info=error)
        return FUSEError(errno.EIO)
    number = number_of(error)
    if number == errno.EIO:
        _log.warning("%s failed: %s", name, error)
    return FUSEError(number)
