"""Checks of a mount point, before anything is opened."""

import os
from importlib.util import find_spec
from pathlib import Path

from tgdav.config import StatePaths
from tgdav.errors import UsageError
from tgdav.wording import counted

NO_FUSE = UsageError(
    "mounting needs the extra 'fuse'", hint="pipx install 'tgdav[fuse]', with libfuse3-dev and a C compiler"
)


def refuse_own_files(paths: StatePaths, where: Path) -> None:
    """Raise UsageError if the mount would hide files of tgdav itself."""
    for own in (paths.state, paths.cache, paths.store):
        if Path(os.path.realpath(own)).is_relative_to(where):
            raise UsageError(f"{where} contains files of tgdav itself", hint="mount somewhere else")


def require_fuse() -> None:
    """Raise UsageError unless the extra for mounting is installed."""
    if find_spec("pyfuse3") is None or find_spec("trio") is None:
        raise NO_FUSE


def nonempty_warning(where: Path) -> str | None:
    """Return a warning if the directory to be mounted over is not empty, else None."""
    try:
        number = len(os.listdir(where))
    except OSError:
        return None
    if not number:
        return None
    return f"{where} is not empty: the mount hides {counted(number, 'entry', 'entries')} in it"
