"""Random operations on a shared tree, as one of several processes: they create and remove the same names.

Run as ``python -m tests.fuse.churn_worker DIRECTORY OPERATIONS SEED``. What the others took away first is no failure; content is:
each file holds whole lines of one length, so a mixture would show.
"""

import errno
import os
import random
import sys
from pathlib import Path

NAMES = 25
LINE = 64
HARMLESS = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ELOOP,
    errno.ENODATA,
}


class Churn:
    """The work of one process."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory, self._choose, self._seed = directory, random.Random(seed), seed
        self._calls = [
            self.write, self.write, self.append, self.read, self.read, self.rename, self.link, self.unlink, self.make_directory,
            self.remove_directory, self.symlink, self.truncate, self.list, self.mode, self.xattr,
        ]  # fmt: skip
        self.done = 0

    def run(self, count: int) -> None:
        """Do ``count`` operations. Raises OSError, AssertionError."""
        for _ in range(count):
            try:
                self._choose.choice(self._calls)()
                self.done += 1
            except OSError as error:
                if error.errno not in HARMLESS:
                    raise

    def _path(self) -> Path:
        depth = self._choose.randrange(3)
        directories = [f"directory-{self._choose.randrange(4)}" for _ in range(depth)]
        return self._directory.joinpath(*directories, f"name-{self._choose.randrange(NAMES)}")

    def _lines(self) -> bytes:
        line = f"{self._seed} {self._choose.random()}".encode().ljust(LINE - 1) + b"\n"
        return line * self._choose.choice([1, 5, 300, 3000])

    def write(self) -> None:
        self._path().write_bytes(self._lines())

    def append(self) -> None:
        with open(self._path(), "ab") as file:
            file.write(self._lines())

    def read(self) -> None:
        content = self._path().read_bytes()
        assert all(line.strip(b"\0").endswith(b"\n") for line in content.splitlines(keepends=True)[:-1])

    def rename(self) -> None:
        os.rename(self._path(), self._path())

    def link(self) -> None:
        os.link(self._path(), self._path(), follow_symlinks=False)

    def unlink(self) -> None:
        self._path().unlink()

    def make_directory(self) -> None:
        (self._path().parent / f"directory-{self._choose.randrange(4)}").mkdir()

    def remove_directory(self) -> None:
        (self._path().parent / f"directory-{self._choose.randrange(4)}").rmdir()

    def symlink(self) -> None:
        os.symlink(f"name-{self._choose.randrange(NAMES)}", self._path())

    def truncate(self) -> None:
        os.truncate(self._path(), LINE * self._choose.randrange(100))

    def list(self) -> None:
        for entry in os.scandir(self._path().parent):
            entry.stat(follow_symlinks=False)

    def mode(self) -> None:
        self._path().chmod(self._choose.choice([0o600, 0o644, 0o755]))

    def xattr(self) -> None:
        os.setxattr(self._path(), "user.churn", self._choose.randbytes(20))


def main() -> None:
    """Run with the given arguments."""
    churn = Churn(Path(sys.argv[1]), int(sys.argv[3]))
    churn.run(int(sys.argv[2]))
    print(f"{churn.done} operations took effect")


if __name__ == "__main__":
    main()
