"""A state machine that does the same to a file system and to the model, and compares all they show."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.fs.behaviours_content import noise
from tests.fs.snapshots import Path, Survivors, snapshot, walk
from tests.fs.subjects import Factory
from tests.support.model_content import SparseBytes
from tests.support.model_fs import ModelFileSystem
from tgdav.errors import (
    Exists,
    FileSystemError,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
)
from tgdav.fs.api import FileHandle, FileSystem, RenameFlag, Upload
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes

COMPOSED, DECOMPOSED = "é".encode(), "e\u0301".encode()
NAMES = [b"a", b"b", b"c", COMPOSED, DECOMPOSED]
OFFSETS = (0, 1, 4095, 4096, 70_000, 1_000_000, 10**12, 10**15)
SIZES = (0, 1, 100, 4096, 40_000, 130_000)
EITHER = (Exists, NotEmpty, InvalidArgument, IsADirectory, NotADirectory)
"""Refusals of which either may be named where several reasons hold."""

Outcome = Any
Call = Callable[[FileSystem], Outcome]
NUMBERS = st.integers(0, 199)
NAME = st.sampled_from(NAMES)
OFFSET = st.sampled_from(OFFSETS)
FLAG = st.sampled_from([*RenameFlag, RenameFlag.NONE, RenameFlag.NONE])
DATA = st.builds(lambda size, seed: noise(size, b"%d" % seed), st.sampled_from(SIZES), st.integers(0, 3))
CONDITION = st.sampled_from(["none", "none", "absent", "present"])


@dataclass(eq=False)
class OpenPair:
    """The same file open in both; ``number`` tells handles apart."""

    number: int
    subject: FileHandle
    oracle: FileHandle


class Machine(RuleBasedStateMachine):
    """The parts that steps share. ``factory`` makes the file system under test."""

    factory: ClassVar[Factory]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Folder(tempfile.mkdtemp(prefix="tgdav-machine-"))
        self.subject = self.factory.make(self.folder)
        self.oracle = ModelFileSystem()
        self.handles: list[OpenPair] = []
        self.uploads: list[tuple[Upload, Upload]] = []
        self.survivors: dict[Inode, Survivors] = {}
        self.opened = 0

    def teardown(self) -> None:
        self.subject.close()
        shutil.rmtree(self.folder)

    # ---- shared by the steps -------------------------------------------------------------------------------------

    def both(self, call: Call) -> Outcome:
        """Make the call on both, compare what they say, return the model's answer (None where refused)."""
        return self.same(lambda: call(self.subject.fs), lambda: call(self.oracle))

    def same(self, on_subject: Callable[[], Outcome], on_oracle: Callable[[], Outcome]) -> Outcome:
        found, expected = _outcome(on_subject), _outcome(on_oracle)
        if isinstance(expected, FileSystemError):
            assert isinstance(found, FileSystemError), f"not refused: {expected!r}"
            alike = isinstance(found, EITHER) and isinstance(expected, EITHER)
            assert type(found) is type(expected) or alike, f"{found!r} is not {expected!r}"
            return None
        if isinstance(found, FileSystemError):
            raise AssertionError("refused, and should not be") from found
        assert _plain(found) == _plain(expected), f"{_plain(found)} is not {_plain(expected)}"
        return expected

    def path(self, number: int) -> Path:
        """Return one of the paths there are; seldom the root's."""
        paths = sorted(path for path, _ in walk(self.oracle))[0 if number % 20 == 0 else 1 :]
        return paths[number % len(paths)] if paths else ()

    def parent(self, number: int) -> Path:
        """Return the path of a directory, or now and then of something else."""
        paths = sorted(path for path, attributes in walk(self.oracle) if attributes.is_directory or number % 7 == 0)
        return paths[number % len(paths)]

    def file(self, number: int) -> Path | None:
        paths = sorted(path for path, attributes in walk(self.oracle) if attributes.is_file)
        return paths[number % len(paths)] if paths else None

    def content(self, inode: Inode) -> SparseBytes:
        return self.oracle._tree.node(inode).content

    def follow(self, inode: Inode) -> Survivors:
        """Return what may survive of a file, from before its first unflushed write."""
        return self.survivors.setdefault(inode, Survivors(self.content(inode)))

    @invariant()
    def shows_the_same(self) -> None:
        found, expected = snapshot(self.subject.fs, OFFSETS), snapshot(self.oracle, OFFSETS)
        assert found == expected, f"the trees differ: {found}\nthe model's: {expected}"


def at(file_system: FileSystem, path: Path) -> Inode:
    """Return the inode at a path."""
    return file_system.resolve(path).inode


def place(file_system: FileSystem, path: Path) -> tuple[Inode, bytes]:
    """Return the directory and the name of a path; of the root's, a name that is none."""
    return (at(file_system, path[:-1]), path[-1]) if path else (file_system.root, b"gone")


def condition(kind: str) -> Callable[[Attributes | None], None]:
    """Return a precondition: ``absent``, ``present`` or ``none``."""

    def check(before: Attributes | None) -> None:
        if before and kind == "absent":
            raise Exists
        if before is None and kind == "present":
            raise NotFound

    return check


def _outcome(call: Callable[[], Outcome]) -> Outcome:
    try:
        return call()
    except FileSystemError as error:
        return error


def _plain(value: Outcome) -> Outcome:
    """Return what two file systems must agree on of an answer: no inodes, no times."""
    if isinstance(value, Attributes):
        return value.kind, value.mode, value.uid, value.gid, value.rdev, value.nlink, value.size
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return value
