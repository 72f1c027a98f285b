"""The status as Prometheus text (exposition format 0.0.4)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tgdav.webdav import TrafficCounts

Samples = Iterable[tuple[Mapping[str, str], float]]


def metrics(status: Mapping[str, Any], counters: Mapping[str, Any], traffic: TrafficCounts) -> str:
    """Return the text: gauges of the ``status`` object, then ``counters`` of the volume and of the server since start."""
    parts = (_gauges(status), _sent(status["sent_today"]), _counters(counters), _threads(status), _traffic(traffic))
    return "".join(text for part in parts for text in part)


def _gauges(status: Mapping[str, Any]) -> Iterator[str]:
    store, pending, cache = status["store"], status["pending"], status["cache"]
    gauges = {
        "tgdav_store_reachable": ("Whether the store answers.", int(store["reachable"])),
        "tgdav_store_waiting_seconds": ("Until the store is tried again.", store["waiting_seconds"] or 0),
        "tgdav_pending_bytes": ("Bytes not in the store yet.", pending["bytes"]),
        "tgdav_pending_operations": ("Operations not in the store yet.", pending["operations"]),
        "tgdav_staging_bytes": ("Bytes that wait in staging, with what wraps them.", status["staging"]["bytes"]),
        "tgdav_staging_max_bytes": ("Bound of staging.", status["staging"]["max_bytes"]),
        "tgdav_cache_bytes": ("Bytes in the cache on disk.", cache["bytes"]),
        "tgdav_cache_max_bytes": ("Bound of the cache on disk.", cache["max_bytes"]),
        "tgdav_files": ("Files in the namespace.", status["files"]),
        "tgdav_bytes": ("Bytes in the files of the namespace.", status["bytes"]),
        "tgdav_read_only": ("Whether nothing can be changed here.", int(bool(status.get("read_only")))),
    }
    if status["account"] is not None:
        words = "Until Telegram deletes the account, if nobody uses it."
        gauges["tgdav_account_days_left"] = (words, status["account"]["days_left"])
    for name, (words, value) in gauges.items():
        yield _family(name, "gauge", words, [({}, value)])


def _sent(sums: Mapping[str, Any]) -> Iterator[str]:
    for what in ("messages", "bytes"):
        samples = [({"kind": kind}, sums[kind][what]) for kind in ("packs", "segments", "checkpoints", "headers")]
        words = f"{what.title()} sent to the store since midnight UTC, by kind of blob."
        yield _family(f"tgdav_sent_today_{what}", "gauge", words, samples)


def _counters(counters: Mapping[str, Any]) -> Iterator[str]:
    store, cache = counters["store"], counters["cache"]
    yield _family("tgdav_queue_packs", "gauge", "Packs that are not in the store yet.", [({}, counters["queue"])])
    for key, words in (
        ("calls", "Calls of the store, by operation."),
        ("failures", "Calls of the store that failed, by operation; those of append are failed uploads."),
    ):
        samples = [({"operation": name}, count[key]) for name, count in store.items()]
        yield _family(f"tgdav_store_{key}_total", "counter", words, samples)
    single = {
        "tgdav_store_messages_sent_total": ("Blobs that the store took.", store["append"]["blobs"]),
        "tgdav_store_sent_bytes_total": ("Bytes of blobs that the store took.", store["append"]["bytes"]),
        "tgdav_store_received_bytes_total": ("Bytes read from the store.", store["read"]["bytes"]),
        "tgdav_cache_hits_total": ("Reads that the cache on disk answered.", cache["hits"]),
        "tgdav_cache_misses_total": ("Reads that the cache on disk could not answer.", cache["misses"]),
    }
    for name, (words, value) in single.items():
        yield _family(name, "counter", words, [({}, value)])


def _threads(status: Mapping[str, Any]) -> Iterator[str]:
    samples = [({"thread": name}, count) for name, count in sorted(status["thread_failures"].items())]
    words = "Failures that a thread met and went on after, by the thread's name."
    yield _family("tgdav_thread_failures_total", "counter", words, samples)


def _traffic(traffic: TrafficCounts) -> Iterator[str]:
    answered = [
        ({"method": method, "status": status}, count) for (method, status), count in sorted(traffic.requests.items())
    ]
    yield _family("tgdav_http_requests_total", "counter", "Answers, by method and class of status.", answered)
    for way, words, count in (
        ("received", "Bytes received from clients.", traffic.received_bytes),
        ("sent", "Bytes sent to clients.", traffic.sent_bytes),
    ):
        yield _family(f"tgdav_http_{way}_bytes_total", "counter", words, [({}, count)])


def _family(name: str, kind: str, words: str, samples: Samples) -> str:
    """Return a metric with its samples. Label values are words of ours, which need no escapes."""
    lines = [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inner = ",".join(f'{label}="{text}"' for label, text in labels.items())
        lines.append(f"{name}{{{inner}}} {value}" if inner else f"{name} {value}")
    return "\n".join((*lines, ""))
