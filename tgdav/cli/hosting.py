"""The mount that a process with an open volume holds, and the commands that come for it over the control socket."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgdav.content.memory import MOUNTED_LIMIT
from tgdav.errors import UsageError
from tgdav.volume.control import Command, Progress
from tgdav.volume.volume import Volume
from tgdav_fuse import mount_table
from tgdav_fuse.options import MountOptions, parse_options

if TYPE_CHECKING:
    from tgdav_fuse.serving import Mount


class MountHost:
    """At most one mount of ``volume``. ``on_end`` is called whenever it is unmounted, by whomever.

    ``stays`` tells whether the process goes on after that.
    """

    def __init__(self, volume: Volume, *, stays: bool, on_end: Callable[[], None] = lambda: None) -> None:
        self._volume, self._stays, self._on_end = volume, stays, on_end
        self._lock = threading.Lock()
        self._mount: Mount | None = None

    def mount(self, path: str, options: MountOptions) -> Path:
        """Mount at ``path`` and return where that is. Raises UsageError, TgdavError."""
        serving = _serving()
        with self._lock:
            if self._mount is not None and not self._mount.ended:
                raise UsageError(
                    f"this tgdav has mounted the drive at {self._mount.where}", hint="unmount it first, or use it there"
                )
            where = mount_table.prepare(path)
            self._refuse_own_files(where)
            clock = self._volume.seams.clock
            self._mount = serving.Mount.start(self._volume.fs, where, options, clock, self._ended)
            self._volume.content.reading.resize_memory(MOUNTED_LIMIT)
        return where

    def _ended(self) -> None:
        self._volume.content.reading.resize_memory()
        self._on_end()

    def _refuse_own_files(self, where: Path) -> None:
        places = self._volume.places
        for own in (places.state, places.cache, places.store):
            if Path(os.path.realpath(own)).is_relative_to(where):
                raise UsageError(f"{where} holds the files of tgdav itself", hint="mount somewhere else")

    def unmount(self, where: str) -> dict[str, Any]:
        """Unmount; return what is still to be uploaded, all of it durable here. Raises VaultInUse, UsageError."""
        mount = self._mount
        if mount is None or mount.ended or os.fspath(mount.where) != where:
            raise UsageError(f"{where} is not mounted by this tgdav")
        mount.unmount()
        self._volume.fs.settle_all()
        self._volume.fs.sync()
        return {"unmounted": where, "pending": self._volume.pending(), "process": os.getpid(), "ends": not self._stays}

    def finish(self, say: Callable[[str], None]) -> None:
        """Unmount as soon as nobody uses it; ``say`` hears that it is busy."""
        if self._mount is not None:
            self._mount.unmount_when_free(say)

    def commands(self) -> dict[str, Command]:
        """Return the commands for the control socket."""

        def mount(arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            options = parse_options([str(arguments.get("options", ""))])
            return {"mounted": os.fspath(self.mount(str(arguments.get("path", "")), options))}

        def unmount(arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            return self.unmount(str(arguments.get("path", "")))

        def mounts(_arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            held = self._mount
            return {"mounts": [] if held is None or held.ended else [os.fspath(held.where)]}

        return {"mount": mount, "unmount": unmount, "mounts": mounts}


def _serving() -> Any:
    try:
        from tgdav_fuse import serving
    except ImportError as error:
        raise UsageError(
            "mounting needs the extra 'fuse'", hint="pipx install 'tgdav[fuse]', with libfuse3-dev and a C compiler"
        ) from error
    return serving
