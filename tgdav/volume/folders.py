"""Folders and small files of the local state: private, and durable when a call returns."""

import errno
import os
from pathlib import Path

from tgdav.config import Places
from tgdav.disk import Disk
from tgdav.errors import LocalFailure, NoSpace


def make_folder(folder: Path, disk: Disk) -> None:
    """Make a folder (0700) and its missing parents; their names are durable on return. Raises NoSpace, LocalFailure."""
    missing = []
    each = folder
    while not each.exists():
        missing.append(each)
        each = each.parent
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            disk.sync_folder(path.parent)
    except OSError as error:
        raise _translated(error, folder) from error


def prepare_state(places: Places, disk: Disk) -> None:
    """Make the folders of the local state, private and durable. Raises NoSpace, LocalFailure."""
    for folder in (places.state, places.state / "staging", places.state / "outbox", places.state / "overlay"):
        make_folder(folder, disk)
    make_folder(places.cache, disk)


def write_file(path: Path, data: bytes, disk: Disk) -> None:
    """Replace a file's content (0600): after a crash it is the old or the new, whole; durable on return.

    Raises NoSpace, LocalFailure.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            disk.write(descriptor, data, 0)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)
        disk.rename(temporary, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: Path) -> NoSpace | LocalFailure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"the disk that holds {path} is full")
    return LocalFailure(f"{path} could not be written: {error.strerror}")
