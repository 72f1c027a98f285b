"""``python -m tests.crash.altered NAME ARGS…``: the real program with one thing in it changed, for this run alone."""

import sys
from collections.abc import Callable

from tests.crash.mutants import MUTANTS
from tgdav.cli import main


def impatient() -> None:
    """Writers wait for space for one second instead of sixty."""
    import tgdav.content.staging.quota as quota

    quota.WAIT_SECONDS = 1.0


def nothing() -> None:
    """Change nothing."""


ALTERATIONS: dict[str, Callable[[], None]] = {"impatient": impatient, "nothing": nothing}


def program(name: str) -> list[str]:
    """Return the command line of the altered program."""
    return [sys.executable, "-m", "tests.crash.altered", name]


if __name__ == "__main__":
    chosen = sys.argv.pop(1)
    (ALTERATIONS[chosen] if chosen in ALTERATIONS else MUTANTS[chosen].apply)()
    sys.exit(main())
