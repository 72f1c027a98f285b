"""A set of many chunk ids in little memory."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable


class ChunkSet:
    """A set of chunk ids, given sorted. It keeps 8 bytes of each: 8 MB for a million.

    Ids are keyed hashes, so that no two chunks of a vault have these bytes in common.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._prefixes = array("Q", (int.from_bytes(chunk[:8], "big") for chunk in chunks))

    @classmethod
    def of_prefixes(cls, prefixes: "array[int]") -> "ChunkSet":
        """Return a set of chunks by the first 8 bytes of their ids as numbers, in any order, perhaps several times."""
        found = cls(())
        found._prefixes = array("Q", sorted(prefixes))
        return found

    def __contains__(self, chunk: bytes) -> bool:
        wanted = int.from_bytes(chunk[:8], "big")
        at = bisect_left(self._prefixes, wanted)
        return at < len(self._prefixes) and self._prefixes[at] == wanted

    def __len__(self) -> int:
        return len(self._prefixes)
