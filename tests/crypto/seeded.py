"""Entropy from a seed: the same seed gives the same bytes."""

from blake3 import blake3


class SeededEntropy:
    def __init__(self, seed: int) -> None:
        self._key = blake3(seed.to_bytes(8, "big")).digest()
        self._used = 0

    def bytes(self, count: int) -> bytes:
        start = self._used
        self._used += count
        return blake3(self._key).digest(count, seek=start)
