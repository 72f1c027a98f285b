"""Commits unflushed writes of open files, and runs the thread that commits files after they were closed.

The content of a small file that is closed without a sync is in the redo log (``tgdav.fs.files.redo``). Its commit may therefore
follow a moment later and be shared with other files. Until then requests are answered from the open file. Operations that
remove or replace names or contents flush the closed files first.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tgdav.content.format.manifest import Manifest
from tgdav.content.staging.stream import StagedContent
from tgdav.errors import TgdavError
from tgdav.failpoints import failpoint
from tgdav.metadata.change import Change
from tgdav.metadata.journal import Journal
from tgdav.threads import Guard, Worker

if TYPE_CHECKING:
    from tgdav.fs.files.open_file import OpenFile

_log = logging.getLogger(__name__)

DELAY_SECONDS = 0.03
"""How long closed files are gathered before they are committed together."""

TOGETHER = 64
"""Most files of one commit."""

WAITING_MOST = 512
"""Closed files that may wait; the next one is settled by who closes it."""


class PendingCommit:
    """What one file brings into a commit.

    ``content`` is the whole of it where it is small, and the file is to have it again if the commit fails.
    """

    def __init__(
        self, file: "OpenFile", manifest: Manifest, staged: Sequence[StagedContent], content: bytes | None
    ) -> None:
        self.file, self.manifest, self.staged, self.content = file, manifest, staged, content

    def cancel(self) -> None:
        """Drop what is staged; the file has its unflushed content again, if it is to. Calling it again does nothing."""
        for part in self.staged:
            part.release()
        self.file.on_commit_failed(self.content)
        self.content = None


def commit(journal: Journal, commits: Sequence[PendingCommit], *, durable: bool) -> None:
    """Log them in one change, and let their files go on from there. The caller holds the locks of the files.

    Raises as ``Journal.change``; then each file that can has its unflushed content again.
    """
    tags = [pending.file.tag_of(pending.manifest) for pending in commits]
    kept = [each for pending in commits for each in pending.file.records.kept]

    def work(change: Change) -> None:
        for pending, (encoded, tag) in zip(commits, tags, strict=True):
            for part in pending.staged:
                part.record(change.transaction)
            pending.file.log(change, pending.manifest.size, encoded, tag)
        change.transaction.release(kept)

    sync = [file for pending in commits for part in pending.staged for file in part.sync]
    # What fsync made durable stays so: an overlay's file goes only after its successor is durable too.
    durable = durable or any(pending.file.has_overlay_row for pending in commits)
    try:
        journal.change(work, durable=durable, sync=sync)
    except BaseException:
        for pending in commits:
            pending.cancel()
        raise
    for pending in commits:
        for part in pending.staged:
            part.release()
    failpoint("fs.settled")
    for pending, (_, tag) in zip(commits, tags, strict=True):
        pending.file.on_committed(pending.manifest, tag)


class WritebackThread:
    """Settles closed files in the background, many at a time. Thread-safe.

    Its turn is outermost of all locks: whoever calls ``flush_queued`` holds no open file's.
    """

    def __init__(self, journal: Journal, after: Callable[["OpenFile"], None]) -> None:
        """``after`` is told of each file that is done with, settled or not."""
        self._journal, self._after = journal, after
        self._turn = threading.Lock()
        self._wanted = threading.Condition(threading.Lock())
        self._waiting: dict[int, OpenFile] = {}
        self._stopping = threading.Event()
        self._thread: Worker | None = None
        self._guard = Guard("tgdav-writeback")

    def start(self) -> None:
        """Begin; from now on files may wait."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = Worker("tgdav-writeback", self._run, guard=self._guard)
            self._thread.start()

    def stop(self) -> None:
        """Settle what waits, and end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            with self._wanted:
                self._wanted.notify()
            thread.join()
        self.flush_queued()

    def takes(self, file: "OpenFile") -> bool:
        """Whether ``add`` would have a file settled soon."""
        return self._thread is not None and (len(self._waiting) < WAITING_MOST or self._waiting.get(file.inode) is file)

    def add(self, file: "OpenFile") -> bool:
        """Have a file settled soon; False if nobody would, or too many wait. Waits for nothing."""
        if self._waiting.get(file.inode) is file:
            return True  # it is taken from there before its writes are looked at
        with self._wanted:
            if self._thread is None or len(self._waiting) >= WAITING_MOST:
                return False
            if not self._waiting:
                self._wanted.notify()
            self._waiting[file.inode] = file
            return True

    @property
    def is_idle(self) -> bool:
        """Whether no closed file waits, nor is being settled."""
        return not self._waiting and not self._turn.locked()

    def flush_queued(self) -> None:
        """Return when no closed file waits any more. What cannot be settled now stays dirty."""
        if not self.is_idle:
            with self._turn:
                while files := self._take():
                    self.flush(files)

    def _take(self) -> list["OpenFile"]:
        with self._wanted:
            taken = list(self._waiting.values())[:TOGETHER]
            for file in taken:
                del self._waiting[file.inode]
        return taken

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._wanted:
                self._wanted.wait_for(lambda: self._waiting or self._stopping.is_set())
            self._stopping.wait(DELAY_SECONDS)
            self.flush_queued()

    def flush(self, files: Sequence["OpenFile"]) -> None:
        """Settle files whose locks are free together, the others one by one after them, and all so if that fails."""
        mine = [file for file in files if file.lock.acquire(blocking=False)]
        try:
            alone = [file for file in files if file not in mine] + self._flush_together(mine)
        finally:
            for file in mine:
                file.lock.release()
        for file in alone:
            try:
                file.flush(keep=True)
            except TgdavError as error:
                _log.warning("a closed file could not be settled yet: %s", error)
            except Exception as error:  # it stays dirty, and is tried again with the files that are idle
                self._guard.record(error)
        for file in files:
            self._after(file)

    def _flush_together(self, files: Sequence["OpenFile"]) -> list["OpenFile"]:
        """Return the files that this was not possible with."""
        commits: list[PendingCommit] = []
        try:
            for file in files:
                pending = file.stage(keep=True)
                commits += [] if pending is None else [pending]
            if commits:
                commit(self._journal, commits, durable=False)
        except Exception:  # one by one, each that can be settled is, and each that cannot says why
            for pending in commits:
                pending.cancel()
            return list(files)
        return []
