"""History of a vault with a million files: snapshots, browsing, checks and garbage collection. The figures are printed."""

import multiprocessing
import os
import resource
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.support.volumes import new_vault, open_volume
from tgdav.check.structure import structural_problems
from tgdav.content.format.manifest import Extent, Manifest, encode
from tgdav.crdt.ops import ROOT, Make, Place, Write
from tgdav.fs.api import Owner
from tgdav.ids import EntryId, NodeId
from tgdav.metadata.change import Change
from tgdav.metadata.types import Kind
from tgdav.volume.volume import Volume

pytestmark = pytest.mark.torture

FILES = int(os.environ.get("TGDAV_SCALE_FILES", "1000000"))
IN_ONE = 1000
CHANGES = 100
KIB = 1024
LIMITS = {
    "seconds of a snapshot": 1.0,
    "seconds that a writer waited at most": 0.1,
    "bytes sent for the next snapshot": 64 * KIB,
    "bytes of the next checkpoint": CHANGES * 8 * KIB + 64 * KIB,
    "seconds until a snapshot is browsed": 1.0,
    "seconds of planning a collection": 60.0,
    "seconds of checking the structure": 60.0,
    "RSS in bytes": 500_000_000,
}


def build(base: Path) -> None:
    """Make a vault of FILES files of a hole each, through the journal, a directory of IN_ONE in each change; send everything."""
    new_vault(base)
    volume = open_volume(base)
    manifest = encode(Manifest.from_extents([Extent(5, None)]))
    tag = volume.log.keys.content_tag(manifest)

    def directory(change: Change, name: bytes) -> None:
        made = NodeId(change.new_id())
        change.emit(Make(made, Kind.DIRECTORY, 0o755, 0, 0, 0, change.time))
        change.emit(Place(EntryId(change.new_id()), made, ROOT, name))
        for number in range(IN_ONE):
            node = NodeId(change.new_id())
            change.emit(Make(node, Kind.FILE, 0o644, 0, 0, 0, change.time))
            change.emit(Place(EntryId(change.new_id()), node, made, b"file %06d" % number))
            change.emit(Write(node, 5, tag, manifest, None, change.time))

    for number in range(FILES // IN_ONE):
        volume.journal.change(lambda change, number=number: directory(change, b"directory %04d" % number))  # type: ignore[misc]
        if number % 20 == 19:
            volume.database.checkpoint()
    volume.sync(wait=True)
    assert volume.replicator.checkpoint()
    volume.close()


class Writer(threading.Thread):
    """Creates files all the time; ``longest`` is the longest that a change took, in seconds."""

    def __init__(self, volume: Volume) -> None:
        super().__init__()
        self._fs, self._stopping, self.longest = volume.fs, threading.Event(), 0.0

    def run(self) -> None:
        number = 0
        while not self._stopping.wait(0.001):
            began = time.monotonic()
            self._fs.create(self._fs.root, b"written %06d" % number, Kind.FILE, 0o644, Owner())
            self.longest, number = max(self.longest, time.monotonic() - began), number + 1

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def change_some(volume: Volume) -> None:
    """Write CHANGES files in directories all over the tree."""
    fs = volume.fs
    for number in range(CHANGES):
        top = fs.resolve([b"directory %04d" % (number * (FILES // IN_ONE) // CHANGES)])
        with fs.upload(top.inode, b"file %06d" % number, owner=Owner()) as upload:
            upload.write(b"changed %d" % number)
            upload.commit(durable=False)


def store_bytes(base: Path) -> int:
    return sum(path.stat().st_size for path in (base / "store").iterdir())


def measure(base: Path) -> dict[str, float]:
    """Return the figures, by the names of LIMITS."""
    found: dict[str, float] = {}
    volume = open_volume(base)
    volume.make_snapshot("warm")
    writer = Writer(volume)
    writer.start()
    time.sleep(0.2)
    began = time.monotonic()
    volume.make_snapshot("first")
    found["seconds of a snapshot"] = time.monotonic() - began
    writer.stop()
    found["seconds that a writer waited at most"] = writer.longest
    volume.sync(wait=True)
    assert volume.replicator.checkpoint()
    change_some(volume)
    volume.sync(wait=True)  # the contents, which any backup must send
    before = store_bytes(base)
    volume.make_snapshot("second")
    volume.sync(wait=True)
    found["bytes sent for the next snapshot"] = store_bytes(base) - before
    began, before = time.monotonic(), store_bytes(base)
    assert volume.replicator.checkpoint()
    found["bytes of the next checkpoint"] = store_bytes(base) - before
    found["seconds of a checkpoint"] = time.monotonic() - began
    began = time.monotonic()
    top = volume.fs.resolve([b".snapshots", b"first", b"directory 0000"])
    assert len(volume.fs.list_directory(top.inode)) == IN_ONE
    found["seconds until a snapshot is browsed"] = time.monotonic() - began
    began = time.monotonic()
    volume.gc(dry_run=True)
    found["seconds of planning a collection"] = time.monotonic() - began
    began = time.monotonic()
    with volume.database.reading() as connection:
        assert structural_problems(connection, volume.log.keys.content_tag) == []
    found["seconds of checking the structure"] = time.monotonic() - began
    volume.close()
    found["RSS in bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    return found


def test_a_million_files(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    # Each in a process of its own, whose memory is its own.
    for function in (build, measure):
        with ProcessPoolExecutor(1, context) as pool:
            found = pool.submit(function, tmp_path).result()
    assert found is not None
    print(f"\nhistory of {FILES} files, load {os.getloadavg()[0]:.1f}:")
    for name, value in found.items():
        print(f"  {value:14,.3f} {name}" + (f" (at most {LIMITS[name]:,})" if name in LIMITS else ""))
    missed = {name: found[name] for name, limit in LIMITS.items() if found[name] > limit}
    assert not missed, f"missed: {missed}"
