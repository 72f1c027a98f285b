"""MTProto 2.0 message encryption, the server's side (https://core.telegram.org/mtproto/description)."""

import os
from hashlib import sha1, sha256

import cryptg

from tests.mtproto.errors import HangUp

FROM_CLIENT = 0
FROM_SERVER = 8


def key_id(auth_key: bytes) -> bytes:
    """The 8 bytes by which messages name an authorization key."""
    return sha1(auth_key).digest()[12:]


def _aes(auth_key: bytes, msg_key: bytes, side: int) -> tuple[bytes, bytes]:
    first = sha256(msg_key + auth_key[side : side + 36]).digest()
    second = sha256(auth_key[side + 40 : side + 76] + msg_key).digest()
    return first[:8] + second[8:24] + first[24:], second[:8] + first[8:24] + second[24:]


def _msg_key(auth_key: bytes, padded: bytes, side: int) -> bytes:
    digest = sha256(auth_key[88 + side : 120 + side])
    digest.update(padded)
    return digest.digest()[8:24]


def decrypt(auth_key: bytes, payload: bytes) -> bytes:
    """The padded plaintext of a client's message; a forged or damaged one ends the connection."""
    msg_key = payload[8:24]
    if len(payload) < 56 or (len(payload) - 24) % 16:
        raise HangUp(-404)
    padded: bytes = cryptg.decrypt_ige(payload[24:], *_aes(auth_key, msg_key, FROM_CLIENT))
    if _msg_key(auth_key, padded, FROM_CLIENT) != msg_key:
        raise HangUp(-404)
    return padded


def encrypt(auth_key: bytes, name: bytes, parts: list[bytes]) -> bytes:
    """The payload of a frame: key id, message key, ciphertext of the joined `parts` and their padding."""
    size = sum(map(len, parts))
    padded = b"".join((*parts, os.urandom(-(size + 12) % 16 + 12)))
    msg_key = _msg_key(auth_key, padded, FROM_SERVER)
    return b"".join((name, msg_key, cryptg.encrypt_ige(padded, *_aes(auth_key, msg_key, FROM_SERVER))))
