"""The platform that come in from outside, together."""

import msgspec

from tgdav.clock import Clock, SystemClock
from tgdav.disk import Disk, SystemDisk
from tgdav.entropy import Entropy, SystemEntropy


class Platform(msgspec.Struct, frozen=True):
    """The clock, the source of randomness and the disk calls that make data durable, passed together."""

    clock: Clock
    entropy: Entropy
    disk: Disk

    @classmethod
    def system(cls) -> "Platform":
        """Return those of the operating system."""
        return cls(SystemClock(), SystemEntropy(), SystemDisk())
