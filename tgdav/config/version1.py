"""The configuration of version 1: read by its own models, then put into the words of version 2."""

from collections.abc import Mapping
from typing import Any, Literal

from tgdav.config.fields import Section, switch, whole, words
from tgdav.config.model import GIB, Account, Chunk, Encryption, Versioning


class CacheInBytes(Section):
    """The cache of version 1; ``max_size`` is in bytes."""

    max_size: int | None = whole(None, 1, 10**15)
    prefetch_enabled: bool = switch(True)
    prefetch_count: int = whole(3, 0, 1000)


class Version1(Section):
    """All that version 1 knows."""

    version: Literal[1] = words(1, "1")
    telegram: Account = Account()
    encryption: Encryption = Encryption()
    cache: CacheInBytes = CacheInBytes()
    chunk: Chunk = Chunk()
    versioning: Versioning = Versioning()


def to_version2(tree: Mapping[str, Any], checked: Version1) -> dict[str, Any]:
    """Return the tree of version 2 that says what ``tree``, already found good, says; references stay as written."""
    result: dict[str, Any] = {"version": 2}
    for section, keys in tree.items():
        if section != "version" and keys is not None:
            result[section] = {key: value for key, value in keys.items() if value is not None}
    if checked.cache.max_size is not None:
        # Division by a power of two: the float is exact, so the bytes come back.
        size = result["cache"].pop("max_size") and checked.cache.max_size / GIB
        result["cache"]["max_size_gb"] = int(size) if size.is_integer() else size
    return result
