"""Named places before and after each durable step, where tests may crash the program.

``reach("journal.before-commit")`` costs one call in production. A test installs a handler that raises or exits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _ignore(_name: str) -> None:
    return


_handler: Callable[[str], None] = _ignore


def reach(name: str) -> None:
    """Tell the installed handler that the step ``name`` (``module.step``) is reached."""
    _handler(name)


@contextmanager
def installed(handler: Callable[[str], None]) -> Iterator[None]:
    """Install ``handler`` for the time of a ``with`` block (tests only)."""
    global _handler
    previous, _handler = _handler, handler
    try:
        yield
    finally:
        _handler = previous
