"""How values are written for people, and what a progress bar says."""

import io
import sys

import pytest

from tests.support.waiting import wait_for
from tgdav.cli import output
from tgdav.cli.output import Amount
from tgdav.wording import closest, counted, machine_names, readable_duration, readable_size

A, B, C = "0a" * 16, "0b" * 16, "0c" * 16


class Watch:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_sizes() -> None:
    shown = {0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 3 << 40: "3.0 TiB", 5 << 70: "5120.0 EiB"}
    assert {count: readable_size(count) for count in shown} == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (192, "3 min 12 s"),
        (3900, "1 h 5 min"),
        (183600, "2 d 3 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert readable_duration(seconds) == words


def test_numbers_with_their_nouns() -> None:
    assert [counted(1, "file"), counted(2, "file"), counted(0, "entry", "entries")] == [
        "1 file",
        "2 files",
        "0 entries",
    ]


def test_near_misses() -> None:
    assert closest("Stat", ["status", "sync"]) == "status"
    assert closest("xyzzy", ["status", "sync"]) is None


def test_machines_with_equal_names_are_distinguished() -> None:
    assert machine_names([(A, "laptop"), (B, "desk")]) == {A: "laptop", B: "desk"}
    assert machine_names([(A, "vm"), (B, "vm"), (C, "desk")]) == {A: "vm (0a0a0a0a)", B: "vm (0b0b0b0b)", C: "desk"}


class Screen(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, delay: float) -> str:
    """Return what a command draws that has more than ``delay`` seconds of work, and reports a stage; or ends before."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output, "DELAY", delay)
    with output.Output(as_json=False).progress("joining") as report:
        if not delay:
            wait_for(lambda: "joining" in screen.getvalue(), what="the bar with its word")
        report("segments", 3, 10)
        if not delay:
            wait_for(lambda: "reading the log" in screen.getvalue(), what="the stage in words")
    return screen.getvalue()


def test_a_bar_shows_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "3 of 10" in drawn(monkeypatch, 0.0)


def test_quick_work_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 3600.0) == ""


class TestAmount:
    def test_counts(self) -> None:
        watch = Watch()
        amount = Amount("segments", watch)
        assert amount.text() == ""
        amount.record(1, 10)
        assert amount.text() == "1 of 10", "nothing is said of the pace before there is one"
        watch.now += 8
        amount.record(5, 10)
        assert amount.text() == "5 of 10, 10 s left"

    def test_bytes(self) -> None:
        watch = Watch()
        amount = Amount("reading bytes", watch)
        amount.record(1 << 20, 10 << 20)
        watch.now += 4
        amount.record(5 << 20, 10 << 20)
        assert amount.text() == "5.0 MiB of 10.0 MiB, 1.0 MiB/s, 5 s left"

    def test_bytes_that_are_left(self) -> None:
        watch = Watch()
        amount = Amount("pending bytes", watch)
        assert amount.record(0, 4 << 20) == (0, 4 << 20)
        watch.now += 2
        assert amount.record(0, 3 << 20) == (1 << 20, 4 << 20)
        assert amount.text() == "1.0 MiB of 4.0 MiB, 512.0 KiB/s, 6 s left"
        assert amount.record(0, 8 << 20) == (0, 8 << 20), "what came meanwhile is sent too"

    def test_without_a_total(self) -> None:
        amount = Amount("segments", Watch())
        amount.record(7, 0)
        assert amount.text() == "7"
