"""A vault that several homes share, for tests of the log's way to the store and back."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.platform import ManualClock
from tests.support.volumes import PASSPHRASE, configuration, new_vault, open_volume, places
from tgdav.crypto.passphrase import Passphrase
from tgdav.db.database import Database
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.fs.api import Owner
from tgdav.ids import Inode
from tgdav.metadata.types import Kind
from tgdav.platform import Platform
from tgdav.vault.join import JoinedVault
from tgdav.volume.initialize import join_vault
from tgdav.volume.volume import Volume


class Vault:
    """A new vault below ``folder``: ``store``, and one directory per home. All share a clock that does not advance."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.folder, self.sections = folder, sections
        self.clock = ManualClock(1_800_000_000_000_000_000)
        new_vault(folder)

    @property
    def platform(self) -> Platform:
        return Platform(self.clock, SystemEntropy(), SystemDisk())

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def open(self, home: str = "home") -> Volume:
        return open_volume(self.folder, platform=self.platform, home=home, **self.sections)

    @contextmanager
    def opened(self, home: str = "home") -> Iterator[Volume]:
        volume = self.open(home)
        try:
            yield volume
        finally:
            volume.close()

    def join(self, home: str) -> JoinedVault:
        config = configuration(self.folder, **self.sections)
        return join_vault(places(self.folder, home), config, Passphrase(PASSPHRASE), platform=self.platform)

    def blobs(self) -> list[Path]:
        """The store's blobs in append order."""
        return sorted(path for path in self.store.iterdir() if not path.name.startswith("."))

    def blob(self, name: bytes | str) -> Path:
        """The file of a blob."""
        wanted = name if isinstance(name, str) else name.hex()
        (found,) = [path for path in self.blobs() if name_of(path) == wanted]
        return found


def name_of(blob: Path) -> str:
    """Return the blob's name in hex, which is part of its file name."""
    return blob.name.split("-")[1]


def content(seed: int, size: int) -> bytes:
    """Bytes that nothing can compress."""
    return random.Random(seed).randbytes(size)


def folder_of(volume: Volume, path: str) -> tuple[Inode, bytes]:
    """The folder that holds a path, and the path's last name."""
    *above, name = path.encode().split(b"/")
    return (volume.fs.resolve(above).inode if above else volume.fs.root), name


def put(volume: Volume, path: str, data: bytes, properties: Mapping[bytes, bytes | None] | None = None) -> None:
    parent, name = folder_of(volume, path)
    with volume.fs.upload(parent, name, owner=Owner()) as upload:
        upload.write(data)
        upload.commit(properties=lambda _: properties or {})


def make_folder(volume: Volume, path: str) -> None:
    volume.fs.create(*folder_of(volume, path), Kind.DIRECTORY, 0o755, Owner())


def read(volume: Volume, path: str) -> bytes:
    found = volume.fs.resolve(path.encode().split(b"/"))
    handle = volume.fs.open(found.inode)
    try:
        return handle.read(0, found.size + 1)
    finally:
        handle.close()


def rows(volume: Volume, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    with volume.database.reading() as connection:
        return connection.all(sql, params)


_ATTRIBUTES = (
    "x.since, x.kind, x.mode, x.uid, x.gid, x.rdev, x.size, x.mtime, x.ctime, x.btime, x.tag, x.writer, x.written"
)
_CONTENT = "coalesce((SELECT data FROM manifests m WHERE m.no = x.manifest), x.content)"
_NODE = "(SELECT id FROM nodes n WHERE n.ino = {})"
_NOT_JUNK = "x.ino NOT IN (SELECT ino FROM nodes WHERE local = 1)"
STATE = {
    "nodes": f"SELECT x.id, {_ATTRIBUTES}, {_CONTENT}, x.nlink FROM nodes x WHERE x.local = 0",
    "nodes_past": f"SELECT {_NODE.format('x.ino')}, x.until, {_ATTRIBUTES}, {_CONTENT} FROM nodes_past x WHERE {_NOT_JUNK}",
    "entries": (
        f"SELECT {_NODE.format('x.parent')}, x.name, x.id, {_NODE.format('x.ino')}, x.since, x.stamp, x.nfc, x.origin"
        " FROM entries x WHERE x.local = 0"
    ),
    "entries_past": (
        f"SELECT {_NODE.format('x.parent')}, x.name, x.id, x.until, {_NODE.format('x.ino')}, x.since FROM entries_past x"
        f" WHERE {_NOT_JUNK}"
    ),
    "fields": f"SELECT {_NODE.format('x.ino')}, x.field, x.value, x.since FROM fields x WHERE {_NOT_JUNK}",
    "fields_past": f"SELECT {_NODE.format('x.ino')}, x.field, x.until, x.value, x.since FROM fields_past x",
    "chunks": (
        "SELECT x.id, x.length, x.stored, x.codec, x.epoch, x.offset, p.name FROM chunks x JOIN packs p ON p.no = x.pack"
    ),
    "packs": "SELECT name, epoch, size, hash, label, blob, damaged FROM packs WHERE state = 3",
    "machines": "SELECT machine, name, public_key, incarnation, epoch FROM machines",
    "segments": (
        "SELECT incarnation, number, machine, name, hash, size, first, last, last_stamp, position, label, blob FROM segments"
        " WHERE number > (SELECT trimmed FROM chains c WHERE c.incarnation = segments.incarnation)"
    ),
    "chains": "SELECT machine, incarnation, number, hash, sequence, stamp FROM chains",
}
"""The state that two machines with the same log share, without the numbers that each assigns by itself."""


def state(database: Database) -> dict[str, set[tuple[Any, ...]]]:
    """Return every table's rows by names that mean the same everywhere."""
    with database.reading() as connection:
        return {table: set(connection.all(sql)) for table, sql in STATE.items()}


def without(there: dict[str, set[tuple[Any, ...]]], incarnation: bytes) -> dict[str, set[tuple[Any, ...]]]:
    """Return a state without the rows that one incarnation added by joining."""
    kept = dict(there)
    kept["machines"] = {row for row in there["machines"] if row[3] != incarnation}
    kept["segments"] = {row for row in there["segments"] if row[0] != incarnation}
    kept["chains"] = {row for row in there["chains"] if row[1] != incarnation}
    return kept


def key_of(volume: Volume) -> bytes:
    """A volume's incarnation as the tables hold it."""
    return volume.log.incarnation.to_bytes(8, "big")


def assert_same(volume: Volume, other: Volume) -> None:
    """Assert that ``other``, which joined last, has every row of ``volume``."""
    expected, found = state(volume.database), without(state(other.database), key_of(other))
    # A state that began with an older checkpoint knows segments that a newer one does not need.
    found["segments"] &= expected["segments"]
    for table, there in expected.items():
        assert found[table] == there, table
