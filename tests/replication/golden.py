"""Golden files of the log's formats, and their maker: ``python -m tests.replication.golden`` writes those that are missing.

A golden file is never changed. A new version of a format gets a new file, and the old one must go on being read.
"""

import tempfile
from pathlib import Path

import msgspec

from tests.crypto.golden import FOLDER, IDENTITY, MASTER, NAMESPACE, SECRET, VAULT
from tests.crypto.seeded import SeededEntropy
from tgdav.content.format.manifest import Extent, Manifest, encode
from tgdav.content.overlay import Overlay
from tgdav.crdt.ops import ROOT, Attr, Field, Group, Make, Member, Namespace, Place, Write
from tgdav.crypto.keys import NamespaceKeys, VaultKeys, wrap_namespace
from tgdav.crypto.sealing import Kind
from tgdav.disk import SystemDisk
from tgdav.ids import BlobName, ChunkId, ContentTag, EntryId, Incarnation, MachineId, NodeId
from tgdav.replication.format import checkpoint as checkpoint_format
from tgdav.replication.format import envelope, segment
from tgdav.replication.format.checkpoint import Batch, PartName, Root
from tgdav.replication.format.segment import ClockEntry, PackEntry, PackIndex, Segment

VAULT_KEYS = VaultKeys(MASTER, VAULT)
KEYS = NamespaceKeys(NAMESPACE, SECRET)
SEGMENT_NAME = BlobName(b"golden segment..")
AUTHORED_NAME = BlobName(b"golden authored.")
PART_NAME = BlobName(b"golden root part")
OVERLAY_NODE = NodeId(b"golden node id..")
OVERLAY_SALT = b"salt of 16 bytes"
OVERLAY_BASE = 100
_INCARNATION = Incarnation(0x0123456789ABCDEF)
_CHUNK = ChunkId(bytes(range(32)))
_NODE, _ENTRY = NodeId(b"n" * 16), EntryId(b"e" * 16)

SEGMENT = Segment(
    machine=IDENTITY.machine,
    incarnation=_INCARNATION,
    number=2,
    previous=bytes(range(32, 64)),
    clock=(ClockEntry(IDENTITY.machine, _INCARNATION, 9),),
    packs=(
        PackIndex(
            BlobName(b"golden pack name"), 65536, bytes(range(64, 96)), 2, (PackEntry(_CHUNK, 0, 129, 100, 0, 2),)
        ),
    ),
    groups=(
        Group(
            3,
            (1_700_000_000_000 << 16) + 1,
            1_700_000_000_000_000_000,
            (
                Namespace("default", "standalone", 1_700_000_000_000_000_000),
                Member(
                    IDENTITY.machine,
                    "golden",
                    IDENTITY.signing_public,
                    _INCARNATION,
                    2,
                    MachineId(b"m" * 16),
                    IDENTITY.exchange_public,
                ),
            ),
        ),
        Group(
            5,
            (1_700_000_000_000 << 16) + 2,
            1_700_000_000_000_000_001,
            (
                Make(_NODE, 1, 0o644, 1, 2, 0, 1_700_000_000_000_000_001),
                Place(_ENTRY, _NODE, NodeId(ROOT), b"name"),
                Write(
                    _NODE,
                    100,
                    ContentTag(b"t" * 16),
                    encode(Manifest([Extent(100, _CHUNK)])),
                    None,
                    1_600_000_000_000_000_000,
                ),
                Attr(_NODE, {"mode": 0o600}),
                Field(_NODE, b"x:user.note", b"value"),
            ),
        ),
    ),
)

AUTHORED = msgspec.structs.replace(
    SEGMENT,
    clock=(*SEGMENT.clock, ClockEntry(MachineId(b"m" * 16), Incarnation(7), 30, 3, bytes(range(96, 128)))),
    groups=SEGMENT.groups[1:],
    author=Member(IDENTITY.machine, "golden", IDENTITY.signing_public, _INCARNATION, 2, None, IDENTITY.exchange_public),
)

BATCHES = [
    Batch("machines", 0, [(IDENTITY.machine, "golden", IDENTITY.signing_public, _INCARNATION.to_bytes(8, "big"), 2)]),
    Batch("fields", 3, [(7, b"x:user.note", b"value", 12), (8, b"p:{DAV:}a", b"", 13)]),
]
ROOT_PART = Root(
    position=12,
    segment=2,
    base=PartName(b"golden base root", bytes(range(32))),
    parts=[PartName(b"golden first prt", bytes(range(32, 64)))],
    settings={"namespace": b"\x93\xa7default\xaastandalone\x01"},
    created=1_700_000_000_000_000_000,
)
BATCHES_2 = [
    *BATCHES,
    Batch("pins", 0, [(b"s" * 16, 9, "before the move", 1_700_000_000_000_000_000, 2, 300, None, 1, 1)]),
    Batch("authors", 0, [(1, IDENTITY.machine, _INCARNATION.to_bytes(8, "big"))]),
]
ROOT_PART_2 = msgspec.structs.replace(
    ROOT_PART, clock=(ClockEntry(IDENTITY.machine, _INCARNATION, 9, 2, bytes(range(96, 128))),)
)


def overlay(path: Path, *, fresh: bool) -> Overlay:
    """Open the golden overlay's file."""
    key = IDENTITY.overlay_key(OVERLAY_NODE, OVERLAY_SALT)
    return Overlay(
        path, OVERLAY_NODE, key, base_size=OVERLAY_BASE, disk=SystemDisk(), entropy=SeededEntropy(203), fresh=fresh
    )


def _overlay_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overlay"
        made = overlay(path, fresh=True)
        made.write(10, b"written at ten")
        made.truncate(60)
        made.write(200, b"far behind")
        made.fsync()
        made.write(0, b"never made durable")
        made.close(remove=False)
        return path.read_bytes()


def contents() -> dict[str, bytes]:
    """Return every golden file of this room as it is made today."""
    entropy = SeededEntropy(201)
    box = wrap_namespace(VAULT_KEYS, SECRET, entropy)
    content = segment.encode(SEGMENT, IDENTITY, SEGMENT_NAME)
    part = checkpoint_format.encode_part([checkpoint_format.encode_batch(batch) for batch in BATCHES_2], ROOT_PART_2)
    return {
        "segment-v1.bin": envelope.wrap(VAULT_KEYS, KEYS, box, Kind.SEGMENT, SEGMENT_NAME, content, entropy),
        "checkpoint-part-v2.bin": envelope.wrap(
            VAULT_KEYS, KEYS, box, Kind.CHECKPOINT_PART, PART_NAME, part, SeededEntropy(202)
        ),
        "overlay-v1.bin": _overlay_file(),
        "segment-v1-author.bin": envelope.wrap(
            VAULT_KEYS,
            KEYS,
            box,
            Kind.SEGMENT,
            AUTHORED_NAME,
            segment.encode(AUTHORED, IDENTITY, AUTHORED_NAME),
            SeededEntropy(204),
        ),
    }


def write_missing() -> None:
    """Write the golden files that are not there yet."""
    for name, content in contents().items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    write_missing()
