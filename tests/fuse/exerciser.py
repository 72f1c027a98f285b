"""An exerciser like fsx: one file under random reads, writes, truncates, maps and syncs, against a copy in memory.

Run as a program of its own (``python -m tests.fuse.exerciser PATH OPERATIONS SEED``): a page of a mapped file is fetched
while Python's lock is held, so the process that serves the mount must be another.
"""

import mmap
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

MOST = 256 * 1024
"""Longest file, bytes. Now and then it is SPARSE bytes longer, to check that holes are zeros."""
SPARSE = 3 * 1024 * 1024
LONGEST = 20_000
"""Longest write or read, bytes."""


class Exerciser:
    """A file and its expected content."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._choose = path, random.Random(seed)
        self._expected = bytearray()
        self._files: list[int] = []
        self._map: mmap.mmap | None = None
        self.log: list[str] = []
        self._open(os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        weighted: list[tuple[Callable[[], None], int]] = [
            (self.write, 30), (self.read, 30), (self.append, 6), (self.write_map, 10), (self.read_map, 10),
            (self.truncate, 5), (self.extend, 3), (self.sync, 1), (self.reopen, 1), (self.another, 1), (self.stat, 3),
            (self.replace, 1), (self.write_far, 1),
        ]  # fmt: skip
        self._calls = [call for call, weight in weighted for _ in range(weight)]

    def run(self, count: int) -> None:
        """Do ``count`` operations, and check the whole content at the end. Raises AssertionError."""
        for _ in range(count):
            self._choose.choice(self._calls)()
        self._unmap()
        for file in self._files:
            os.close(file)
        self._check(0, self._path.read_bytes(), "at the end")

    def _open(self, flags: int) -> None:
        self._files.append(os.open(self._path, flags, 0o644))

    def _file(self) -> int:
        return self._choose.choice(self._files)

    def _range(self) -> tuple[int, int]:
        start = self._choose.randrange(min(len(self._expected), MOST) + 1)
        return start, self._choose.randrange(1, LONGEST)

    def _note(self, words: str) -> None:
        self.log.append(words)
        del self.log[:-50]

    def _check(self, start: int, found: bytes, words: str) -> None:
        wanted = bytes(self._expected[start : start + len(found)])
        if found != wanted:
            place = next(i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1])
            raise AssertionError(
                f"{words}: differs at {start + place} of {len(self._expected)}\n" + "\n".join(self.log)
            )

    def write(self) -> None:
        start, length = self._range()
        self._put(start, self._choose.randbytes(length))

    def _put(self, start: int, data: bytes) -> None:
        self._note(f"write {start} {len(data)}")
        assert os.pwrite(self._file(), data, start) == len(data)
        self._took(start, data)

    def _took(self, start: int, data: bytes) -> None:
        self._expected.extend(bytes(max(start - len(self._expected), 0)))
        self._expected[start : start + len(data)] = data

    def append(self) -> None:
        self._put(len(self._expected), self._choose.randbytes(self._choose.randrange(1, 5000)))
        if len(self._expected) > MOST:
            self._resize(MOST // 2)

    def write_far(self) -> None:
        self._put(len(self._expected) + self._choose.randrange(SPARSE), b"far")
        self.read_map()
        self._resize(MOST // 2)

    def read(self) -> None:
        start, length = self._range()
        self._note(f"read {start} {length}")
        found = os.pread(self._file(), length, start)
        assert len(found) == max(min(length, len(self._expected) - start), 0), (len(found), start, length)
        self._check(start, found, "read")

    def _mapped(self) -> mmap.mmap | None:
        if not self._expected:
            return None
        if self._map is None or len(self._map) != len(self._expected):
            self._unmap()
            self._map = mmap.mmap(self._file(), len(self._expected))
        return self._map

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def write_map(self) -> None:
        mapped = self._mapped()
        if mapped is None:
            return
        start, length = self._range()
        data = self._choose.randbytes(min(length, len(mapped) - start))
        self._note(f"write map {start} {len(data)}")
        mapped[start : start + len(data)] = data
        self._took(start, data)

    def read_map(self) -> None:
        mapped = self._mapped()
        if mapped is not None:
            start, length = self._range()
            self._note(f"read map {start} {length}")
            self._check(start, mapped[start : start + length], "map")

    def truncate(self) -> None:
        self._resize(self._choose.randrange(len(self._expected) + 1))

    def extend(self) -> None:
        self._resize(min(len(self._expected) + self._choose.randrange(50_000), MOST))

    def _resize(self, size: int) -> None:
        self._note(f"truncate {size}")
        self._unmap()
        if self._choose.random() < 0.5:
            os.truncate(self._path, size)
        else:
            os.ftruncate(self._file(), size)
        del self._expected[size:]
        self._expected.extend(bytes(size - len(self._expected)))

    def sync(self) -> None:
        self._note("sync")
        if self._map is not None and self._choose.random() < 0.5:
            self._map.flush()
        os.fsync(self._file())

    def reopen(self) -> None:
        self._note("reopen")
        self._unmap()
        for file in self._files:
            os.close(file)
        self._files.clear()
        self._open(os.O_RDWR)

    def another(self) -> None:
        self._note("another handle")
        if len(self._files) < 4:
            self._open(os.O_RDWR)

    def stat(self) -> None:
        self._note("stat")
        assert os.stat(self._path).st_size == len(self._expected)

    def replace(self) -> None:
        """Rewrite the file in place, as an editor that does not rename."""
        self._note("replace")
        self.reopen()
        content = self._choose.randbytes(self._choose.randrange(MOST))
        self._path.write_bytes(content)
        self._expected = bytearray(content)


def main() -> None:
    """Run with the given arguments. On failure, print the last operations."""
    path, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    exerciser = Exerciser(path, seed)
    exerciser.run(count)
    print(f"{count} operations, seed {seed}: right")


if __name__ == "__main__":
    main()
