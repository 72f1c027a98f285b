"""Encryption and numbering of the messages of a connection (https://core.telegram.org/mtproto/description).

Telethon's ``MTProtoState`` encrypts all small messages. It copies large ones several times and tries to compress each
with gzip, so they are encrypted here. All messages are decrypted here, because Telethon drops every message whose time
does not fit this machine's clock, which may be set while the connection is open.
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
"""Requests of at least this size are sealed file parts, which do not compress."""
_MESSAGE = struct.Struct("<qii")
_SESSION = struct.Struct("<qq")
_HEADER = struct.Struct("<qqqiiI")
"""Salt, session, message id, sequence, length, and the constructor id of the message's object."""
_RESULT = struct.Struct("<qI")
"""The message id of the request, and the constructor id of its result."""
_KIND_BYTES = 4
_BODY_AT = _HEADER.size + 8
_NOTICES = (types.BadServerSalt.CONSTRUCTOR_ID, types.BadMsgNotification.CONSTRUCTOR_ID)
"""The server's errors for a message with a wrong time or salt. They are accepted whatever their own time is."""
_MEASUREMENTS = 8
"""The clock error is taken from that of the last so many messages which was in transit for the shortest time."""
_PADDING = (12, 1024)
_KEY_BYTES = 24
_KEY_FROM_CLIENT = slice(88, 120)
_KEY_FROM_SERVER = slice(96, 128)

_CLOCK = SystemClock()
_ENTROPY = SystemEntropy()
"""Not the injected ones, just as in Telethon: message ids must fit the server's time, and no test depends on them."""


class ConnectionState(MTProtoState):  # type: ignore[misc]
    """A connection's salt, session, message ids and encryption.

    ``on_time`` is called after each message with the seconds by which this machine's clock is at most ahead of the
    server's.
    """

    def __init__(self, auth_key: Any, loggers: Any, on_time: Callable[[float], None]) -> None:
        super().__init__(auth_key, loggers)
        self._highest_remote_id: int = 0
        self._on_time = on_time
        self._ahead: deque[float] = deque(maxlen=_MEASUREMENTS)

    def write_data_as_message(
        self, buffer: io.BytesIO, data: bytes, content_related: bool, *, after_id: int | None = None
    ) -> int:
        """As Telethon's, but large bodies are not compressed."""
        if after_id is not None or len(data) < NO_GZIP_FROM:
            written: int = super().write_data_as_message(buffer, data, content_related, after_id=after_id)
            return written
        message_id: int = self._get_new_msg_id()
        sequence = self._get_seq_no(content_related)
        buffer.write(_MESSAGE.pack(message_id, sequence, len(data)))
        buffer.write(data)
        return message_id

    def encrypt_message_data(self, data: bytes) -> Payload:
        """Encrypt a message or container. The padding is that of MTProto 2.0: 12 to 1024 bytes, to a multiple of 16."""
        if len(data) < LARGE:
            small: bytes = super().encrypt_message_data(data)
            return small
        padded = b"".join((_SESSION.pack(self.salt, self.id), data, _ENTROPY.bytes(-(len(data) + 28) % 16 + 12)))
        message_key = _message_key(self.auth_key.key[_KEY_FROM_CLIENT], padded)
        body = cryptg.encrypt_ige(padded, *self._calc_key(self.auth_key.key, message_key, True))
        return Sealed(struct.pack("<Q", self.auth_key.key_id) + message_key, body)

    def decrypt_message_data(self, body: Payload) -> Any:
        """Decrypt a message; None for a repeated one. Raises SecurityError if it is not authentic or not of this session."""
        sealed = Sealed(body[:_KEY_BYTES], body[_KEY_BYTES:]) if isinstance(body, bytes) else body
        if len(sealed.key) < _KEY_BYTES:
            raise InvalidBufferError(sealed.key)
        plain = self._decrypt(sealed)
        if len(plain) < _BODY_AT:
            raise SecurityError("the message is too short")
        _, session, message_id, sequence, length, kind = _HEADER.unpack_from(plain)
        end = _BODY_AT - _RESULT.size + length
        # Required checks (https://core.telegram.org/mtproto/security_guidelines): the session, an odd id, the padding.
        if session != self.id or message_id % 2 != 1 or not _PADDING[0] <= len(plain) - end <= _PADDING[1]:
            raise SecurityError("the message does not belong to this session")
        if not self._is_fresh(message_id, kind):
            return self._count_ignored()
        self._recent_remote_ids.append(message_id)
        self._highest_remote_id = max(message_id, self._highest_remote_id)
        self._ignore_count = 0
        return TLMessage(message_id, sequence, _parse(plain, kind, end))

    def _is_fresh(self, message_id: int, kind: int) -> bool:
        """Return whether a message is not a repetition, and measure the server's time by it.

        Message ids grow within a session, so a message with the highest id is not a repetition, whatever its time is.
        If its time does not fit, one of the clocks was set, mostly ours; then the messages that we send must follow
        the server's clock.
        """
        is_newest = message_id > self._highest_remote_id
        if not is_newest and message_id in self._recent_remote_ids:
            return False
        now = _CLOCK.now_ns() / 1e9
        ahead = now - (message_id >> 32)  # the upper half of a message id is the server's time in seconds
        if kind not in _NOTICES and not -MSG_TOO_NEW_DELTA <= ahead + self.time_offset <= MSG_TOO_OLD_DELTA:
            if not is_newest:  # it could be an old message that was recorded and is sent again
                return False
            self._set_time_offset(message_id, now)
        elif kind in _NOTICES and not self._highest_remote_id and not self.time_offset:
            self.update_time_offset(message_id)
        self._ahead.append(ahead)
        self._on_time(min(self._ahead))  # transit time only adds to a measurement, so the smallest is the best
        return True

    def update_time_offset(self, correct_msg_id: int) -> int:
        """As Telethon's, which calls it if the server refused a message's time. Earlier measurements are void."""
        self._ahead.clear()
        offset: int = super().update_time_offset(correct_msg_id)
        return offset

    def _set_time_offset(self, message_id: int, now: float) -> None:
        """Set the offset to the server's clock by a message."""
        self.time_offset = message_id / 2**32 - now
        self._ahead.clear()

    def _decrypt(self, sealed: Sealed) -> bytes:
        if sealed.key[:8] != struct.pack("<Q", self.auth_key.key_id):
            raise SecurityError("the server uses another key")
        message_key = sealed.key[8:]
        plain: bytes = cryptg.decrypt_ige(sealed.body, *self._calc_key(self.auth_key.key, message_key, False))
        if _message_key(self.auth_key.key[_KEY_FROM_SERVER], plain) != message_key:
            raise SecurityError("a message was modified in transit")
        return plain


def _parse(plain: bytes, kind: int, end: int) -> Any:
    """Return a message's object; the bytes of a file part are returned as a view, without a copy."""
    if kind == RpcResult.CONSTRUCTOR_ID and len(plain) >= LARGE:
        answered, result = _RESULT.unpack_from(plain, _HEADER.size)
        if result == types.upload.File.CONSTRUCTOR_ID:
            return RpcResult(answered, memoryview(plain)[_BODY_AT:end], None)
    with BinaryReader(plain[_HEADER.size - _KIND_BYTES : end]) as reader:
        return reader.tgread_object()


def _message_key(key_part: bytes, padded: bytes) -> bytes:
    digest = sha256(key_part)
    digest.update(padded)
    return digest.digest()[8:24]
