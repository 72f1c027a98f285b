"""The content of a checkpoint's parts, and the differences from an earlier one. Pure.

A part's content (wrapped by ``tgdav.replication.format.envelope``) is a msgpack array: a ``Part``. Parts carry batches of rows;
the last, sent last, is the root too: it names position, counters, and each other part's blob name and hash.

A full checkpoint contains every table's rows in key order, cut into batches that are numbered from 0. One that is based on it
contains each batch whose rows changed, complete, under the batch's number, and rows after the base's last key in further
batches. So it does not matter how a row was added, changed or deleted. Byte by byte:
``docs/formats/checkpoint.md``.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import msgspec
from blake3 import blake3

from tgdav.crdt.membership import ClockEntry
from tgdav.db.deferred import LARGEST
from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import BlobName
from tgdav.replication.format.checkpoint_tables import TABLES, Key, Row, Table

VERSION = 2
"""Version 1 is read too: ``tgdav.replication.format.checkpoint_tables`` completes its rows."""
BATCH_ROWS = 64
"""A changed row costs the whole batch in the next checkpoint; a batch costs 16 bytes and a key in the outline."""
MIN_LOG_BYTES = 16 * 1024 * 1024
MAX_AGE_SECONDS = 24 * 3600
_HASH_BYTES = 16
"""Of BLAKE3: the hashes only find changes, the parts themselves are authenticated."""


class Batch(msgspec.Struct, array_like=True, frozen=True):
    """Rows of one table, in the order of its ``columns``. ``number`` counts from 0 in the table."""

    table: str
    number: int
    rows: list[Row]


class PartName(msgspec.Struct, array_like=True, frozen=True):
    """Blob name and BLAKE3 hash of a part."""

    name: bytes
    hash: bytes


class Root(msgspec.Struct, array_like=True, frozen=True):
    """What ties the parts together.

    ``position`` is the log position that they show the state of, ``segment`` the author's last segment that they
    include; ``base`` the root part of the full checkpoint that this one is based on; ``parts`` are those before the root;
    ``settings`` the counters that travel with the state; ``created`` in ns. ``clock`` has the last operation of each chain that
    the state includes. ``heads`` is reserved; it is empty.
    """

    position: int
    segment: int
    base: PartName | None
    parts: list[PartName]
    settings: dict[str, bytes]
    created: int
    clock: tuple[ClockEntry, ...] = ()
    heads: bytes = b""


class Part(msgspec.Struct, array_like=True, frozen=True):
    """The content of one part; only the last one has a ``root``."""

    version: int
    batches: list[Batch]
    root: Root | None = None


class TableOutline(msgspec.Struct, array_like=True):
    """The first key and a hash of each batch of a table, and its last key."""

    firsts: list[Key] = []
    hashes: list[bytes] = []
    last: Key = ()

    def add(self, firsts: Key, last: Key, hash_: bytes) -> None:
        """Add the next batch."""
        self.firsts.append(firsts)
        self.hashes.append(hash_)
        self.last = last


class Outline(msgspec.Struct, array_like=True):
    """What must be known of a full checkpoint to base another on it. ``size`` is that of its batches as encoded, in bytes."""

    number: int
    root: PartName
    size: int = 0
    tables: dict[str, TableOutline] = {}

    def add(self, batch: Batch, encoded: bytes) -> None:
        """Add the next batch of the full checkpoint."""
        key_of = TABLES[batch.table].key_of
        outline = self.tables.setdefault(batch.table, TableOutline())
        outline.add(key_of(batch.rows[0]), key_of(batch.rows[-1]), hash_of(encoded))
        self.size += len(encoded)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Part)
_outline_decoder = msgspec.msgpack.Decoder(Outline)


def encode_batch(batch: Batch) -> bytes:
    """Return a batch as it is encoded in a part."""
    return _encoder.encode(batch)


def hash_of(encoded: bytes) -> bytes:
    """Return the hash that identifies a batch's content."""
    return blake3(encoded).digest(_HASH_BYTES)


def encode_part(batches: list[bytes], root: Root | None = None) -> bytes:
    """Return the content of a part, from batches that are encoded already."""
    return _encoder.encode((VERSION, [msgspec.Raw(batch) for batch in batches], root))


def decode(content: bytes, name: BlobName) -> Part:
    """Return a part. Raises DamageError, NewerFormat."""
    try:
        part = _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamageError(f"checkpoint part {name.hex()} cannot be read", blob=name.hex()) from error
    if part.version > VERSION:
        raise NewerFormat(f"checkpoint part {name.hex()}", part.version)
    batches = [_completed(batch, part.version) for batch in part.batches]
    if part.version < 1 or None in batches:
        raise DamageError(f"checkpoint part {name.hex()} has impossible rows", blob=name.hex())
    return Part(part.version, [batch for batch in batches if batch is not None], part.root)


def _completed(batch: Batch, version: int) -> Batch | None:
    """Return a batch with the columns of this version; None if it has an unknown table or an impossible row."""
    table = TABLES.get(batch.table)
    if table is None or version < table.since_version:
        return None
    rows = [table.row_of(row, version) for row in batch.rows]
    if not all(row is not None and _is_storable(row) for row in rows):
        return None
    return Batch(batch.table, batch.number, [row for row in rows if row is not None])


def _is_storable(row: Row) -> bool:
    """Whether a row has no integer that the database cannot store."""
    return all(type(value) is not int or value <= LARGEST for value in row)


def encode_outline(outline: Outline) -> bytes:
    """Return an outline as bytes."""
    return _encoder.encode(outline)


def decode_outline(encoded: bytes) -> Outline:
    """Return the outline that ``encode_outline`` encoded."""
    return _outline_decoder.decode(encoded)


def is_due(*, log_bytes: int, last_bytes: int, age_seconds: float, changed: bool) -> bool:
    """Return whether a checkpoint should be written now. Pure.

    It should if something changed and the log since the last one is larger than that one (and at least 16 MiB), or is a day
    old.
    """
    if not changed:
        return False
    return log_bytes >= max(MIN_LOG_BYTES, last_bytes) or age_seconds >= MAX_AGE_SECONDS


def full(table: Table, rows: Iterator[Row]) -> Iterator[Batch]:
    """Cut all rows of a table into batches."""
    return _numbered(table, rows, 0)


def _numbered(table: Table, rows: Iterator[Row], number: int) -> Iterator[Batch]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield Batch(table.name, number, batch)
        number += 1


def changed(table: Table, rows: Iterator[Row], outline: TableOutline) -> Iterator[bytes]:
    """Yield the batches, encoded, whose rows differ from those of ``outline``."""
    rest: list[Row] = []
    for number, there in enumerate(_by_outline(table, rows, outline, rest)):
        batch = Batch(table.name, number, there)
        encoded = encode_batch(batch)
        if hash_of(encoded) != outline.hashes[number]:
            yield encoded
    for batch in _numbered(table, chain(rest, rows), len(outline.firsts)):
        yield encode_batch(batch)


def _by_outline(table: Table, rows: Iterator[Row], outline: TableOutline, rest: list[Row]) -> Iterator[list[Row]]:
    """Yield the rows that belong to each batch now; the first row after the last batch is appended to ``rest``."""
    firsts, last = outline.firsts, outline.last
    current, gathered = 0, list[Row]()
    for row in rows:
        key = table.key_of(row)
        if key > last:
            rest.append(row)
            break
        while current + 1 < len(firsts) and key >= firsts[current + 1]:
            yield gathered
            current, gathered = current + 1, []
        gathered.append(row)
    for _ in range(current, len(firsts)):
        yield gathered
        gathered = []


def merged(base: Iterable[Batch], replaced: dict[tuple[str, int], list[Any]]) -> Iterator[Batch]:
    """Yield a base's batches, or what replaced them, which is removed from ``replaced``; what remains in it is new."""
    for batch in base:
        yield Batch(batch.table, batch.number, replaced.pop((batch.table, batch.number), batch.rows))
