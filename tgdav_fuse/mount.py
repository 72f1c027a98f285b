"""A mount inside this process, from mounting to its end. The FUSE library allows one mount a process at a time."""

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

_UNANSWERED = os.strerror(errno.ENOENT)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Leave out answers that came too late: the kernel gave up the request, at an unmount or after a signal."""
    return not ("fuse_reply" in str(record.msg) and _UNANSWERED in record.getMessage())


logging.getLogger("pyfuse3").addFilter(_is_worth_saying)

READ_AHEAD_KIB = 2048
BUSY_PAUSE = 0.2
"""Seconds between attempts to unmount what is busy."""
MOMENTS = 2
"""So many attempts may fail before it is said."""
HELD_SECONDS = 2.0
"""How long a file system that is unmounted here may still be mounted elsewhere before its session is ended."""
UNSEEN_SECONDS = 8.0
"""How much longer, if it is not seen where that is."""
WRITE_BACK_SECONDS = 20.0
"""How long such a place may take to hand over what programs wrote there."""

_LIBRARY_WORDS = (
    "allow_other allow_root auto_unmount default_permissions ro suid nosuid dev nodev exec noexec sync async"
    " atime noatime dirsync"
)
_OF_THE_LIBRARY = frozenset(_LIBRARY_WORDS.split())
_OF_THE_SESSION = frozenset({"allow_other", "allow_root", "default_permissions"})


def _read_further(where: Path) -> None:
    """Let the kernel ask for more at once when a file is read in order; only root may."""
    device = os.stat(where).st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with suppress(OSError):
        bdi.write_text(str(READ_AHEAD_KIB))


def _write_back(found: Iterable[mount_table.Holder]) -> None:
    for holder in found:
        try:
            mount_table.write_back(holder)
        except OSError as error:
            _log.warning("what was written in another mount namespace may be incomplete: %s", error.strerror)


class Mount:
    """``fs`` mounted at ``where``; made by ``start``."""

    def __init__(self, fs: ObservedFileSystem, where: Path, options: MountOptions, clock: Clock) -> None:
        self.where = where
        self._fs, self._options = fs, options
        mine = (0, 0) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        shown = Presentation(uid=options.uid, gid=options.gid, root_as=mine)
        self._operations = TgdavOperations(
            fs, clock, shown, read_only=options.read_only, checks_permissions=options.checks_permissions
        )
        self._device = 0
        self._left = threading.Event()
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
        """Mount and answer the kernel from now on; return once it can be used. ``on_end`` is called at its end.

        Raises TgdavError.
        """
        mount = cls(fs, where, options, clock)
        mount._on_end = on_end
        try:
            mount._attach()
        except RuntimeError as error:
            raise TgdavError(f"{where} cannot be mounted", hint=mount_table.diagnose(where, options.kernel)) from error
        mount._thread.start()
        mount._device = os.stat(where).st_dev
        _read_further(where)
        return mount

    def _attach(self) -> None:
        """Mount: by ourselves where we may, for the library knows neither all flags nor how to leave the umask to us."""
        words = self._options.words()
        named = {word for word in words if "=" in word}
        if sys.platform == "linux" and os.geteuid() == 0 and "auto_unmount" not in words:
            with suppress(OSError):  # the library finds the same, and says it
                descriptor = mount_table.mount(self.where, words)
                pyfuse3.init(self._operations, f"/dev/fd/{descriptor}", words & _OF_THE_SESSION | named)
                return
        if "nosymfollow" in words:
            raise UsageError("the mount option 'nosymfollow' is for root, without auto_unmount")
        pyfuse3.init(self._operations, os.fspath(self.where), words & _OF_THE_LIBRARY | named)

    def _run(self) -> None:
        forget = self._fs.on_change(Invalidation(self._fs, self._operations, os.fspath(self.where)))
        try:
            poll_session.serve(self._operations.is_idle)
        except BaseException:
            _log.exception("the mount ended by a failure")
            mount_table.unmount(self.where, lazily=True)
        finally:
            forget()
            pyfuse3.close(unmount=False)
            self._left.set()
            self._operations.workers.stop()
            self._operations.page_droppers.stop()
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

    def unmount(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Unmount; return when all that was written is committed. Raises VaultInUse when it is busy.

        Where the file system is still mounted elsewhere, ``say`` is told, and it ends there too.
        """
        if not self.ended:
            self._unmount_patiently()
            if not self._left.wait(HELD_SECONDS):
                found = mount_table.holders(self._device)
                if found or not self._left.wait(UNSEEN_SECONDS):
                    self._leave(found, say)
        self._thread.join()

    def _unmount_patiently(self) -> None:
        """Unmount; what is busy for a moment, as while somebody asks for its free space, is tried again. Raises VaultInUse."""
        for _ in range(MOMENTS):
            try:
                return mount_table.unmount(self.where)
            except VaultInUse:
                self._ended.wait(BUSY_PAUSE)
        return mount_table.unmount(self.where)

    def _leave(self, found: Sequence[mount_table.Holder], say: Callable[[str], None]) -> None:
        """Bring to disk what was written through other mounts of this file system, in containers for example, and end them."""
        for holder in found:
            say(
                f"{self.where} is mounted at {holder.where} too, for process {holder.process} ({holder.name});"
                " it ends there as well"
            )
        if not found:
            say(f"{self.where} is held by processes that cannot be seen from here; it ends there as well")
        writing = Worker("tgdav-fuse-write-back", lambda: _write_back(found), restart=False)
        writing.start()
        writing.join(WRITE_BACK_SECONDS)
        self.cut()

    def cut(self) -> None:
        """End the session with the kernel at once, whoever uses the mount; it is stale then."""
        token = pyfuse3.trio_token
        if token is not None and not self._left.is_set():
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(pyfuse3.terminate)

    def unmount_when_free(self, say: Callable[[str], None]) -> None:
        """Unmount as soon as nobody has a file open any more; ``say`` is told once when it is busy."""
        told = False
        while not self.ended:
            try:
                self.unmount(say)
            except VaultInUse:
                if not told:
                    say(f"{self.where} is busy; it is served until the last file is closed")
                told = True
                self._ended.wait(BUSY_PAUSE)
        self._thread.join()
