"""Passphrases and Argon2id (RFC 9106), with bounds on the parameters: they come from headers that anyone could have written."""

import unicodedata
from dataclasses import dataclass, field

import msgspec
from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw

from tgdav.crypto.derivation import KEY_BYTES
from tgdav.errors import DamageError


@dataclass(frozen=True)
class Passphrase:
    """A passphrase. ``repr`` hides it."""

    text: str = field(repr=False)

    def encoded(self) -> bytes:
        """Return the passphrase in UTF-8, normalised to NFC: keyboards and terminals differ in that (RFC 8265)."""
        return unicodedata.normalize("NFC", self.text).encode("utf-8", "surrogatepass")


class Argon2Parameters(msgspec.Struct, frozen=True):
    """Parameters of Argon2id."""

    memory_kib: int = 65536
    iterations: int = 3
    parallelism: int = 4

    @property
    def work(self) -> int:
        """The KiB of memory that a run fills in all iterations together."""
        return self.memory_kib * self.iterations


class Argon2Limits(msgspec.Struct, frozen=True):
    """The lowest and highest parameters that this machine accepts."""

    least: Argon2Parameters = Argon2Parameters(memory_kib=1024, iterations=1, parallelism=1)
    most: Argon2Parameters = Argon2Parameters(memory_kib=1024 * 1024, iterations=16, parallelism=16)

    def allow(self, parameters: Argon2Parameters) -> bool:
        """Return whether ``parameters`` are within the limits and valid (at least 8 KiB for each lane)."""
        return (
            self.least.memory_kib <= parameters.memory_kib <= self.most.memory_kib
            and self.least.iterations <= parameters.iterations <= self.most.iterations
            and self.least.parallelism <= parameters.parallelism <= self.most.parallelism
            and parameters.memory_kib >= 8 * parameters.parallelism
        )


def stretch(passphrase: Passphrase, salt: bytes, parameters: Argon2Parameters, limits: Argon2Limits) -> bytes:
    """Return the 32-byte key-encryption key: one Argon2id run.

    Raises ``DamageError`` when ``parameters`` are outside ``limits`` (checked first), or this machine lacks the memory for
    them.
    """
    if not limits.allow(parameters):
        raise DamageError("the vault header's Argon2 parameters are outside the allowed range", blob="vault header")
    try:
        return hash_secret_raw(
            passphrase.encoded(),
            salt,
            time_cost=parameters.iterations,
            memory_cost=parameters.memory_kib,
            parallelism=parameters.parallelism,
            hash_len=KEY_BYTES,
            type=Type.ID,
        )
    except HashingError as error:
        needed = f"opening the vault header needs {parameters.memory_kib} KiB of memory for Argon2"
        raise DamageError(needed, blob="vault header", hint="free some memory") from error
