"""Commits unflushed writes of open files, and runs the thread that commits files after they were closed.

The content of a small file that is closed without a sync is in the redo log (``tgdav.fs.files.redo``). Its commit may therefore
follow a moment later and be shared with other files. Until then requests are answered from the open file. Operations that
remove or replace names or contents flush the queued files first.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from tgdav.content.format.manifest import Manifest
from tgdav.content.staging.stream import StagedContent
from tgdav.errors import TgdavError
from tgdav.failpoints import failpoint
from tgdav.fs.files.redo import FileRecords
from tgdav.ids import ContentTag, Inode
from tgdav.metadata.change import Change
from tgdav.metadata.journal import Journal
from tgdav.threads import Guard, Worker

_log = logging.getLogger(__name__)

DELAY_SECONDS = 0.03
"""How long closed files are collected before they are committed together."""

MAX_PER_COMMIT = 64
"""Most files in one commit."""

MAX_QUEUED = 512
"""Most queued files; beyond that, the thread that closes a file flushes it."""


class Lock(Protocol):
    """A ``threading.RLock``."""

    def acquire(self, blocking: bool = True) -> bool:
        """Acquire the lock; return False if it is not free and ``blocking`` is False."""
        ...

    def release(self) -> None:
        """Release the lock."""
        ...


class Flushable(Protocol):
    """What a commit needs of an open file. The caller holds ``lock`` for all calls but ``flush``."""

    @property
    def inode(self) -> Inode:
        """The file's inode."""
        ...

    @property
    def lock(self) -> Lock:
        """Held from ``stage`` to the end of the commit."""
        ...

    @property
    def records(self) -> FileRecords:
        """The file's records in the redo log; the commit releases them."""
        ...

    @property
    def has_overlay_row(self) -> bool:
        """Whether an fsync has made unflushed writes durable."""
        ...

    def stage(self, *, keep: bool) -> "PendingCommit | None":
        """Return the commit of the unflushed writes, None if there are none."""
        ...

    def flush(self, *, durable: bool = False, keep: bool = False) -> None:
        """Commit the unflushed writes of this file alone."""
        ...

    def encode_and_tag(self, manifest: Manifest) -> tuple[bytes, ContentTag]:
        """Return an encoded manifest and its tag."""
        ...

    def log(self, change: Change, size: int, manifest: bytes, tag: ContentTag) -> None:
        """Emit the new content, and attributes that were deferred to this commit."""
        ...

    def on_committed(self, manifest: Manifest, tag: ContentTag) -> None:
        """Continue with the committed content."""
        ...

    def on_commit_failed(self, content: bytes | None) -> None:
        """Continue with the unflushed content, if it is given; otherwise it is lost."""
        ...


class PendingCommit:
    """The part of one file in a commit.

    ``content`` is the whole content if it is small and must be restored to the file should the commit fail.
    """

    def __init__(
        self, file: Flushable, manifest: Manifest, staged: Sequence[StagedContent], content: bytes | None
    ) -> None:
        self.file, self.manifest, self.staged, self.content = file, manifest, staged, content

    def cancel(self) -> None:
        """Release what is staged and restore the file's unflushed content. A second call does nothing."""
        for part in self.staged:
            part.release()
        self.file.on_commit_failed(self.content)
        self.content = None


def commit(journal: Journal, commits: Sequence[PendingCommit], *, durable: bool) -> None:
    """Commit several files in one change. The caller holds their locks.

    Raises as ``Journal.change``; the commits are cancelled then.
    """
    tags = [pending.file.encode_and_tag(pending.manifest) for pending in commits]
    kept = [each for pending in commits for each in pending.file.records.kept]

    def work(change: Change) -> None:
        for pending, (encoded, tag) in zip(commits, tags, strict=True):
            for part in pending.staged:
                part.record(change.transaction)
            pending.file.log(change, pending.manifest.size, encoded, tag)
        change.transaction.release(kept)

    sync = [file for pending in commits for part in pending.staged for file in part.sync]
    # Writes that an fsync made durable must stay durable: their overlay is removed after this commit.
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
    """Commits queued files in the background, many at a time. Thread-safe.

    Its flush lock is the outermost of all locks: callers of ``flush_queued`` must not hold the lock of an open file.
    """

    def __init__(self, journal: Journal, on_done: Callable[[Inode], None]) -> None:
        """``on_done`` is called for each file that was flushed, or could not be."""
        self._journal, self._on_done = journal, on_done
        self._flush_lock = threading.Lock()
        self._wakeup = threading.Condition(threading.Lock())
        self._queue: dict[Inode, Flushable] = {}
        self._stopping = threading.Event()
        self._thread: Worker | None = None
        self._guard = Guard("tgdav-writeback")

    def start(self) -> None:
        """Start the thread; until then ``add`` refuses every file."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = Worker("tgdav-writeback", self._run, guard=self._guard)
            self._thread.start()

    def stop(self) -> None:
        """Flush the queued files and stop the thread."""
        # From now on ``add`` refuses files, so the last flush below finds them all.
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            with self._wakeup:
                self._wakeup.notify()
            thread.join()
        self.flush_queued()

    def accepts(self, file: Flushable) -> bool:
        """Return whether ``add`` would queue a file now."""
        return self._thread is not None and (len(self._queue) < MAX_QUEUED or self._queue.get(file.inode) is file)

    def add(self, file: Flushable) -> bool:
        """Queue a file; return False if the thread does not run or the queue is full. Never waits."""
        if self._queue.get(file.inode) is file:
            return True  # the thread takes a file from the queue before it stages the writes, so it will see the latest
        with self._wakeup:
            if self._thread is None or len(self._queue) >= MAX_QUEUED:
                return False
            if not self._queue:
                self._wakeup.notify()
            self._queue[file.inode] = file
            return True

    @property
    def is_idle(self) -> bool:
        """Whether no file is queued or being flushed."""
        return not self._queue and not self._flush_lock.locked()

    def flush_queued(self) -> None:
        """Return when the queue is empty and nothing is being flushed. Files that cannot be flushed stay dirty."""
        if not self.is_idle:
            with self._flush_lock:
                while files := self._take():
                    self.flush(files)

    def _take(self) -> list[Flushable]:
        with self._wakeup:
            taken = list(self._queue.values())[:MAX_PER_COMMIT]
            for file in taken:
                # Removed before it is staged: a write that comes later queues the file again.
                del self._queue[file.inode]
        return taken

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._wakeup:
                self._wakeup.wait_for(lambda: self._queue or self._stopping.is_set())
            # Outside the condition, so that files can be queued meanwhile.
            self._stopping.wait(DELAY_SECONDS)
            self.flush_queued()

    def flush(self, files: Sequence[Flushable]) -> None:
        """Flush together the files whose locks are free, then the others one by one; if that fails, flush all one by one."""
        # Waiting for one file's lock while holding others could deadlock with a thread that does the same.
        locked = [file for file in files if file.lock.acquire(blocking=False)]
        try:
            alone = [file for file in files if file not in locked] + self._flush_together(locked)
        finally:
            for file in locked:
                file.lock.release()
        for file in alone:
            try:
                file.flush(keep=True)
            except TgdavError as error:
                _log.warning("a closed file could not be flushed yet: %s", error)
            except Exception as error:  # the file stays dirty; flush_idle retries it
                self._guard.record(error)
        for file in files:
            self._on_done(file.inode)

    def _flush_together(self, files: Sequence[Flushable]) -> list[Flushable]:
        """Return the files that could not be flushed."""
        commits: list[PendingCommit] = []
        try:
            for file in files:
                pending = file.stage(keep=True)
                commits += [] if pending is None else [pending]
            if commits:
                commit(self._journal, commits, durable=False)
        except Exception:  # flushed one by one, only the file that caused the error fails
            for pending in commits:
                pending.cancel()
            return list(files)
        return []
