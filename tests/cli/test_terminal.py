"""What a person at a terminal sees."""

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.conftest import Machine
from tests.support.server import PROGRAM

DEADLINE = 30.0


class Terminal:
    """A pseudo terminal with a command in it."""

    def __init__(self, descriptor: int, process: "subprocess.Popen[bytes]") -> None:
        self._descriptor, self.process = descriptor, process
        self.seen = ""

    def wait_for(self, words: str, *, after: int = 0) -> int:
        """Read until ``words`` appear beyond ``after``; return the place behind them."""
        end = time.monotonic() + DEADLINE
        while words not in self.seen[after:]:
            self._read(end, words)
        return self.seen.index(words, after) + len(words)

    def _read(self, end: float, words: str) -> None:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError(f"waited for {words!r}, saw {self.seen!r}")
        self.seen += os.read(self._descriptor, 4096).decode()

    def type(self, line: str) -> None:
        os.write(self._descriptor, line.encode() + b"\n")

    def end_input(self) -> None:
        """Press Ctrl-D."""
        os.write(self._descriptor, b"\x04")

    def finish(self) -> int:
        """Read to the end and return the exit code."""
        try:
            while block := os.read(self._descriptor, 4096):
                self.seen += block.decode()
        except OSError:  # how Linux says that nobody has the terminal open any more
            pass
        return self.process.wait(DEADLINE)


@contextmanager
def terminal(home: Machine, *words: str) -> Iterator[Terminal]:
    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", *PROGRAM, *words]
    environment = home.environment() | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def asked(home: Machine) -> Machine:
    return home.beside(home.path.name, variables={"TGDAV_PASSPHRASE": None})


def test_a_new_passphrase_is_prompted_for_twice_and_not_shown(asked: Machine) -> None:
    with terminal(asked, "init") as screen:
        place = screen.wait_for("Passphrase for the new vault: ")
        screen.type("hunter2")
        screen.wait_for("Once more: ", after=place)
        screen.type("hunter2")
        screen.wait_for("recovery key: ")
        assert screen.finish() == 0
        assert "hunter2" not in screen.seen
    with terminal(asked, "check", "--read-data") as screen:
        screen.wait_for("Passphrase: ")
        screen.type("hunter2")
        screen.wait_for("no damage")
        assert screen.finish() == 0


def test_two_different_passphrases_are_refused(asked: Machine) -> None:
    with terminal(asked, "init") as screen:
        place = screen.wait_for("Passphrase for the new vault: ")
        screen.type("one")
        screen.wait_for("Once more: ", after=place)
        screen.type("other")
        screen.wait_for("the two passphrases differ")
        assert screen.finish() == 3
    assert not (asked.path / "state" / "vault").exists()


def test_input_that_is_not_utf8_is_refused_in_one_line(asked: Machine) -> None:
    with terminal(asked, "init") as screen:
        screen.wait_for("Passphrase for the new vault: ")
        os.write(screen._descriptor, b"\xff\xfe\n")
        screen.wait_for("what was typed is not text in UTF-8")
        assert screen.finish() == 2
        assert "Traceback" not in screen.seen


def test_control_c_at_a_prompt_ends_without_a_traceback(asked: Machine) -> None:
    with terminal(asked, "init") as screen:
        screen.wait_for("Passphrase for the new vault: ")
        os.write(screen._descriptor, b"\x03")
        assert screen.finish() == 130
        assert "Traceback" not in screen.seen
