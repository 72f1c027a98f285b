"""MTProto's messages, packed and opened with one copy of the file contents in them.

Telethon's state does it for all small messages. Of large ones it joins and slices whole copies, and tries each with
gzip; those go their own way here (https://core.telegram.org/mtproto/description).
"""

import io
import struct
from hashlib import sha256
from typing import Any

import cryptg
from telethon.errors import SecurityError
from telethon.network.mtprotostate import MSG_TOO_NEW_DELTA, MSG_TOO_OLD_DELTA, MTProtoState
from telethon.tl import types
from telethon.tl.core import RpcResult, TLMessage

from tgdav.blobs.telegram.frames import LARGE, Payload, Sealed
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
_BODY_AT = _HEADER.size + 8
_PADDING = (12, 1024)
_KEY_FROM_CLIENT = slice(88, 120)
_KEY_FROM_SERVER = slice(96, 128)

_CLOCK = SystemClock()
_ENTROPY = SystemEntropy()
"""The wire's own, as Telethon's: what is sent has to fit the server's time, and nothing to be repeated depends on it."""


class State(MTProtoState):  # type: ignore[misc]
    """One connection's salt, session, message ids and encryption."""

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
        """Open a message. Raises SecurityError for one that is not the server's to us."""
        if isinstance(body, bytes):
            return super().decrypt_message_data(body)
        plain = self._opened(body)
        _, session, message_id, sequence, length, kind = _HEADER.unpack_from(plain)
        answered, result = _RESULT.unpack_from(plain, _HEADER.size)
        if kind != RpcResult.CONSTRUCTOR_ID or result != types.upload.File.CONSTRUCTOR_ID:
            return super().decrypt_message_data(body.key + body.body)
        end = _BODY_AT - _RESULT.size + length
        if session != self.id or message_id % 2 != 1 or not _PADDING[0] <= len(plain) - end <= _PADDING[1]:
            raise SecurityError("a message that is not for this session")
        if not self._is_fresh(message_id):
            return self._count_ignored()
        self._recent_remote_ids.append(message_id)
        self._highest_remote_id = message_id
        self._ignore_count = 0
        return TLMessage(message_id, sequence, RpcResult(answered, memoryview(plain)[_BODY_AT:end], None))

    def _is_fresh(self, message_id: int) -> bool:
        """Whether a message came neither before nor from another time."""
        if message_id <= self._highest_remote_id and message_id in self._recent_remote_ids:
            return False
        age = _CLOCK.now_ns() / 1e9 + self.time_offset - (message_id >> 32)
        return bool(-MSG_TOO_NEW_DELTA <= age <= MSG_TOO_OLD_DELTA)

    def _opened(self, sealed: Sealed) -> bytes:
        if sealed.key[:8] != struct.pack("<Q", self.auth_key.key_id):
            raise SecurityError("the server answers with another key")
        message_key = sealed.key[8:]
        plain: bytes = cryptg.decrypt_ige(sealed.body, *self._calc_key(self.auth_key.key, message_key, False))
        if _message_key(self.auth_key.key[_KEY_FROM_SERVER], plain) != message_key:
            raise SecurityError("a message was altered on its way")
        return plain


def _message_key(part_of_key: bytes, padded: bytes) -> bytes:
    digest = sha256(part_of_key)
    digest.update(padded)
    return digest.digest()[8:24]
