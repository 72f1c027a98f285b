"""Details that the behaviour suite leaves out: setuid, direct I/O, locks, space, options, times."""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.mounts import MountedVault
from tgdav.errors import UsageError
from tgdav_fuse.options import CHOICES, parse_options

FS_IOC_GETFLAGS, FICLONE = 0x80086601, 0x40049409
CLOCK_REALTIME_COARSE = 5


def test_a_write_clears_setuid(directory: Path) -> None:
    file = directory / "file"
    file.write_bytes(b"x")
    os.chown(file, 1000, 1000)
    file.chmod(0o6755)
    script = (
        "import os, sys; at = os.open(sys.argv[1], 0); os.setuid(1000); os.write(os.open('file', 1, dir_fd=at), b'y')"
    )
    subprocess.run([sys.executable, "-c", script, str(directory)], check=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


def test_a_new_owner_clears_setuid(directory: Path) -> None:
    file = directory / "file"
    file.touch()
    file.chmod(0o6755)
    os.chown(file, 1000, 1000)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


def test_a_directory_with_setgid_passes_its_group_on(directory: Path) -> None:
    os.chown(directory, 0, 1234)
    directory.chmod(0o2775)
    (directory / "file").touch()
    (directory / "below").mkdir()
    assert (directory / "file").stat().st_gid == (directory / "below").stat().st_gid == 1234
    assert (directory / "below").stat().st_mode & stat.S_ISGID


def test_direct_io(directory: Path) -> None:
    buffer = mmap.mmap(-1, 8192)
    buffer[:] = random.randbytes(8192)
    file = os.open(directory / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwrite(file, buffer, 4096) == 8192
    found = mmap.mmap(-1, 8192)
    assert os.preadv(file, [found], 4096) == 8192
    assert found[:] == buffer[:]
    assert os.fstat(file).st_size == 12288
    os.close(file)
    assert (directory / "file").read_bytes() == bytes(4096) + buffer[:]


def test_a_file_without_a_name_still_works(directory: Path) -> None:
    with open(directory / "file", "w+b") as file:
        file.write(b"before")
        (directory / "file").unlink()
        file.write(b" after")
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"before after"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert list(directory.iterdir()) == []


def test_locks_between_processes(directory: Path) -> None:
    script = "import fcntl, sys\ntry: fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: sys.exit(9)"
    (directory / "file").touch()
    with open(directory / "file") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        words = [sys.executable, "-c", script, str(directory / "file")]
        assert subprocess.run(words, check=False).returncode == 9
        fcntl.flock(file, fcntl.LOCK_UN)
        assert subprocess.run(words, check=False).returncode == 0


def test_calls_without_a_handler_in_pyfuse3(directory: Path) -> None:
    """docs/fuse.md says what programs see."""
    with open(directory / "file", "w+b", buffering=0) as file, open(directory / "copy", "wb") as copy:
        file.truncate(1 << 20)
        with pytest.raises(OSError, match="not supported"):
            _fallocate(file.fileno())
        os.posix_fallocate(file.fileno(), 0, 100)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 1 << 20
        assert os.copy_file_range(file.fileno(), copy.fileno(), 1 << 20, 0) == 1 << 20
        for request, answer in ((FS_IOC_GETFLAGS, errno.ENOTTY), (FICLONE, errno.EOPNOTSUPP)):
            with pytest.raises(OSError) as refused:
                fcntl.ioctl(copy.fileno(), request, file.fileno() if request == FICLONE else bytes(8))
            assert refused.value.errno == answer
    with pytest.raises(OSError, match="not supported"):
        os.open(directory, os.O_TMPFILE | os.O_RDWR)


def _fallocate(file: int) -> None:
    """Call fallocate(2) itself: the C library's posix_fallocate falls back to writing zeros."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.fallocate(file, 0, ctypes.c_long(0), ctypes.c_long(100)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_a_large_file_in_odd_pieces(directory: Path) -> None:
    piece, count = random.randbytes(10_007), 1500
    with open(directory / "file", "wb", buffering=0) as file:
        for number in range(count):
            file.write(number.to_bytes(4, "big") + piece)
            if number == 700:
                assert _first_bytes(directory / "file") == bytes(4)
    whole = (directory / "file").read_bytes()
    assert whole == b"".join(number.to_bytes(4, "big") + piece for number in range(count))


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def test_statvfs_returns_space(mounted: MountedVault) -> None:
    found = os.statvfs(mounted.path)
    assert found.f_blocks >= found.f_bfree > 0
    assert found.f_namemax == 255


@pytest.mark.mount_free
def test_options() -> None:
    options = parse_options(["ro,uid=7", "noatime,defaults,x-mount.mkdir"])
    assert (options.read_only, options.uid, options.gid) == (True, 7, None)
    assert options.for_kernel() == {"ro", "noatime", "fsname=tgdav", "subtype=tgdav"}
    for word in ("diratime", "nodiratime", "relatime", "norelatime", "strictatime", "lazytime", "nosymfollow"):
        assert word in parse_options([word]).for_kernel()
    assert "default_permissions" in parse_options(["allow_other"]).for_kernel()
    assert not parse_options(["ro,rw"]).read_only
    for wrong in ("uid", "uid=-1", "gid=x", "fsname=other", "home="):
        with pytest.raises(UsageError):
            parse_options([wrong])


@pytest.mark.mount_free
@pytest.mark.parametrize(("first", "second"), CHOICES)
def test_the_last_of_opposite_options_counts(first: str, second: str) -> None:
    for earlier, later in ((first, second), (second, first)):
        for given in ([f"{earlier},{later}"], [earlier, later], [f"{earlier},{later},{earlier}", later]):
            assert not {earlier} & parse_options(given).kernel
            assert later in parse_options(given).kernel


def test_holes_take_no_space(directory: Path) -> None:
    """Only the data of a closed sparse file count; an open one without data counts a page."""
    file = directory / "file"
    with open(file, "wb") as sparse:
        sparse.truncate(10**15)
        os.fsync(sparse.fileno())
        assert 0 < file.stat().st_blocks <= 8
        sparse.seek(10**9)
        sparse.write(random.randbytes(1 << 20))
        sparse.flush()
    assert 2048 <= file.stat().st_blocks <= 2080
    (directory / "small").write_bytes(b"x")
    assert (directory / "small").stat().st_blocks == 1
    said = subprocess.run(["du", "-sk", str(directory)], capture_output=True, text=True, check=True).stdout
    assert 1024 <= int(said.split()[0]) <= 1050


def test_a_file_can_be_truncated_while_others_close_it(directory: Path) -> None:
    """truncate(2) may use the handle of another program, which closes it meanwhile."""
    file, script = directory / "file", "import sys\nfor _ in range(120): open(sys.argv[1], 'wb').write(bytes(200_000))"
    file.touch()
    writers = [subprocess.Popen([sys.executable, "-c", script, str(file)]) for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        os.truncate(file, 6400)
    assert [writer.wait() for writer in writers] == [0, 0, 0]


def test_syncfs_does_not_fail_because_of_removed_files(directory: Path) -> None:
    """The kernel writes back attributes of files, including those removed meanwhile."""
    for number in range(20):
        (directory / f"file-{number}").touch()
        (directory / f"file-{number}").unlink()
    (directory / "kept").write_bytes(b"content")
    subprocess.run(["sync", "-f", str(directory)], check=True)


def test_new_files_have_the_time_of_the_kernels_clock(directory: Path) -> None:
    """It ticks every few milliseconds, and so do the times of files that are written through the mount."""
    for number in range(50):
        made = directory / f"{number}"
        made.mkdir()
        assert made.stat().st_ctime_ns <= time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


def test_what_is_written_later_is_not_older(directory: Path) -> None:
    for number in range(50):
        (directory / f"first {number}").mkdir()
        (directory / f"then {number}").write_bytes(b"content")
        first, then = ((directory / f"{name} {number}").stat() for name in ("first", "then"))
        assert (first.st_ctime_ns, first.st_mtime_ns) <= (then.st_ctime_ns, then.st_mtime_ns)
