"""The local half of ``check``: the database, the files that it names, and staged content, which only this machine has."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tgdav.check.content_check import UNKNOWN_CHUNKS
from tgdav.check.findings import Findings
from tgdav.check.naming import present_paths
from tgdav.check.structure import structural_problems
from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.content.pack_table import PackState
from tgdav.content.store import ContentStore
from tgdav.crypto.chunk_seal import ChunkBinding
from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.errors import DamageError, LocalFailure
from tgdav.metadata import queries
from tgdav.replication.pusher import Pusher


class StagedPack(msgspec.Struct, frozen=True):
    """A row of ``packs`` that is not stored yet; ``size`` once it is closed."""

    no: int
    name: bytes
    state: int
    file: str | None
    end: int
    size: int


_STAGED = """SELECT no, name, state, file, end, size FROM packs WHERE state < 3 AND no >= ?
AND EXISTS (SELECT 1 FROM chunks WHERE pack = packs.no) ORDER BY no"""
_CHUNKS_OF = "SELECT c.id FROM chunks c JOIN packs p ON p.no = c.pack WHERE lower(hex(p.name)) = ?"
_MANIFESTS = """SELECT n.ino, coalesce(m.data, n.content) FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest
WHERE n.kind = 1 AND n.size > 0
UNION ALL SELECT n.ino, coalesce(m.data, n.content) FROM nodes_past n LEFT JOIN manifests m ON m.no = n.manifest
WHERE n.kind = 1 AND n.size > 0"""
# What was missing from the log when this state was rebuilt is missing here, even if the store has it now.
_GAPS = "SELECT blob, reason FROM damage WHERE kind = 'gap'"


class LocalCheck:
    """Checks the database, staging and the outbox; adds what is wrong to ``findings``."""

    def __init__(
        self, database: Database, content: ContentStore, pusher: Pusher, findings: Findings, *, read_data: bool
    ) -> None:
        self._database, self._content, self._pusher = database, content, pusher
        self._findings, self._read_data = findings, read_data

    def run(self) -> int:
        """Check; return the number of files. Raises DamageError if the database cannot be read at all."""
        with self._database.reading() as connection:
            for (text,) in connection.all("PRAGMA integrity_check(20)"):
                if text != "ok":
                    self._findings.add("database", "database", str(text))
            self._check_structure(connection)
            files = queries.totals(connection)[0]
            for blob, reason in connection.all(_GAPS):
                self._findings.add(blob, "gap", reason)
            bad = [(name, LOST) for name in given_up(connection)]
        bad += self._missing_files()
        bad += damaged_staging(self._content) if self._read_data else ()
        self._add_named(bad)
        for name in self._pusher.damaged_files():
            self._findings.add(name, "outbox", "an unsent part of the log was changed on the local disk")
        return files

    def _check_structure(self, connection: Connection) -> None:
        """Check every invariant of the database. Contents whose chunks are unknown are a finding of their own."""
        broken = []
        paths: list[bytes] = []
        for problem in structural_problems(connection, self._content.identity.keys.content_tag):
            affected = [path for state in problem.examples for path in present_paths(connection, state.ino)]
            if problem.what == UNKNOWN_CHUNKS:
                self._findings.add("chunks", "database", problem.reason, affected)
            else:
                broken.append(problem.reason)
                paths += affected
        if broken:
            self._findings.add("database", "database", "; ".join(broken), paths)

    def _add_named(self, bad: list[tuple[str, str]]) -> None:
        """Add what is bad in staging, unless no file names it any more."""
        if not bad:
            return
        with self._database.reading() as connection:
            named = {chunk for _, manifest in _manifests(connection) for chunk in decode_manifest(manifest).chunk_ids()}
            for name, reason in bad:
                chunks = {row[0] for row in connection.all(_CHUNKS_OF, (name,))}
                if name == "database" or not named.isdisjoint(chunks):
                    self._findings.add(name, "staging", reason)

    def _missing_files(self) -> list[tuple[str, str]]:
        missing = []
        for pack in self._staged(0):
            problem = self._problem(pack)
            # The pack may have been sent, and its file removed, since the row was read.
            if problem is not None and self._staged(pack.no)[:1] == [pack]:
                missing.append((pack.name.hex(), problem))
        return missing

    def _staged(self, first: int) -> list[StagedPack]:
        with self._database.reading() as connection:
            return [StagedPack(*row) for row in connection.all(_STAGED, (first,))]

    def _problem(self, pack: StagedPack) -> str | None:
        if pack.file is None:
            return "it has no file and is not stored"
        path = self._content.staging.directory / pack.file
        try:
            size = path.stat().st_size
        except OSError:
            return "its staged file is gone"
        if pack.state == PackState.OPEN:
            return f"its staged file has {size} bytes of {pack.end}" if size < pack.end else None
        if size != pack.size:
            return f"its staged file has {size} bytes, not {pack.size}"
        return None


def _manifests(connection: Connection) -> Iterator[tuple[Any, bytes]]:
    for inode, data in connection.each(_MANIFESTS):
        if data is not None:
            yield inode, data


_SCATTERED = "SELECT c.id, c.epoch, c.codec, c.length, c.data FROM chunks c WHERE c.data IS NOT NULL"
_IN_PACKS = """SELECT c.id, c.epoch, c.codec, c.length, c.offset, c.stored, p.name, p.file
FROM chunks c JOIN packs p ON p.no = c.pack WHERE p.state < 3 AND p.blob IS NULL ORDER BY p.no, c.offset"""
_GIVEN_UP = """SELECT p.name FROM packs p WHERE p.state < 3 AND p.damaged = 1
AND EXISTS (SELECT 1 FROM chunks c WHERE c.pack = p.no)"""
_UNSENT = "SELECT 1 FROM packs WHERE name = ? AND blob IS NULL"
LOST = "content that never reached the store is damaged on this machine; store the files again"


def given_up(connection: Any) -> list[str]:
    """Return the staged packs (names in hex) that could not be finalized because of bad chunks."""
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
    """Return whether a pack whose file is gone is still staged, not stored meanwhile."""
    with content.database.reading() as connection:
        return connection.one(_UNSENT, (bytes.fromhex(name),)) is not None


def _opened(content: ContentStore, known: Any, data: bytes, what: str) -> Iterator[tuple[str, str]]:
    chunk, epoch, codec, length = known
    try:
        content.sealer.open(ChunkBinding(chunk, epoch, codec, length), data, what)
    except DamageError as error:
        yield what, error.message
