"""Mounts compared: a large file, many small files, an archive unpacked.

What the kernel keeps of a file is dropped before it is read, and of names and attributes before they are looked up, so
that the mounts answer and not the kernel; what they keep themselves, and the files below them, stay warm. Nothing is
synced: writing ends when the file is closed.
"""

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.contestants import TGDAV
from benchmarks.fuse_mounts import GOCRYPTFS, MEMORY, RCLONE_MOUNT, Mounted, mounts
from benchmarks.http_client import Failed
from benchmarks.results import Measurement, Results, Target, compare, count
from benchmarks.scale import MIB, Scale, make_file

_RESIDENT_LIMIT = 300_000_000
_DROP = Path("/proc/sys/vm/drop_caches")
_NAMES_AND_ATTRIBUTES = "2"
_FOLDERS = 100
_TAR_SIZES = (200, 12_000)

Take = Callable[[str, float, Callable[[], object]], None]
"""Times some work: what it is called, how many files it is about, and the work."""


class _Bench:
    """Samples of each workload by contestant."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._found: dict[tuple[str, str], tuple[str, list[float], list[float]]] = {}
        self._resident = 0

    def take(self, workload: str, mounted: Mounted, amount: float, unit: str, work: Callable[[], object]) -> None:
        """Time ``work``, which does ``amount`` of ``unit``."""
        seconds, spent = mounted.time(work)
        _, samples, milliseconds = self._found.setdefault((workload, mounted.name), (unit, [], []))
        samples.append(amount / seconds)
        milliseconds.append(1000 * spent / amount)
        if mounted.name == TGDAV:
            self._resident = max(self._resident, mounted.most_resident_bytes())

    def against(self, targets: dict[str, Sequence[Target]]) -> Results:
        """Return all that was found; ``targets`` by the first word of the workload."""
        results = Results()
        for workload in dict.fromkeys(workload for workload, _ in self._found):
            measured = [
                Measurement(workload, name, f"{unit}/s", tuple(samples), processor=tuple(milliseconds))
                for (what, name), (unit, samples, milliseconds) in self._found.items()
                if what == workload
            ]
            results.add(
                compare(
                    measured, TGDAV, targets.get(workload.replace(",", " ").split()[0], ()), judge=self.scale.judged
                )
            )
        most = count("memory of tgdav-fuse", self._resident, _RESIDENT_LIMIT, "bytes", judge=self.scale.judged)
        results.add(Results(counts=[most]))
        return results


def fuse(folder: Path, scale: Scale) -> Results:
    """Mount everyone and let them do everything in turns."""
    bench = _Bench(scale)
    archive = make_archive(folder / "archive.tar", scale.files)
    with mounts(folder) as contestants:
        for number in range(scale.rounds):
            source = make_file(folder / "source", scale.large)
            for workload in (_large_file, _small_files, _unpack):
                for mounted in _in_turn(contestants, number):
                    workload(bench, mounted, number, archive if workload is _unpack else source)
    return bench.against(
        {
            "write": [Target(GOCRYPTFS, 0.8)],
            "read": [Target(GOCRYPTFS, 0.8)],
            "create": [Target(GOCRYPTFS, 1.0)],
            "stat": [Target(MEMORY, 1.0)],
            "unlink": [Target(MEMORY, 0.4)],
            "untar": [Target(GOCRYPTFS, 0.8), Target(RCLONE_MOUNT, 1.0)],
        }
    )


def _in_turn(contestants: Sequence[Mounted], number: int) -> Iterator[Mounted]:
    """Go through the contestants, beginning with another each round; before each the machine is quiet."""
    first = number % len(contestants)
    for mounted in [*contestants[first:], *contestants[:first]]:
        os.sync()
        yield mounted
        mounted.settle()


def _large_file(bench: _Bench, mounted: Mounted, number: int, source: Path) -> None:
    size = bench.scale.large / MIB
    path = mounted.path / f"large{number}"
    bench.take(f"write {size:g} MiB", mounted, size, "MiB", lambda: copy_file(source, path))
    mounted.settle()
    forget_pages(path)
    bench.take(f"read {size:g} MiB", mounted, size, "MiB", lambda: read_file(path, bench.scale.large))
    path.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in blocks of 1 MiB."""
    with source.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
        while block := reading.read(MIB):
            writing.write(block)


def read_file(path: Path, size: int) -> None:
    """Read a file of ``size`` bytes in blocks of 1 MiB. Raises Failed if it has another size."""
    block, found = bytearray(MIB), 0
    with path.open("rb", buffering=0) as reading:
        while done := reading.readinto(block):
            found += done
    if found != size:
        raise Failed(f"{path} has {found} bytes")


def forget_pages(path: Path) -> None:
    """Make the kernel drop the pages that it keeps of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _small_files(bench: _Bench, mounted: Mounted, number: int, _: Path) -> None:
    scale = bench.scale

    def take(workload: str, amount: float, work: Callable[[], object]) -> None:
        bench.take(workload, mounted, amount, "files", work)

    small_file_workloads(mounted, f"small{number}", scale.files, scale.small, take)


def small_file_workloads(mounted: Mounted, place: str, files: int, size: int, take: Take) -> None:
    """Create ``files`` files of ``size`` bytes in a new folder, look them up, and unlink them."""
    folder = mounted.path / place
    folder.mkdir()
    names = [os.fspath(folder / f"file{each}") for each in range(files)]
    content = os.urandom(size + files)
    what = f"{files} files"

    def create() -> None:
        for each, name in enumerate(names):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(descriptor, content[each : each + size])
            os.close(descriptor)

    take(f"create and write {size // 1024} KiB, {what}", files, create)
    take(f"stat, {what}", files, lambda: [os.stat(name) for name in names])
    mounted.settle()
    if _forget_names():
        take(f"stat anew, {what}", files, lambda: [os.stat(name) for name in names])
    take(f"unlink, {what}", files, lambda: _unlink(names))


def _unlink(names: Sequence[str]) -> None:
    for name in names:
        os.unlink(name)


def _forget_names() -> bool:
    """Let the kernel forget names and attributes; only root may."""
    if not os.access(_DROP, os.W_OK) or os.geteuid() != 0:
        return False
    _DROP.write_text(_NAMES_AND_ATTRIBUTES, encoding="ascii")
    return True


def make_archive(path: Path, files: int) -> Path:
    """Write an archive of ``files`` small files in folders, as a source tree has them."""
    chance = random.Random(5)
    with tarfile.open(path, "w") as archive:
        for number in range(files):
            if number % max(files // _FOLDERS, 1) == 0:
                folder = tarfile.TarInfo(f"tree/folder{number}")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
                place = folder.name
            file = tarfile.TarInfo(f"{place}/file{number}.c")
            file.size, file.mode, file.mtime = chance.randint(*_TAR_SIZES), 0o644, 1_700_000_000 + number
            archive.addfile(file, io.BytesIO(chance.randbytes(file.size)))
    return path


def _unpack(bench: _Bench, mounted: Mounted, number: int, archive: Path) -> None:
    def take(workload: str, amount: float, work: Callable[[], object]) -> None:
        bench.take(workload, mounted, amount, "files", work)

    unpack(mounted, f"unpacked{number}", archive, bench.scale.files, take)


def unpack(mounted: Mounted, place: str, archive: Path, files: int, take: Take) -> None:
    """Extract an archive of ``files`` files into a new folder."""
    target = mounted.path / place
    target.mkdir()
    command = ["tar", "--extract", "--file", str(archive), "--directory", str(target)]
    take(f"untar {files} files", files, lambda: subprocess.run(command, check=True))
