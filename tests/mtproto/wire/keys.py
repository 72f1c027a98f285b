"""The server's RSA key and the Diffie-Hellman numbers."""

import functools
import struct
from hashlib import sha1
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from telethon.tl.tlobject import TLObject

GENERATOR = 3

# The one prime that clients accept without a slow check, published by Telegram.
PRIME = bytes.fromhex(
    "c71caeb9c6b1c9048e6c522f70f13f73980d40238e3e21c14934d037563d930f48198a0aa7c14058229493d22530f4dbfa336f6e0ac925139543aed44cce7c37"
    "20fd51f69458705ac68cd4fe6b6b13abdc9746512969328454f18faf8c595f642477fe96bb2a941d5bcd1d4ac8cc49880708fa9b378e3c4f3a9060bee67cf9a4"
    "a4a695811051907e162753b56b0f6b410dba74d8a84b2a14b3144e0ef1284754fd17ed950d5965b4b9dd46582db1178d169c6bc465b0d6ff9ca3928fef5b9ae4"
    "e418fc15e83ebea0f87fa9ff5eed70050ded2849f47bf959d956850ce929851f0d8115f635b105ee2e4e15d04b2454bf6f4fadf034b10403119cd8e3b92fcc5b"
)
PRIME_NUMBER = int.from_bytes(PRIME, "big")


@functools.cache
def _generated() -> bytes:
    """A key for this process: making one is slow, and its secrecy is nobody's concern."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, kind, plain)


class ServerKey:
    """The RSA key of a server folder: made at the first start, kept there, its public half beside it as PKCS#1 PEM."""

    def __init__(self, folder: Path) -> None:
        private_file = folder / "server_key.pem"
        self.public_file = folder / "public_key.pem"
        if not private_file.exists():
            private_file.write_bytes(_generated())
        key = serialization.load_pem_private_key(private_file.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        numbers = key.private_numbers()
        self._modulus, self._private = numbers.public_numbers.n, numbers.d
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
        self.public_file.write_bytes(public)
        self.public_pem = public.decode()
        self.fingerprint = _fingerprint(self._modulus, numbers.public_numbers.e)

    def open(self, sealed: bytes) -> bytes:
        """The 255 bytes that a client sealed by plain RSA: SHA-1, data, padding."""
        return pow(int.from_bytes(sealed, "big"), self._private, self._modulus).to_bytes(256, "big")[1:]


def _fingerprint(modulus: int, exponent: int) -> int:
    parts = (number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (modulus, exponent))
    digest = sha1(b"".join(TLObject.serialize_bytes(part) for part in parts)).digest()
    (fingerprint,) = struct.unpack("<q", digest[-8:])
    return int(fingerprint)
