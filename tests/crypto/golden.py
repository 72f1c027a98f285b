"""The secrets behind the golden files, and their maker: ``python -m tests.crypto.golden`` writes those that are missing.

A golden file is never changed. A new version of a format gets a new file, and the old one must go on being read.
"""

import json
from pathlib import Path

from tgdav.crypto.chunk_seal import CODEC_RAW, ChunkBinding, seal_chunk
from tgdav.crypto.header import encode, make_header, make_header_label
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys, wrap_namespace
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.crypto.machine import MachineIdentity, seal_machine
from tgdav.crypto.passphrase import Argon2Parameters, Passphrase
from tgdav.crypto.recovery_key import RecoveryKey, format_recovery_key
from tgdav.crypto.sealing import Kind, associated_data, seal
from tgdav.ids import BlobName, Incarnation, MachineId, NamespaceId, NodeId, VaultId

from .seeded import SeededEntropy

FOLDER = Path(__file__).parent.parent / "golden"

VAULT = VaultId(b"golden vault id.")
MASTER = bytes(range(32))
PASSPHRASE = Passphrase("caf\u00e9 correct horse")
PARAMETERS = Argon2Parameters(memory_kib=1024, iterations=2, parallelism=2)
RECOVERY = RecoveryKey(bytes(range(100, 132)))
NAMESPACE = NamespaceId(b"golden namespace")
SECRET = NamespaceSecret(NAMESPACE, bytes(range(32, 64)), {1: bytes(range(64, 96)), 2: bytes(range(96, 128))})
IDENTITY = MachineIdentity(MachineId(bytes.fromhex("00112233445546778899aabbccddeeff")), bytes(range(128, 160)))
BLOB = BlobName(b"golden blob name")
LABEL = Label(
    kind=BlobKind.CHECKPOINT,
    namespace=NAMESPACE,
    machine=IDENTITY.machine,
    incarnation=Incarnation(0x0123456789ABCDEF),
    number=42,
    part=1,
    parts=3,
    format_version=1,
    body_hash=bytes(range(160, 192)),
    size=131072,
)
CHUNK_DATA = b"golden chunk " * 100
SEALED_KEY = bytes(range(192, 224))
SEALED_BINDING = associated_data(VAULT, NAMESPACE, Kind.PACK_INDEX, BLOB, 1)
SEALED_PLAINTEXT = b"golden plaintext"


def derived() -> dict[str, str]:
    """Return one value of each derivation, in hex."""
    keys, vault = NamespaceKeys(NAMESPACE, SECRET), VaultKeys(MASTER, VAULT)
    chunk, parent = keys.chunk_id(CHUNK_DATA), NodeId(b"golden parent id")
    values = {
        "vault header mac key": vault.header_mac_key,
        "chunk id": chunk,
        "chunk key, epoch 1": keys.chunk_key(chunk, 1),
        "chunk key, epoch 2": keys.chunk_key(chunk, 2),
        "pack index key, epoch 1": keys.pack_index_key(1),
        "log key, epoch 2": keys.log_key(2),
        "chunker seed": keys.chunker_seed.to_bytes(8, "big"),
        "content tag": keys.content_tag(b"manifest"),
        "directory node id": keys.directory_id(parent, b"name"),
        "directory entry id": keys.directory_entry_id(parent, b"name"),
        "machine database key": IDENTITY.database_key,
        "machine staging key": IDENTITY.staging_key,
        "machine cache key": IDENTITY.cache_key,
        "machine overlay key": IDENTITY.overlay_key(parent, b"salt of 16 bytes"),
        "machine ed25519 public key": IDENTITY.signing_public,
        "machine x25519 public key": IDENTITY.exchange_public,
        "associated data": SEALED_BINDING,
        "associated data without namespace": associated_data(VAULT, None, Kind.LABEL, b"", 1),
    }
    return {name: value.hex() for name, value in values.items()}


def contents() -> dict[str, bytes]:
    """Return every golden file of this room as it is made today."""
    vault, keys = VaultKeys(MASTER, VAULT), NamespaceKeys(NAMESPACE, SECRET)
    header = make_header(VAULT, MASTER, PASSPHRASE, RECOVERY, SeededEntropy(101), PARAMETERS)
    binding = ChunkBinding(keys.chunk_id(CHUNK_DATA), 2, CODEC_RAW, len(CHUNK_DATA))
    chunk = seal_chunk(keys, VAULT, binding, CHUNK_DATA, SeededEntropy(102))
    return {
        "header-v1.bin": encode(header),
        "header-label-v1.txt": make_header_label(SeededEntropy(103)).encode() + b"\n",
        "label-v1.txt": encode_label(LABEL, vault, BLOB, SeededEntropy(104)).encode() + b"\n",
        "sealed-v1.bin": seal(SEALED_KEY, SEALED_PLAINTEXT, SEALED_BINDING, SeededEntropy(105)),
        "chunk-v1.bin": bytes(chunk),
        "key-box-v1.bin": wrap_namespace(vault, SECRET, SeededEntropy(106)),
        "machine-v1.bin": seal_machine(IDENTITY, vault, SeededEntropy(107)),
        "recovery-key-v1.txt": format_recovery_key(RECOVERY).encode() + b"\n",
        "derived-keys-v1.json": json.dumps(derived(), indent=1).encode() + b"\n",
    }


def write_missing() -> None:
    """Write the golden files that are not there yet."""
    for name, content in contents().items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    write_missing()
