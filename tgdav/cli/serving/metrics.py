"""Metrics in the Prometheus text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/; names follow https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tgdav.webdav import TrafficCounts

Samples = Iterable[tuple[Mapping[str, str], float]]


def metrics(status: Mapping[str, Any], counters: Mapping[str, Any], traffic: TrafficCounts) -> str:
    """Return the text: gauges from the ``status`` object, then counters of the volume and of the server since its start."""
    parts = (_gauges(status), _sent(status["sent_today"]), _counters(counters), _threads(status), _traffic(traffic))
    return "".join(text for part in parts for text in part)


def _gauges(status: Mapping[str, Any]) -> Iterator[str]:
    store, pending, cache = status["store"], status["pending"], status["cache"]
    gauges = {
        "tgdav_store_reachable": ("1 if the store answers, else 0.", int(store["reachable"])),
        "tgdav_store_backoff_seconds": (
            "Time until the next attempt to reach the store.",
            store["waiting_seconds"] or 0,
        ),
        "tgdav_pending_bytes": ("Bytes of content that are not in the store yet.", pending["bytes"]),
        "tgdav_pending_operations": ("Operations that are not in the store yet.", pending["operations"]),
        "tgdav_staging_used_bytes": ("Size of staging, overhead of sealing included.", status["staging"]["bytes"]),
        "tgdav_staging_limit_bytes": ("Limit of staging.", status["staging"]["max_bytes"]),
        "tgdav_cache_used_bytes": ("Size of the disk cache.", cache["bytes"]),
        "tgdav_cache_limit_bytes": ("Limit of the disk cache.", cache["max_bytes"]),
        "tgdav_files": ("Files in the namespace.", status["files"]),
        "tgdav_file_bytes": ("Total size of the files in the namespace.", status["bytes"]),
        "tgdav_read_only": ("1 if this machine may not write, else 0.", int(bool(status.get("read_only")))),
    }
    if status["account"] is not None:
        text = "Time until Telegram deletes the account if it is not used."
        gauges["tgdav_account_deletion_seconds"] = (text, status["account"]["days_left"] * 86400)
    for name, (text, value) in gauges.items():
        yield _family(name, "gauge", text, [({}, value)])


def _sent(sums: Mapping[str, Any]) -> Iterator[str]:
    for unit, key in (("blobs", "messages"), ("bytes", "bytes")):
        samples = [({"kind": kind}, sums[kind][key]) for kind in ("packs", "segments", "checkpoints", "headers")]
        text = f"{unit.title()} uploaded since midnight UTC, by kind of blob."
        yield _family(f"tgdav_uploaded_today_{unit}", "gauge", text, samples)


def _counters(counters: Mapping[str, Any]) -> Iterator[str]:
    store, cache = counters["store"], counters["cache"]
    yield _family("tgdav_pending_packs", "gauge", "Packs that are not in the store yet.", [({}, counters["queue"])])
    for key, name, text in (
        ("calls", "requests", "Requests to the store, by operation."),
        ("failures", "request_failures", "Requests to the store that failed, by operation."),
    ):
        samples = [({"operation": operation}, count[key]) for operation, count in store.items()]
        yield _family(f"tgdav_store_{name}_total", "counter", text, samples)
    single = {
        "tgdav_store_uploaded_blobs_total": ("Blobs uploaded to the store.", store["append"]["blobs"]),
        "tgdav_store_uploaded_bytes_total": ("Bytes uploaded to the store.", store["append"]["bytes"]),
        "tgdav_store_downloaded_bytes_total": ("Bytes downloaded from the store.", store["read"]["bytes"]),
        "tgdav_cache_hits_total": ("Reads that the disk cache answered.", cache["hits"]),
        "tgdav_cache_misses_total": ("Reads that the disk cache could not answer.", cache["misses"]),
    }
    for name, (text, value) in single.items():
        yield _family(name, "counter", text, [({}, value)])


def _threads(status: Mapping[str, Any]) -> Iterator[str]:
    samples = [({"thread": name}, count) for name, count in sorted(status["thread_failures"].items())]
    text = "Unexpected exceptions after which a thread continued, by the thread's name."
    yield _family("tgdav_thread_failures_total", "counter", text, samples)


def _traffic(traffic: TrafficCounts) -> Iterator[str]:
    responses = [
        ({"method": method, "status": status}, count) for (method, status), count in sorted(traffic.requests.items())
    ]
    yield _family("tgdav_http_requests_total", "counter", "Responses, by method and class of status code.", responses)
    for name, text, count in (
        ("request", "Bytes received from clients, heads included.", traffic.received_bytes),
        ("response", "Bytes sent to clients, heads included.", traffic.sent_bytes),
    ):
        yield _family(f"tgdav_http_{name}_bytes_total", "counter", text, [({}, count)])


def _family(name: str, kind: str, text: str, samples: Samples) -> str:
    """Return a metric with its samples. Label values are constants of this program and need no escaping."""
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inner = ",".join(f'{label}="{content}"' for label, content in labels.items())
        lines.append(f"{name}{{{inner}}} {value}" if inner else f"{name} {value}")
    return "\n".join((*lines, ""))
