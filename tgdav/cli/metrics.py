"""The status as Prometheus text (exposition format 0.0.4)."""

from collections.abc import Iterator, Mapping
from typing import Any


def metrics(status: Mapping[str, Any]) -> str:
    """Return the gauges that ``status`` holds."""
    store, pending, cache = status["store"], status["pending"], status["cache"]
    gauges = {
        "tgdav_store_reachable": ("Whether the store answers.", int(store["reachable"])),
        "tgdav_store_waiting_seconds": ("Until the store is tried again.", store["waiting_seconds"] or 0),
        "tgdav_pending_bytes": ("Bytes not in the store yet.", pending["bytes"]),
        "tgdav_pending_operations": ("Operations not in the store yet.", pending["operations"]),
        "tgdav_cache_bytes": ("Bytes in the cache on disk.", cache["bytes"]),
        "tgdav_cache_max_bytes": ("Bound of the cache on disk.", cache["max_bytes"]),
        "tgdav_files": ("Files in the namespace.", status["files"]),
        "tgdav_bytes": ("Bytes in the files of the namespace.", status["bytes"]),
        "tgdav_read_only": ("Whether nothing can be changed here.", int(bool(status.get("read_only")))),
    }
    text = "".join(
        f"# HELP {name} {words}\n# TYPE {name} gauge\n{name} {value}\n" for name, (words, value) in gauges.items()
    )
    return text + "".join(_sent(status["sent_today"]))


def _sent(sums: Mapping[str, Any]) -> Iterator[str]:
    for what in ("messages", "bytes"):
        name = f"tgdav_sent_today_{what}"
        yield f"# HELP {name} {what.title()} sent to the store since midnight UTC, by kind of blob.\n# TYPE {name} gauge\n"
        for kind in ("packs", "segments", "checkpoints", "headers"):
            yield f'{name}{{kind="{kind}"}} {sums[kind][what]}\n'
