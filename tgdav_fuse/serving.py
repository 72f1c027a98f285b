"""A mount inside this process, from mounting to its end. The FUSE library allows one mount a process at a time."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyfuse3

from tgdav.clock import Clock
from tgdav.errors import TgdavError, VaultInUse
from tgdav.fs.api import ObservedFileSystem
from tgdav.threads import Worker
from tgdav_fuse import mount_table, session
from tgdav_fuse.attributes import Presentation
from tgdav_fuse.invalidation import Invalidation
from tgdav_fuse.operations import TgdavOperations
from tgdav_fuse.options import MountOptions
from tgdav_fuse.refusal import why_refused

_log = logging.getLogger(__name__)

_UNANSWERED = os.strerror(errno.ENOENT)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Leave out answers that came too late: the kernel gave up the request, at an unmount or after a signal."""
    return not ("fuse_reply" in str(record.msg) and _UNANSWERED in record.getMessage())


logging.getLogger("pyfuse3").addFilter(_is_worth_saying)

READ_AHEAD_KIB = 2048
BUSY_PAUSE = 0.2
"""Seconds between attempts to unmount what is busy."""


def _read_further(where: Path) -> None:
    """Let the kernel ask for more at once when a file is read in order; only root may."""
    device = os.stat(where).st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with suppress(OSError):
        bdi.write_text(str(READ_AHEAD_KIB))


class Mount:
    """``fs`` mounted at ``where``; made by ``start``."""

    def __init__(self, fs: ObservedFileSystem, where: Path, options: MountOptions, clock: Clock) -> None:
        self.where = where
        self._fs, self._options = fs, options
        mine = (0, 0) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        shown = Presentation(uid=options.uid, gid=options.gid, root_as=mine)
        self._operations = TgdavOperations(fs, clock, shown, read_only=options.read_only)
        self._ended = threading.Event()
        self._thread = Worker("tgdav-fuse", self._run, again=False)
        self._on_end: Callable[[], None] = lambda: None

    @classmethod
    def start(
        cls,
        fs: ObservedFileSystem,
        where: Path,
        options: MountOptions,
        clock: Clock,
        on_end: Callable[[], None] = lambda: None,
    ) -> "Mount":
        """Mount and answer the kernel from now on; return once it can be used. ``on_end`` is called at its end.

        Raises TgdavError.
        """
        mount = cls(fs, where, options, clock)
        mount._on_end = on_end
        try:
            pyfuse3.init(mount._operations, os.fspath(where), options.words())
        except RuntimeError as error:
            raise TgdavError(f"{where} cannot be mounted", hint=why_refused(where, options)) from error
        mount._thread.start()
        _read_further(where)
        return mount

    def _run(self) -> None:
        forget = self._fs.on_change(Invalidation(self._fs, self._operations, os.fspath(self.where)))
        try:
            session.serve(self._operations.is_idle)
        except BaseException:
            _log.exception("the mount ended by a failure")
            mount_table.unmount(self.where, lazily=True)
        finally:
            forget()
            pyfuse3.close(unmount=False)
            self._operations.bridge.stop()
            self._close_files()
            self._ended.set()
            self._on_end()

    def _close_files(self) -> None:
        """Close what the kernel left open (it was told to go, or the connection was cut)."""
        for handle in self._operations.handles.all_files():
            try:
                handle.file.close()
            except TgdavError as error:
                _log.warning("a file could not be closed: %s", error)

    @property
    def ended(self) -> bool:
        """Whether it is unmounted."""
        return self._ended.is_set()

    def unmount(self) -> None:
        """Unmount; return when all that was written is committed. Raises VaultInUse when it is busy."""
        if not self.ended:
            mount_table.unmount(self.where)
        self._thread.join()

    def unmount_when_free(self, say: Callable[[str], None]) -> None:
        """Unmount as soon as nobody has a file open any more; ``say`` is told once when it is busy."""
        told = False
        while not self.ended:
            try:
                self.unmount()
            except VaultInUse:
                if not told:
                    say(f"{self.where} is busy; it is served until the last file is closed")
                told = True
                self._ended.wait(BUSY_PAUSE)
        self._thread.join()
