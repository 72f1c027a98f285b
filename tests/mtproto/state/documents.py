"""Documents: sent files, each held by one DC, read through references that go stale."""

import hmac
import struct
from array import array
from dataclasses import dataclass
from typing import Any

from telethon.tl import types

from tests.mtproto.errors import bad
from tests.mtproto.state.accounts import random_long
from tests.mtproto.state.database import Database
from tests.mtproto.state.spool import Spool
from tests.mtproto.state.uploads import Finished

_REFERENCE = struct.Struct("<qii")
_SECRET = b"references of the test server"


@dataclass(frozen=True)
class Document:
    """A stored file. References made in an earlier `epoch` are stale."""

    id: int
    access_hash: int
    dc: int
    size: int
    mime: str
    name: str
    date: int
    epoch: int
    part_size: int
    offsets: "array[int]"
    spool: str


class Documents:
    """All documents of the server."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool
        self._cache: dict[int, Document] = {}

    def add(self, upload: Finished, dc: int, mime: str, name: str, date: int) -> Document:
        """Makes a document of a finished upload."""
        offsets = array("q", upload.offsets)
        it = Document(
            random_long(), random_long(), dc, upload.size, mime, name, date, 0, upload.part_size, offsets, upload.spool
        )
        values = (it.id, it.access_hash, dc, it.size, mime, name, date, 0, it.part_size, offsets.tobytes(), it.spool)
        self._database.run("INSERT INTO documents VALUES (?,?,?,?,?,?,?,?,?,?,?)", *values)
        return it

    def plant(self, data: bytes, dc: int, name: str, date: int, spool: str) -> int:
        """Makes a document of bytes at hand, in a spool file that many may share; its id."""
        start = self._spool.append(spool, data)
        upload = Finished(spool, max(len(data), 1), [start], len(data))
        return self.add(upload, dc, "application/octet-stream", name, date).id

    def find(self, identity: int) -> Document | None:
        """The document, or None."""
        if identity in self._cache:
            return self._cache[identity]
        row = self._database.row("SELECT * FROM documents WHERE id=?", identity)
        if row is None:
            return None
        offsets: array[int] = array("q")
        offsets.frombytes(row["offsets"])
        if len(self._cache) > 2000:
            self._cache.clear()
        fields = {
            name: row[name]
            for name in ("id", "access_hash", "dc", "size", "mime", "name", "date", "epoch", "part_size", "spool")
        }
        self._cache[identity] = Document(offsets=offsets, **fields)
        return self._cache[identity]

    def as_media(self, identity: int, now: int) -> Any:
        """The message media that shows the document, with a fresh reference; None if it is gone."""
        it = self.find(identity)
        if it is None:
            return None
        attributes = [types.DocumentAttributeFilename(it.name)] if it.name else []
        reference = _reference(it, now)
        shown = types.Document(it.id, it.access_hash, reference, it.date, it.mime, it.size, it.dc, attributes)
        return types.MessageMediaDocument(document=shown)

    def check(self, given: Any, now: int, lifetime: float) -> Document:
        """The document that an input location or input document names; FILE_ID_INVALID, FILE_REFERENCE_*."""
        it = self.find(given.id)
        if it is None or it.access_hash != given.access_hash:
            raise bad("FILE_ID_INVALID")
        if not given.file_reference:
            raise bad("FILE_REFERENCE_EMPTY")
        if len(given.file_reference) != _REFERENCE.size + 8 or not given.file_reference.endswith(
            _mark(given.file_reference[:-8])
        ):
            raise bad("FILE_REFERENCE_INVALID")
        identity, epoch, made = _REFERENCE.unpack(given.file_reference[:-8])
        if identity != it.id:
            raise bad("FILE_REFERENCE_INVALID")
        if epoch != it.epoch or (lifetime and now - made > lifetime):
            raise bad("FILE_REFERENCE_EXPIRED")
        return it

    def age(self, identity: int | None = None) -> None:
        """Makes all references given out so far stale: of one document, or of all."""
        self._cache.clear()
        where, values = ("", ()) if identity is None else (" WHERE id=?", (identity,))
        self._database.run("UPDATE documents SET epoch=epoch+1" + where, *values)

    def read(self, it: Document, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end of the document."""
        end = min(offset + size, it.size)
        pieces = []
        while offset < end:
            part, inside = divmod(offset, it.part_size)
            run = self._run_length(it, part)
            take = min(end - offset, run - inside)
            pieces.append(self._spool.read(it.spool, it.offsets[part] + inside, take))
            offset += take
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @staticmethod
    def _run_length(it: Document, part: int) -> int:
        """Bytes from the start of `part` that lie in one piece: parts sent in order follow each other in the spool."""
        first, length = it.offsets[part], it.part_size
        for following in it.offsets[part + 1 : part + 1 + 1024 * 1024 // it.part_size]:
            if following != first + length:
                break
            length += it.part_size
        return length

    def damage(self, identity: int, position: int) -> None:
        """Flips one bit of a document's content."""
        it = self.find(identity)
        assert it is not None
        part, inside = divmod(position, it.part_size)
        self._spool.flip(it.spool, it.offsets[part] + inside)

    def remove(self, identity: int) -> None:
        """Deletes a document and, unless others share its spool file, its bytes."""
        it = self.find(identity)
        if it is None:
            return
        self._cache.pop(identity, None)
        self._database.run("DELETE FROM documents WHERE id=?", identity)
        if not it.spool.startswith("planted"):
            self._spool.remove(it.spool)


def _mark(data: bytes) -> bytes:
    return hmac.digest(_SECRET, data, "sha256")[:8]


def _reference(it: Document, now: int) -> bytes:
    data = _REFERENCE.pack(it.id, it.epoch, now)
    return data + _mark(data)
