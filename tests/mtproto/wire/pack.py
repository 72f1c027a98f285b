"""Packing by hand what Telethon's classes only read: results, containers, vectors, truth values."""

import gzip
import struct
from typing import Any

from telethon.tl.core import GzipPacked, RpcResult
from telethon.tl.core.messagecontainer import MessageContainer
from telethon.tl.tlobject import TLObject
from telethon.tl.types import RpcError
from telethon.tl.types.storage import FileUnknown
from telethon.tl.types.upload import File

_ID = struct.Struct("<I")
_RESULT = struct.Struct("<Iq")
_MESSAGE = struct.Struct("<qii")
_TRUE = _ID.pack(0x997275B5)
_FALSE = _ID.pack(0xBC799737)
_VECTOR = 0x1CB5C415
_GZIP_FROM = 2048


def body(value: Any) -> bytes:
    """The bytes of a method's result: an object, a list of objects, a truth value, or bytes packed already."""
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, list):
        return struct.pack("<Ii", _VECTOR, len(value)) + b"".join([bytes(item) for item in value])
    packed: bytes = value if isinstance(value, bytes) else bytes(value)
    return packed


def file_chunk(data: bytes, changed: int) -> bytes:
    """An `upload.file` around `data`, joined once."""
    head = _ID.pack(File.CONSTRUCTOR_ID) + bytes(FileUnknown()) + struct.pack("<i", changed)
    if len(data) < 254:
        return b"".join((head, TLObject.serialize_bytes(data)))
    return b"".join((head, _ID.pack(254 | len(data) << 8), data, bytes(-len(data) % 4)))


def result(msg_id: int, value: Any) -> list[bytes]:
    """An `rpc_result`; large answers other than file contents are gzipped, as Telegram does."""
    packed = body(value)
    if len(packed) >= _GZIP_FROM and not isinstance(value, bytes):
        squeezed = _ID.pack(GzipPacked.CONSTRUCTOR_ID) + TLObject.serialize_bytes(gzip.compress(packed, 1))
        packed = squeezed if len(squeezed) < len(packed) else packed
    return [_RESULT.pack(RpcResult.CONSTRUCTOR_ID, msg_id), packed]


def failure(msg_id: int, code: int, text: str) -> list[bytes]:
    """An `rpc_result` that holds an `rpc_error`."""
    return [_RESULT.pack(RpcResult.CONSTRUCTOR_ID, msg_id), bytes(RpcError(code, text))]


def message(msg_id: int, sequence: int, parts: list[bytes]) -> list[bytes]:
    """One message: its header and its body."""
    return [_MESSAGE.pack(msg_id, sequence, sum(map(len, parts))), *parts]


def container(messages: list[list[bytes]]) -> list[bytes]:
    """A `msg_container` of messages that carry their headers."""
    return [
        struct.pack("<Ii", MessageContainer.CONSTRUCTOR_ID, len(messages)),
        *(part for each in messages for part in each),
    ]
