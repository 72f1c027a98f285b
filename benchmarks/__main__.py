"""``python -m benchmarks``: run the workloads, print the tables, keep them as JSON and in the documentation."""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import report
from benchmarks.counts import counts
from benchmarks.fuse import fuse
from benchmarks.history import history
from benchmarks.pipeline import pipeline
from benchmarks.results import Results, as_json
from benchmarks.scale import QUICK, Scale
from benchmarks.servers import large_files, listing, small_files
from benchmarks.telegram import telegram

WORKLOADS: dict[str, Callable[[Path, Scale], Results]] = {
    "large": large_files,
    "small": small_files,
    "listing": listing,
    "pipeline": pipeline,
    "counts": counts,
    "fuse": fuse,
    "history": history,
    "telegram": telegram,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for. Raises http_client.Failed when a server does not do its work."""
    asked = _arguments(arguments)
    scale = QUICK if asked.quick else Scale()
    scale = msgspec.structs.replace(scale, rounds=asked.rounds or scale.rounds)
    run = {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": report.machine(),
        "load": round(os.getloadavg()[0], 1),
        "quick": asked.quick,
        "rounds": scale.rounds,
    }
    console = Console(width=None if Console().is_terminal else 160)
    results = Results()
    for name in asked.only or WORKLOADS:
        console.print(f"[dim]{name} …[/dim]")
        with tempfile.TemporaryDirectory(prefix="tgdav-benchmark-", dir=asked.folder) as folder:
            found = WORKLOADS[name](Path(folder), scale)
        report.print_tables(found, console)
        results.add(found)
    if asked.json:
        asked.json.write_bytes(as_json(results, run))
    if asked.page:
        report.update_page(asked.page, results, run)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(WORKLOADS), help="this workload; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables into this Markdown page")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing judged: does it run at all?")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everyone's turn comes (default: 3)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the data goes; needs 40 GiB (default: the system's)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
