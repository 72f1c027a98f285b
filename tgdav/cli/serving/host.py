"""What a long-running process with an open volume offers: a mount, and a control socket for other commands."""

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgdav.cli.dispatch import commands, streams
from tgdav.cli.errors import for_control
from tgdav.cli.invocation import Invocation
from tgdav.cli.serving.mount_point import NO_FUSE, refuse_own_files
from tgdav.clock import Clock
from tgdav.content.read.chunk_cache import MOUNTED_LIMIT
from tgdav.errors import UsageError
from tgdav.version import __version__
from tgdav.volume.control import Command, ControlServer, Progress
from tgdav.volume.volume import Volume
from tgdav.wording import iso_time
from tgdav_fuse import mount_table
from tgdav_fuse.options import MountOptions, parse_options

if TYPE_CHECKING:
    from tgdav_fuse.mount import Mount


class MountHost:
    """At most one mount of ``volume``. ``on_end`` is called when it is unmounted, for whatever reason.

    ``stays``: the process continues after that.
    """

    def __init__(self, volume: Volume, *, stays: bool, on_end: Callable[[], None] = lambda: None) -> None:
        self._volume, self._stays, self._on_end = volume, stays, on_end
        self._lock = threading.Lock()
        self._mount: Mount | None = None

    def mount(self, path: str, options: MountOptions) -> Path:
        """Mount at ``path``; return its real path. Raises UsageError, TgdavError."""
        mount_class = _mount_class()
        with self._lock:
            if self._mount is not None and not self._mount.ended:
                raise UsageError(
                    f"the drive is already mounted at {self._mount.where}", hint="unmount it first, or use it there"
                )
            where = mount_table.prepare(path)
            refuse_own_files(self._volume.paths, where)
            clock = self._volume.platform.clock
            self._mount = mount_class.start(self._volume.fs, where, options, clock, self._ended)
            self._volume.content.reader.resize_memory(MOUNTED_LIMIT)
        return where

    def _ended(self) -> None:
        self._volume.content.reader.resize_memory()
        self._on_end()

    def unmount(self, where: str) -> dict[str, Any]:
        """Unmount, and make all data durable here; return what is not uploaded yet. Raises VaultInUse, UsageError."""
        mount = self._mount
        if mount is None or mount.ended or os.fspath(mount.where) != where:
            raise UsageError(f"{where} is not mounted by this tgdav")
        notices: list[str] = []
        mount.unmount(notices.append)
        self._volume.fs.flush_all()
        self._volume.fs.sync()
        pending = self._volume.pending()
        ends = not self._stays
        return {"unmounted": where, "pending": pending, "process": os.getpid(), "ends": ends, "notices": notices}

    def finish(self, report_busy: Callable[[str], None]) -> None:
        """Unmount when the last file is closed; ``report_busy`` is called if it is busy. KeyboardInterrupt unmounts at once."""
        if self._mount is not None:
            try:
                self._mount.unmount_when_free(report_busy)
            except KeyboardInterrupt:
                self._mount.cut()
                raise

    def mounted(self) -> list[str]:
        """Return where the volume is mounted."""
        held = self._mount
        return [] if held is None or held.ended else [os.fspath(held.where)]

    def commands(self) -> dict[str, Command]:
        """Return the commands for the control socket."""

        def mount(arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            options = parse_options([str(arguments.get("options", ""))])
            return {"mounted": os.fspath(self.mount(str(arguments.get("path", "")), options))}

        def unmount(arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            return self.unmount(str(arguments.get("path", "")))

        def mounts(_arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            return {"mounts": self.mounted()}

        return {"mount": mount, "unmount": unmount, "mounts": mounts}


class ProcessInfo:
    """Describes this process for other commands. ``address`` is None until it serves HTTP."""

    def __init__(self, clock: Clock, mounts: MountHost) -> None:
        self._clock, self._mounts = clock, mounts
        self._started, self._began = clock.now_ns(), clock.monotonic()
        self.address: str | None = None

    def commands(self) -> dict[str, Command]:
        """Return the commands for the control socket, including those of the mount."""

        def process(_arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            return {
                "process": os.getpid(),
                "version": __version__,
                "started": iso_time(self._started // 1_000_000_000 * 1_000_000_000),
                "uptime_seconds": round(self._clock.monotonic() - self._began),
                "address": self.address,
                "mounts": self._mounts.mounted(),
            }

        return self._mounts.commands() | {"process": process}


def _mount_class() -> "type[Mount]":
    try:
        from tgdav_fuse.mount import Mount
    except ImportError as error:
        raise NO_FUSE from error
    return Mount


def control_server(invocation: Invocation, volume: Volume, running: ProcessInfo) -> ControlServer:
    """Return the server of the control socket, with the commands of ``volume``, of its mount and of this process."""
    runtime = invocation.environment.get("XDG_RUNTIME_DIR")
    directories = [Path(runtime)] if runtime else []
    return ControlServer(
        invocation.paths.control_file,
        [*directories, Path(tempfile.gettempdir()), Path("/tmp")],  # noqa: S108 - it creates a new directory of mode 0700 there
        commands(volume, invocation.config, invocation.namespace) | running.commands(),
        for_control,
        invocation.platform.clock,
        streams(volume, invocation.config, invocation.namespace),
    )
