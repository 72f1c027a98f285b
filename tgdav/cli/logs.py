"""Where log messages go: to standard error, a line each; file names only at debug level."""

import logging
import sys

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def set_up() -> None:
    """Send warnings and worse to standard error."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def set_level(verbose: int) -> None:
    """Say more: with 1 what happens, with 2 every step."""
    logging.getLogger().setLevel(_LEVELS[min(verbose, 2)])
