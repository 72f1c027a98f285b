"""The one translation of our errors into errno, for every request of the kernel."""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

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

P = ParamSpec("P")
R = TypeVar("R")
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


def request(
    handler: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Let a request handler raise our errors; the kernel gets their errno.

    An error that is none of ours is a fault of the program: it is logged, the request fails with EIO, the mount goes on.
    """

    @functools.wraps(handler)
    async def handle(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except TgdavError as error:
            number = number_of(error)
            if number == errno.EIO:
                _log.warning("%s failed: %s", handler.__name__, error)
            raise FUSEError(number) from error
        except Exception as error:  # the boundary: an unforeseen error must not end the mount
            _log.exception("%s failed", handler.__name__)
            raise FUSEError(errno.EIO) from error

    return handle
