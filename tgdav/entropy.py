"""Random bytes for keys, nonces and names, injected as an ``Entropy``."""

import os
from typing import Protocol


class Entropy(Protocol):
    """A source of unpredictable bytes. Tests pass in a seeded one."""

    def bytes(self, count: int) -> bytes:
        """Return ``count`` random bytes."""
        ...


class SystemEntropy:
    """The kernel's random number generator."""

    def bytes(self, count: int) -> bytes:
        """Return ``count`` random bytes."""
        return os.urandom(count)
