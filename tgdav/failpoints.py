"""Failpoints: named positions before and after each durable step, at which tests raise an error or end the process.

Each costs one call of an empty function in production. The crash tests find them by their call in the source, so the
argument is always a literal string ``module.step``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _ignore(_name: str) -> None:
    return


_handler: Callable[[str], None] = _ignore


def failpoint(name: str) -> None:
    """Call the installed handler with ``name``. It may raise, or never return."""
    _handler(name)


@contextmanager
def installed(handler: Callable[[str], None]) -> Iterator[None]:
    """Install ``handler``, for all threads, during a ``with`` block (tests only)."""
    global _handler
    previous, _handler = _handler, handler
    try:
        yield
    finally:
        _handler = previous
