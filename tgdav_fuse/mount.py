"""A mount in this process, from mounting to unmounting. The FUSE library allows one mount per process at a time."""

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import pyfuse3
import trio

from tgdav.clock import Clock
from tgdav.errors import TgdavError, UsageError, VaultInUse
from tgdav.fs.api import ObservedFileSystem
from tgdav.threads import Worker
from tgdav_fuse import mount_table, poll_session
from tgdav_fuse.attributes import Presentation
from tgdav_fuse.invalidation import Invalidation
from tgdav_fuse.operations import TgdavOperations
from tgdav_fuse.options import MountOptions

_log = logging.getLogger(__name__)

_NO_SUCH_REQUEST = os.strerror(errno.ENOENT)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for replies that came too late: the kernel has dropped the request, at unmount or after a signal."""
    return not ("fuse_reply" in str(record.msg) and _NO_SUCH_REQUEST in record.getMessage())


logging.getLogger("pyfuse3").addFilter(_is_worth_logging)

READ_AHEAD_KIB = 2048
BUSY_PAUSE = 0.2
"""Seconds between attempts to unmount a busy file system."""
RETRIES = 2
"""How many attempts may fail before it counts as busy."""
HELD_SECONDS = 2.0
"""How long the session may outlive the unmount, because the file system is mounted elsewhere, before it is ended."""
UNSEEN_SECONDS = 8.0
"""How much longer, if no other mount can be found."""
WRITE_BACK_SECONDS = 20.0
"""How long the writeback of those other mounts may take."""

_LIBRARY_OPTIONS = (
    "allow_other allow_root auto_unmount default_permissions ro suid nosuid dev nodev exec noexec sync async"
    " atime noatime dirsync"
)
_FOR_LIBRARY = frozenset(_LIBRARY_OPTIONS.split())
_FOR_SESSION = frozenset({"allow_other", "allow_root", "default_permissions"})


def _raise_read_ahead(where: Path) -> None:
    """Set how far the kernel reads ahead in a file that is read sequentially. Does nothing for users other than root."""
    device = os.stat(where).st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with suppress(OSError):
        bdi.write_text(str(READ_AHEAD_KIB))


def _write_back(holders: Iterable[mount_table.Holder]) -> None:
    for holder in holders:
        try:
            mount_table.write_back(holder)
        except OSError as error:
            _log.warning("some writes made in another mount namespace may be lost: %s", error.strerror)


class Mount:
    """``fs`` mounted at ``where``. Use ``start`` to make one."""

    def __init__(self, fs: ObservedFileSystem, where: Path, options: MountOptions, clock: Clock) -> None:
        self.where = where
        self._fs, self._options = fs, options
        root_as = (0, 0) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        presentation = Presentation(uid=options.uid, gid=options.gid, root_as=root_as)
        self._operations = TgdavOperations(
            fs, clock, presentation, read_only=options.read_only, checks_permissions=options.checks_permissions
        )
        self._device = 0
        self._detached = threading.Event()
        self._ended = threading.Event()
        self._thread = Worker("tgdav-fuse", self._run, restart=False)
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
        """Mount, and return once the mount can be used. ``on_end`` is called after it has ended. Raises TgdavError."""
        mount = cls(fs, where, options, clock)
        mount._on_end = on_end
        try:
            mount._attach()
        except RuntimeError as error:
            raise TgdavError(f"{where} cannot be mounted", hint=mount_table.diagnose(where, options.kernel)) from error
        mount._thread.start()
        mount._device = os.stat(where).st_dev  # the first request; it returns once the loop serves
        _raise_read_ahead(where)
        return mount

    def _attach(self) -> None:
        """Mount by mount(2) if allowed: the library does not know all flags, and lets the kernel apply the umask."""
        options = self._options.for_kernel()
        named = {option for option in options if "=" in option}
        if sys.platform == "linux" and os.geteuid() == 0 and "auto_unmount" not in options:
            with suppress(OSError):  # the library fails in the same way, and reports it
                descriptor = mount_table.mount(self.where, options)
                # libfuse takes "/dev/fd/N" for the descriptor of a file system that is mounted already.
                pyfuse3.init(self._operations, f"/dev/fd/{descriptor}", options & _FOR_SESSION | named)
                return
        if "nosymfollow" in options:
            raise UsageError("the mount option 'nosymfollow' needs root, and excludes auto_unmount")
        pyfuse3.init(self._operations, os.fspath(self.where), options & _FOR_LIBRARY | named)

    def _run(self) -> None:
        unsubscribe = self._fs.on_change(Invalidation(self._fs, self._operations, os.fspath(self.where)))
        try:
            poll_session.serve(self._operations.is_idle)
        except BaseException:
            _log.exception("the mount has failed")
            mount_table.unmount(self.where, lazily=True)
        finally:
            unsubscribe()
            pyfuse3.close(unmount=False)  # unmounted already, or ended by force while in use
            self._detached.set()
            self._operations.workers.stop()
            self._close_files()  # after the workers have stopped: they may still write
            self._ended.set()
            self._on_end()

    def _close_files(self) -> None:
        """Close the files that the kernel left open, because the session was ended by force."""
        for handle in self._operations.handles.all_files():
            try:
                handle.file.close()
            except TgdavError as error:
                _log.warning("a file could not be closed: %s", error)

    @property
    def ended(self) -> bool:
        """Whether it is unmounted."""
        return self._ended.is_set()

    def unmount(self, warn: Callable[[str], None] = lambda _: None) -> None:
        """Unmount, and return when all writes are committed. Raises VaultInUse if it is busy.

        Other mounts of the same file system are ended too; ``warn`` is called with a message for each.
        """
        if not self.ended:
            self._unmount_with_retries()
            if not self._detached.wait(HELD_SECONDS):
                holders = mount_table.holders(self._device)
                if holders or not self._detached.wait(UNSEEN_SECONDS):
                    self._end_elsewhere(holders, warn)
        self._thread.join()

    def _unmount_with_retries(self) -> None:
        """Unmount, with retries: a program's statfs keeps it busy for a moment. Raises VaultInUse."""
        for _ in range(RETRIES):
            try:
                return mount_table.unmount(self.where)
            except VaultInUse:
                self._ended.wait(BUSY_PAUSE)
        return mount_table.unmount(self.where)

    def _end_elsewhere(self, holders: Sequence[mount_table.Holder], warn: Callable[[str], None]) -> None:
        """Write back what other mounts of this file system hold, in containers for example, and end them."""
        for holder in holders:
            warn(
                f"{self.where} is also mounted at {holder.where}, for process {holder.process} ({holder.name});"
                " that mount ends too"
            )
        if not holders:
            warn(f"{self.where} is also mounted for processes that cannot be seen from here; those mounts end too")
        writing = Worker("tgdav-fuse-write-back", lambda: _write_back(holders), restart=False)
        writing.start()
        writing.join(WRITE_BACK_SECONDS)
        self.cut()

    def cut(self) -> None:
        """End the session with the kernel at once, even if the mount is in use. It is stale afterwards."""
        token = pyfuse3.trio_token
        if token is not None and not self._detached.is_set():
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(pyfuse3.terminate)

    def unmount_when_free(self, warn: Callable[[str], None]) -> None:
        """Unmount as soon as no file is open. ``warn`` is called once if the mount is busy."""
        warned = False
        while not self.ended:
            try:
                self.unmount(warn)
            except VaultInUse:
                if not warned:
                    warn(f"{self.where} is busy; it is served until the last file is closed")
                warned = True
                self._ended.wait(BUSY_PAUSE)
        self._thread.join()
