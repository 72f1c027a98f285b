"""The blob store in a Telegram chat."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from telethon.tl import functions, types

from tgdav.blobs.interface import START, BlobInfo, Source, StoreTraits
from tgdav.blobs.telegram.errors import AlreadySent, PartMissing, UploadCorrupted
from tgdav.blobs.telegram.history import BlobIndex
from tgdav.blobs.telegram.messages import LARGEST_ID, PAGE, BlobDocument, Chat
from tgdav.blobs.telegram.session import Session
from tgdav.blobs.telegram.transfers import MOST_PARTS, PART_BYTES, UNIT, BlobDownload, BlobUpload
from tgdav.blobs.telegram.updates import RETRY, SILENCE, UpdateWatcher
from tgdav.blobs.validation import check_append, check_name, check_range, check_within
from tgdav.entropy import Entropy
from tgdav.errors import AccessError, BlobMissing, StoreRejected, StoreUnavailable
from tgdav.ids import BlobId, BlobName
from tgdav.keyed_locks import KeyedLocks

TRAITS = StoreTraits(
    backend="telegram",
    max_blob_bytes=MOST_PARTS * PART_BYTES,
    max_label_characters=1024,
    is_local=False,
    read_alignment=UNIT,
)
SEND_ATTEMPTS = 6
_NEWS = (types.UpdateNewMessage, types.UpdateNewChannelMessage)
KEPT_UPLOADS = 16
"""Unfinished uploads whose arrived parts are remembered, to go on with them when they are appended again."""


def _ignore(_error: AccessError) -> None:
    return


class TelegramStore:
    """A ``BlobStore`` in the chat ``peer`` (``me``, ``@name``, ``-100…``) of a session, which it closes at the end.

    A store of its own for each session: the session's connection is the account's only one.
    """

    traits = TRAITS

    def __init__(self, session: Session, *, peer: str, entropy: Entropy) -> None:
        self._session = session
        self._entropy = entropy
        self._chat = Chat(session, peer)
        self._listing = BlobIndex(session, self._chat)
        self._names = KeyedLocks()
        self._lock = threading.Lock()
        self._uploads: dict[BlobName, BlobUpload] = {}
        self._unanswered: set[BlobName] = set()
        self._generations: dict[BlobName, int] = {}
        self._hidden: dict[BlobName, int] = {}
        self._is_closed = False
        self._watch: UpdateWatcher | None = None

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """Store the source's bytes as a new blob; see ``BlobStore.append``."""
        self._check_open()
        check_append(self.traits, name, source, label)
        with self._names.holding(name):
            found = self._already_there(name)
            if found is None:
                found = self._send(name, source, label, progress)
            elif progress:
                progress(source.size)
        self._listing.note(found)
        return found.info

    def _already_there(self, name: BlobName) -> BlobDocument | None:
        """Return the blob of this name, as far as an append has to look: what is known, and after doubt what is new."""
        self._listing.survey()
        if name in self._unanswered:
            self._listing.refresh()
        return self._listing.first(name)

    def _send(self, name: BlobName, source: Source, label: str, progress: Callable[[int], None] | None) -> BlobDocument:
        upload = self._upload_of(name, source)
        for _ in range(SEND_ATTEMPTS):
            try:
                upload.run(progress)
            except StoreUnavailable:
                raise
            except BaseException:
                self._drop(name)
                raise
            sent = self._finish(name, upload, label)
            if sent is not None:
                self._drop(name)
                self._unanswered.discard(name)
                self._hidden.pop(name, None)
                return sent
        self._drop(name)
        raise StoreUnavailable("Telegram keeps losing the parts of an upload")

    def _finish(self, name: BlobName, upload: BlobUpload, label: str) -> BlobDocument | None:
        """Send the message; None means that the upload was put back and has to run again."""
        generation = self._generations.get(name, 0)
        request = upload.message(self._chat.peer(), label, generation)
        self._unanswered.add(name)
        try:
            return self._sent(name, self._session.invoke(request))
        except PartMissing as error:
            if error.part:
                upload.lose(error.part)
            else:
                upload.start_over(self._new_id())
        except UploadCorrupted:
            upload.start_over(self._new_id())
        except AlreadySent:
            self._listing.complete()
            found = self._listing.first(name)
            if found is not None:
                return found
            self._generations[name] = generation + 1
        return None

    def _sent(self, name: BlobName, answer: Any) -> BlobDocument:
        """Return the blob that an answer to sendMedia tells of, else look for it.

        Raises AlreadySent if the answer repeats an earlier one, whose message was edited or deleted since.
        """
        updates = getattr(answer, "updates", [])
        shown = [update.message for update in updates if isinstance(update, _NEWS)]
        for message in shown:
            found = self._chat.document(message)
            if found is not None and found.info.name == name:
                return found
        self._listing.refresh()
        known = self._listing.first(name)
        if known is not None:
            return known
        if shown or self._is_taken(name, updates):
            raise AlreadySent("Telegram answers with a message that is not this blob any more")
        raise StoreUnavailable("Telegram took a message and does not show it yet")

    def _is_taken(self, name: BlobName, updates: Sequence[Any]) -> bool:
        """Whether an answer that shows no message names one that is not this blob.

        A message that was just sent may not be shown yet. One that is named again and still not shown is gone.
        """
        named = [update.id for update in updates if isinstance(update, types.UpdateMessageID)]
        if not named:
            return False
        before, self._hidden[name] = self._hidden.get(name), named[0]
        return before == named[0] or self._chat.is_shown(BlobId(named[0]))

    def _upload_of(self, name: BlobName, source: Source) -> BlobUpload:
        with self._lock:
            upload = self._uploads.get(name)
            if upload is None or not upload.fits(source):
                upload = BlobUpload(self._session, name, source, self._new_id())
                self._uploads.pop(name, None)
                self._uploads[name] = upload
                while len(self._uploads) > KEPT_UPLOADS:
                    del self._uploads[next(iter(self._uploads))]
            return upload

    def _drop(self, name: BlobName) -> None:
        with self._lock:
            self._uploads.pop(name, None)

    def _new_id(self) -> int:
        return int.from_bytes(self._entropy.bytes(8), "big", signed=True)

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``; see ``BlobStore.read``.

        Telegram gives the bytes of a deleted message's file for a while, so the message is asked for beside them.
        """
        self._check_open()
        check_range(offset, length)
        known = self._listing.document(blob_id)
        if known is None or offset + length > known.info.size or not length:
            known = self._fetch(blob_id)
            check_within(blob_id, known.info.name, known.info.size, offset + length)
            return self._download(known, offset, length) if length else b""
        there = self._session.submit(self._chat.fetching([blob_id]))
        try:
            data = self._download(known, offset, length)
            fresh = self._chat.blobs(self._session.result(there)).get(blob_id)
        finally:
            there.cancel()
        if fresh is None:
            raise self._missing(blob_id)
        self._listing.note(fresh)
        return data

    def _download(self, document: BlobDocument, offset: int, length: int) -> bytes:
        download = BlobDownload(self._session, document, lambda: self._fetch(document.info.id))
        return download.run(offset, length)

    def size(self, blob_id: BlobId) -> int:
        """Return the blob's length in bytes. Raises BlobMissing."""
        self._check_open()
        return self._fetch(blob_id).info.size

    def _fetch(self, blob_id: BlobId) -> BlobDocument:
        found = self._chat.fetch([blob_id]).get(blob_id)
        if found is None:
            raise self._missing(blob_id)
        self._listing.note(found)
        return found

    def _missing(self, blob_id: BlobId) -> BlobMissing:
        self._listing.forget(blob_id)
        return BlobMissing(f"blob {blob_id} is not in the store", hint="its message was deleted, or never was")

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """Go through all blobs with ids above ``after`` in append order."""
        self._check_open()
        for document in self._listing.walk(after):
            yield document.info

    def find(self, name: BlobName) -> BlobInfo | None:
        """Return the first blob of this name in append order, or None. The first time it reads the whole history."""
        self._check_open()
        check_name(name)
        self._listing.complete()
        found = self._listing.first(name)
        return None if found is None else found.info

    def delete(self, ids: Sequence[BlobId]) -> None:
        """Remove blobs for good; ids that are not there, or are messages of the user's own, are left alone."""
        self._check_open()
        wanted = [blob_id for blob_id in dict.fromkeys(ids) if 0 < blob_id <= LARGEST_ID]
        for start in range(0, len(wanted), PAGE):
            there = self._chat.fetch(wanted[start : start + PAGE])
            if there:
                self._chat.delete([*there])
            for blob_id, document in there.items():
                self._listing.forget(blob_id, document.info.name)

    def idle_days(self) -> int:
        """Return the days without use after which Telegram deletes the account."""
        self._check_open()
        return int(self._session.invoke(functions.account.GetAccountTTLRequest()).days)

    def watch(
        self,
        on_blob: Callable[[BlobInfo], None],
        *,
        on_logout: Callable[[AccessError], None] = _ignore,
        silence: float = SILENCE,
        retry: float = RETRY,
    ) -> UpdateWatcher:
        """Start to call ``on_blob`` for blobs that other sessions append; see ``UpdateWatcher``. Ends with ``close``.

        This is a hint: callers must still list now and then. A second call replaces the first watcher.
        """
        self._check_open()
        if self._watch is not None:
            self._watch.close()
        self._watch = UpdateWatcher(
            self._session, self._chat, self._listing, on_blob, on_logout=on_logout, silence=silence, retry=retry
        )
        self._watch.start()
        return self._watch

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._is_closed = True
        try:
            self._session.close()
        finally:
            if self._watch is not None:
                self._watch.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreRejected("the store is closed")
