"""The write path in this process beside its parts, each measured alone on the same content in the same run.

The parts work one after the other on each byte, so the rate to expect is the harmonic sum of theirs. What the whole loses
to it is its own overhead; what it gains comes from doing two parts at a time.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import msgspec

from benchmarks.results import Measurement, Results
from benchmarks.scale import MIB, Scale, make_file
from tgdav.blobs.directory import DirectoryStore
from tgdav.clock import SystemClock
from tgdav.content.format import codec
from tgdav.content.format.chunker import Chunker, chunk_sizes
from tgdav.content.format.sealer import ContentIdentity
from tgdav.content.staging.context import ContentSettings
from tgdav.content.store import ContentStore
from tgdav.crypto.chunk_seal import CODEC_RAW, ChunkBinding, open_chunk, seal_chunk
from tgdav.crypto.keys import NamespaceKeys, VaultKeys, new_namespace_secret
from tgdav.db.database import Database
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.ids import ChunkId, Incarnation, MachineId, NamespaceId, VaultId
from tgdav.platform import Platform

WHOLE = "tgdav.content stream"
SUM = "harmonic sum of the parts"
_CHECKED = "BLAKE3, twice"


class _Parts(msgspec.Struct):
    """Content cut and sealed, for each part to work on."""

    identity: ContentIdentity
    content: bytes
    chunks: list[memoryview]
    ids: list[ChunkId]
    sealed: list[bytearray]


def pipeline(folder: Path, scale: Scale) -> Results:
    """Measure the parts and the whole, in turns."""
    content = make_file(folder / "content", scale.pipeline).read_bytes()
    parts = _prepare(content)
    timed: dict[str, Callable[[], object]] = {
        "chunker": lambda: _drop(_cut(parts)),
        _CHECKED: lambda: _drop(chain(_name(parts), _name(parts))),
        "LZ4 probe": lambda: _drop(codec.compress(chunk) for chunk in parts.chunks),
        "AES-GCM seal": lambda: _drop(_seal(parts)),
        "AES-GCM open": lambda: _drop(_open(parts)),
        "disk write and sync": lambda: _write(parts, folder / "written"),
    }
    samples: dict[str, list[float]] = {name: [] for name in [*timed, SUM, WHOLE]}
    for number in range(max(scale.rounds, 1)):
        seconds = {name: _seconds(work) for name, work in timed.items()}
        for name, each in {**seconds, SUM: sum(seconds.values())}.items():
            samples[name].append(scale.pipeline / MIB / each)
        whole = _stream(parts, folder / f"round{number}")
        samples[WHOLE].append(scale.pipeline / MIB / whole)
    workload = f"write path, {scale.pipeline // MIB} MiB"
    return Results([Measurement(workload, name, "MiB/s", tuple(found)) for name, found in samples.items()])


def _drop(results: Iterable[object]) -> None:
    """Take one result after the other and keep none: memory that is touched for the first time would cost more."""
    for _ in results:
        pass


def _seconds(work: Callable[[], object]) -> float:
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _identity() -> ContentIdentity:
    entropy = SystemEntropy()
    namespace = NamespaceId(entropy.bytes(16))
    return ContentIdentity(
        vault_keys=VaultKeys(entropy.bytes(32), VaultId(entropy.bytes(16))),
        keys=NamespaceKeys(namespace, new_namespace_secret(namespace, entropy)),
        machine=MachineId(entropy.bytes(16)),
        incarnation=Incarnation(1),
    )


def _prepare(content: bytes) -> _Parts:
    parts = _Parts(_identity(), content, [], [], [])
    parts.chunks = list(_cut(parts))
    parts.ids = list(_name(parts))
    parts.sealed = list(_seal(parts))
    return parts


def _blocks(content: bytes) -> Iterator[memoryview]:
    """Go through the content in the blocks that a PUT comes in."""
    view = memoryview(content)
    return (view[start : start + MIB] for start in range(0, len(view), MIB))


def _cut(parts: _Parts) -> Iterator[memoryview]:
    chunker = Chunker(chunk_sizes(MIB), parts.identity.keys.chunker_seed)
    for block in _blocks(parts.content):
        yield from chunker.feed(block)
    yield from chunker.finish()


def _name(parts: _Parts) -> Iterator[ChunkId]:
    return (parts.identity.keys.chunk_id(chunk) for chunk in parts.chunks)


def _seal(parts: _Parts) -> Iterator[bytearray]:
    keys, vault, entropy = parts.identity.keys, parts.identity.vault_keys.vault, SystemEntropy()
    for chunk_id, chunk in zip(parts.ids, parts.chunks, strict=True):
        yield seal_chunk(keys, vault, ChunkBinding(chunk_id, 1, CODEC_RAW, len(chunk)), chunk, entropy)


def _open(parts: _Parts) -> Iterator[bytes]:
    keys, vault = parts.identity.keys, parts.identity.vault_keys.vault
    for chunk_id, chunk, sealed in zip(parts.ids, parts.chunks, parts.sealed, strict=True):
        yield open_chunk(keys, vault, ChunkBinding(chunk_id, 1, CODEC_RAW, len(chunk)), sealed, "benchmark")


def _write(parts: _Parts, path: Path) -> None:
    """Write in the way that staging does: appended chunk by chunk, synced at the end."""
    disk, offset = SystemDisk(), 0
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for sealed in parts.sealed:
            disk.write(descriptor, sealed, offset)
            offset += len(sealed)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()


def _stream(parts: _Parts, folder: Path) -> float:
    """Return the seconds from the first block to the commit that makes the content durable."""
    with _content_store(parts.identity, folder) as (store, database):

        def work() -> None:
            stream = store.open_stream()
            for block in _blocks(parts.content):
                stream.write(block)
            staged = stream.finish()
            database.writer.run(staged.record, sync=staged.sync, durable=True)
            staged.release()

        return _seconds(work)


@contextmanager
def _content_store(identity: ContentIdentity, folder: Path) -> Iterator[tuple[ContentStore, Database]]:
    """A content store whose uploader is not started, so that only the write path runs."""
    clock, entropy, disk = SystemClock(), SystemEntropy(), SystemDisk()
    folder.mkdir()
    blobs = DirectoryStore.create(folder / "store", disk=disk, clock=clock, entropy=entropy)
    database = Database.open(folder / "benchmark.db", entropy.bytes(32), disk=disk)
    try:
        platform = Platform(clock, entropy, disk)
        store = ContentStore.open(database, blobs, folder / "staging", identity, ContentSettings(), platform)
        yield store, database
        store.stop()
    finally:
        database.close()
