"""What fixed workloads cost the store, seen from outside: blobs and bytes in its folder, bytes read by the process."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from benchmarks.contestants import RunningTgdav, tgdav
from benchmarks.http_client import Failed, put_file, request, run_load, small_puts
from benchmarks.results import Results, count
from benchmarks.scale import MIB, Scale, make_file

_LARGEST_CHUNK = 2 * MIB - 64 * 1024
_SMALLEST_CHUNK = 256 * 1024
_READ = 1024
_SEED = 20


def counts(folder: Path, scale: Scale) -> Results:
    """Count each fixed workload."""
    results = Results()
    with tgdav(folder / "small") as running:
        _small_files(running, scale, results)
    with tgdav(folder / "large") as running:
        source = make_file(folder / "source", scale.large)
        put_file(running.endpoint, "/large", source)
        running.settle()
        _cold_reads(running, source, scale, results)
        _front_insert(running, source, scale, results)
        _copy(running, scale, results)
    return results


def _small_files(running: RunningTgdav, scale: Scale, results: Results) -> None:
    """Count all blobs, headers and whatever was deleted again included: ids are given one after the other."""
    request(running.endpoint, "MKCOL", "/small")
    run_load(running.endpoint, small_puts(running.endpoint, "/small", scale.files, scale.small), scale.clients)
    running.settle()
    last = max(int(path.name.split("-")[0]) for path in _blobs(running))
    what = f"{scale.files} files of {scale.small} bytes in a new vault: store messages of all kinds"
    results.counts.append(count(what, last, 10, "blobs", judge=scale.judged))


def _cold_reads(running: RunningTgdav, source: Path, scale: Scale, results: Results) -> None:
    """Read 1 KiB at random places of a large file, the cache cleared before each.

    Counted is all that the process read from files meanwhile (``rchar``): the store's bytes and, on top, the database's.
    """
    process, places, found = psutil.Process(running.server.pid), random.Random(_SEED), []
    with source.open("rb") as file:
        for _ in range(scale.cold_reads):
            start = places.randrange(scale.large - _READ)
            file.seek(start)
            found.append(_cold_read(running, process, start, file.read(_READ)))
    what = f"1 KiB of a cold file of {scale.large // MIB} MiB, {scale.cold_reads} places: bytes read"
    limits = ((f"{what}, median", median(found), 2 * MIB), (f"{what}, most", max(found), 2 * _LARGEST_CHUNK))
    results.counts += [count(name, value, limit, "bytes", judge=scale.judged) for name, value, limit in limits]


def _cold_read(running: RunningTgdav, process: psutil.Process, start: int, expected: bytes) -> int:
    running.ask("cache-clear")
    before = process.io_counters().read_chars
    _, answer = request(running.endpoint, "GET", "/large", Range=f"bytes={start}-{start + _READ - 1}")
    if answer.body() != expected:
        raise Failed("a cold read gave other bytes than were put")
    taken: int = process.io_counters().read_chars - before
    return taken


def _front_insert(running: RunningTgdav, source: Path, scale: Scale, results: Results) -> None:
    longer = source.with_name("longer")
    longer.write_bytes(b"!")
    with longer.open("ab") as target, source.open("rb") as original:
        while block := original.read(4 * MIB):
            target.write(block)
    with _new_bytes(running) as new:
        put_file(running.endpoint, "/large", longer)
    what = f"1 byte put before {scale.large // MIB} MiB, file rewritten: new in the store"
    results.counts.append(count(what, sum(new), 8 * MIB, "bytes", judge=scale.judged))


def _copy(running: RunningTgdav, scale: Scale, results: Results) -> None:
    """COPY a large file. Less than the smallest chunk, so the log's segment only: no data."""
    destination = f"http://{running.endpoint.host}:{running.endpoint.port}/copy"
    with _new_bytes(running) as new:
        request(running.endpoint, "COPY", "/large", Destination=destination)
    what = f"COPY of {scale.large // MIB} MiB: new in the store (a log segment, no chunk)"
    results.counts.append(count(what, sum(new), _SMALLEST_CHUNK - 1, "bytes", judge=scale.judged))


@contextmanager
def _new_bytes(running: RunningTgdav) -> Iterator[list[int]]:
    """Give a list that holds the sizes of the blobs added meanwhile, once the block has ended and all is stored."""
    found: list[int] = []
    before = set(_blobs(running))
    yield found
    running.settle()
    found += [path.stat().st_size for path in _blobs(running) if path not in before]


def _blobs(running: RunningTgdav) -> list[Path]:
    return [path for path in running.store.iterdir() if not path.name.startswith(".")]
