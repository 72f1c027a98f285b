"""Files that hold uploaded bytes, appended part by part and read at offsets, behind a small cache of open descriptors."""

import os
from collections import OrderedDict
from pathlib import Path

_OPEN_MAX = 64


class Spool:
    """Append-only files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._open: OrderedDict[str, int] = OrderedDict()

    def _descriptor(self, name: str) -> int:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._open[name] = descriptor
        if len(self._open) > _OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def append(self, name: str, data: bytes) -> int:
        """Writes at the end; the offset of the first byte."""
        descriptor = self._descriptor(name)
        start = os.lseek(descriptor, 0, os.SEEK_END)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        return start

    def read(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from `start`."""
        return os.pread(self._descriptor(name), size, start)

    def flip(self, name: str, position: int) -> None:
        """Damages one bit."""
        descriptor = self._descriptor(name)
        os.pwrite(descriptor, bytes([os.pread(descriptor, 1, position)[0] ^ 1]), position)

    def remove(self, name: str) -> None:
        """Deletes a file, if it is there."""
        if (descriptor := self._open.pop(name, None)) is not None:
            os.close(descriptor)
        (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
