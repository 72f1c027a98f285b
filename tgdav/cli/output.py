"""Output of commands: the result on standard output, notices and progress on standard error."""

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tgdav.volume.control import Progress as Report
from tgdav.wording import printable, readable_duration, readable_size

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY = 0.5
"""Seconds until a progress bar is drawn; quick commands show none."""
BYTES = "bytes"
"""The progress of a stage whose name ends so is in bytes."""

_STAGES = {
    "segments": "reading the log",
    "checkpoint": "reading the checkpoint",
    "reading bytes": "reading stored data",
    "pending bytes": "sending",
    "fetched bytes": "fetching",
    "stored bytes": "storing",
}
_LEAST_SECONDS = 1.0


class Output:
    """Prints results as text, or with ``as_json`` as one JSON object.

    Warnings are kept until there is a result: when a command fails, only its error is printed.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._warnings: dict[str, None] = {}

    def result(self, found: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Print the result: ``found`` as JSON, or ``lines`` as text."""
        self.print_warnings()
        if self.as_json:
            click.echo(json.dumps(found))
            return
        for line in lines:
            click.echo(printable(line))

    def error(self, found: Mapping[str, Any]) -> None:
        """Print an error as JSON."""
        click.echo(json.dumps(found))

    def notice(self, line: str) -> None:
        """Print a line on standard error, beside the result."""
        click.echo(f"tgdav: {printable(line)}", err=True)

    def warn(self, line: str) -> None:
        """Print a line, once, before the result."""
        self._warnings[line] = None

    def print_warnings(self) -> None:
        """Print the warnings so far."""
        for line in self.take_warnings():
            self.notice(line)

    def take_warnings(self) -> list[str]:
        """Return the warnings since the last call, in order."""
        warnings, self._warnings = self._warnings, {}
        return list(warnings)

    @property
    def shows_progress(self) -> bool:
        """Whether progress is drawn: standard error is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    @contextmanager
    def progress(self, label: str = "working") -> Iterator[Report]:
        """Yield a callback for progress, drawn as a bar if standard error is a terminal.

        The bar appears after half a second, with ``label`` until a stage is reported.
        """
        if not self.shows_progress:
            yield lambda _stage, _done, _total: None
            return
        bar = _bar()
        report = _reporter(bar, label)
        appears = threading.Timer(DELAY, bar.start)
        appears.daemon = True
        appears.start()
        try:
            yield report
        finally:
            appears.cancel()
            appears.join()
            bar.stop()


def _bar() -> "Progress":
    # Imported here: only terminals get a bar, and rich takes long to import.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5)


def _reporter(bar: "Progress", label: str) -> Report:
    task = bar.add_task(label, total=None, numbers="")
    amounts: dict[str, Amount] = {}

    def report(stage: str, done: int, total: int) -> None:
        amount = amounts.setdefault(stage, Amount(stage, bar.get_time))
        done, total = amount.record(done, total)
        shown = printable(_STAGES.get(stage, stage))
        bar.update(task, description=shown, completed=done, total=total or None, numbers=amount.text())

    return report


class Amount:
    """The progress of a stage, and its speed. ``now`` returns seconds.

    A stage that always reports 0 done and a decreasing total reports what remains, as ``pending bytes`` does.
    """

    def __init__(self, stage: str, now: Callable[[], float]) -> None:
        self._in_bytes, self._now = stage.endswith(BYTES), now
        self._began, self._first, self._most = now(), 0, 0
        self._done = self._total = 0
        self._is_first = True

    def record(self, done: int, total: int) -> tuple[int, int]:
        """Record a report; return the amount done and the total, 0 where it is unknown."""
        self._most = max(self._most, total)
        if self._in_bytes and not done:
            done, total = self._most - total, self._most
        if self._is_first:
            self._first, self._is_first = done, False
        self._done, self._total = done, total
        return done, total

    def text(self) -> str:
        """Return the progress as text: ``1.5 GiB of 4.0 GiB, 10.0 MiB/s, 4 min 16 s left``."""
        show = readable_size if self._in_bytes else str
        if not self._total:
            return show(self._done) if self._done else ""
        return ", ".join([f"{show(self._done)} of {show(self._total)}", *self._pace()])

    def _pace(self) -> Iterator[str]:
        seconds = self._now() - self._began
        if seconds < _LEAST_SECONDS or self._done <= self._first:
            return
        rate = (self._done - self._first) / seconds
        if self._in_bytes:
            yield f"{readable_size(round(rate))}/s"
        yield f"{readable_duration((self._total - self._done) / rate)} left"
