"""What tests put in for time, randomness, durable disk calls and failpoints."""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tgdav.disk import Disk, SystemDisk


class ManualClock:
    """A clock that only advances on request. Wall-clock time in nanoseconds, monotonic time in seconds."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000, monotonic: float = 1000.0) -> None:
        self._now_ns, self._monotonic = now_ns, monotonic
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        return self._now_ns

    def file_time_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both."""
        with self._lock:
            self._now_ns += round(seconds * 1_000_000_000)
            self._monotonic += seconds

    def set_wall(self, now_ns: int) -> None:
        """Set the wall clock, back too; monotonic time stays."""
        self._now_ns = now_ns


class SeededEntropy:
    """Bytes that look random and are the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def bytes(self, count: int) -> bytes:
        with self._lock:
            return self._random.randbytes(count)


class SimulatedCrash(BaseException):
    """The process died here. No ``except Exception`` catches it, and nothing durable may follow it."""


class CrashAt:
    """A handler for ``tgdav.failpoints.installed``: crashes at the ``number``-th reach (0: never, only counts).

    ``only`` counts the reaches whose name begins so. Once crashed, every further reach, in any thread, crashes too.
    """

    def __init__(self, number: int = 0, only: str = "") -> None:
        self.number, self.only = number, only
        self.reached: Counter[str] = Counter()
        self.crashed_at = ""
        self._seen = 0
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        with self._lock:
            if self.crashed_at:
                raise SimulatedCrash(f"already crashed at {self.crashed_at}")
            self.reached[name] += 1
            if not name.startswith(self.only):
                return
            self._seen += 1
            if self._seen == self.number:
                self.crashed_at = name
                raise SimulatedCrash(name)

    @property
    def total(self) -> int:
        """Reaches counted so far: after a run without a crash, the largest ``number`` worth trying."""
        return self._seen


@dataclass(frozen=True)
class DiskCall:
    """One durable call: its name and the file names it concerns (of a descriptor, the name it has now)."""

    call: str
    names: tuple[str, ...]


class RecordingDisk:
    """Passes every call on to ``inner`` and notes it in ``calls`` once it succeeded."""

    def __init__(self, inner: Disk | None = None) -> None:
        self.inner: Disk = inner or SystemDisk()
        self.calls: list[DiskCall] = []

    def _around(self, call: str, names: tuple[str, ...], action: Callable[[], None]) -> None:
        action()
        self.calls.append(DiskCall(call, names))

    def names(self, call: str) -> list[str]:
        """Return the first file name of each ``call`` so far, in order."""
        return [one.names[0] for one in self.calls if one.call == call]

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._around("write", (_name(descriptor),), lambda: self.inner.write(descriptor, data, offset))

    def sync(self, descriptor: int) -> None:
        self._around("sync", (_name(descriptor),), lambda: self.inner.sync(descriptor))

    def sync_directory(self, folder: Path) -> None:
        self._around("sync_directory", (folder.name,), lambda: self.inner.sync_directory(folder))

    def rename(self, source: Path, target: Path) -> None:
        self._around("rename", (source.name, target.name), lambda: self.inner.rename(source, target))

    def link(self, source: Path, target: Path) -> None:
        self._around("link", (source.name, target.name), lambda: self.inner.link(source, target))

    def unlink(self, path: Path) -> None:
        self._around("unlink", (path.name,), lambda: self.inner.unlink(path))

    def truncate(self, descriptor: int, length: int) -> None:
        self._around("truncate", (_name(descriptor),), lambda: self.inner.truncate(descriptor, length))


def _name(descriptor: int) -> str:
    target = Path(f"/proc/self/fd/{descriptor}")
    return target.readlink().name.removesuffix(" (deleted)") if target.parent.exists() else f"descriptor {descriptor}"


@dataclass
class _Fault:
    call: str
    error: int
    number: int
    times: int | None
    suffix: str
    seen: int = field(default=0)

    def hits(self, call: str, names: tuple[str, ...]) -> bool:
        if call != self.call or not any(name.endswith(self.suffix) for name in names):
            return False
        self.seen += 1
        return self.seen >= self.number and (self.times is None or self.seen < self.number + self.times)


class FailingDisk(RecordingDisk):
    """A disk whose chosen calls raise OSError instead of being done; ``calls`` holds those that were done."""

    def __init__(self, inner: Disk | None = None) -> None:
        super().__init__(inner)
        self.failed: list[DiskCall] = []
        self._faults: list[_Fault] = []

    def fail(self, call: str, error: int, *, number: int = 1, times: int | None = 1, suffix: str = "") -> None:
        """Fail the ``number``-th ``call`` from now, and the next ``times`` - 1 (None: all), with errno ``error``.

        ``suffix``: only files whose name ends so.
        """
        if call not in {"write", "sync", "sync_directory", "rename", "link", "unlink", "truncate"}:
            raise ValueError(f"no such call: {call}")
        self._faults.append(_Fault(call, error, number, times, suffix))

    def heal(self) -> None:
        """Fail no more."""
        self._faults.clear()

    def _around(self, call: str, names: tuple[str, ...], action: Callable[[], None]) -> None:
        for fault in [fault for fault in self._faults if fault.hits(call, names)]:
            self.failed.append(DiskCall(call, names))
            raise OSError(fault.error, os.strerror(fault.error))
        super()._around(call, names, action)
