"""The results as tables on the terminal and in Markdown, and the machine they were found on."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.results import Comparison, Count, Measurement, Results

_BEGIN, _END = "<!-- results begin -->", "<!-- results end -->"
_VERDICTS = {True: "met", False: "missed", None: "not judged"}


class _Sheet(msgspec.Struct, frozen=True):
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rclone": _rclone(),
        **{name: importlib.metadata.version(name) for name in ("tgdav", "wsgidav", "cheroot")},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _rclone() -> str:
    done = subprocess.run(["rclone", "version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def print_tables(results: Results, console: Console) -> None:
    """Print a table for each kind of result there is."""
    for sheet in _sheets(results):
        table = Table(*sheet.columns, title=sheet.title, title_justify="left")
        for row in sheet.rows:
            table.add_row(*row, style="red" if row[-1].startswith("missed") else None)
        console.print(table)


def update_page(page: Path, results: Results, run: dict[str, Any]) -> None:
    """Put the results into a Markdown page, between its marks. Raises ValueError when it has none."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, mark, after = rest.partition(_END)
    if not mark:
        raise ValueError(f"{page} lacks the lines {_BEGIN} and {_END}")
    page.write_text(f"{before}{_BEGIN}\n{_markdown(results, run)}\n{_END}{after}", encoding="utf-8")


def _markdown(results: Results, run: dict[str, Any]) -> str:
    described = "; ".join(f"{name} {value}" for name, value in run["machine"].items())
    lines = [f"{run['time']}, {run['rounds']} rounds, load {run['load']} before: {described}."]
    for sheet in _sheets(results):
        lines += ["", f"**{sheet.title}**", "", _line(sheet.columns), _line(["---"] * len(sheet.columns))]
        lines += [_line(row) for row in sheet.rows]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sheets(results: Results) -> list[_Sheet]:
    """Return a sheet for each kind of result there is."""
    sheets = [
        _measured(results.measurements),
        _Sheet(
            "Targets",
            ("workload", "tgdav against", "times as fast", "wanted", "result"),
            tuple(map(_compared, results.comparisons)),
        ),
        _Sheet("Counts", ("counted", "found", "at most", "result"), tuple(map(_counted, results.counts))),
    ]
    return [sheet for sheet in sheets if sheet.rows]


def _measured(measurements: Sequence[Measurement]) -> _Sheet:
    """Return the rates; with a column for processor time only where it was taken."""
    heads, rows = ["workload", "who", "median", "spread", "samples"], []
    timed = any(found.processor for found in measurements)
    for found in measurements:
        samples = " ".join(f"{sample:.4g}" for sample in found.samples)
        row = [found.workload, found.contestant, f"{found.median:.4g} {found.unit}", f"{found.spread:.0%}", samples]
        if timed:
            row.insert(-1, f"{median(found.processor):.3g} ms" if found.processor else "")
        rows.append(tuple(row))
    if timed:
        heads.insert(-1, "processor")
    return _Sheet("Measured", tuple(heads), tuple(rows))


def _compared(found: Comparison) -> tuple[str, ...]:
    wanted = f"{found.wanted:g} ({'floor' if found.floor else 'target'})"
    return found.workload, found.rival, f"{found.ratio:.2f}", wanted, _VERDICTS[found.met]


def _counted(found: Count) -> tuple[str, ...]:
    value, limit = (f"{number:,.0f}" for number in (found.value, found.limit))
    return found.what, f"{value} {found.unit}", limit, _VERDICTS[found.met]
