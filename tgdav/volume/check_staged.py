"""The part of ``check`` that looks at content which only this machine has: staged packs and rows."""

from collections.abc import Iterator
from typing import Any

from tgdav.content.store import ContentStore
from tgdav.crypto.chunk_seal import ChunkBinding
from tgdav.errors import DamageError, LocalFailure

_SCATTERED = "SELECT c.id, c.epoch, c.codec, c.length, c.data FROM chunks c WHERE c.data IS NOT NULL"
_IN_PACKS = """SELECT c.id, c.epoch, c.codec, c.length, c.offset, c.stored, p.name, p.file
FROM chunks c JOIN packs p ON p.no = c.pack WHERE p.state < 3 AND p.blob IS NULL ORDER BY p.no, c.offset"""
_GIVEN_UP = """SELECT p.name FROM packs p WHERE p.state < 3 AND p.damaged = 1
AND EXISTS (SELECT 1 FROM chunks c WHERE c.pack = p.no)"""
_UNSENT = "SELECT 1 FROM packs WHERE name = ? AND blob IS NULL"
LOST = "content that never reached the store is damaged on this machine; store the files anew"


def given_up(connection: Any) -> list[str]:
    """Return the staged packs (names in hex) in which chunks were found bad when they were to be closed."""
    return [name.hex() for (name,) in connection.all(_GIVEN_UP)]


def damaged_staging(content: ContentStore) -> Iterator[tuple[str, str]]:
    """Open every staged chunk; yield (pack's name in hex or ``database``, reason) for each that fails."""
    with content.database.reading() as connection:
        for chunk, epoch, codec, length, data in connection.execute(_SCATTERED):
            yield from _opened(content, (chunk, epoch, codec, length), data, "database")
        for *known, offset, stored, name, file in connection.execute(_IN_PACKS):
            yield from _in_file(content, known, offset, stored, name.hex(), file)


def _in_file(
    content: ContentStore, known: list[Any], offset: int, stored: int, name: str, file: str | None
) -> Iterator[tuple[str, str]]:
    try:
        data = None if file is None else content.staging.read(file, offset, stored)
    except LocalFailure as error:
        yield name, error.message
        return
    if data is not None:
        yield from _opened(content, known, data, name)
    elif _is_staged(content, name):
        yield name, "a staged pack is gone"


def _is_staged(content: ContentStore, name: str) -> bool:
    """Tell whether a pack whose file is gone was not simply stored meanwhile."""
    with content.database.reading() as connection:
        return connection.one(_UNSENT, (bytes.fromhex(name),)) is not None


def _opened(content: ContentStore, known: Any, data: bytes, what: str) -> Iterator[tuple[str, str]]:
    chunk, epoch, codec, length = known
    try:
        content.sealer.open(ChunkBinding(chunk, epoch, codec, length), data, what)
    except DamageError as error:
        yield what, error.message
