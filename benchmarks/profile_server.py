"""Where a workload's processor time goes: ``python -m benchmarks.profile_server put|get|propfind|large-put|large-get``.

Profiling slows every call, so the shares tell and the sums do not; compare with ``python -m benchmarks`` for speeds.
"""

import argparse
import pstats
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.contestants import tgdav
from benchmarks.http_client import Endpoint, get_file, put_file, request, run_load, small_gets, small_puts
from benchmarks.scale import MIB, make_file
from benchmarks.servers import PROPERTIES

_CLIENTS = 8
_LISTINGS = 5
_WORTH_PRINTING = 0.05
"""Share of all threads' time."""


def _put(endpoint: Endpoint, count: int, _: Path) -> int:
    request(endpoint, "MKCOL", "/files")
    run_load(endpoint, small_puts(endpoint, "/files", count, 4096), _CLIENTS)
    return count


def _get(endpoint: Endpoint, count: int, _: Path) -> int:
    run_load(endpoint, small_gets(endpoint, "/files", count), _CLIENTS)
    return count


def _propfind(endpoint: Endpoint, _count: int, _: Path) -> int:
    for _number in range(_LISTINGS):
        request(endpoint, "PROPFIND", "/files/", PROPERTIES, Depth=1)
    return _LISTINGS


def _large_put(endpoint: Endpoint, count: int, folder: Path) -> int:
    put_file(endpoint, "/large", make_file(folder / "source", count * MIB))
    return count


def _large_get(endpoint: Endpoint, count: int, _: Path) -> int:
    get_file(endpoint, "/large", count * MIB)
    return count


_Work = Callable[[Endpoint, int, Path], int]

_WORKLOADS: dict[str, tuple[_Work | None, _Work, str]] = {
    "put": (None, _put, "file"),
    "get": (_put, _get, "file"),
    "propfind": (_put, _propfind, "listing"),
    "large-put": (None, _large_put, "MiB"),
    "large-get": (_large_put, _large_get, "MiB"),
}
"""What to do first, unprofiled; what to profile, which returns how many it did; of what."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_server", description=__doc__)
    parser.add_argument("workload", choices=list(_WORKLOADS))
    parser.add_argument("--count", type=int, default=2000, help="files, or MiB of a large file")
    parser.add_argument("--lines", type=int, default=25, help="functions to print for each group of threads")
    asked = parser.parse_args()
    prepare, work, unit = _WORKLOADS[asked.workload]
    with tempfile.TemporaryDirectory(prefix="tgdav-profile-") as name:
        folder = Path(name)
        if prepare is not None:
            with tgdav(folder) as running:
                prepare(running.endpoint, asked.count, folder)
                running.settle()
        with tgdav(folder, [sys.executable, "-m", "benchmarks.profiled", str(folder / "profile")]) as running:
            done = work(running.endpoint, asked.count, folder)
        _print({path.suffix[1:]: pstats.Stats(str(path)) for path in folder.glob("profile.*")}, done, unit, asked.lines)


def _print(groups: dict[str, pstats.Stats], done: int, unit: str, lines: int) -> None:
    """Print what each group of threads took, and the functions of those that took much."""
    seconds: dict[str, float] = {name: stats.total_tt for name, stats in groups.items()}  # type: ignore[attr-defined]
    for name in sorted(groups, key=lambda name: -seconds[name]):
        print(f"=== {name}: {seconds[name] * 1e6 / done:.0f} µs a {unit}, profiling included")
        if seconds[name] >= _WORTH_PRINTING * sum(seconds.values()):
            stats = groups[name].strip_dirs()
            stats.sort_stats("tottime").print_stats(lines).sort_stats("cumulative").print_stats(lines)
            stats.print_callers(r"'execute|fdatasync|statvfs")


if __name__ == "__main__":
    main()
