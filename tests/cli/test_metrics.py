"""The text that Prometheus reads, without a server."""

from typing import Any

from tgdav.cli.serving.metrics import metrics
from tgdav.http.traffic import TrafficCounts

KINDS = ("packs", "segments", "checkpoints", "headers")
STATUS: dict[str, Any] = {
    "store": {"reachable": True, "waiting_seconds": None},
    "pending": {"bytes": 5, "operations": 2},
    "staging": {"bytes": 7, "max_bytes": 70},
    "cache": {"bytes": 8, "max_bytes": 80},
    "files": 3,
    "bytes": 300,
    "read_only": "replaced",
    "account": {"days_left": 2},
    "sent_today": {kind: {"messages": 1, "bytes": 10} for kind in KINDS},
    "thread_failures": {"cache-scan": 4},
}
COUNTERS: dict[str, Any] = {
    "queue": 1,
    "store": {
        "append": {"calls": 6, "failures": 1, "blobs": 5, "bytes": 500},
        "read": {"calls": 2, "failures": 0, "blobs": 2, "bytes": 20},
    },
    "cache": {"hits": 9, "misses": 1},
}


def test_every_sample_follows_the_type_of_its_family_and_has_a_value() -> None:
    lines = metrics(STATUS, COUNTERS, TrafficCounts({("GET", "2xx"): 3}, 100, 200)).splitlines()
    family, samples = "", {}
    for line in lines:
        if line.startswith("# TYPE "):
            family = line.split()[2]
        elif not line.startswith("# HELP "):
            name, value = line.rsplit(" ", 1)
            assert name.partition("{")[0] == family
            samples[name] = float(value)
    assert samples["tgdav_read_only"] == 1
    assert samples["tgdav_store_backoff_seconds"] == 0
    assert samples["tgdav_account_deletion_seconds"] == 2 * 86400
    assert samples['tgdav_uploaded_today_bytes{kind="segments"}'] == 10
    assert samples['tgdav_store_request_failures_total{operation="append"}'] == 1
    assert samples['tgdav_http_requests_total{method="GET",status="2xx"}'] == 3
    assert samples['tgdav_thread_failures_total{thread="cache-scan"}'] == 4


def test_counters_end_in_total_and_nothing_else_does() -> None:
    lines = metrics(STATUS, COUNTERS, TrafficCounts({}, 0, 0)).splitlines()
    kinds = dict(line.split()[2:] for line in lines if line.startswith("# TYPE "))
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())
