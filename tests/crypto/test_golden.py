"""Bytes written long ago are read for ever, and the pages under docs/formats describe them byte by byte."""

import base64
import hashlib
import hmac
import json
import struct

import pytest
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tgdav.crypto.chunk_seal import CODEC_RAW, ChunkBinding, open_chunk
from tgdav.crypto.header import decode, encode, recognise, unlock
from tgdav.crypto.keys import NamespaceKeys, VaultKeys, unwrap_namespace
from tgdav.crypto.label import decode_label
from tgdav.crypto.machine import open_machine
from tgdav.crypto.recovery_key import parse_recovery_key
from tgdav.crypto.sealing import open_sealed
from tgdav.errors import AccessError, DamageError

from . import golden

VAULT_KEYS = VaultKeys(golden.MASTER, golden.VAULT)
KEYS = NamespaceKeys(golden.NAMESPACE, golden.SECRET)


def read(name: str) -> bytes:
    return (golden.FOLDER / name).read_bytes()


def text(name: str) -> str:
    return read(name).decode().rstrip("\n")


def open_golden_chunk(sealed: bytes) -> bytes:
    size = len(golden.CHUNK_DATA)
    chunk = KEYS.chunk_id(golden.CHUNK_DATA)
    return open_chunk(KEYS, golden.VAULT, ChunkBinding(chunk, 2, CODEC_RAW, size), sealed, "golden")


OPENERS = {
    "header-v1.bin": decode,
    "sealed-v1.bin": lambda sealed: open_sealed(golden.SEALED_KEY, sealed, golden.SEALED_BINDING, "golden"),
    "chunk-v1.bin": open_golden_chunk,
    "key-box-v1.bin": lambda box: unwrap_namespace(VAULT_KEYS, golden.NAMESPACE, box),
    "machine-v1.bin": lambda sealed: open_machine(sealed, VAULT_KEYS),
}


def test_header():
    header = decode(read("header-v1.bin"))
    assert header.vault == golden.VAULT
    assert [slot.generation for slot in header.slots] == [1, 1]
    assert header.slots[0].parameters == golden.PARAMETERS
    assert unlock(header, golden.PASSPHRASE) == unlock(header, golden.RECOVERY) == golden.MASTER
    assert encode(header) == read("header-v1.bin")


def test_labels():
    assert decode_label(text("label-v1.txt"), VAULT_KEYS, golden.BLOB) == golden.LABEL
    assert recognise(text("header-label-v1.txt"))
    assert not recognise(text("label-v1.txt"))


def test_sealed_things():
    assert OPENERS["sealed-v1.bin"](read("sealed-v1.bin")) == golden.SEALED_PLAINTEXT
    assert OPENERS["chunk-v1.bin"](read("chunk-v1.bin")) == golden.CHUNK_DATA
    assert OPENERS["key-box-v1.bin"](read("key-box-v1.bin")) == golden.SECRET
    machine = OPENERS["machine-v1.bin"](read("machine-v1.bin"))
    assert (machine.machine, machine.root) == (golden.IDENTITY.machine, golden.IDENTITY.root)


def test_recovery_key():
    assert parse_recovery_key(text("recovery-key-v1.txt")) == golden.RECOVERY


def test_derived_keys():
    assert golden.derived() == json.loads(read("derived-keys-v1.json"))


@pytest.mark.parametrize("name", OPENERS)
def test_damaged_variants(name: str):
    content = read(name)
    step = max(1, len(content) // 500)
    for place in range(0, len(content), step):
        with pytest.raises(DamageError):
            OPENERS[name](content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(DamageError):
            OPENERS[name](content[:place])
    with pytest.raises(DamageError):
        OPENERS[name](content + b"\0")


def test_damaged_texts():
    label, header_label, key = text("label-v1.txt"), text("header-label-v1.txt"), text("recovery-key-v1.txt")
    for place in range(len(label)):
        assert decode_label(changed(label, place), VAULT_KEYS, golden.BLOB) is None
        assert not recognise(changed(header_label, place))
    for place in range(len(key)):
        if key[place] != "-":
            with pytest.raises(AccessError):
                parse_recovery_key(changed(key, place))


def changed(original: str, place: int) -> str:
    return original[:place] + ("7" if original[place] != "7" else "8") + original[place + 1 :]


def hkdf(secret: bytes, info: bytes, salt: bytes) -> bytes:
    pseudorandom = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(pseudorandom, info + b"\x01", hashlib.sha256)


def binding(kind: int, namespace: bytes | None, name: bytes) -> bytes:
    head = b"\x00\x01" + bytes([kind]) + golden.VAULT
    place = b"\x00" + bytes(16) if namespace is None else b"\x01" + namespace
    return head + place + len(name).to_bytes(2, "big") + name


def open_by_the_page(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    assert sealed[0] == 1
    return AESGCM(key).decrypt(sealed[1:13], sealed[13:], associated)


def test_the_header_page_is_right():
    """Read the header with nothing but what docs/formats/header.md says."""
    blob = read("header-v1.bin")
    stream = blake3(blob[:32], derive_key_context="tgdav v1 header mask").digest(65504)
    clear = blob[:32] + bytes(one ^ other for one, other in zip(blob[32:], stream, strict=True))
    assert clear[65504:] == blake3(clear[:65504], derive_key_context="tgdav v1 header checksum").digest()
    assert clear[32:40] == b"tgdavhdr"
    assert struct.unpack_from(">H16sB", clear, 40) == (1, golden.VAULT, 2)
    assert not any(clear[287:65472])
    passphrase, recovery = clear[59:173], clear[173:287]
    assert struct.unpack_from(">BQ", passphrase) == (1, 1)
    memory, iterations, lanes = struct.unpack_from(">III", passphrase, 41)
    typed = "caf\u00e9 correct horse".encode()
    stretched = hash_secret_raw(typed, passphrase[9:41], iterations, memory, lanes, 32, Type.ID)
    assert open_by_the_page(stretched, passphrase[53:], binding(1, None, passphrase[:53])) == golden.MASTER
    wrapping = hkdf(golden.RECOVERY.key, b"tgdav v1 recovery slot", recovery[9:41])
    assert open_by_the_page(wrapping, recovery[53:], binding(1, None, recovery[:53])) == golden.MASTER
    mac_key = hkdf(golden.MASTER, b"tgdav v1 vault header mac", golden.VAULT)
    assert clear[65472:65504] == blake3(clear[:65472], key=mac_key).digest()


def test_the_label_page_is_right():
    """Read both labels with nothing but what docs/formats/label.md says."""
    sealed = base64.urlsafe_b64decode(text("label-v1.txt"))
    key = hkdf(golden.MASTER, b"tgdav v1 vault label", golden.VAULT)
    plain = open_by_the_page(key, sealed, binding(2, None, golden.BLOB))
    assert plain[:4] == bytes([3, 1, 0, 0])
    assert plain[4:36] == golden.NAMESPACE + golden.IDENTITY.machine
    assert struct.unpack_from(">QQII", plain, 36) == (0x0123456789ABCDEF, 42, 1, 3)
    assert plain[60:92] == golden.LABEL.body_hash
    assert struct.unpack_from(">Q", plain, 92) == (131072,)
    header = base64.urlsafe_b64decode(text("header-label-v1.txt"))
    rest = blake3(header[1:17], derive_key_context="tgdav v1 header label").digest(112)
    assert header == b"\x01" + header[1:17] + rest


def test_the_keys_page_is_right():
    """Open key box, machine identity and chunk with nothing but what docs/formats/keys.md says."""
    wrap = hkdf(golden.MASTER, b"tgdav v1 vault namespace wrap", golden.VAULT)
    box = open_by_the_page(wrap, read("key-box-v1.bin"), binding(8, golden.NAMESPACE, b""))
    lasting, count = box[16:48], int.from_bytes(box[48:50], "big")
    assert (box[:16], count, len(box)) == (golden.NAMESPACE, 2, 512)
    epochs = dict(struct.iter_unpack(">I32s", box[50 : 50 + count * 36]))
    assert not any(box[122:])
    chunk = blake3(golden.CHUNK_DATA, key=hkdf(lasting, b"tgdav v1 namespace chunk id", golden.NAMESPACE)).digest()
    root = hkdf(epochs[2], b"tgdav v1 epoch chunk root", golden.NAMESPACE)
    name = chunk + struct.pack(">IBI", 2, 0, 1300)
    opened = open_by_the_page(
        blake3(chunk, key=root).digest(), read("chunk-v1.bin"), binding(5, golden.NAMESPACE, name)
    )
    assert opened == golden.CHUNK_DATA
    machine_wrap = hkdf(golden.MASTER, b"tgdav v1 vault machine wrap", golden.VAULT)
    identity = open_by_the_page(machine_wrap, read("machine-v1.bin"), binding(9, None, b""))
    assert identity == golden.IDENTITY.machine + golden.IDENTITY.root
