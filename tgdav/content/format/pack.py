"""The pack format, version 1. Pure: bytes in, bytes out (``docs/formats/pack.md`` has it byte by byte).

::

    sealed chunks, unreferenced bytes between │ sealed index, its plaintext padded with zeros │ sealed trailer
    0                                          data_end                                        size - TRAILER_BYTES

Every byte and the length are authenticated: the trailer contains the size and the hash of everything before it. The pack has
a Padmé size, at least 64 KiB, so that sizes in the store reveal almost nothing.
"""

import struct
from collections.abc import Callable, Iterator, Sequence

import msgspec
from blake3 import blake3

from tgdav.content.format.chunk import MAX_CHUNK, IndexEntry
from tgdav.content.format.sealer import ChunkSealer
from tgdav.crypto.chunk_seal import CODEC_LZ4_BLOCK, CODEC_RAW, ScratchBuffer
from tgdav.crypto.keys import NamespaceKeys
from tgdav.crypto.sealing import OVERHEAD, Data, Kind, associated_data, open_sealed, seal
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import BlobName, VaultId

PACK_VERSION = 1
MIN_PACK = 64 * 1024
HASH_BYTES = 32
_STEP = 4 * 1024 * 1024

_INDEX_HEAD = struct.Struct(">HI")  # version, number of records
_RECORD = struct.Struct(">32sQIIBI")  # chunk id, offset, sealed length, length, codec, epoch
_TRAILER = struct.Struct(">HQQQ32s")  # version, data_end, index length, size, BLAKE3-256
TRAILER_BYTES = OVERHEAD + _TRAILER.size

_ALL_RECORDS = _INDEX_HEAD.size + OVERHEAD + TRAILER_BYTES


class PackSizes(msgspec.Struct, frozen=True):
    """The layout of a pack, bytes: chunks in [0, data_end), then the index, then the trailer."""

    data_end: int
    index_length: int
    size: int

    @property
    def padded_plaintext(self) -> int:
        """Length of the index's plaintext, including padding."""
        return self.index_length - OVERHEAD


class Trailer(msgspec.Struct, frozen=True):
    """The content of a trailer: the sizes, and BLAKE3-256 of every byte before the trailer."""

    sizes: PackSizes
    digest: bytes


class PackSeal(msgspec.Struct, frozen=True):
    """The keys that seal a pack's index and trailer, and what the seals are bound to."""

    keys: NamespaceKeys
    vault: VaultId
    name: BlobName
    epoch: int

    def seal(self, kind: Kind, plaintext: Data, entropy: Entropy) -> bytes:
        """Return ``plaintext`` sealed as this pack's ``kind``."""
        return seal(self.keys.pack_index_key(self.epoch), plaintext, self._binding(kind), entropy)

    def open(self, kind: Kind, sealed: Data) -> bytes:
        """Return the plaintext; raises ``DamageError`` that names the pack."""
        return open_sealed(self.keys.pack_index_key(self.epoch), sealed, self._binding(kind), self.name.hex())

    def damage(self, reason: str) -> DamageError:
        """Return the error for this pack."""
        return DamageError(f"pack {self.name.hex()} {reason}", blob=self.name.hex())

    def of_version(self, version: int, reason: str) -> DamageError | NewerFormat:
        """Return the error for an authentic part of this pack that has another version."""
        return NewerFormat(f"pack {self.name.hex()}", version) if version > PACK_VERSION else self.damage(reason)

    def _binding(self, kind: Kind) -> bytes:
        return associated_data(self.vault, self.keys.namespace, kind, self.name, PACK_VERSION)


def padme(length: int) -> int:
    """Return the smallest Padmé size of at least ``length`` bytes and 64 KiB; it adds 12 % at most.

    Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019.
    """
    length = max(length, MIN_PACK)
    low_bits = _low_bits(length)
    return (length + low_bits) & ~low_bits


def largest_padded(limit: int) -> int:
    """Return the largest Padmé size that is at most ``limit`` bytes (``limit`` at least 64 KiB)."""
    if limit < MIN_PACK:
        raise ValueError(f"a pack has at least {MIN_PACK} bytes")
    return limit & ~_low_bits(limit)


def _low_bits(length: int) -> int:
    # E = floor(log2(length)), S = floor(log2(E)) + 1: the last E - S bits of a Padmé size are zero.
    exponent = length.bit_length() - 1
    return (1 << (exponent - exponent.bit_length())) - 1


def plan(data_end: int, entries: int) -> PackSizes:
    """Return the layout of a pack with ``data_end`` bytes before the index and ``entries`` entries in it."""
    # The padding becomes part of the index's plaintext, so that it is authenticated, too.
    size = padme(data_end + _ALL_RECORDS + entries * _RECORD.size)
    return PackSizes(data_end, size - TRAILER_BYTES - data_end, size)


def encode_index(entries: Sequence[IndexEntry], sizes: PackSizes) -> bytes:
    """Return the index's plaintext: header, records in the given order (by offset), zeros."""
    records = b"".join(_RECORD.pack(e.id, e.offset, e.stored, e.length, e.codec, e.epoch) for e in entries)
    plaintext = _INDEX_HEAD.pack(PACK_VERSION, len(entries)) + records
    return plaintext.ljust(sizes.padded_plaintext, b"\0")


def seal_index(seal: PackSeal, entries: Sequence[IndexEntry], sizes: PackSizes, entropy: Entropy) -> bytes:
    """Return the sealed index, ``sizes.index_length`` bytes."""
    return seal.seal(Kind.PACK_INDEX, encode_index(entries, sizes), entropy)


def seal_trailer(seal: PackSeal, sizes: PackSizes, digest: bytes, entropy: Entropy) -> bytes:
    """Return the sealed trailer; ``digest`` is BLAKE3-256 of every byte before it."""
    plaintext = _TRAILER.pack(PACK_VERSION, sizes.data_end, sizes.index_length, sizes.size, digest)
    return seal.seal(Kind.PACK_TRAILER, plaintext, entropy)


def read_trailer(seal: PackSeal, tail: Data, size: int) -> Trailer:
    """Return a trailer's content. ``tail`` is the end of a pack (``TRAILER_BYTES`` or more), ``size`` the pack's length.

    Raises ``DamageError`` unless it is this pack's trailer and ``size`` is right.
    """
    plaintext = seal.open(Kind.PACK_TRAILER, memoryview(tail)[-TRAILER_BYTES:])
    if len(plaintext) != _TRAILER.size:
        raise seal.damage("has a trailer of another version")
    version, data_end, index_length, recorded_size, digest = _TRAILER.unpack(plaintext)
    if version != PACK_VERSION:
        raise seal.of_version(version, "has a trailer of another version")
    if recorded_size != size:
        raise seal.damage(f"has {size} bytes, not {recorded_size}")
    if data_end + index_length + TRAILER_BYTES != size or index_length < OVERHEAD:
        raise seal.damage("has a trailer that contradicts itself")
    return Trailer(PackSizes(data_end, index_length, size), digest)


def open_index(seal: PackSeal, sealed: Data, sizes: PackSizes) -> list[IndexEntry]:
    """Return the entries of a sealed index, by offset; raises ``DamageError``."""
    return parse_index(seal, seal.open(Kind.PACK_INDEX, sealed), sizes.data_end)


def parse_index(seal: PackSeal, plaintext: bytes, data_end: int) -> list[IndexEntry]:
    """Return the entries of an opened index; raises ``DamageError`` unless it is consistent."""
    if len(plaintext) < _INDEX_HEAD.size:
        raise seal.damage("has an index that is cut off")
    version, count = _INDEX_HEAD.unpack_from(plaintext)
    end = _INDEX_HEAD.size + count * _RECORD.size
    if version != PACK_VERSION or end > len(plaintext):
        raise seal.of_version(version, "has an index of another version or cut off")
    if plaintext.count(0, end) != len(plaintext) - end:
        raise seal.damage("has an index with bytes after its end")
    entries = [IndexEntry(*fields) for fields in _RECORD.iter_unpack(plaintext[_INDEX_HEAD.size : end])]
    _check_entries(seal, entries, data_end)
    return entries


def _check_entries(seal: PackSeal, entries: list[IndexEntry], data_end: int) -> None:
    free = 0
    for entry in entries:
        if entry.offset < free:
            raise seal.damage("has chunks that overlap or are out of order")
        if not _lengths_fit(entry) or not entry.epoch:
            raise seal.damage("has an index entry with impossible values")
        free = entry.offset + entry.stored
    if free > data_end:
        raise seal.damage("has chunks that reach into its index")
    if len({entry.id for entry in entries}) != len(entries):
        raise seal.damage("names a chunk twice")


def _lengths_fit(entry: IndexEntry) -> bool:
    if not 0 < entry.length <= MAX_CHUNK:
        return False
    encoded = entry.stored - OVERHEAD
    if entry.codec == CODEC_RAW:
        return encoded == entry.length
    return entry.codec == CODEC_LZ4_BLOCK and 0 < encoded < entry.length


ReadInto = Callable[[int, memoryview], int]
"""(offset, view) -> how many bytes of the pack were read into the view; fewer than fit only at its end."""


class CheckedData(msgspec.Struct, frozen=True):
    """The checked chunks and index of a pack. ``hasher`` was updated with every byte of them (BLAKE3-256)."""

    entries: list[IndexEntry]
    hasher: blake3


def check_data(
    read: ReadInto, sizes: PackSizes, seal: PackSeal, sealer: ChunkSealer, buffer: ScratchBuffer
) -> CheckedData:
    """Open every chunk, compare it with its id, and check the index, in one pass.

    Unreferenced bytes are covered by the hash only. Raises ``DamageError`` that names the pack.
    """
    # The index first: it tells where the chunks are. Its hash is added last, in the order of the file.
    index = _exactly(read, seal, sizes.data_end, memoryview(bytearray(sizes.index_length)))
    entries = open_index(seal, index, sizes)
    hasher, done = blake3(), 0
    for entry in entries:
        _hash(read, seal, hasher, done, entry.offset)
        place = buffer.sealed if entry.stored <= len(buffer.sealed) else bytearray(entry.stored)
        sealed = _exactly(read, seal, entry.offset, memoryview(place)[: entry.stored])
        hasher.update(sealed)
        sealer.verify(entry.binding, sealed, seal.name.hex(), buffer)
        done = entry.offset + entry.stored
    _hash(read, seal, hasher, done, sizes.data_end)
    hasher.update(index)
    return CheckedData(entries, hasher)


def _hash(read: ReadInto, seal: PackSeal, hasher: blake3, start: int, end: int) -> None:
    for offset, length in steps(start, end):
        hasher.update(_exactly(read, seal, offset, memoryview(bytearray(length))))


def steps(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Split a range into pieces of at most 4 MiB: (offset, length)."""
    for offset in range(start, end, _STEP):
        yield offset, min(_STEP, end - offset)


def _exactly(read: ReadInto, seal: PackSeal, offset: int, view: memoryview) -> memoryview:
    if read(offset, view) != len(view):
        raise seal.damage("is cut off")
    return view
