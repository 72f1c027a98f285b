"""MTProto's messages, packed and opened with one copy of the file contents in them, by a clock that may be set meanwhile.

Telethon's state packs all small messages. Of large ones it joins and slices whole copies, and tries each with gzip; those
go their own way here (https://core.telegram.org/mtproto/description). Opening is done here, since Telethon drops every
message of a server whose time does not fit a clock that was set since the connection was made.
"""

import io
import struct
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import cryptg
from telethon.errors import InvalidBufferError, SecurityError
from telethon.extensions import BinaryReader
from telethon.network.mtprotostate import MSG_TOO_NEW_DELTA, MSG_TOO_OLD_DELTA, MTProtoState
from telethon.tl import types
from telethon.tl.core import RpcResult, TLMessage

from tgdav.blobs.telegram.mtproto.tcp_full import LARGE, Payload, Sealed
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy

NO_GZIP_FROM = 4096
"""Requests of this many bytes and more are sealed file parts, which no compression makes smaller."""
_MESSAGE = struct.Struct("<qii")
_SESSION = struct.Struct("<qq")
_HEADER = struct.Struct("<qqqiiI")
"""Salt, session, message id, sequence, length, and the constructor of the message's object."""
_RESULT = struct.Struct("<qI")
"""The request that is answered, and the constructor of its result."""
_KIND_BYTES = 4
_BODY_AT = _HEADER.size + 8
_NOTICES = (types.BadServerSalt.CONSTRUCTOR_ID, types.BadMsgNotification.CONSTRUCTOR_ID)
"""What the server says of a message whose time or salt is wrong; a wrong time does not matter there."""
_READINGS = 8
"""Of so many messages the one that was under way for the shortest time tells how far the clock is off."""
_PADDING = (12, 1024)
_KEY_BYTES = 24
_KEY_FROM_CLIENT = slice(88, 120)
_KEY_FROM_SERVER = slice(96, 128)

_CLOCK = SystemClock()
_ENTROPY = SystemEntropy()
"""The wire's own, as Telethon's: what is sent has to fit the server's time, and nothing to be repeated depends on it."""


class ConnectionState(MTProtoState):  # type: ignore[misc]
    """One connection's salt, session, message ids and encryption.

    ``on_time`` is told with each message how many seconds this machine's clock is ahead of the server's, at most.
    """

    def __init__(self, auth_key: Any, loggers: Any, on_time: Callable[[float], None]) -> None:
        super().__init__(auth_key, loggers)
        self._highest_remote_id: int = 0
        self._on_time = on_time
        self._ahead: deque[float] = deque(maxlen=_READINGS)

    def write_data_as_message(
        self, buffer: io.BytesIO, data: bytes, content_related: bool, *, after_id: int | None = None
    ) -> int:
        """As Telethon's, but large bodies are not tried with gzip first."""
        if after_id is not None or len(data) < NO_GZIP_FROM:
            written: int = super().write_data_as_message(buffer, data, content_related, after_id=after_id)
            return written
        message_id: int = self._get_new_msg_id()
        sequence = self._get_seq_no(content_related)
        buffer.write(_MESSAGE.pack(message_id, sequence, len(data)))
        buffer.write(data)
        return message_id

    def encrypt_message_data(self, data: bytes) -> Payload:
        """Encrypt a message or container."""
        if len(data) < LARGE:
            small: bytes = super().encrypt_message_data(data)
            return small
        whole = b"".join((_SESSION.pack(self.salt, self.id), data, _ENTROPY.bytes(-(len(data) + 28) % 16 + 12)))
        message_key = _message_key(self.auth_key.key[_KEY_FROM_CLIENT], whole)
        body = cryptg.encrypt_ige(whole, *self._calc_key(self.auth_key.key, message_key, True))
        return Sealed(struct.pack("<Q", self.auth_key.key_id) + message_key, body)

    def decrypt_message_data(self, body: Payload) -> Any:
        """Open a message; None for one that was there before. Raises SecurityError for one that is not the server's to us."""
        sealed = Sealed(body[:_KEY_BYTES], body[_KEY_BYTES:]) if isinstance(body, bytes) else body
        if len(sealed.key) < _KEY_BYTES:
            raise InvalidBufferError(sealed.key)
        plain = self._opened(sealed)
        if len(plain) < _BODY_AT:
            raise SecurityError("a message that is too short to be one")
        _, session, message_id, sequence, length, kind = _HEADER.unpack_from(plain)
        end = _BODY_AT - _RESULT.size + length
        if session != self.id or message_id % 2 != 1 or not _PADDING[0] <= len(plain) - end <= _PADDING[1]:
            raise SecurityError("a message that is not for this session")
        if not self._is_fresh(message_id, kind):
            return self._count_ignored()
        self._recent_remote_ids.append(message_id)
        self._highest_remote_id = max(message_id, self._highest_remote_id)
        self._ignore_count = 0
        return TLMessage(message_id, sequence, _read(plain, kind, end))

    def _is_fresh(self, message_id: int, kind: int) -> bool:
        """Whether a message was not there before; takes the server's time from it.

        Message ids grow and are bound to this connection's session, so one above all others is no repetition, whatever
        time it tells: where that does not fit, a clock was set, mostly ours, and what we send has to fit the server's.
        """
        is_newest = message_id > self._highest_remote_id
        if not is_newest and message_id in self._recent_remote_ids:
            return False
        now = _CLOCK.now_ns() / 1e9
        ahead = now - (message_id >> 32)
        if kind not in _NOTICES and not -MSG_TOO_NEW_DELTA <= ahead + self.time_offset <= MSG_TOO_OLD_DELTA:
            if not is_newest:
                return False
            self._follow(message_id, now)
        elif kind in _NOTICES and not self._highest_remote_id and not self.time_offset:
            self.update_time_offset(message_id)
        self._ahead.append(ahead)
        self._on_time(min(self._ahead))
        return True

    def update_time_offset(self, correct_msg_id: int) -> int:
        """As Telethon's, which calls it when the server refused a message's time; what was read before tells nothing."""
        self._ahead.clear()
        offset: int = super().update_time_offset(correct_msg_id)
        return offset

    def _follow(self, message_id: int, now: float) -> None:
        """Take the server's time from a message. Ids that were given out already stay below those to come."""
        self.time_offset = message_id / 2**32 - now
        self._ahead.clear()

    def _opened(self, sealed: Sealed) -> bytes:
        if sealed.key[:8] != struct.pack("<Q", self.auth_key.key_id):
            raise SecurityError("the server answers with another key")
        message_key = sealed.key[8:]
        plain: bytes = cryptg.decrypt_ige(sealed.body, *self._calc_key(self.auth_key.key, message_key, False))
        if _message_key(self.auth_key.key[_KEY_FROM_SERVER], plain) != message_key:
            raise SecurityError("a message was altered on its way")
        return plain


def _read(plain: bytes, kind: int, end: int) -> Any:
    """Return a message's object; the bytes of a file part stay where they are."""
    if kind == RpcResult.CONSTRUCTOR_ID and len(plain) >= LARGE:
        answered, result = _RESULT.unpack_from(plain, _HEADER.size)
        if result == types.upload.File.CONSTRUCTOR_ID:
            return RpcResult(answered, memoryview(plain)[_BODY_AT:end], None)
    with BinaryReader(plain[_HEADER.size - _KIND_BYTES : end]) as reader:
        return reader.tgread_object()


def _message_key(part_of_key: bytes, padded: bytes) -> bytes:
    digest = sha256(part_of_key)
    digest.update(padded)
    return digest.digest()[8:24]
