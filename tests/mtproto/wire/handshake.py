"""The making of an authorization key, the server's side (https://core.telegram.org/mtproto/auth_key)."""

import os
from collections.abc import Callable
from hashlib import sha1
from typing import Any

import cryptg
from telethon.crypto import AuthKey
from telethon.extensions import BinaryReader
from telethon.helpers import generate_key_data_from_nonce
from telethon.tl import functions, types

from tests.mtproto.errors import HangUp
from tests.mtproto.wire.keys import GENERATOR, PRIME, PRIME_NUMBER, ServerKey

# Clients read the product as a signed number: its first bit is clear. Their factoring now and then finds 1 and the
# product; as the numbers prove nothing here, the answer is not looked at.
_PRODUCT = 5_000_011 * 14_000_029


def _plain(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


class Handshake:
    """One exchange of a connection; `made(key)` is called with the 256 bytes of the new key.

    Any misstep ends the connection.
    """

    def __init__(self, key: ServerKey, now: Callable[[], float], made: Callable[[bytes], None]) -> None:
        self._key = key
        self._now = now
        self._made = made
        self._nonce = 0
        self._server_nonce = 0
        self._new_nonce = 0
        self._secret = 0
        self._aes = (b"", b"")

    def answer(self, request: Any) -> Any:
        """The answer to one of the three requests."""
        if isinstance(request, functions.ReqPqMultiRequest):
            return self._begin(request)
        if request.nonce != self._nonce or request.server_nonce != self._server_nonce:
            raise HangUp(-404)
        if isinstance(request, functions.ReqDHParamsRequest):
            return self._parameters(request)
        if isinstance(request, functions.SetClientDHParamsRequest):
            return self._finish(request)
        raise HangUp(-404)

    def _begin(self, request: Any) -> Any:
        self._nonce = request.nonce
        self._server_nonce = int.from_bytes(os.urandom(16), "little", signed=True)
        return types.ResPQ(self._nonce, self._server_nonce, _plain(_PRODUCT), [self._key.fingerprint])

    def _parameters(self, request: Any) -> Any:
        opened = self._key.open(request.encrypted_data)
        with BinaryReader(opened) as reader:
            reader.read(20)
            inner = reader.tgread_object()
            end = reader.tell_position()
        if sha1(opened[20:end]).digest() != opened[:20]:
            raise HangUp(-404)
        self._new_nonce = inner.new_nonce
        self._aes = generate_key_data_from_nonce(self._server_nonce, self._new_nonce)
        self._secret = int.from_bytes(os.urandom(256), "big")
        public = pow(GENERATOR, self._secret, PRIME_NUMBER)
        params = types.ServerDHInnerData(
            self._nonce, self._server_nonce, GENERATOR, PRIME, _plain(public), int(self._now())
        )
        data = bytes(params)
        sealed = sha1(data).digest() + data
        sealed += os.urandom(-len(sealed) % 16)
        return types.ServerDHParamsOk(self._nonce, self._server_nonce, cryptg.encrypt_ige(sealed, *self._aes))

    def _finish(self, request: Any) -> Any:
        opened = cryptg.decrypt_ige(request.encrypted_data, *self._aes)
        with BinaryReader(opened) as reader:
            reader.read(20)
            inner = reader.tgread_object()
            end = reader.tell_position()
        if sha1(opened[20:end]).digest() != opened[:20]:
            raise HangUp(-404)
        number = pow(int.from_bytes(inner.g_b, "big"), self._secret, PRIME_NUMBER)
        key = number.to_bytes(256, "big")
        self._made(key)
        proof = AuthKey(key).calc_new_nonce_hash(self._new_nonce, 1)
        return types.DhGenOk(self._nonce, self._server_nonce, proof)
