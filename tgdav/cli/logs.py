"""Where log messages go: to standard error, a line each; file names only at debug level.

A command prints its result or one line of error, so that its log is silent below an error, and libraries are silent: what
they meet is translated. A server's log has its warnings, and errors of libraries. ``-v`` shows everything.
"""

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_LEVELS = (logging.ERROR, logging.INFO, logging.DEBUG)
_OURS = ("tgdav", "tgdav_fuse")
_NEVER = logging.CRITICAL + 1


class _Filter(logging.Filter):
    """Lets our own messages through, and those of libraries from level ``others`` on."""

    others = _NEVER

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] in _OURS or record.levelno >= self.others


_filter = _Filter()


def set_up() -> None:
    """Send errors of our own to standard error, and nothing else; warnings of the interpreter are a library's messages."""
    logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_filter)
    logging.basicConfig(handlers=[handler], format=FORMAT)
    set_level(0)


def set_level(verbose: int) -> None:
    """Say more: with 1 what happens, with 2 every step."""
    _filter.others = logging.NOTSET if verbose else _NEVER
    logging.getLogger().setLevel(_LEVELS[min(verbose, 2)])


def set_up_server() -> None:
    """Say warnings, too, and what libraries hold for an error: nobody waits for this process's result."""
    _filter.others = min(_filter.others, logging.ERROR)
    root = logging.getLogger()
    root.setLevel(min(root.level, logging.WARNING))
