"""The seams that come in from outside, together."""

import msgspec

from tgdav.clock import Clock, SystemClock
from tgdav.disk import Disk, SystemDisk
from tgdav.entropy import Entropy, SystemEntropy


class Seams(msgspec.Struct, frozen=True):
    """Time, randomness and durable disk calls."""

    clock: Clock
    entropy: Entropy
    disk: Disk

    @classmethod
    def system(cls) -> "Seams":
        """Return the machine's own."""
        return cls(SystemClock(), SystemEntropy(), SystemDisk())
