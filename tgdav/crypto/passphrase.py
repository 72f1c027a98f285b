"""Passphrases and Argon2id (RFC 9106), with bounds on parameters that come from a header anybody could have written."""

import unicodedata
from dataclasses import dataclass, field

import msgspec
from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw

from tgdav.crypto.derivation import KEY_BYTES
from tgdav.errors import DamageError


@dataclass(frozen=True)
class Passphrase:
    """What the user types; ``repr`` hides it."""

    text: str = field(repr=False)

    def encoded(self) -> bytes:
        """Return the NFC form in UTF-8, so that every keyboard and terminal gives the same bytes (as in RFC 8265)."""
        return unicodedata.normalize("NFC", self.text).encode("utf-8", "surrogatepass")


class Argon2Parameters(msgspec.Struct, frozen=True):
    """Cost of one Argon2id run."""

    memory_kib: int = 65536
    iterations: int = 3
    parallelism: int = 4

    @property
    def work(self) -> int:
        """The KiB of memory that a run fills, all iterations together."""
        return self.memory_kib * self.iterations


class Argon2Limits(msgspec.Struct, frozen=True):
    """The cheapest and the dearest run that this machine agrees to."""

    least: Argon2Parameters = Argon2Parameters(memory_kib=1024, iterations=1, parallelism=1)
    most: Argon2Parameters = Argon2Parameters(memory_kib=1024 * 1024, iterations=16, parallelism=16)

    def allow(self, parameters: Argon2Parameters) -> bool:
        """Tell whether a run with ``parameters`` is within the limits and possible at all (8 KiB a lane)."""
        return (
            self.least.memory_kib <= parameters.memory_kib <= self.most.memory_kib
            and self.least.iterations <= parameters.iterations <= self.most.iterations
            and self.least.parallelism <= parameters.parallelism <= self.most.parallelism
            and parameters.memory_kib >= 8 * parameters.parallelism
        )


def stretch(passphrase: Passphrase, salt: bytes, parameters: Argon2Parameters, limits: Argon2Limits) -> bytes:
    """Return the 32-byte key-encryption key: one Argon2id run.

    Raises ``DamageError`` before any work when ``parameters`` are outside ``limits``, and when this machine has not the
    memory for them.
    """
    if not limits.allow(parameters):
        raise DamageError("the vault header asks for an impossible Argon2 run", blob="vault header")
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
        needed = f"the vault header asks for {parameters.memory_kib} KiB of memory for Argon2"
        raise DamageError(needed, blob="vault header", hint="free some memory") from error
