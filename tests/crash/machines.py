"""A machine inside the test's own process: its home, its volume, and what its tree shows."""

import hashlib
import os
import random
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.platform import ManualClock, SeededEntropy
from tgdav.config import Config, StatePaths, load
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.slots import Secret
from tgdav.disk import Disk, SystemDisk
from tgdav.fs.api import Owner
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, Kind
from tgdav.platform import Platform
from tgdav.vault.create import CreatedVault
from tgdav.vault.join import JoinedVault
from tgdav.volume.initialize import create_vault, join_vault
from tgdav.volume.volume import Volume

PASSPHRASE = "correct horse battery"
CHEAP = "encryption: {argon2_memory_kib: 1024, argon2_iterations: 1, argon2_parallelism: 1}\n"
CONFIG = (
    "version: 2\n"
    + CHEAP
    + "storage: {backend: directory, directory: {path: ../store}}\nchunk: {average_size: 65536, chunk_size: 1048576}\n"
)
"""Cheap to unlock, small chunks, and a store beside the home, so that both can be copied together."""
MINUTES = float(os.environ.get("TGDAV_TORTURE_MINUTES", "10"))


@dataclass(frozen=True)
class Shown:
    """What a path shows. ``content`` is the SHA-256 of a file's bytes, ``folder`` or a link's target."""

    content: str
    size: int
    mtime: int
    properties: tuple[tuple[bytes, bytes], ...]


Tree = dict[bytes, Shown]


class Machine:
    """A home below ``folder``, whose store is ``folder/store`` unless ``config`` says otherwise.

    Two of the same home must differ in ``life``, or they would draw the same random numbers.
    """

    def __init__(
        self, folder: Path, name: str = "home", *, config: str = CONFIG, seed: int = 0, life: str = ""
    ) -> None:
        self.folder, self.home, self.seed, self.life = folder, folder / name, seed, life
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.home / "config.yaml"
        if not file.exists():
            file.write_text(config + f"machine: {{name: {name}}}\n")
        self.places = StatePaths.from_environment({"TGDAV_HOME": str(self.home)})
        self.disk: Disk = SystemDisk()
        self._opened = 0

    @property
    def config(self) -> Config:
        return load(self.home / "config.yaml", {}).config

    @property
    def store(self) -> Path:
        return self.places.for_config(self.config).store

    def blobs(self) -> list[Path]:
        """The store's blobs in append order."""
        return sorted(path for path in self.store.iterdir() if not path.name.startswith("."))

    def platform(self) -> Platform:
        """A clock that does not advance, random numbers from this machine's seed and the count of openings, and a real disk."""
        self._opened += 1
        start = ManualClock(1_700_000_000_000_000_000 + self._opened * 1_000_000_000)
        return Platform(
            start,
            SeededEntropy(zlib.crc32(f"{self.seed} {self.life} {self.home.name} {self._opened}".encode())),
            self.disk,
        )

    def create(self, passphrase: str = PASSPHRASE) -> CreatedVault:
        return create_vault(self.places, self.config, passphrase, platform=self.platform())

    def join(self, secret: Secret | None = None) -> JoinedVault:
        return join_vault(self.places, self.config, secret or Passphrase(PASSPHRASE), platform=self.platform())

    def open(self, secret: Secret | None = None) -> Volume:
        return Volume.open(self.places, self.config, secret or Passphrase(PASSPHRASE), platform=self.platform())

    @contextmanager
    def opened(self, secret: Secret | None = None) -> Iterator[Volume]:
        """An open volume, closed in good order afterwards."""
        volume = self.open(secret)
        try:
            yield volume
        finally:
            volume.close()


def content(seed: int, size: int) -> bytes:
    """Bytes that nothing can compress, of a seed."""
    return random.Random(seed).randbytes(size)


def path_of(text: str) -> list[bytes]:
    """``a/b`` as the names of a path."""
    return [name.encode() for name in text.split("/") if name]


def folder_of(volume: Volume, text: str) -> tuple[Inode, bytes]:
    """The folder that holds a path, and the path's last name."""
    *above, name = path_of(text)
    return (volume.fs.resolve(above).inode if above else volume.fs.root), name


def put(volume: Volume, path: str, data: bytes, properties: Mapping[bytes, bytes | None] | None = None) -> None:
    """Upload a file as a WebDAV PUT does."""
    parent, name = folder_of(volume, path)
    with volume.fs.upload(parent, name, owner=Owner()) as upload:
        upload.write(data)
        upload.commit(properties=lambda _: properties or {})


def make_folder(volume: Volume, path: str) -> None:
    parent, name = folder_of(volume, path)
    volume.fs.create(parent, name, Kind.DIRECTORY, 0o755, Owner(), durable=True)


def read(volume: Volume, path: str) -> bytes:
    """Return a file's content. Raises as ``Handle.read``."""
    attributes = volume.fs.resolve(path_of(path))
    return read_inode(volume, attributes.inode, attributes.size)


def read_inode(volume: Volume, inode: Inode, size: int) -> bytes:
    handle = volume.fs.open(inode)
    try:
        return handle.read(0, size + 1)
    finally:
        handle.close()


def paths(volume: Volume) -> list[tuple[bytes, Attributes]]:
    """Return all paths below the root with their attributes."""
    found = []
    waiting = [(b"", volume.fs.root)]
    while waiting:
        above, inode = waiting.pop()
        for entry in volume.fs.list_directory(inode):
            found.append((above + entry.name, entry.attributes))
            if entry.attributes.is_directory:
                waiting.append((above + entry.name + b"/", entry.attributes.inode))
    return found


def tree(volume: Volume) -> Tree:
    """Everything that the volume shows, read whole."""
    listed = paths(volume)
    properties = volume.fs.properties([each.inode for _, each in listed])
    shown = {}
    for path, each in listed:
        kept = tuple(sorted(properties.get(each.inode, {}).items()))
        shown[path] = Shown(_shown_content(volume, each), each.size, each.mtime, kept)
    for item in volume.fs.trash.items():
        shown[b"in the trash: " + item.path] = Shown(f"{item.bytes} bytes", item.bytes, 0, ())
    return shown


def _shown_content(volume: Volume, attributes: Attributes) -> str:
    if attributes.is_directory:
        return "folder"
    if attributes.kind == Kind.SYMLINK:
        return "link " + volume.fs.read_link(attributes.inode).decode()
    return hashlib.sha256(read_inode(volume, attributes.inode, attributes.size)).hexdigest()


def contents(shown: Tree) -> dict[bytes, tuple[str, tuple[tuple[bytes, bytes], ...]]]:
    """Return a tree without sizes and times, which differ between runs of the same steps."""
    return {path: (each.content, each.properties) for path, each in shown.items()}


def clean(volume: Volume) -> None:
    """Assert that a check of everything finds nothing."""
    found = volume.check(read_data=100.0)
    assert found["ok"], found["damage"]
