"""Direct writes beside buffered reads: a program that opens the file must not see pages from before such a write."""

import ctypes
import mmap
import os
import platform
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from tests.support.volumes import VolumeSubject
from tgdav.clock import SystemClock
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind
from tgdav_fuse.attributes import Presentation
from tgdav_fuse.operations import TgdavOperations

ROUNDS = 200
SIZE = 640 << 10
PWRITE = 1
IO_SETUP, IO_DESTROY, IO_GETEVENTS, IO_SUBMIT = 206, 207, 208, 209

CONTEXT: Any = SimpleNamespace(uid=0, gid=0, umask=0, pid=1)

needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls are named by their numbers here")


class Iocb(ctypes.Structure):
    """struct iocb of io_submit(2)."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("rest", ctypes.c_uint64 * 2),
    )


class AsyncWriter:
    """Writes by io_submit(2): the kernel does not hold the file's lock until the write is done."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._context = ctypes.c_ulong(0)
        self._call(IO_SETUP, 1, ctypes.byref(self._context))

    def _call(self, number: int, *arguments: object) -> None:
        if self._library.syscall(number, *arguments) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def write(self, descriptor: int, content: mmap.mmap) -> None:
        """Write ``content`` at the beginning of the file, and wait until that is done."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(content))
        asked = Iocb(opcode=PWRITE, descriptor=descriptor, buffer=address, size=len(content))
        events = (ctypes.c_int64 * 4)()
        self._call(IO_SUBMIT, self._context, ctypes.c_long(1), ctypes.byref(ctypes.pointer(asked)))
        self._call(IO_GETEVENTS, self._context, ctypes.c_long(1), ctypes.c_long(1), events, None)
        assert events[2] == len(content)

    def close(self) -> None:
        self._call(IO_DESTROY, self._context)


@pytest.mark.mount_free
def test_the_kernel_drops_pages_on_open_after_a_direct_write(tmp_path: Path) -> None:
    subject = VolumeSubject(tmp_path)
    fs = subject.volume.fs
    inode = fs.create(fs.root, b"file", Kind.FILE, 0o644, Owner()).inode
    operations = TgdavOperations(fs, SystemClock(), Presentation())
    kept: list[bool] = []

    async def open_file(flags: int = 0) -> int:
        info: pyfuse3.FileInfo = await operations.open(inode, flags, CONTEXT)
        kept.append(bool(info.keep_cache))
        return int(info.fh)

    async def scene() -> None:
        writer = await open_file(os.O_WRONLY | os.O_DIRECT)
        await operations.write(writer, 0, bytes(4096))
        for _ in range(2):  # as long as a direct write may come
            await operations.release(await open_file())
        await operations.release(writer)
        for _ in range(2):
            await operations.release(await open_file())

    try:
        trio.run(scene)
        assert kept == [True, False, False, False, True]
    finally:
        operations.workers.stop()
        subject.close()


@needs_x86
def test_asynchronous_direct_writes_are_seen_on_open(directory: Path) -> None:
    contents = []
    for byte in (b"a", b"b"):
        contents.append(mmap.mmap(-1, SIZE))
        contents[-1][:] = byte * SIZE
    path = directory / "file"
    path.write_bytes(contents[1][:])
    writing = os.open(path, os.O_WRONLY | os.O_DIRECT)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            path.read_bytes()

    others = [threading.Thread(target=read) for _ in range(2)]
    writer = AsyncWriter()
    for other in others:
        other.start()
    try:
        for number in range(ROUNDS):
            content = contents[number % 2]
            writer.write(writing, content)
            assert path.read_bytes() == content[:], f"round {number}"
    finally:
        done.set()
        for other in others:
            other.join()
        writer.close()
        os.close(writing)
