"""One connection of a client: frames in, messages out, and what MTProto itself asks for between them."""

import asyncio
import logging
import struct
from collections import deque
from typing import Any

from telethon.errors import TypeNotFoundError
from telethon.extensions import BinaryReader
from telethon.tl import functions, types
from telethon.tl.core import GzipPacked, MessageContainer
from telethon.tl.tlobject import TLRequest

from tests.mtproto import calls
from tests.mtproto.errors import GoSilent, HangUp, NoAnswer, RpcFailure
from tests.mtproto.state.authorizations import Authorization
from tests.mtproto.wire import crypt, pack
from tests.mtproto.wire.frames import FrameProtocol
from tests.mtproto.wire.handshake import Handshake
from tests.mtproto.wire.line import Line
from tests.mtproto.world import World

_PLAIN = bytes(8)
_HEADER = struct.Struct("<qqqii")
_SESSION = struct.Struct("<qq")
_QUEUED_MAX = 16 * 1024 * 1024
_TOGETHER_MAX = 16 * 1024
_OLD, _NEW = 300, 30
_LOOK = 0.01


class Connection:
    """A client at one port of one DC. It is in `world.online` from its first encrypted message on."""

    def __init__(self, world: World, frames: FrameProtocol, dc: int, media: bool) -> None:
        self.world = world
        self.dc = dc
        self.media = media
        self.wants_updates = False
        self.authorization: Authorization | None = None
        self.silent = False
        self._session = 0
        self._frames = frames
        self._handshake = Handshake(world.key, world.wire_time, self._key_made)
        self._inbound = Line(self._take, world.faults.delay, world.faults.rate)
        self._outbound = Line(self._deliver, world.faults.delay, world.faults.rate)
        self._held: list[bytes] | None = None
        self._seen: deque[int] = deque(maxlen=1000)
        self._outbox: list[tuple[bool, bool, list[bytes]]] = []
        self._last_id = 0
        self._sequence = 0
        frames.received, frames.closed = self._received, self._closed
        world.statistics.connections += 1

    # The line.

    def _received(self, payload: bytes) -> None:
        self.world.statistics.bytes_received += len(payload) + 12
        if self.silent:
            return
        self._inbound.put(payload)
        if self._inbound.queued > _QUEUED_MAX and self._frames.transport is not None:
            self._frames.transport.pause_reading()

    def _deliver(self, payload: bytes) -> None:
        self.world.statistics.bytes_sent += len(payload) + 12
        self.world.statistics.answered = True
        self._frames.send(payload)

    def _closed(self) -> None:
        self._inbound.cut()
        self._outbound.cut()
        if self in self.world.online:
            self.world.online.remove(self)

    @property
    def open(self) -> bool:
        """Whether the client is still there."""
        transport = self._frames.transport
        return transport is not None and not transport.is_closing()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._frames.abort()

    def go_silent(self) -> None:
        """Keeps the connection and ignores it."""
        self.silent = True
        self._inbound.cut()
        self._outbound.cut()

    def _take(self, payload: bytes) -> None:
        transport = self._frames.transport
        if transport is not None and self._inbound.queued < _QUEUED_MAX // 2 and not transport.is_reading():
            transport.resume_reading()
        try:
            self._route(payload)
        except HangUp as end:
            if end.code is not None:
                self._frames.send_error(end.code)
            self._frames.close()
        except GoSilent:
            self.go_silent()
        except (TypeNotFoundError, BufferError, struct.error):
            self._frames.close()

    def _route(self, payload: bytes) -> None:
        if self.silent or not self.open:
            return
        if payload[:8] == _PLAIN:
            self._exchange(payload)
        elif self._held is not None:
            self._held.append(payload)
        elif self.authorization is None or payload[:8] != self.authorization.id:
            self._enter(payload)
        else:
            self._decrypted(crypt.decrypt(self.authorization.key, payload))

    # Keys.

    def _exchange(self, payload: bytes) -> None:
        with BinaryReader(payload[20:]) as reader:
            request = reader.tgread_object()
        answer = bytes(self._handshake.answer(request))
        self._outbound.put(_PLAIN + struct.pack("<qi", self._fresh_id(response=True), len(answer)) + answer)

    def _key_made(self, key: bytes) -> None:
        self.world.statistics.handshakes += 1
        self.world.authorizations.add(self.dc, key)

    def _enter(self, payload: bytes) -> None:
        """The first message of a key. While another main connection has that key, it waits to see that one go."""
        found = self.world.authorizations.find(self.dc, payload[:8])
        if found is None:
            raise HangUp(-404)
        self.authorization = found
        self.world.online.append(self)
        if self._rivals():
            self._held = [payload]
            loop = asyncio.get_running_loop()
            loop.call_later(_LOOK, self._settle, loop.time() + self.world.rules.duplicate_grace)
        else:
            self._decrypted(crypt.decrypt(found.key, payload))

    def _rivals(self) -> bool:
        """Whether another main connection to the account's home DC uses the same key."""
        mine = self.authorization
        if mine is None or mine.user is None or self.media or self.world.accounts.get(mine.user).dc != self.dc:
            return False
        others = (it for it in self.world.online if it is not self and isinstance(it, Connection))
        return any(it.authorization is mine and not it.media and it.open and not it.silent for it in others)

    def _settle(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if self.open and self._rivals() and loop.time() < deadline:
            loop.call_later(_LOOK, self._settle, deadline)
            return
        held, self._held = self._held or [], None
        if not self.open:
            return
        if self._rivals():
            assert self.authorization is not None
            self.world.statistics.violations["AUTH_KEY_DUPLICATED"] += 1
            self.world.authorizations.end(self.authorization, "406 AUTH_KEY_DUPLICATED")
        for payload in held:
            self._take(payload)

    # Messages in.

    def _decrypted(self, padded: bytes) -> None:
        assert self.authorization is not None
        salt, session, msg_id, sequence, length = _HEADER.unpack_from(padded)
        if not 12 <= len(padded) - _HEADER.size - length <= 1024:
            raise HangUp(-404)
        fresh = (self.authorization.id, session) not in self.world.sessions
        self.world.sessions.add((self.authorization.id, session))
        self._session = session
        if (wrong := self._wrong_id(msg_id)) is not None:
            self._say(types.BadMsgNotification(msg_id, sequence, wrong))
        elif salt != self.authorization.salt:
            self._say(types.BadServerSalt(msg_id, sequence, 48, self.authorization.salt))
        elif msg_id not in self._seen:
            if fresh:
                self._say(types.NewSessionCreated(msg_id, session, self.authorization.salt), content=True)
            with BinaryReader(padded[_HEADER.size : _HEADER.size + length]) as reader:
                self._obey(msg_id, reader.tgread_object())
        self._seen.append(msg_id)
        self._flush()

    def _wrong_id(self, msg_id: int) -> int | None:
        age = self.world.wire_time() - (msg_id >> 32)
        if msg_id % 4:
            return 18
        if age > _OLD:
            return 16
        return 17 if age < -_NEW else None

    def _obey(self, msg_id: int, request: Any) -> None:
        if isinstance(request, MessageContainer):
            for each in request.messages:
                self._obey(each.msg_id, each.obj)
        elif isinstance(request, GzipPacked):
            with BinaryReader(request.data) as reader:
                self._obey(msg_id, reader.tgread_object())
        elif isinstance(request, functions.PingRequest | functions.PingDelayDisconnectRequest):
            self._say(types.Pong(msg_id, request.ping_id), response=True)
        elif isinstance(request, functions.GetFutureSaltsRequest):
            self._say(types.FutureSalts(msg_id, int(self.world.wire_time()), []), response=True)
        elif isinstance(request, functions.DestroySessionRequest):
            self._say(types.DestroySessionOk(request.session_id), response=True)
        elif isinstance(request, TLRequest):
            self._call(msg_id, request)

    def _call(self, msg_id: int, request: Any) -> None:
        assert self.authorization is not None
        self.world.statistics.called()
        try:
            value = calls.answer(self.world, self, self.authorization, request)
            answer = pack.result(msg_id, value)
        except RpcFailure as failure:
            answer = pack.failure(msg_id, failure.code, failure.text)
        except NoAnswer:
            return
        except (HangUp, GoSilent):
            raise
        except Exception as error:
            logging.getLogger(__name__).exception("the server itself failed")
            self.world.statistics.bugs.append(repr(error))
            answer = pack.failure(msg_id, 500, "BUG_OF_THE_TEST_SERVER")
        self._outbox.append((True, True, answer))

    # Messages out.

    def push(self, update: Any) -> None:
        """Sends an update to this client's session."""
        if self.open and not self.silent and self._session:
            self._say(update, content=True)
            self._flush()

    def _say(self, it: Any, *, content: bool = False, response: bool = False) -> None:
        self._outbox.append((content, response, [bytes(it)]))

    def _fresh_id(self, *, response: bool) -> int:
        """A message id: unique, growing, 1 modulo 4 for answers and 3 for the rest."""
        now = int(self.world.wire_time() * (1 << 32)) & ~3
        self._last_id = max(now, (self._last_id & ~3) + 4)
        return self._last_id | (1 if response else 3)

    def _message(self, content: bool, response: bool, parts: list[bytes]) -> list[bytes]:
        sequence = self._sequence * 2 + int(content)
        self._sequence += int(content)
        return pack.message(self._fresh_id(response=response), sequence, parts)

    def _flush(self) -> None:
        """Sends what was said: small messages together in a container, large ones each alone."""
        waiting, self._outbox = self._outbox, []
        small = [it for it in waiting if sum(map(len, it[2])) <= _TOGETHER_MAX]
        if len(small) > 1:
            self._send(False, False, pack.container([self._message(*it) for it in small]))
            waiting = [it for it in waiting if sum(map(len, it[2])) > _TOGETHER_MAX]
        for it in waiting:
            self._send(*it)

    def _send(self, content: bool, response: bool, parts: list[bytes]) -> None:
        assert self.authorization is not None
        head = _SESSION.pack(self.authorization.salt, self._session)
        key, name = self.authorization.key, self.authorization.id
        self._outbound.put(crypt.encrypt(key, name, [head, *self._message(content, response, parts)]))
