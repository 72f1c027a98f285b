"""``python -m benchmarks.before_after CHECKOUT``: this program beside that of another checkout, in turns on one machine.

The other checkout has its virtual environment in ``.venv``. Both programs get fresh homes. A figure of one round depends on
what else the machine did, so each round gives one ratio, and their median counts; the processor time that a process spent
for one item depends less on the machine's other work.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import tgdav
from benchmarks.fuse import make_archive, small_file_workloads, unpack
from benchmarks.fuse_mounts import Mounted, tgdav_mount
from benchmarks.http_client import Endpoint, request, run_load, small_gets, small_puts

BEFORE, AFTER = "before", "after"
_SMALL = 4096


class Sample(msgspec.Struct, frozen=True):
    """What one round of a workload took: items a second, and milliseconds of processor time an item."""

    rate: float
    processor: float


class Samples:
    """Samples by workload, and by program in the order of the rounds."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[Sample]]] = {}

    def add(self, workload: str, program: str, amount: int, seconds: float, processor: float) -> None:
        """Take in one round: ``amount`` items in so many seconds."""
        samples = self.found.setdefault(workload, {BEFORE: [], AFTER: []})[program]
        samples.append(Sample(amount / seconds, 1000 * processor / amount))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds, print one table."""
    asked = _arguments(arguments)
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="tgdav-benchmark-", dir=asked.folder) as folder:
        for name, compare in {"fuse": _mounts, "serve": _servers}.items():
            if name in (asked.only or ("fuse", "serve")):
                place = Path(folder) / name
                place.mkdir()
                compare(place, asked.checkout, samples, asked)
    Console(width=140).print(_table(samples))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description=__doc__)
    parser.add_argument("checkout", type=Path, help="the checkout to compare with")
    parser.add_argument("--only", action="append", choices=["fuse", "serve"], help="this front end; may be repeated")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="how often each program's turn comes")
    parser.add_argument("--files", type=int, default=1500, metavar="N", help="small files of one round")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the data goes (default: the system's)")
    return parser.parse_args(arguments)


def _in_turns(rounds: int) -> Iterator[tuple[int, str]]:
    for number in range(rounds):
        for program in (BEFORE, AFTER) if number % 2 else (AFTER, BEFORE):
            yield number, program


def _mounts(folder: Path, checkout: Path, samples: Samples, asked: argparse.Namespace) -> None:
    archive = make_archive(folder / "archive.tar", asked.files)
    with ExitStack() as stack:
        mounted: dict[str, Mounted] = {}
        for program, words in {BEFORE: [str(checkout / ".venv/bin/tgdav-fuse")], AFTER: None}.items():
            (folder / program).mkdir()
            start = tgdav_mount(folder / program, words) if words else tgdav_mount(folder / program)
            mounted[program] = stack.enter_context(start)
        for number, program in _in_turns(asked.rounds):

            def take(workload: str, amount: int, work: Callable[[], object], program: str = program) -> None:
                seconds, processor = mounted[program].time(work)
                samples.add(workload, program, amount, seconds, processor)

            small_file_workloads(mounted[program], f"small{number}", asked.files, _SMALL, take)
            unpack(mounted[program], f"unpacked{number}", archive, asked.files, take)


def _servers(folder: Path, checkout: Path, samples: Samples, asked: argparse.Namespace) -> None:
    with ExitStack() as stack:
        servers = {}
        for program, words in {BEFORE: [str(checkout / ".venv/bin/tgdav")], AFTER: []}.items():
            (folder / program).mkdir()
            servers[program] = stack.enter_context(tgdav(folder / program, words))
        for number, program in _in_turns(asked.rounds):
            running = servers[program]
            for clients in (1, 8):
                place = f"/round{number}clients{clients}"
                _small_puts_and_gets(running.endpoint, running.server.pid, place, clients, program, samples, asked)
                running.settle()


def _small_puts_and_gets(
    endpoint: Endpoint, pid: int, place: str, clients: int, program: str, samples: Samples, asked: argparse.Namespace
) -> None:
    request(endpoint, "MKCOL", place)
    process = psutil.Process(pid)
    puts = small_puts(endpoint, place, asked.files, _SMALL)
    gets = small_gets(endpoint, place, asked.files)
    for what, requests in {"PUT": puts, "GET": gets}.items():
        before = process.cpu_times()
        seconds = run_load(endpoint, requests, clients)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        samples.add(f"{what} 4 KiB, {clients} clients", program, asked.files, seconds, spent)


def _table(samples: Samples) -> Table:
    table = Table(title="medians; ratios are of the same round, above 1 is faster now")
    for head in ("workload", "before/s", "after/s", "ratio (min to max)", "ms before", "ms after"):
        table.add_column(head)
    for workload, found in samples.found.items():
        before, after = found[BEFORE], found[AFTER]
        ratios = [new.rate / old.rate for old, new in zip(before, after, strict=True)]
        table.add_row(
            workload,
            f"{statistics.median(each.rate for each in before):.0f}",
            f"{statistics.median(each.rate for each in after):.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{statistics.median(each.processor for each in before):.3f}",
            f"{statistics.median(each.processor for each in after):.3f}",
        )
    return table


if __name__ == "__main__":
    main()
