"""What commands print: a result on standard output, notices and progress on standard error."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from tgdav.cli.reports import printable
from tgdav.volume.control import Progress as Report


class Output:
    """Prints results for people, or with ``json`` one JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, found: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Print the result: ``found`` for scripts, ``lines`` for people."""
        if self.as_json:
            click.echo(json.dumps(found))
            return
        for line in lines:
            click.echo(printable(line))

    def notice(self, line: str) -> None:
        """Tell people something beside the result."""
        click.echo(f"tgdav: {printable(line)}", err=True)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """Return a callback that draws a bar on standard error while it is a terminal, else does nothing."""
        if not sys.stderr.isatty():
            yield lambda _stage, _done, _total: None
            return
        # Imported only where a bar is drawn: scripts and quick commands need none.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)

            def report(stage: str, done: int, total: int) -> None:
                bar.update(task, description=printable(stage), completed=done, total=total or None)

            yield report


def size(count: int) -> str:
    """Return a number of bytes as people read it: ``1.5 GiB``."""
    if count < 1024:
        return f"{count} B"
    value, units = count / 1024, iter(("KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while value >= 1024 and (larger := next(units, "")):
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"


def iso_time(time_ns: int) -> str:
    """Return a time in ns since 1970 as ISO 8601 in UTC."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000).isoformat().replace("+00:00", "Z")
