"""What commands print: a result on standard output, notices and progress on standard error."""

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
"""Seconds until a bar is drawn: what ends before shows none."""
BYTES = "bytes"
"""A stage whose name ends in this word counts bytes."""

_STAGES = {
    "segments": "reading the log",
    "checkpoint": "reading the checkpoint",
    "reading bytes": "reading stored data",
    "pending bytes": "sending",
}
_LEAST_SECONDS = 1.0


class Output:
    """Prints results for people, or with ``json`` one JSON object.

    ``warn`` keeps a line until there is a result: beside an error, nothing but the error is printed.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._warnings: dict[str, None] = {}

    def result(self, found: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Print the result: ``found`` for scripts, ``lines`` for people."""
        self.print_warnings()
        if self.as_json:
            click.echo(json.dumps(found))
            return
        for line in lines:
            click.echo(printable(line))

    def error(self, found: Mapping[str, Any]) -> None:
        """Print an error for scripts."""
        click.echo(json.dumps(found))

    def notice(self, line: str) -> None:
        """Tell people something beside the result."""
        click.echo(f"tgdav: {printable(line)}", err=True)

    def warn(self, line: str) -> None:
        """Tell people something, once, before the result is printed."""
        self._warnings[line] = None

    def print_warnings(self) -> None:
        """Print what ``warn`` was given."""
        for line in self.take_warnings():
            self.notice(line)

    def take_warnings(self) -> list[str]:
        """Return what ``warn`` was given since the last call."""
        warnings, self._warnings = self._warnings, {}
        return list(warnings)

    @contextmanager
    def progress(self, words: str = "working") -> Iterator[Report]:
        """Return a callback that draws a bar on standard error while it is a terminal, else does nothing.

        The bar appears after half a second, with ``words`` until a stage is reported.
        """
        if sys.stderr is None or not sys.stderr.isatty():
            yield lambda _stage, _done, _total: None
            return
        bar = _bar()
        report = _reporter(bar, words)
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
    # Imported only where a bar is drawn: scripts and quick commands need none.
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


def _reporter(bar: "Progress", words: str) -> Report:
    task = bar.add_task(words, total=None, numbers="")
    amounts: dict[str, Amount] = {}

    def report(stage: str, done: int, total: int) -> None:
        amount = amounts.setdefault(stage, Amount(stage, bar.get_time))
        done, total = amount.note(done, total)
        shown = printable(_STAGES.get(stage, stage))
        bar.update(task, description=shown, completed=done, total=total or None, numbers=amount.words())

    return report


class Amount:
    """How much of a stage is done, and how fast; ``now`` returns seconds.

    A stage that always reports nothing done, and a total that shrinks, reports what is left: ``pending bytes`` does.
    """

    def __init__(self, stage: str, now: Callable[[], float]) -> None:
        self._in_bytes, self._now = stage.endswith(BYTES), now
        self._began, self._first, self._most = now(), 0, 0
        self._done = self._total = 0
        self._is_first = True

    def note(self, done: int, total: int) -> tuple[int, int]:
        """Take a report; return how much is done and how much there is in all, 0 where that is not known."""
        self._most = max(self._most, total)
        if self._in_bytes and not done:
            done, total = self._most - total, self._most
        if self._is_first:
            self._first, self._is_first = done, False
        self._done, self._total = done, total
        return done, total

    def words(self) -> str:
        """Return the numbers: ``1.5 GiB of 4.0 GiB, 10.0 MiB/s, 4 min 16 s left``."""
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
