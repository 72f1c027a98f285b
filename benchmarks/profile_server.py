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

_CLIENTS = 8
_WORTH_PRINTING = 20
"""Microseconds."""


def _files(endpoint: Endpoint, count: int) -> list[bytes]:
    request(endpoint, "MKCOL", "/files")
    return small_puts(endpoint, "/files", count, 4096)


def _put(endpoint: Endpoint, count: int, _: Path) -> int:
    run_load(endpoint, _files(endpoint, count), _CLIENTS)
    return count


def _get(endpoint: Endpoint, count: int, _: Path) -> int:
    run_load(endpoint, _files(endpoint, 100), _CLIENTS)
    run_load(endpoint, small_gets(endpoint, "/files", 100) * (count // 100), _CLIENTS)
    return count


def _propfind(endpoint: Endpoint, count: int, _: Path) -> int:
    run_load(endpoint, _files(endpoint, count), _CLIENTS)
    for _number in range(5):
        request(endpoint, "PROPFIND", "/files/", Depth=1)
    return 5


def _large_put(endpoint: Endpoint, count: int, folder: Path) -> int:
    put_file(endpoint, "/large", make_file(folder / "source", count * MIB))
    return count


def _large_get(endpoint: Endpoint, count: int, folder: Path) -> int:
    _large_put(endpoint, count, folder)
    for _number in range(3):
        get_file(endpoint, "/large", count * MIB)
    return 3 * count


_WORKLOADS: dict[str, tuple[Callable[[Endpoint, int, Path], int], str]] = {
    "put": (_put, "file put"),
    "get": (_get, "file got (100 files put first)"),
    "propfind": (_propfind, "listing (files put first)"),
    "large-put": (_large_put, "MiB put"),
    "large-get": (_large_get, "MiB got (a third as many put first)"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_server", description=__doc__)
    parser.add_argument("workload", choices=list(_WORKLOADS))
    parser.add_argument("--count", type=int, default=2000, help="files, or MiB of a large file")
    parser.add_argument("--lines", type=int, default=25, help="functions to print for each group of threads")
    asked = parser.parse_args()
    work, unit = _WORKLOADS[asked.workload]
    with tempfile.TemporaryDirectory(prefix="tgdav-profile-") as name:
        folder = Path(name)
        with tgdav(folder, [sys.executable, "-m", "benchmarks.profiled", str(folder / "profile")]) as running:
            done = work(running.endpoint, asked.count, folder)
        for path in sorted(folder.glob("profile.*")):
            _print(path, done, unit, asked.lines)


def _print(path: Path, done: int, unit: str, lines: int) -> None:
    stats = pstats.Stats(str(path))
    total: float = stats.total_tt  # type: ignore[attr-defined]
    print(f"\n=== {path.suffix[1:]}: {total * 1e6 / done:.0f} µs a {unit}, profiling included")
    if total * 1e6 / done > _WORTH_PRINTING:
        stats.strip_dirs().sort_stats("tottime").print_stats(lines)
        stats.sort_stats("cumulative").print_stats(lines)
        stats.print_callers(r"'execute|fdatasync|statvfs")


if __name__ == "__main__":
    main()
