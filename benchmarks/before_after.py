"""``python -m benchmarks.before_after CHECKOUT``: this program beside that of another checkout, in turns on one machine.

The other checkout has its virtual environment in ``.venv``. Both programs get fresh homes. A figure of one round depends on
what else the machine did, so each round gives one ratio and their median counts; the processor time that a process spent for
one item depends less on the machine's other work.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import RunningTgdav, tgdav
from benchmarks.fuse import copy_file, forget_pages, make_archive, read_file, small_file_workloads, unpack
from benchmarks.fuse_mounts import Mounted, tgdav_mount
from benchmarks.http_client import get_file, put_file, request, run_load, small_gets, small_puts
from benchmarks.scale import MIB, make_file
from benchmarks.servers import PROPERTIES
from tests.support.mounts import FUSE
from tests.support.server import PROGRAM

BEFORE, AFTER = "before", "after"
_SMALL = 4096
_LISTINGS = 5


class Sample(msgspec.Struct, frozen=True):
    """One round of a workload: items a second, and milliseconds of processor time an item."""

    rate: float
    processor: float


class Rounds:
    """Runs the rounds, and keeps their samples by workload and program."""

    def __init__(self, checkout: Path, folder: Path, *, rounds: int, files: int, large: int) -> None:
        scripts = checkout / ".venv/bin"
        self.programs = {
            BEFORE: {"tgdav": [str(scripts / "tgdav")], "tgdav-fuse": [str(scripts / "tgdav-fuse")]},
            AFTER: {"tgdav": PROGRAM, "tgdav-fuse": FUSE},
        }
        self.folder, self.rounds, self.files, self.large = folder, rounds, files, large
        self.found: dict[str, dict[str, list[Sample]]] = {}

    def in_turns(self) -> Iterator[tuple[int, str]]:
        """Yield number of the round and program; the order changes each round."""
        for number in range(self.rounds):
            for program in (BEFORE, AFTER) if number % 2 else (AFTER, BEFORE):
                yield number, program

    def add(self, program: str, workload: str, amount: float, seconds: float, processor: float) -> None:
        """Record one round: ``amount`` items in so many seconds, and seconds of processor time."""
        samples = self.found.setdefault(workload, {BEFORE: [], AFTER: []})[program]
        samples.append(Sample(amount / seconds, 1000 * processor / amount))

    def table(self) -> Table:
        """Return what was found."""
        table = Table(title="medians; a ratio is that of one round, above 1 is faster now")
        for head in ("workload", "before/s", "after/s", "ratio (min to max)", "ms before", "ms after"):
            table.add_column(head)
        for workload, found in self.found.items():
            before, after = found[BEFORE], found[AFTER]
            ratios = [new.rate / old.rate for old, new in zip(before, after, strict=True)]
            table.add_row(
                workload,
                f"{statistics.median(each.rate for each in before):.4g}",
                f"{statistics.median(each.rate for each in after):.4g}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{statistics.median(each.processor for each in before):.3g}",
                f"{statistics.median(each.processor for each in after):.3g}",
            )
        return table


def compare_mounts(rounds: Rounds) -> None:
    """Small files, an archive unpacked, and one large file through both mounts."""
    archive = make_archive(rounds.folder / "archive.tar", rounds.files)
    with ExitStack() as stack:
        mounts: dict[str, Mounted] = {}
        for program, words in rounds.programs.items():
            (rounds.folder / program).mkdir()
            mounts[program] = stack.enter_context(
                tgdav_mount(rounds.folder / program, words["tgdav-fuse"], words["tgdav"])
            )
        for number, program in rounds.in_turns():
            mounted = mounts[program]

            def take(workload: str, amount: float, work: Callable[[], object], program: str = program) -> None:
                rounds.add(program, workload, amount, *mounts[program].time(work))

            small_file_workloads(mounted, f"small{number}", rounds.files, _SMALL, take)
            unpack(mounted, f"unpacked{number}", archive, rounds.files, take)
            source, target = make_file(rounds.folder / "source", rounds.large), mounted.path / f"large{number}"
            take("write a large file, MiB", rounds.large / MIB, partial(copy_file, source, target))
            mounted.settle()
            forget_pages(target)
            take("read a large file, MiB", rounds.large / MIB, partial(read_file, target, rounds.large))
            target.unlink()


def compare_servers(rounds: Rounds) -> None:
    """Small files, a large file and a listing over WebDAV from both servers."""
    with ExitStack() as stack:
        servers: dict[str, RunningTgdav] = {}
        for program, words in rounds.programs.items():
            (rounds.folder / program).mkdir()
            servers[program] = stack.enter_context(tgdav(rounds.folder / program, words["tgdav"]))
        for number, program in rounds.in_turns():
            for clients in (1, 8):
                _small_files(rounds, program, servers[program], f"/round{number}clients{clients}", clients)
            _large_file(rounds, program, servers[program])
            servers[program].settle()


def _small_files(rounds: Rounds, program: str, server: RunningTgdav, place: str, clients: int) -> None:
    endpoint, files = server.endpoint, rounds.files
    request(endpoint, "MKCOL", place)
    loads = {
        "PUT": small_puts(endpoint, place, files, _SMALL),
        "GET": small_gets(endpoint, place, files),
    }
    for what, requests in loads.items():
        seconds, processor = _timed(server, partial(run_load, endpoint, requests, clients))
        rounds.add(program, f"{what} 4 KiB, {clients} clients", files, seconds, processor)
    listing = partial(request, endpoint, "PROPFIND", f"{place}/", PROPERTIES, Depth=1, Content_Type="application/xml")
    seconds, processor = _timed(server, lambda: [listing() for _ in range(_LISTINGS)])
    rounds.add(program, f"PROPFIND of {files} files", _LISTINGS, seconds, processor)


def _large_file(rounds: Rounds, program: str, server: RunningTgdav) -> None:
    source, size = make_file(rounds.folder / "source", rounds.large), rounds.large / MIB
    seconds, processor = _timed(server, lambda: put_file(server.endpoint, "/large", source))
    rounds.add(program, "PUT a large file, MiB", size, seconds, processor)
    get_file(server.endpoint, "/large", rounds.large)
    seconds, processor = _timed(server, lambda: get_file(server.endpoint, "/large", rounds.large))
    rounds.add(program, "GET a large file, warm, MiB", size, seconds, processor)


def _timed(server: RunningTgdav, work: Callable[[], object]) -> tuple[float, float]:
    process = psutil.Process(server.server.pid)
    before, start = process.cpu_times(), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, process.cpu_times()
    return seconds, after.user + after.system - before.user - before.system


def compare_starts(rounds: Rounds) -> None:
    """How long a command takes that only prints, the time of the interpreter included."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for words in rounds.programs.values():  # each keeps its bytecode before it is measured
        subprocess.run([*words["tgdav"], "--version"], check=True, stdout=subprocess.DEVNULL, env=environment)
    for _, program in rounds.in_turns():
        command = [*rounds.programs[program]["tgdav"], "--version"]
        start, before = time.perf_counter(), psutil.Process().cpu_times()
        for _ in range(_LISTINGS):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds, after = time.perf_counter() - start, psutil.Process().cpu_times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        rounds.add(program, "tgdav --version", _LISTINGS, seconds, spent)


COMPARISONS: Mapping[str, Callable[[Rounds], None]] = {
    "fuse": compare_mounts,
    "serve": compare_servers,
    "start": compare_starts,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds, print one table for each comparison."""
    asked = _arguments(arguments)
    for name in asked.only or COMPARISONS:
        with tempfile.TemporaryDirectory(prefix="tgdav-benchmark-", dir=asked.folder) as folder:
            rounds = Rounds(
                asked.checkout, Path(folder), rounds=asked.rounds, files=asked.files, large=asked.large * MIB
            )
            COMPARISONS[name](rounds)
        Console(width=120).print(rounds.table())


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description=__doc__)
    parser.add_argument("checkout", type=Path, help="the checkout to compare with")
    parser.add_argument("--only", action="append", choices=list(COMPARISONS), help="only this; may be repeated")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="how often each program's turn comes")
    parser.add_argument("--files", type=int, default=1500, metavar="N", help="small files of one round")
    parser.add_argument("--large", type=int, default=128, metavar="MIB", help="size of the large file")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the data goes (default: the system's)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
