"""Handles on open files: what ``open`` returns."""

from tgdav.content.read.reader import ContentReader, FileReader
from tgdav.errors import BadHandle, InvalidArgument
from tgdav.fs.files.open_file import OpenFile
from tgdav.fs.files.open_files import OpenFiles


class Handle:
    """A ``tgdav.fs.api.FileHandle``. It owns a reader, which reads ahead if this handle is read sequentially.

    Without ``moves_times`` writes do not change mtime and ctime: a kernel that caches writes sets them itself.
    """

    def __init__(
        self, files: OpenFiles, file: OpenFile, content: ContentReader, *, writable: bool, moves_times: bool = True
    ) -> None:
        self.inode = file.inode
        self._moves_times = moves_times
        self._files, self._file, self._content, self._writable = files, file, content, writable
        self._reader: FileReader | None = None
        self._is_pinned = False
        self._closed = False

    def _open(self, *, writing: bool = False) -> OpenFile:
        if self._closed or (writing and not self._writable):
            raise BadHandle
        return self._file

    # ---- reading -------------------------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at ``offset``; fewer only at the end of the file."""
        file = self._open()
        if offset < 0 or length < 0:
            raise InvalidArgument("the offset and the length must not be negative")
        reader = self._reader
        if reader is None or not self._is_pinned:
            unflushed = file.read_unflushed(offset, length)
            if unflushed is not None:
                return unflushed
            if reader is None or reader.manifest is not file.manifest:
                self._close_reader()
                reader = self._reader = self._content.open(file.manifest)
        return reader.read(offset, length)

    def keep_content(self) -> bytes | None:
        """Make ``read`` return the present content from now on; return its tag, or None while the file has unflushed writes."""
        file = self._open()
        if file.dirty:
            self._files.flush_queued()  # the file may be closed by its writer already, with its commit still queued
        with file.lock:
            if file.dirty or file.damage is not None:
                return None
            manifest, tag = file.manifest, file.tag
        self._close_reader()
        self._reader, self._is_pinned = self._content.open(manifest), True
        return tag or b""

    def is_here(self) -> bool:
        """Return whether all of the content that was kept can be read without the store."""
        return self._is_pinned and self._reader is not None and self._reader.is_here()

    def _close_reader(self) -> None:
        # A kernel that reads ahead calls ``read`` from several threads. A reader that one of them closes still reads.
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, append: bool = False) -> int:
        """Write all of ``data``; return its length."""
        return self._open(writing=True).write(offset, data, append=append, moves_times=self._moves_times)

    def write_nowait(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Write ``data`` if that needs no waiting; return False if nothing was done."""
        return self._open(writing=True).write_nowait(offset, data, moves_times=self._moves_times)

    def truncate(self, size: int) -> None:
        """Truncate the file, or extend it with a hole."""
        self._open(writing=True).truncate(size, moves_times=self._moves_times)

    def fsync(self) -> None:
        """Return when all writes so far survive a power cut."""
        file = self._open()
        self._files.flush_queued()
        file.fsync()

    def flush_later(self) -> bool:
        """Queue the writes so far for the writeback thread; return False if ``flush`` must be called instead."""
        return self._files.flush_later(self._open())

    def flush(self) -> None:
        """Commit the writes so far."""
        self._open().flush()

    # ---- closing -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the handle and commit its writes."""
        if self._closed:
            return
        self._closed = True
        self._close_reader()
        try:
            if self._writable:
                self._file.flush()
        finally:
            self._files.release(self._file)

    def close_nowait(self) -> bool:
        """As ``close``, but queue the writes for the writeback thread; return False, with nothing done, if that needs waiting."""
        if not self._closed:
            if self._writable and not self._files.flush_later(self._file):
                return False
            self._closed = True
            self._close_reader()
            self._files.release(self._file)
        return True
