"""Threads at small requests share a core; threads that move data do not, nor what they start."""

import os
import threading
from collections.abc import Callable

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.webdav.conftest import Served
from tgdav import cpu_affinity
from tgdav.content.read.reader import Prefetcher
from tgdav.http.connection import SMALL_BODY, choose_cores
from tgdav.ids import ChunkId

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="this machine has one core to use"
)


def bound() -> set[int]:
    """Return this process's threads that may use one core only."""
    threads = {thread.native_id for thread in threading.enumerate()} - {None}
    return {number for number in threads if number is not None and len(os.sched_getaffinity(number)) == 1}


def in_a_thread(*steps: Callable[[], None]) -> set[int]:
    seen: list[set[int]] = []

    def run() -> None:
        for step in steps:
            step()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen[0]


def test_a_thread_gathers_and_spreads() -> None:
    everywhere = os.sched_getaffinity(0)
    assert len(in_a_thread(cpu_affinity.share_one_core)) == 1
    assert in_a_thread(cpu_affinity.share_one_core) == in_a_thread(cpu_affinity.share_one_core) < everywhere
    assert in_a_thread(cpu_affinity.share_one_core, cpu_affinity.use_all_cores) == everywhere
    assert os.sched_getaffinity(0) == everywhere


def test_a_gathered_thread_pushes_no_other_aside() -> None:
    policies: list[int] = []

    def ask() -> None:
        policies.append(os.sched_getscheduler(0))

    in_a_thread(ask, cpu_affinity.share_one_core, ask, cpu_affinity.use_all_cores, ask)
    assert policies == [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_OTHER]


@pytest.mark.parametrize("length", [SMALL_BODY + 1, 8 << 30, None])
def test_a_large_body_spreads_again(length: int | None) -> None:
    assert len(in_a_thread(lambda: choose_cores(SMALL_BODY))) == 1
    assert in_a_thread(lambda: choose_cores(0), lambda: choose_cores(length)) == os.sched_getaffinity(0)


def test_a_thread_at_small_uploads_gathers() -> None:
    """On a server of its own: in one that has worked before, threads may be gathered already."""
    served = Served(ModelFileSystem())
    try:
        before = bound()
        assert served.client()("PUT", "/small", b"small").status == 201
        assert len(bound() - before) == 1
    finally:
        served.stop()


def test_what_reads_ahead_for_a_gathered_thread_is_not_bound() -> None:
    seen: list[set[int]] = []
    prefetcher = Prefetcher(lambda _: seen.append(os.sched_getaffinity(0)), budget=1)

    def fetch() -> None:
        done = prefetcher.fetch(ChunkId(bytes(32)), 1)
        assert done is not None
        done.result(timeout=30)

    in_a_thread(cpu_affinity.share_one_core, fetch)
    prefetcher.close()
    assert seen == [os.sched_getaffinity(0)]
