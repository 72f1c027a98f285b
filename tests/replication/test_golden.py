"""Bytes written long ago are read for ever, and the pages under docs/formats describe them byte by byte."""

import shutil
import struct
from pathlib import Path

import lz4.block
import msgspec
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.crypto.golden import FOLDER, IDENTITY, NAMESPACE, SECRET
from tests.crypto.test_golden import binding, hkdf, open_by_the_page
from tests.replication import golden
from tgdav.content.format.pack import padme
from tgdav.crypto.derivation import Purpose, derive
from tgdav.crypto.machine import MachineIdentity
from tgdav.crypto.sealing import Kind
from tgdav.entropy import SystemEntropy
from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import BlobName
from tgdav.replication.format import checkpoint as checkpoint_format
from tgdav.replication.format import envelope, segment
from tgdav.replication.format.checkpoint import Batch


def blob(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def unwrap(kind: Kind, name: BlobName, data: bytes) -> bytes:
    return envelope.unwrap(golden.VAULT_KEYS, golden.KEYS, kind, name, data)


def test_segment() -> None:
    content = unwrap(Kind.SEGMENT, golden.SEGMENT_NAME, blob("segment-v1.bin"))
    assert segment.decode(content, golden.SEGMENT_NAME) == golden.SEGMENT
    segment.check_signature(content, golden.SEGMENT_NAME, IDENTITY.signing_public)
    for place in (0, 63, 64, len(content) - 1):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with pytest.raises(DamageError):
            segment.check_signature(changed, golden.SEGMENT_NAME, IDENTITY.signing_public)
    with pytest.raises(DamageError):
        segment.check_signature(content, BlobName(b"another name ..."), IDENTITY.signing_public)
    other = MachineIdentity.new(SystemEntropy())
    with pytest.raises(DamageError):
        segment.check_signature(content, golden.SEGMENT_NAME, other.signing_public)


def test_segment_with_all_fields() -> None:
    content = unwrap(Kind.SEGMENT, golden.AUTHORED_NAME, blob("segment-v1-author.bin"))
    assert segment.decode(content, golden.AUTHORED_NAME) == golden.AUTHORED
    segment.check_signature(content, golden.AUTHORED_NAME, IDENTITY.signing_public)
    older = segment.decode(unwrap(Kind.SEGMENT, golden.SEGMENT_NAME, blob("segment-v1.bin")), golden.SEGMENT_NAME)
    assert (older.author, older.clock[0].number, older.clock[0].hash) == (None, 0, b"")


def test_checkpoint_part() -> None:
    content = unwrap(Kind.CHECKPOINT_PART, golden.PART_NAME, blob("checkpoint-part-v1.bin"))
    part = checkpoint_format.decode(content, golden.PART_NAME)
    assert (part.version, part.batches, part.root) == (1, golden.BATCHES, golden.ROOT_PART)
    content = unwrap(Kind.CHECKPOINT_PART, golden.PART_NAME, blob("checkpoint-part-v2.bin"))
    part = checkpoint_format.decode(content, golden.PART_NAME)
    assert (part.version, part.batches, part.root) == (2, golden.BATCHES_2, golden.ROOT_PART_2)


def test_rows_of_an_earlier_version_are_completed() -> None:
    entry = (1, b"name", b"e" * 16, 3, 7, 9, None, None)
    old = msgspec.msgpack.encode((1, [("entries", 0, [entry])], None))
    assert checkpoint_format.decode(old, golden.PART_NAME).batches == [Batch("entries", 0, [(*entry, None, 0)])]
    for wrong in ((2, [("entries", 0, [entry])], None), (1, [("pins", 0, [])], None)):
        with pytest.raises(DamageError):
            checkpoint_format.decode(msgspec.msgpack.encode(wrong), golden.PART_NAME)


def test_a_later_version_is_no_damage() -> None:
    with pytest.raises(NewerFormat):
        checkpoint_format.decode(msgspec.msgpack.encode((3, [], None)), golden.PART_NAME)
    newer = [b"m" * 16, 1, 1, bytes(32), [], [], [[1, 1, 1, [[20, [b"e" * 16]]]]]]
    with pytest.raises(NewerFormat):
        segment.decode(bytes(64) + msgspec.msgpack.encode(newer), golden.SEGMENT_NAME)


def test_the_namespace_key_comes_from_any_blob() -> None:
    found = envelope.secret_of(golden.VAULT_KEYS, NAMESPACE, blob("segment-v1.bin"), golden.SEGMENT_NAME)
    assert found == SECRET


KINDS = {
    "segment-v1.bin": (Kind.SEGMENT, golden.SEGMENT_NAME),
    "segment-v1-author.bin": (Kind.SEGMENT, golden.AUTHORED_NAME),
    "checkpoint-part-v2.bin": (Kind.CHECKPOINT_PART, golden.PART_NAME),
    "checkpoint-part-v1.bin": (Kind.CHECKPOINT_PART, golden.PART_NAME),
}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_variants(name: str) -> None:
    whole, (kind, label) = blob(name), KINDS[name]
    for place in [*range(700), *range(700, len(whole), 257), len(whole) - 1]:
        # A length that was changed lets any byte look like a version; whoever unwraps has compared the blob's hash before.
        with pytest.raises((DamageError, NewerFormat)):
            unwrap(kind, label, whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(DamageError):
            unwrap(kind, label, whole[:place])
    with pytest.raises(DamageError):
        unwrap(kind, label, whole + b"\0")
    with pytest.raises(DamageError):
        unwrap(kind, BlobName(b"another name ..."), whole)
    other = Kind.SEGMENT if kind is Kind.CHECKPOINT_PART else Kind.CHECKPOINT_PART
    with pytest.raises(DamageError):
        unwrap(other, label, whole)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\x93", b"\xc1" * 100, b"\x93\x01\x90", msgspec.msgpack.encode((0, [], None)), b"\x91" * 5000]
    + [msgspec.msgpack.encode((1, [(table, 0, rows)], None)) for table, rows in (("secrets", []), ("fields", [(1,)]))],
)
def test_malformed_contents(content: bytes) -> None:
    with pytest.raises(DamageError):
        checkpoint_format.decode(content, golden.PART_NAME)
    with pytest.raises(DamageError):
        segment.decode(bytes(64) + content, golden.SEGMENT_NAME)


@pytest.mark.parametrize("size", [0, 1, 100, 70_000, 300_000])
@pytest.mark.parametrize("dense", [True, False])
def test_sizes_are_padded(size: int, dense: bool) -> None:
    content = SystemEntropy().bytes(size) if dense else bytes(size)
    box = bytes(541)
    wrapped = envelope.wrap(
        golden.VAULT_KEYS, golden.KEYS, box, Kind.SEGMENT, golden.SEGMENT_NAME, content, SystemEntropy()
    )
    assert len(wrapped) == padme(len(wrapped)) >= 65536
    assert unwrap(Kind.SEGMENT, golden.SEGMENT_NAME, wrapped) == content


# ---- by the pages ----------------------------------------------------------------------------------------------------


def open_envelope(data: bytes, kind: int, name: bytes) -> bytes:
    """Open a blob with nothing but what docs/formats/segment.md says."""
    version, epoch, length = struct.unpack_from(">BII", data)
    assert (version, epoch) == (1, 2)
    preamble = data[: 9 + length]
    key = hkdf(SECRET.epochs[epoch], b"tgdav v1 epoch log", NAMESPACE)
    plain = open_by_the_page(key, data[9 + length :], binding(kind, NAMESPACE, name) + preamble)
    codec, size, stored = struct.unpack_from(">BQQ", plain)
    assert not any(plain[17 + stored :])
    body = plain[17 : 17 + stored]
    return lz4.block.decompress(body, uncompressed_size=size) if codec == 1 else body


def test_the_segment_page_is_right() -> None:
    content = open_envelope(blob("segment-v1.bin"), 6, golden.SEGMENT_NAME)
    signed = b"tgdav segment 1" + golden.SEGMENT_NAME + content[64:]
    Ed25519PublicKey.from_public_bytes(IDENTITY.signing_public).verify(content[:64], signed)
    machine, incarnation, number, previous, clock, packs, groups = msgspec.msgpack.decode(content[64:])
    assert (machine, incarnation, number) == (IDENTITY.machine, 0x0123456789ABCDEF, 2)
    assert previous == bytes(range(32, 64))
    assert clock == [[IDENTITY.machine, 0x0123456789ABCDEF, 9]]
    name, size, hash_, epoch, entries = packs[0]
    assert (name, size, hash_, epoch) == (b"golden pack name", 65536, bytes(range(64, 96)), 2)
    assert entries == [[bytes(range(32)), 0, 129, 100, 0, 2]]
    assert [group[0] for group in groups] == [3, 5]
    assert [op[0] for group in groups for op in group[3]] == [17, 16, 1, 2, 3, 4, 5]


def test_the_segment_page_is_right_about_all_fields() -> None:
    content = open_envelope(blob("segment-v1-author.bin"), 6, golden.AUTHORED_NAME)
    *_, clock, _, groups, author = msgspec.msgpack.decode(content[64:])
    assert clock[0] == [IDENTITY.machine, 0x0123456789ABCDEF, 9, 0, b""]
    assert clock[1] == [b"m" * 16, 7, 30, 3, bytes(range(96, 128))]
    assert len(groups) == 1
    assert author[:6] == [16, IDENTITY.machine, "golden", IDENTITY.signing_public, 0x0123456789ABCDEF, 2]


def test_the_checkpoint_page_is_right() -> None:
    content = open_envelope(blob("checkpoint-part-v1.bin"), 7, golden.PART_NAME)
    version, batches, root = msgspec.msgpack.decode(content)
    assert version == 1
    assert [batch[:2] for batch in batches] == [["machines", 0], ["fields", 3]]
    assert batches[1][2] == [[7, b"x:user.note", b"value", 12], [8, b"p:{DAV:}a", b"", 13]]
    position, number, base, parts, settings, created = root
    assert (position, number, created) == (12, 2, 1_700_000_000_000_000_000)
    assert (base[0], parts[0][0]) == (b"golden base root", b"golden first prt")
    assert list(settings) == ["namespace"]


def test_the_overlay_page_is_right() -> None:
    data = blob("overlay-v1.bin")
    key = blake3(
        golden.OVERLAY_NODE + golden.OVERLAY_SALT, key=derive(IDENTITY.root, Purpose.MACHINE_OVERLAY, IDENTITY.machine)
    ).digest()
    records, offset = [], 0
    while offset < len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        sealed = data[offset + 4 : offset + 4 + length]
        associated = b"tgdav overlay 1" + golden.OVERLAY_NODE + struct.pack("<Q", len(records))
        records.append(AESGCM(key).decrypt(sealed[1:13], sealed[13:], associated))
        offset += 4 + length
    assert [record[0] for record in records] == [1, 2, 1, 3, 1]
    assert struct.unpack_from("<Q", records[0], 1) == (10,)
    assert records[0][9:] == b"written at ten"
    assert [struct.unpack_from("<Q", record, 1)[0] for record in records[1:]] == [60, 200, 210, 0]


# ---- overlay ---------------------------------------------------------------------------------------------------------


def replayed(path: Path, data: bytes) -> tuple[int, bytes]:
    """Return the size, and what the overlay shows over a base of hashes."""
    path.write_bytes(data)
    opened = golden.overlay(path, fresh=False)
    opened.replay()
    shown = bytearray(b"#" * opened.floor + bytes(max(opened.size - opened.floor, 0)))[: opened.size]
    for piece in opened.map.within(0, opened.size):
        shown[piece.start : piece.end] = opened.read(piece)
    opened.close(remove=False)
    return opened.size, bytes(shown)


AFTER_FSYNC = b"#" * 10 + b"written at ten" + b"#" * 36 + bytes(140) + b"far behind"


def test_overlay(tmp_path: Path) -> None:
    path = tmp_path / "overlay"
    assert replayed(path, blob("overlay-v1.bin")) == (210, AFTER_FSYNC)
    assert path.stat().st_size < len(blob("overlay-v1.bin")), "what no mark covers is cut off"


def test_damaged_overlays(tmp_path: Path) -> None:
    whole = blob("overlay-v1.bin")
    shutil.copy(FOLDER / "overlay-v1.bin", tmp_path / "same")
    covered = (tmp_path / "same").stat().st_size - (4 + 29 + 9 + len(b"never made durable"))
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        size, shown = replayed(tmp_path / "overlay", changed)
        if place < covered:
            assert (size, shown) == (100, b"#" * 100), "a mark whose past does not open counts for nothing"
        else:
            assert (size, shown) == (210, AFTER_FSYNC)
        assert replayed(tmp_path / "overlay", whole[:place])[0] == (210 if place >= covered else 100)
