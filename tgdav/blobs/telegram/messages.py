"""Which messages of a chat are blobs, and the requests for messages of Saved Messages or a channel."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from telethon.tl import functions, types

from tgdav.blobs.interface import NAME_BYTES, BlobInfo
from tgdav.blobs.telegram.session import Session
from tgdav.errors import StoreRejected
from tgdav.ids import BlobId, BlobName

PAGE = 100
"""The maximum number of messages that one request lists, fetches or deletes."""
LARGEST_ID = 2**31 - 1
EMPTY_MARK = "-0"
"""Suffix of the file name of an empty blob, whose document has one zero byte: Telegram has no empty documents."""
MIME_TYPE = "application/octet-stream"
_FILE_NAME = re.compile(rf"([0-9a-f]{{{2 * NAME_BYTES}}})({EMPTY_MARK})?")
_CAPTION = re.compile(r"[A-Za-z0-9_-]{0,1024}")
_CHANNEL_PREFIX = "-100"


class BlobDocument(msgspec.Struct, frozen=True):
    """A blob's metadata and where its file is; ``reference`` expires and is renewed by fetching the message."""

    info: BlobInfo
    id: int
    access_hash: int
    reference: bytes
    dc: int


def file_name(name: BlobName, size: int) -> str:
    """Return the file name of a blob's document."""
    return name.hex() + ("" if size else EMPTY_MARK)


class Chat:
    """The chat that holds the blobs. ``peer`` is ``me``, ``@name``, or a channel's number that begins with -100."""

    def __init__(self, session: Session, peer: str) -> None:
        self.session = session
        self._name = peer
        self._peer: Any = types.InputPeerSelf() if peer == "me" else None

    @property
    def is_channel(self) -> bool:
        """Whether the chat is a channel, which has message ids of its own; Saved Messages shares them with all chats."""
        return self._name != "me"

    def peer(self) -> Any:
        """Return the chat's InputPeer. Raises StoreRejected if the account has no access to it."""
        if self._peer is None:
            self._peer = _resolve(self.session, self._name)
        return self._peer

    def blob(self, message: Any) -> BlobDocument | None:
        """Return the blob of a message of this chat, or None. The content of other messages is not read."""
        if not isinstance(message, types.Message) or not self._is_here(message.peer_id):
            return None
        file = getattr(message.media, "document", None)
        if not isinstance(file, types.Document) or file.mime_type != MIME_TYPE:
            return None
        # All of this must fit: in Saved Messages the user has documents of other programs too.
        names = [it.file_name for it in file.attributes if isinstance(it, types.DocumentAttributeFilename)]
        match = _FILE_NAME.fullmatch(names[0]) if names else None
        if match is None or not _CAPTION.fullmatch(message.message or ""):
            return None
        size = 0 if match[2] else file.size
        info = BlobInfo(BlobId(message.id), BlobName(bytes.fromhex(match[1])), size, message.message or "")
        return BlobDocument(info, file.id, file.access_hash, file.file_reference, file.dc_id)

    def _is_here(self, peer: Any) -> bool:
        if self.is_channel:
            return isinstance(peer, types.PeerChannel) and peer.channel_id == self.peer().channel_id
        return isinstance(peer, types.PeerUser) and peer.user_id == self.session.user_id

    def page_after(self, after: int) -> list[Any]:
        """Return up to 100 messages after an id, oldest first; empty at the end."""
        if after >= LARGEST_ID:  # message ids are signed 32-bit numbers: the request would not be encodable
            return []
        return sorted(self.session.invoke(self.after(after)).messages, key=lambda message: message.id)

    def after(self, after: int) -> Any:
        """Return the request for up to 100 messages after an id."""
        # A history starts below offset_id and goes back in time; a negative add_offset moves it towards newer
        # messages. So this selects the oldest page above ``after`` (https://core.telegram.org/api/offsets).
        return self.history(offset_id=max(after, 0) + 1, add_offset=-PAGE, min_id=max(after, 0))

    def newest(self) -> list[Any]:
        """Return a list of the newest message, empty if there is none."""
        return list(self.session.invoke(self.history(limit=1)).messages)

    def page_before(self, before: int) -> list[Any]:
        """Return up to 100 messages before an id (0: the newest ones), newest first."""
        return list(self.session.invoke(self.history(offset_id=before)).messages)

    def history(self, offset_id: int = 0, add_offset: int = 0, min_id: int = 0, limit: int = PAGE) -> Any:
        """Return a request for messages older than ``offset_id`` (0: all), shifted by ``add_offset`` towards older ones."""
        return functions.messages.GetHistoryRequest(
            peer=self.peer(),
            offset_id=offset_id,
            offset_date=None,
            add_offset=add_offset,
            limit=limit,
            max_id=0,
            min_id=min_id,
            hash=0,
        )

    def by_id(self, ids: Sequence[BlobId]) -> Any:
        """Return the request for up to 100 messages by id."""
        wanted = [types.InputMessageID(blob_id) for blob_id in ids]
        if self.is_channel:
            return functions.channels.GetMessagesRequest(_channel(self.peer()), wanted)
        return functions.messages.GetMessagesRequest(wanted)

    def blobs(self, result: Any) -> dict[BlobId, BlobDocument]:
        """Return the blobs among the messages of a result."""
        found = (self.blob(message) for message in result.messages)
        return {it.info.id: it for it in found if it is not None}

    def fetch(self, ids: Sequence[BlobId]) -> dict[BlobId, BlobDocument]:
        """Fetch messages by id; return those that are blobs."""
        wanted = [blob_id for blob_id in dict.fromkeys(ids) if 0 < blob_id <= LARGEST_ID]
        found: dict[BlobId, BlobDocument] = {}
        for start in range(0, len(wanted), PAGE):
            found |= self.blobs(self.session.invoke(self.by_id(wanted[start : start + PAGE])))
        return found

    def is_shown(self, message_id: BlobId) -> bool:
        """Return whether there is a message of this id, a blob or not."""
        found = self.session.invoke(self.by_id([message_id])).messages
        return any(not isinstance(message, types.MessageEmpty) for message in found)

    def delete(self, ids: Sequence[BlobId]) -> None:
        """Delete up to 100 messages, which the caller has checked to be blobs."""
        if self.is_channel:
            self.session.invoke(functions.channels.DeleteMessagesRequest(_channel(self.peer()), list(ids)))
        else:
            self.session.invoke(functions.messages.DeleteMessagesRequest(list(ids), revoke=True))


def _channel(peer: Any) -> Any:
    return types.InputChannel(peer.channel_id, peer.access_hash)


def _resolve(session: Session, name: str) -> Any:
    if name.startswith("@"):
        chats = session.invoke(functions.contacts.ResolveUsernameRequest(name[1:])).chats
        found = next((it for it in chats if isinstance(it, types.Channel)), None)
    elif name.startswith(_CHANNEL_PREFIX) and name[len(_CHANNEL_PREFIX) :].isdigit():
        found = _among_dialogs(session, int(name[len(_CHANNEL_PREFIX) :]))
    else:
        raise StoreRejected("telegram.peer must be me, @name, or a channel's number that begins with -100")
    if found is None:
        raise StoreRejected(
            f"the Telegram account has no access to the channel {name}", hint="join it, or correct telegram.peer"
        )
    return types.InputPeerChannel(found.id, found.access_hash)


def _among_dialogs(session: Session, channel: int) -> Any:
    """Find a channel by its number in the list of chats, the only source of the access hash that requests need."""
    before: Any = (None, 0, types.InputPeerEmpty())
    seen: set[int] = set()
    while True:
        answer = session.invoke(functions.messages.GetDialogsRequest(*before, limit=PAGE, hash=0))
        for chat in answer.chats:
            if chat.id == channel and isinstance(chat, types.Channel):
                return chat
        fresh = [it for it in answer.dialogs if isinstance(it, types.Dialog) and it.top_message not in seen]
        if not isinstance(answer, types.messages.DialogsSlice) or not fresh:
            return None
        seen.update(it.top_message for it in fresh)
        before = _offset_after(fresh[-1], answer)


def _offset_after(dialog: Any, answer: Any) -> Any:
    """Return the offset of the page after a dialog: its last message's date and id, and its peer."""
    dates = {message.id: getattr(message, "date", None) for message in answer.messages}
    peer: Any = types.InputPeerEmpty()
    if isinstance(dialog.peer, types.PeerChannel):
        chat = next(it for it in answer.chats if it.id == dialog.peer.channel_id)
        peer = types.InputPeerChannel(chat.id, chat.access_hash)
    elif isinstance(dialog.peer, types.PeerUser):
        user = next(it for it in answer.users if it.id == dialog.peer.user_id)
        peer = types.InputPeerUser(user.id, user.access_hash)
    elif isinstance(dialog.peer, types.PeerChat):
        peer = types.InputPeerChat(dialog.peer.chat_id)
    return dates.get(dialog.top_message), dialog.top_message, peer
