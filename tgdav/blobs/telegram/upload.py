"""Sending a blob: its parts, then the message that makes a document of them.

Parts are 512 KiB, the largest there are; up to 10 MiB are sent as a small file with its MD5, more as a big file
(https://core.telegram.org/api/files#uploading-files).
"""

import hashlib
from collections.abc import Callable
from typing import Any

from telethon.tl import functions, types

from tgdav.blobs.interface import Source
from tgdav.blobs.telegram.messages import MIME_TYPE, file_name
from tgdav.blobs.telegram.session import Answer, Session
from tgdav.blobs.telegram.transfer import Transfer
from tgdav.blobs.validation import check_source_end, read_source
from tgdav.errors import StoreUnavailable
from tgdav.ids import BlobName

PART_BYTES = 512 * 1024
MOST_PARTS = 4000
SMALL_FILE_BYTES = 10 * 1024 * 1024
_EMPTY = b"\0"
Progress = Callable[[int], None] | None


def random_id(name: BlobName, generation: int) -> int:
    """Return the number that makes sending the same blob twice one message.

    ``generation`` counts the messages of this name that were deleted: their numbers are used up.
    """
    digest = hashlib.blake2b(name + generation.to_bytes(4, "big"), digest_size=8, person=b"tgdav random id").digest()
    return int.from_bytes(digest, "big", signed=True) or 1


class Upload:
    """One blob's way to the server. May be run again after StoreUnavailable: parts that arrived are not sent again."""

    def __init__(self, session: Session, name: BlobName, source: Source, file_id: int) -> None:
        self._session = session
        self._name = name
        self._source = source
        self._file_id = file_id
        self._sent: set[int] = set()
        self._digest: str = ""

    def fits(self, source: Source) -> bool:
        """Whether a source has surely the bytes that were sent: the same object, or the same closed file."""
        mine = self._source
        return source is mine or (source.path is not None and source.path == mine.path and source.size == mine.size)

    @property
    def _is_big(self) -> bool:
        return self._source.size > SMALL_FILE_BYTES

    @property
    def parts(self) -> int:
        """How many parts it has."""
        return max(1, -(-self._source.size // PART_BYTES))

    def start_over(self, file_id: int) -> None:
        """Forget what was sent."""
        self._file_id = file_id
        self._sent.clear()

    def lose(self, part: int) -> None:
        """A part is not there any more."""
        self._sent.discard(part)

    def run(self, progress: Progress) -> None:
        """Send all parts that are not there. The source's and the progress callback's errors pass through."""
        if not self._is_big:
            self._digest = self._whole_digest()
        done = sum(self._length(part) for part in self._sent)

        def finish(part: int, arrived: Any) -> None:
            nonlocal done
            if not arrived:
                raise StoreUnavailable("Telegram did not take a part")
            self._sent.add(part)
            done += self._length(part)
            if progress:
                progress(done)

        if progress and (not self._source.size or len(self._sent) == self.parts):
            progress(done)
        missing = [part for part in range(self.parts) if part not in self._sent]
        Transfer(self._session, self._session.window("upload"), self._begin, finish).run(missing)
        check_source_end(self._name, self._source)

    def _length(self, part: int) -> int:
        return min(PART_BYTES, self._source.size - part * PART_BYTES)

    def _read(self, part: int) -> bytes:
        if not self._source.size:
            return _EMPTY
        return read_source(self._name, self._source, part * PART_BYTES, self._length(part))

    def _whole_digest(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        for part in range(self.parts):
            digest.update(self._read(part))
        return digest.hexdigest()

    def _begin(self, part: int) -> Answer:
        data = self._read(part)
        if self._is_big:
            return self._session.begin(functions.upload.SaveBigFilePartRequest(self._file_id, part, self.parts, data))
        return self._session.begin(functions.upload.SaveFilePartRequest(self._file_id, part, data))

    def message(self, peer: Any, label: str, generation: int) -> Any:
        """Return the request that makes the parts a blob."""
        called = file_name(self._name, self._source.size)
        if self._is_big:
            file: Any = types.InputFileBig(self._file_id, self.parts, called)
        else:
            file = types.InputFile(self._file_id, self.parts, called, self._digest)
        media = types.InputMediaUploadedDocument(
            file, MIME_TYPE, [types.DocumentAttributeFilename(called)], force_file=True
        )
        return functions.messages.SendMediaRequest(
            peer, media, label, random_id=random_id(self._name, generation), silent=True
        )
