"""The blob store in a Telegram chat: one document per blob, with the name as file name and the label as caption."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from telethon.tl import functions, types

from tgdav.blobs.interface import START, BlobInfo, Source, StoreTraits
from tgdav.blobs.telegram.errors import AlreadySent, PartMissing, UploadCorrupted
from tgdav.blobs.telegram.history import BlobIndex
from tgdav.blobs.telegram.messages import LARGEST_ID, PAGE, BlobDocument, Chat
from tgdav.blobs.telegram.session import Session
from tgdav.blobs.telegram.transfers import MAX_PARTS, PART_BYTES, UNIT, BlobDownload, BlobUpload
from tgdav.blobs.telegram.updates import RETRY, SILENCE, UpdateWatcher
from tgdav.blobs.validation import check_append, check_name, check_range, check_within
from tgdav.entropy import Entropy
from tgdav.errors import AccessError, BlobMissing, StoreRejected, StoreUnavailable
from tgdav.ids import BlobId, BlobName
from tgdav.keyed_locks import KeyedLocks

TRAITS = StoreTraits(
    backend="telegram",
    max_blob_bytes=MAX_PARTS * PART_BYTES,
    max_label_characters=1024,
    is_local=False,
    read_alignment=UNIT,
)
SEND_ATTEMPTS = 6
_NEW_MESSAGES = (types.UpdateNewMessage, types.UpdateNewChannelMessage)
KEPT_UPLOADS = 16
"""The number of unfinished uploads whose sent parts are remembered, so that a repeated append continues."""


def _ignore(_error: AccessError) -> None:
    pass


class TelegramStore:
    """A ``BlobStore`` in the chat ``peer`` (``me``, ``@name``, ``-100…``) of a session, which ``close`` closes too.

    An append may repeat one whose response was lost, in this process or an earlier one. So it first searches the index
    and the newest messages. The ``random_id`` of the message is derived from the name, so that Telegram itself refuses
    a repetition of an older message, or returns the first one.
    """

    traits = TRAITS

    def __init__(self, session: Session, *, peer: str, entropy: Entropy) -> None:
        self._session = session
        self._entropy = entropy
        self._chat = Chat(session, peer)
        self._index = BlobIndex(self._chat)
        self._names = KeyedLocks()
        self._lock = threading.Lock()
        self._uploads: dict[BlobName, BlobUpload] = {}
        self._unanswered: set[BlobName] = set()
        self._generations: dict[BlobName, int] = {}
        self._invisible_ids: dict[BlobName, int] = {}
        self._is_closed = False
        self._watch: UpdateWatcher | None = None

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """Store the source's bytes as a new blob; see ``BlobStore.append``."""
        self._check_open()
        check_append(self.traits, name, source, label)
        with self._names.holding(name):
            found = self._existing(name)
            if found is None:
                found = self._send(name, source, label, progress)
            elif progress:
                progress(source.size)
        self._index.add(found)
        return found.info

    def _existing(self, name: BlobName) -> BlobDocument | None:
        """Return the blob of this name if it is known; after an append without a response, new messages are read first."""
        self._index.survey()
        if name in self._unanswered:
            self._index.refresh()
        return self._index.first(name)

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
                self._invisible_ids.pop(name, None)
                return sent
        self._drop(name)
        raise StoreUnavailable("Telegram keeps losing the parts of an upload")

    def _finish(self, name: BlobName, upload: BlobUpload, label: str) -> BlobDocument | None:
        """Send the message. None means that parts were lost and ``upload`` must run again."""
        generation = self._generations.get(name, 0)
        request = upload.message(self._chat.peer(), label, generation)
        self._unanswered.add(name)  # before sending: if the response is lost, the next append reads the new messages
        try:
            return self._sent(name, self._session.invoke(request))
        except PartMissing as error:
            if error.part:
                upload.mark_lost(error.part)
            else:  # a missing first part usually means that the server dropped the whole upload
                upload.start_over(self._new_id())
        except UploadCorrupted:
            upload.start_over(self._new_id())
        except AlreadySent:
            self._index.complete()
            found = self._index.first(name)
            if found is not None:
                return found
            self._generations[name] = generation + 1  # that message is deleted or edited, its random_id is used up
        return None

    def _sent(self, name: BlobName, result: Any) -> BlobDocument:
        """Return the blob in a result of sendMedia, or search for it if the result does not show the message.

        Raises AlreadySent if the result refers to an earlier message that was edited or deleted since.
        """
        updates = getattr(result, "updates", [])
        shown = [update.message for update in updates if isinstance(update, _NEW_MESSAGES)]
        for message in shown:
            found = self._chat.blob(message)
            if found is not None and found.info.name == name:
                return found
        self._index.refresh()
        known = self._index.first(name)
        if known is not None:
            return known
        if shown or self._is_taken(name, updates):
            raise AlreadySent("Telegram refers to a message that is no longer this blob")
        raise StoreUnavailable("Telegram accepted a message and does not show it yet")

    def _is_taken(self, name: BlobName, updates: Sequence[Any]) -> bool:
        """Return whether a result without a message has the id of a message that is not this blob.

        A message that was just sent may not be visible yet. If the same id is returned again and its message is still
        not visible, it was deleted.
        """
        named = [update.id for update in updates if isinstance(update, types.UpdateMessageID)]
        if not named:
            return False
        before, self._invisible_ids[name] = self._invisible_ids.get(name), named[0]
        return before == named[0] or self._chat.is_shown(BlobId(named[0]))

    def _upload_of(self, name: BlobName, source: Source) -> BlobUpload:
        with self._lock:
            upload = self._uploads.get(name)
            if upload is None or not upload.matches(source):
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
        """Return exactly ``length`` bytes from ``offset``; see ``BlobStore.read``."""
        self._check_open()
        check_range(offset, length)
        known = self._index.document(blob_id)
        # The cached document serves a read within its size; everything else needs the message first.
        if known is None or offset + length > known.info.size or not length:
            known = self._fetch(blob_id)
            check_within(blob_id, known.info.name, known.info.size, offset + length)
            return self._download(known, offset, length) if length else b""
        # The file of a deleted message can be downloaded for a while, so the message is fetched at the same time.
        message = self._session.submit(self._chat.by_id([blob_id]))
        try:
            data = self._download(known, offset, length)
            fresh = self._chat.blobs(self._session.result(message)).get(blob_id)
        finally:
            message.cancel()
        if fresh is None:
            raise self._missing(blob_id)
        self._index.add(fresh)
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
        self._index.add(found)
        return found

    def _missing(self, blob_id: BlobId) -> BlobMissing:
        self._index.remove(blob_id)
        return BlobMissing(f"blob {blob_id} is not in the store", hint="its message was deleted or never existed")

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        """Yield all blobs with ids greater than ``after`` in append order."""
        self._check_open()
        for document in self._index.walk(after):
            yield document.info

    def find(self, name: BlobName) -> BlobInfo | None:
        """Return the first blob of this name in append order, or None. The first call reads the whole history."""
        self._check_open()
        check_name(name)
        self._index.complete()
        found = self._index.first(name)
        return None if found is None else found.info

    def delete(self, ids: Sequence[BlobId]) -> None:
        """Delete blobs; ids that are missing, or of the user's own messages, are ignored."""
        self._check_open()
        wanted = [blob_id for blob_id in dict.fromkeys(ids) if 0 < blob_id <= LARGEST_ID]
        for start in range(0, len(wanted), PAGE):
            existing = self._chat.fetch(wanted[start : start + PAGE])
            if existing:
                self._chat.delete([*existing])
            for blob_id, document in existing.items():
                self._index.remove(blob_id, document.info.name)

    def idle_days(self) -> int:
        """Return after how many days without use Telegram deletes the account."""
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
        self._watch = UpdateWatcher(self._chat, self._index, on_blob, on_logout=on_logout, silence=silence, retry=retry)
        self._watch.start()
        return self._watch

    def close(self) -> None:
        """Close the session. Idempotent."""
        self._is_closed = True
        try:
            self._session.close()
        finally:
            if self._watch is not None:
                self._watch.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreRejected("the store is closed")
