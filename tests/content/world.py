"""A content store over a real database, real files and a store in memory, with a clock that tests move."""

import random
import threading
from pathlib import Path

import msgspec

from tests.content.identities import make_identity
from tests.crypto.seeded import SeededEntropy
from tgdav.blobs.interface import BlobStore
from tgdav.blobs.memory import MemoryStore
from tgdav.content.format.manifest import Manifest
from tgdav.content.staging.context import ContentSettings
from tgdav.content.staging.stream import StagedContent
from tgdav.content.store import ContentStore
from tgdav.db.database import Database
from tgdav.disk import SystemDisk
from tgdav.failpoints import installed
from tgdav.platform import Platform

KIB = 1024
SMALL = ContentSettings(chunk_size=1024 * KIB, average_size=128 * KIB, staging_bytes=1 << 30)
"""Chunks of 32 to 192 KiB, packs of at most 1 MiB."""


class SimulatedCrash(BaseException):
    """The process ends here."""


class CrashAt:
    """Crashes when the failpoint ``name`` is reached for the ``nth`` time; without a name, counts all failpoints."""

    def __init__(self, name: str = "", nth: int = 1) -> None:
        self.name, self.nth = name, nth
        self.seen: list[str] = []

    def __call__(self, name: str) -> None:
        self.seen.append(name)
        if name == self.name and self.seen.count(name) == self.nth:
            raise SimulatedCrash(name)


class ManualClock:
    def __init__(self) -> None:
        self.time = 1000.0
        self._lock = threading.Lock()

    def move(self, seconds: float) -> None:
        with self._lock:
            self.time += seconds

    def now_ns(self) -> int:
        return int(self.time * 1e9) + 10**18

    def monotonic(self) -> float:
        return self.time


class FailingDisk(SystemDisk):
    """Raises ``errors[call]`` (an errno) while it is set."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}

    def _check(self, call: str) -> None:
        if call in self.errors:
            raise OSError(self.errors[call], "made to fail")

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        if "write" in self.errors:
            super().write(descriptor, memoryview(data)[: len(data) // 2], offset)
        self._check("write")
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        self._check("sync")
        super().sync(descriptor)

    def sync_directory(self, directory: Path) -> None:
        self._check("sync_directory")
        super().sync_directory(directory)


class World:
    """One machine's content store; ``reopen`` is a restart."""

    def __init__(self, directory: Path, settings: ContentSettings = SMALL, blobs: BlobStore | None = None) -> None:
        self.directory = directory
        self.settings = settings
        self.blobs: BlobStore = blobs if blobs is not None else MemoryStore()
        self.clock = ManualClock()
        self.disk = FailingDisk()
        self.database_disk = FailingDisk()
        self.entropy = SeededEntropy(4)
        self.identity = make_identity()
        self.saved: dict[bytes, Manifest] = {}
        self._open()

    @property
    def staging(self) -> Path:
        return self.directory / "staging"

    def _open(self) -> None:
        self.database = Database.open(self.directory / "state.db", bytes(32), disk=self.database_disk)
        self.content = ContentStore.open(
            self.database,
            self.blobs,
            self.staging,
            self.identity,
            msgspec.structs.replace(self.settings, reserve_bytes=0),
            Platform(self.clock, self.entropy, self.disk),
        )

    def close(self) -> None:
        self.content.stop()
        self.database.close()

    def reopen(self) -> None:
        self.close()
        self._open()

    def stage(self, data: bytes, *, local: bool = False, step: int = 100_000) -> StagedContent:
        stream = self.content.open_stream(local=local)
        for at in range(0, len(data), step):
            stream.write(data[at : at + step])
        return stream.finish()

    def commit(self, staged: StagedContent) -> Manifest:
        try:
            self.database.writer.run(staged.record, durable=True, sync=staged.sync)
        finally:
            staged.release()
        return staged.manifest

    def save(self, data: bytes, *, local: bool = False) -> Manifest:
        """Store content; from now on ``check_all`` expects it."""
        manifest = self.commit(self.stage(data, local=local))
        self.saved[data] = manifest
        return manifest

    def load(self, manifest: Manifest) -> bytes:
        """Read content from disk or the store, not from memory."""
        self.content.reader.clear()
        return self.content.reader.read(manifest, 0, manifest.size)

    def check_all(self) -> None:
        for data, manifest in self.saved.items():
            assert self.load(manifest) == data

    def upload(self) -> None:
        assert self.content.flush(60.0)
        assert self.content.pending() == 0

    def number(self, sql: str) -> int:
        with self.database.reading() as connection:
            row = connection.one(sql)
        assert row is not None
        return int(row[0])

    def files(self) -> list[str]:
        return sorted(path.name for path in self.staging.iterdir())

    def crash(self, name: str, nth: int = 1) -> "Crashing":
        return Crashing(self, CrashAt(name, nth))


class Crashing:
    """A block that must crash at a failpoint; afterwards the store is opened again, as after a kill."""

    def __init__(self, world: World, handler: CrashAt) -> None:
        self.world, self.handler = world, handler
        self._installed = installed(handler)

    def __enter__(self) -> None:
        self._installed.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._installed.__exit__(None, None, None)
        if kind is not SimulatedCrash:
            assert kind is not None, f"{self.handler.name} was not reached; only {sorted(set(self.handler.seen))}"
            return False
        self.world.reopen()
        return True


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)
