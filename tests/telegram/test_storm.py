"""Everything goes wrong at random while blobs are written, read and deleted; nothing is lost, nothing is there twice."""

import itertools
import os
import random
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

import pytest

from tests.blobs.calls import content
from tests.blobs.conftest import name_of
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tgdav.blobs import BlobInfo, BlobStore, BytesSource
from tgdav.blobs.retry import RetryPolicy, RetryStore
from tgdav.blobs.telegram.governor import Governor
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy

OFTEN = 0.02
SELDOM = 0.004
KINDS = {
    **dict.fromkeys(("internal", "timeout", "rpc_call_fail", "worker_busy", "bad_salt", "noise"), OFTEN),
    **dict.fromkeys(("part_refused", "reference_expired", "reference_invalid", "reference_empty"), OFTEN),
    **dict.fromkeys(("short_read", "part_lost", "part_zero_lost", "md5_invalid", "other_dc"), OFTEN),
    **dict.fromkeys(("lost_answer", "dropped_connection", "dropped_answer", "half_open"), SELDOM),
    **dict.fromkeys(("restart", "flood_wait", "flood_premium_wait"), SELDOM),
}
"""What a login survives; each kind's probability a call."""


def retrying(inner: BlobStore, stop: threading.Event) -> RetryStore:
    policy = RetryPolicy(first_wait=0.05, longest_wait=0.5, give_up_after=inf)
    return RetryStore(inner, clock=SystemClock(), entropy=SystemEntropy(), stop=stop, policy=policy)


def work(store: BlobStore, worker: int, blobs: int) -> list[tuple[BlobInfo, bytes]]:
    """Write, read back and delete some; return what has to be there."""
    chance = random.Random(worker)
    kept = []
    for number in range(blobs):
        data = chance.randbytes(chance.choice((0, 7, 5000, 700_000, 3_000_000, 11_000_000)))
        info = store.append(name_of(1000 * worker + number), BytesSource(data), f"w{worker}-{number}")
        assert content(store, info) == data
        if chance.random() < 0.3:
            store.delete([info.id])
        else:
            kept.append((info, data))
    return kept


def storm(folder: Path, seed: int, *, channel: bool, workers: int = 4, blobs: int = 5) -> Counter[str]:
    """One storm on a fresh server; returns how often each fault struck."""
    stop = threading.Event()
    with Server(folder, seed=seed) as server:
        account = TelegramAccount(server, channel=channel, patience=0.5)
        governor = Governor(account.open(), clock=SystemClock(), stop=stop)
        store = retrying(governor, stop)
        server.set_rates(KINDS, seconds=(1, 1))
        with ThreadPoolExecutor(workers) as threads:
            done = [*threads.map(lambda worker: work(store, worker, blobs), range(workers))]
        server.disarm()
        kept = sorted((pair for pairs in done for pair in pairs), key=lambda pair: pair[0].id)
        assert [*store.list()] == [info for info, _ in kept]
        assert all(content(store, info) == data for info, data in kept)
        store.close()
        return Counter(server.fault_counts())


@pytest.mark.parametrize("channel", [False, True], ids=["me", "channel"])
def test_storm(tmp_path: Path, channel: bool) -> None:
    assert len(storm(tmp_path / "telegram", 11, channel=channel)) > 5


@pytest.mark.torture
def test_storms(tmp_path: Path) -> None:
    """Storms of new seeds for the time set; each kind of fault is met."""
    met: Counter[str] = Counter()
    until = time.monotonic() + 60 * float(os.environ.get("TGDAV_TORTURE_MINUTES", "1"))
    for seed in itertools.count(1):
        met += storm(tmp_path / str(seed), seed, channel=seed % 2 == 1, blobs=12)
        shutil.rmtree(tmp_path / str(seed))
        print(f"seed {seed}: {dict(met)}")
        if time.monotonic() > until:
            break
    assert set(met) == set(KINDS)
