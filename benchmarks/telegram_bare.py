"""A client that asks Telegram for a document's ranges and only counts what comes: the most that a server can give."""

import socket
import struct
from collections import defaultdict
from itertools import islice
from logging import Logger, getLogger
from typing import Any
from zlib import crc32

from telethon.crypto import AuthKey
from telethon.extensions import BinaryReader
from telethon.network.mtprotostate import MTProtoState
from telethon.sessions import StringSession
from telethon.tl import functions, types
from telethon.tl.alltlobjects import LAYER

from benchmarks.http_client import Failed
from benchmarks.scale import MIB

_LARGEST_FRAME = 2 * MIB
_HEAD = struct.Struct("<ii")
_MESSAGE = struct.Struct("<qii")


class BareClient:
    """One blocking socket with the "full" transport; answers that hold file contents are never decrypted."""

    def __init__(self, address: str, port: int, login: str, api_id: int) -> None:
        self._api_id = api_id
        key = StringSession(login).auth_key
        self._state = MTProtoState(AuthKey(key.key), loggers=defaultdict[str, Logger](getLogger))
        self._socket = socket.create_connection((address, port), timeout=600)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._frames = 0
        self._buffer = memoryview(bytearray(_LARGEST_FRAME))

    def document(self, message: int) -> Any:
        """Introduce the client and return the document of a message in Saved Messages."""
        wanted = functions.messages.GetMessagesRequest([types.InputMessageID(message)])
        words = functions.InitConnectionRequest(self._api_id, "", "", "", "", "", "", wanted)
        request = functions.InvokeWithLayerRequest(LAYER, functions.InvokeWithoutUpdatesRequest(words))
        self._send(request)
        while True:
            message_in = self._state.decrypt_message_data(bytes(self._take()))
            for it in getattr(message_in.obj, "messages", [message_in]):
                if isinstance(it.obj, types.BadServerSalt):
                    self._state.salt = it.obj.new_server_salt
                    self._send(request)
                elif hasattr(it.obj, "body"):
                    with BinaryReader(it.obj.body) as reader:
                        return wanted.read_result(reader).messages[0].media.document

    def download(self, document: Any, size: int, windows: int) -> int:
        """Ask for all of a document, ``windows`` MiB at a time under way; return the bytes that came."""
        place = types.InputDocumentFileLocation(document.id, document.access_hash, document.file_reference, "")
        starts = iter(range(0, size, MIB))
        for start in islice(starts, windows):
            self._send(functions.upload.GetFileRequest(place, start, MIB, precise=True))
        got = 0
        while got < size:
            length = len(self._take())
            if length < MIB // 2 and size - got > MIB:
                continue
            got = min(size, got + MIB)
            start = next(starts, -1)
            if start >= 0:
                self._send(functions.upload.GetFileRequest(place, start, MIB, precise=True))
        return got

    def _send(self, request: Any) -> None:
        data = bytes(request)
        state = self._state
        head = _MESSAGE.pack(state._get_new_msg_id(), state._get_seq_no(True), len(data))
        payload = state.encrypt_message_data(head + data)
        # The test server compares checksums, as Telegram does.
        frame = _HEAD.pack(len(payload) + 12, self._frames) + payload
        self._socket.sendall(frame + crc32(frame).to_bytes(4, "little"))
        self._frames += 1

    def _take(self) -> memoryview:
        """Return the next frame's payload; it is good until the next call."""
        self._fill(self._buffer[:8])
        length, _ = _HEAD.unpack_from(self._buffer)
        self._fill(self._buffer[8:length])
        return self._buffer[8 : length - 4]

    def _fill(self, view: memoryview) -> None:
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise Failed("the server hung up on the bare client")
            view = view[got:]
