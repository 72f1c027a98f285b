"""The memory that a mount needs for the data that passes through it."""

import os
import random
from pathlib import Path

from tests.support.mounts import MountedVault

MIB = 1024 * 1024
SIZE = 128
MOST_MIB = 64


def most_mib(vault: MountedVault) -> float:
    """Return the peak resident memory of the mount's process (proc(5), VmHWM)."""
    assert vault.process is not None
    lines = Path(f"/proc/{vault.process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def test_a_large_file_takes_little_memory_on_its_way_in_and_out(vault: MountedVault) -> None:
    before, path = most_mib(vault.start()), vault.path / "large"
    blocks = [random.randbytes(MIB) for _ in range(8)]
    with path.open("wb", buffering=0) as file:
        for number in range(SIZE):
            file.write(number.to_bytes(4, "big") + blocks[number % 8][4:])
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with path.open("rb", buffering=0) as file:
        for number in range(SIZE):
            assert file.read(MIB) == number.to_bytes(4, "big") + blocks[number % 8][4:]
    assert most_mib(vault) - before < MOST_MIB
