"""How large the workloads are, and where their data lies."""

import os
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MIB = 1024 * 1024
_BLOCK = bytes(4 * MIB)


class Scale(msgspec.Struct, frozen=True):
    """Sizes in bytes. ``judged``: large enough for targets to mean something."""

    large: int = 1024 * MIB
    files: int = 10_000
    small: int = 4096
    cold_reads: int = 100
    clients: int = 8
    rounds: int = 3
    listings: int = 5
    pipeline: int = 256 * MIB
    telegram: int = 500 * MIB
    garbage: int = 10 * 1024 * MIB
    judged: bool = True


QUICK = Scale(
    large=4 * MIB,
    files=40,
    cold_reads=2,
    clients=4,
    rounds=1,
    listings=1,
    pipeline=8 * MIB,
    telegram=12 * MIB,
    garbage=8 * MIB,
    judged=False,
)


def make_file(path: Path, size: int, *, front: bytes = b"") -> Path:
    """Write ``front`` and then ``size`` bytes that neither compress nor repeat: AES-CTR of zeros under a fresh key."""
    stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    with path.open("wb") as file:
        file.write(front)
        for start in range(0, size, len(_BLOCK)):
            file.write(stream.update(_BLOCK[: size - start]))
    return path
