"""Details of behaviour, each compared between a mount and a real ext4."""

import ctypes
import errno
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import MountedVault

USER = 1001
RENAME_WHITEOUT, RENAME_NOREPLACE = 4, 1
NAMES = (
    *(
        "user.name",
        "user.",
        "trusted.name",
        "trusted.",
        "security.name",
        "security.",
        "name",
        "com.apple.FinderInfo",
        "user",
    ),
    *("system.name", "system.", "tgdav.state", "User.name", "." + "x" * 100, "user." + "x" * 250, "user." + "x" * 251),
)
FLAGS = (0, os.XATTR_CREATE, os.XATTR_REPLACE)


def said(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return the result of ``work``, or the name of the errno that it fails with."""
    try:
        return work(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@contextmanager
def descriptor(path: Path, flags: int) -> Iterator[int]:
    opened = os.open(path, flags)
    yield opened
    os.close(opened)


def names_of_attributes(directory: Path) -> Any:
    answers: list[Any] = []
    for kind in ("file", "directory"):
        (directory / kind).touch() if kind == "file" else (directory / kind).mkdir()
        for name in NAMES:
            for flags in FLAGS:
                answers += [name, flags, said(os.setxattr, directory / kind, name, b"x", flags)]
            answers += [said(os.getxattr, directory / kind, name)]
            answers += [said(os.removexattr, directory / kind, name), said(os.removexattr, directory / kind, name)]
    return answers


def as_user(directory: Path, script: str) -> str:
    """Run a script as an ordinary user and return its output."""
    words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", sys.executable, "-c", script]
    return subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False).stdout


def attributes_that_users_see(directory: Path) -> Any:
    file = directory / "file"
    file.touch()
    file.chmod(0o666)
    for name in ("user.one", "trusted.two", "security.three"):
        os.setxattr(file, name, b"x")
    script = "import os\nprint(sorted(os.listxattr('file')))\ntry: os.getxattr('file', 'trusted.two')\n"
    script += "except OSError as error: print(error.errno)"
    return sorted(os.listxattr(file)), as_user(directory, script)


def cutting_takes_set_id_away(directory: Path) -> Any:
    modes = []
    for mode in (0o6777, 0o4666, 0o2676, 0o2766):
        file = directory / f"file-{mode:o}"
        file.write_text("content")
        file.chmod(mode)
        as_user(directory, f"import os; os.close(os.open({file.name!r}, os.O_WRONLY | os.O_TRUNC))")
        modes.append((oct(file.stat().st_mode), file.stat().st_size))
    return modes


def nodes_that_are_held_live_on(directory: Path) -> Any:
    answers = []
    os.mkfifo(directory / "fifo")
    (directory / "file").write_text("content")
    (directory / "link").symlink_to("file")
    path, not_followed = os.O_PATH, os.O_PATH | os.O_NOFOLLOW
    for name, flags in (("fifo", os.O_RDWR), ("file", path), ("link", not_followed)):
        with descriptor(directory / name, flags) as held:
            (directory / name).unlink()
            found = os.fstat(held)
            answers.append((name, oct(found.st_mode), found.st_nlink, found.st_size))
            answers.append(said(os.fchmod, held, 0o600))
            answers.append(oct(os.fstat(held).st_mode))
    return answers


def directories_that_are_held_live_on(directory: Path) -> Any:
    answers = []
    for name, remove in (
        ("gone", lambda: (directory / "gone").rmdir()),
        ("over", lambda: (directory / "new").rename(directory / "over")),
    ):
        (directory / name).mkdir()
        (directory / "new").mkdir(exist_ok=True)
        with descriptor(directory / name, os.O_RDONLY | os.O_DIRECTORY) as held:
            before = os.fstat(held).st_nlink
            remove()
            answers.append((name, before, os.fstat(held).st_nlink, os.listdir(held)))
            answers.append(said(os.mkdir, "below", dir_fd=held))
            answers.append(said(os.fchmod, held, 0o700))
            answers.append((oct(os.fstat(held).st_mode), os.fstat(held).st_nlink))
    answers.append(directory.stat().st_nlink)
    return answers


def whiteouts(directory: Path) -> Any:
    library = ctypes.CDLL(None, use_errno=True)

    def rename(old: str, new: str, flags: int) -> str:
        old_path, new_path = os.fsencode(directory / old), os.fsencode(directory / new)
        return (
            errno.errorcode[ctypes.get_errno()] if library.renameat2(-100, old_path, -100, new_path, flags) else "done"
        )

    for name in ("first", "second", "third"):
        (directory / name).write_text(name)
    (directory / "below").mkdir()
    answers: list[Any] = [
        rename("first", "moved", RENAME_WHITEOUT),
        rename("second", "moved", RENAME_WHITEOUT | RENAME_NOREPLACE),
        rename("second", "moved", RENAME_WHITEOUT),
        rename("third", "other", RENAME_WHITEOUT | RENAME_NOREPLACE),
        rename("below", "above", RENAME_WHITEOUT),
        rename("other", "moved", RENAME_WHITEOUT | 2),
    ]
    for name in sorted(os.listdir(directory)):
        found = os.lstat(directory / name)
        answers.append((name, oct(found.st_mode), found.st_rdev, found.st_uid, found.st_nlink))
    return answers


def blocks_of_what_is_not_flushed(directory: Path) -> Any:
    answers = []
    for flags in (os.O_CREAT | os.O_WRONLY, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        with descriptor(directory / "file", flags) as file:
            os.write(file, bytes(100_000))
            answers.append((os.stat(directory / "file").st_blocks > 0, os.fstat(file).st_blocks > 0))
    (directory / "empty").touch()
    answers.append((directory / "empty").stat().st_blocks)
    return answers


def handles_of_files(directory: Path) -> Any:
    """name_to_handle_at(2), then open_by_handle_at(2) after the kernel has forgotten the inode."""
    library = ctypes.CDLL(None, use_errno=True)
    (directory / "below").mkdir()
    answers = []
    for name in ("below/file", "below", "removed", "removed/below"):
        path = directory / name
        if name.startswith("removed"):
            path.mkdir(parents=True)
        if name.endswith("file"):
            path.write_text("content")
        handle = ctypes.create_string_buffer((128).to_bytes(4, "little") + bytes(132))
        mount_id = ctypes.c_int()
        answers.append(library.name_to_handle_at(-100, os.fsencode(path), handle, ctypes.byref(mount_id), 0))
        identity = path.stat().st_ino
        if name.startswith("removed"):
            shutil.rmtree(directory / "removed")
        subprocess.run(["sync", "-f", str(directory)], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        with descriptor(directory, os.O_RDONLY) as at:
            found = library.open_by_handle_at(at, handle, os.O_RDONLY)
        answers.append(errno.errorcode[ctypes.get_errno()] if found < 0 else os.fstat(found).st_ino == identity)
        if found >= 0:
            os.close(found)
    return answers


QUESTIONS = (
    names_of_attributes,
    attributes_that_users_see,
    cutting_takes_set_id_away,
    nodes_that_are_held_live_on,
    directories_that_are_held_live_on,
    whiteouts,
    blocks_of_what_is_not_flushed,
    handles_of_files,
)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: each.__name__)
def test_the_answer_is_that_of_ext4(mounted: MountedVault, ext4: Path, question: Callable[[Path], Any]) -> None:
    answers = []
    for root in (mounted.path, ext4):
        root.chmod(0o755)
        directory = root / question.__name__
        directory.mkdir()
        directory.chmod(0o777)
        answers.append(question(directory))
    assert answers[0] == answers[1]


def test_names_of_attributes_that_could_not_be_listed_are_refused(directory: Path) -> None:
    """Linux lists at most 64 KiB of names. Further ones would be invisible, and missing in every copy."""
    file = directory / "file"
    file.touch()
    names = [f"user.{number:03}" + "x" * 247 for number in range(300)]
    answers = [said(os.setxattr, file, name, b"x") for name in names]
    assert answers == [None] * 256 + ["ENOSPC"] * 44
    assert sorted(os.listxattr(file)) == names[:256]
    os.setxattr(file, names[0], b"another")
    os.removexattr(file, names[1])
    os.setxattr(file, names[-1], b"x")
    assert os.getxattr(file, names[0]) == b"another"


def test_times_shown_at_the_end_are_those_after_another_start(vault: MountedVault) -> None:
    """Also for writes in the same tick of the kernel's clock as an earlier one, which the kernel does not report again."""

    def times() -> list[tuple[int, int]]:
        return [(found.st_mtime_ns, found.st_ctime_ns) for found in map(os.stat, sorted(vault.path.iterdir()))]

    with vault:
        for number in range(12):
            with open(vault.path / f"file-{number:02}", "wb", buffering=0) as file:
                file.write(b"first")
                os.fsync(file.fileno())
                file.write(b"second")
            with open(vault.path / f"more-{number:02}", "wb", buffering=0) as file:
                file.write(b"first")
            with open(vault.path / f"more-{number:02}", "wb", buffering=0) as file:
                file.write(b"second")
            with open(vault.path / f"same-{number:02}", "wb", buffering=0) as file:
                file.write(b"first")
                os.fsync(file.fileno())
                file.truncate(5)
        shown = times()
        vault.stop()
    with vault:
        assert times() == shown


def test_a_sparse_file_takes_what_its_data_take(vault: MountedVault) -> None:
    with vault:
        with open(vault.path / "sparse", "wb") as file:
            file.truncate(2**62)
            file.write(bytes(100_000))
        with open(vault.path / "file", "wb", buffering=0) as file:
            file.write(random.randbytes(1 << 20))
            os.fsync(file.fileno())
        found = os.statvfs(vault.path)
        assert found.f_blocks * found.f_frsize < 2**50
        assert 1 << 20 <= (found.f_blocks - found.f_bfree) * found.f_frsize <= 2 << 20


def test_what_webdav_makes_and_removes(vault: MountedVault) -> None:
    """A default ACL is inherited, and an open directory that was removed has no links."""
    acl = bytes.fromhex("0200000001000700ffffffff02000600e903000004000000ffffffff10000600ffffffff20000000ffffffff")
    with vault.home.server("--mount", str(vault.path)) as server, server.client() as client:
        os.setxattr(vault.path, "system.posix_acl_default", acl)
        assert client.request("PUT", "/file", body=b"content").status == 201
        assert client.request("MKCOL", "/directory").status == 201
        modes = [stat.S_IMODE((vault.path / name).stat().st_mode) for name in ("file", "directory")]
        assert modes == [0o660, 0o760]
        assert os.getxattr(vault.path / "directory", "system.posix_acl_default") == acl
        with descriptor(vault.path / "directory", os.O_RDONLY | os.O_DIRECTORY) as held:
            assert os.fstat(held).st_nlink == 2
            assert client.request("DELETE", "/directory/").status == 204
            assert os.fstat(held).st_nlink == 0
        server.terminate()
