"""The configuration of version 1: validated by models of its own, then converted to a tree of version 2."""

from collections.abc import Mapping
from typing import Any, Literal

from tgdav.config.fields import Section, boolean, custom, integer
from tgdav.config.model import GIB, Account, Chunk, Encryption, Versioning


class CacheInBytes(Section):
    """The section ``cache`` of version 1; ``max_size`` is in bytes."""

    max_size: int | None = integer(None, 1, 10**15)
    prefetch_enabled: bool = boolean(True)
    prefetch_count: int = integer(3, 0, 1000)


class Version1(Section):
    """All sections of version 1."""

    version: Literal[1] = custom(1, "1")
    telegram: Account = Account()
    encryption: Encryption = Encryption()
    cache: CacheInBytes = CacheInBytes()
    chunk: Chunk = Chunk()
    versioning: Versioning = Versioning()


def to_version2(tree: Mapping[str, Any], checked: Version1) -> dict[str, Any]:
    """Return the tree of version 2 equal to ``tree``, whose validated form is ``checked``. References stay as written."""
    result: dict[str, Any] = {"version": 2}
    for section, keys in tree.items():
        if section != "version" and keys is not None:
            result[section] = {key: value for key, value in keys.items() if value is not None}
    if checked.cache.max_size is not None:
        # Division by a power of two is exact in floating point, so the same number of bytes results.
        size = result["cache"].pop("max_size") and checked.cache.max_size / GIB
        result["cache"]["max_size_gb"] = int(size) if size.is_integer() else size
    return result
