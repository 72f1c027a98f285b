"""The mounts under comparison, each a process of its own in the foreground, with a folder of its own for what it keeps."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from benchmarks.contestants import RCLONE, TGDAV, side_by_side
from benchmarks.http_client import Failed
from tests.support.mounts import CONFIG, FUSE, MountedVault
from tests.support.server import PROGRAM, Home
from tests.support.volumes import PASSPHRASE
from tests.support.waiting import wait_for
from tgdav.config import StatePaths
from tgdav.volume.control_client import ControlClient

GOCRYPTFS = "gocryptfs"
MEMORY = "pyfuse3 in memory"
RCLONE_MOUNT = f"{RCLONE} mount"

_NOWHERE = subprocess.DEVNULL


class Mounted(msgspec.Struct, frozen=True):
    """A mount that can be used. ``settle`` returns once it has nothing left to do in the background."""

    name: str
    path: Path
    process: psutil.Process
    settle: Callable[[], object] = lambda: None

    def processor_seconds(self) -> float:
        """Return what the process has spent so far, in its own code and in the kernel for it."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def time(self, work: Callable[[], object]) -> tuple[float, float]:
        """Do ``work``; return its seconds, and those of the processor that the process spent meanwhile."""
        processor, start = self.processor_seconds(), time.perf_counter()
        work()
        return time.perf_counter() - start, self.processor_seconds() - processor

    def most_resident_bytes(self) -> int:
        """Return the most memory that the process held at any time (proc(5), VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@contextmanager
def tgdav_mount(folder: Path, program: Sequence[str] = FUSE, maker: Sequence[str] = PROGRAM) -> Iterator[Mounted]:
    """Run ``tgdav-fuse`` on a fresh vault; ``program`` and ``maker`` replace the words that start it and ``tgdav``."""
    home = Home(folder, config=CONFIG.format(store=folder / "store"), passphrase=PASSPHRASE)
    # An older program does not open the vault of a newer one, so each makes its own.
    subprocess.run([*maker, "init"], env=home.environment(), check=True, stdout=_NOWHERE)
    vault = MountedVault(folder, home=home)
    vault.start(program=program)
    assert vault.process is not None
    try:
        yield Mounted(TGDAV, vault.path, psutil.Process(vault.process.pid), lambda: _sync(vault))
        vault.stop()
    finally:
        vault.clear()


def _sync(vault: MountedVault) -> None:
    client = ControlClient.connect(StatePaths.from_environment(vault.home.environment()).control_file)
    if client is None:
        raise Failed("tgdav does not answer at its control socket")
    with client:
        client.call("sync", {"wait": True}, lambda _stage, _done, _total: None)


@contextmanager
def _gocryptfs(folder: Path) -> Iterator[Mounted]:
    sealed, secret = folder / "sealed", folder / "secret"
    sealed.mkdir()
    secret.write_text("correct horse\n", encoding="ascii")
    words = ["gocryptfs", "-q", "-passfile", str(secret)]
    _run([*words, "-init", "-scryptn", "10", str(sealed)])
    with _running(GOCRYPTFS, folder, [*words, "-fg", str(sealed)]) as mounted:
        yield mounted


@contextmanager
def _rclone(folder: Path) -> Iterator[Mounted]:
    """``rclone mount`` over a crypt remote on a local folder; it uploads five seconds after a file was closed."""
    rclone = ["rclone", "--config", str(folder / "rclone.conf"), "--cache-dir", str(folder / "cache")]
    made = [f"remote={folder / 'sealed'}", "password=correct horse", "password2=battery staple"]
    (folder / "sealed").mkdir()
    _run([*rclone, "config", "create", "vault", "crypt", *made])
    with _running(RCLONE_MOUNT, folder, [*rclone, "mount", "--vfs-cache-mode", "full", "vault:"]) as mounted:
        yield mounted


@contextmanager
def _memory(folder: Path) -> Iterator[Mounted]:
    with _running(MEMORY, folder, [sys.executable, "-m", "benchmarks.memory_fs"]) as mounted:
        yield mounted


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdin=_NOWHERE, stdout=_NOWHERE, stderr=_NOWHERE)


@contextmanager
def _running(name: str, folder: Path, command: Sequence[str]) -> Iterator[Mounted]:
    """Run a program that mounts at the path that is its last word."""
    path = folder / "mnt"
    path.mkdir()
    process = subprocess.Popen([*command, str(path)], stdin=_NOWHERE, stdout=_NOWHERE, stderr=_NOWHERE)
    try:
        wait_for(lambda: os.path.ismount(path), 30, what=f"{name} to be mounted")
        yield Mounted(name, path, psutil.Process(process.pid))
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False, stderr=_NOWHERE)
        process.terminate()
        process.wait()


_STARTS = {TGDAV: tgdav_mount, GOCRYPTFS: _gocryptfs, MEMORY: _memory, RCLONE_MOUNT: _rclone}
EVERYONE = tuple(_STARTS)


@contextmanager
def mounts(folder: Path, names: Sequence[str] = EVERYONE) -> Iterator[list[Mounted]]:
    """Mount the contestants called ``names`` side by side, each in a folder of its own below ``folder``."""
    with side_by_side(folder, names, _STARTS) as started:
        yield started
