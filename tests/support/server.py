"""The real program as a subprocess: a home of its own, its commands, and a server that can be killed.

::

    home = Home(tmp_path)
    home.run("init", "--backend", "directory", "--path", str(tmp_path / "store"))
    with Server(home) as server, server.client() as client:
        assert client.request("PUT", "/file", body=b"content").status == 201
        server.kill()
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.raw_client import ConnectionCut, RawClient, Response, basic_auth
from tests.support.waiting import wait_for

__all__ = ["Completed", "ConnectionCut", "Home", "RawClient", "Response", "Server", "basic_auth", "wait_for"]

PROGRAM = (sys.executable, "-m", "tgdav")
USER = "tgdav"


@dataclass(frozen=True)
class Completed:
    """A command that ended; ``code`` is its exit code, negative for a signal."""

    args: tuple[str, ...]
    stdout: str
    stderr: str
    code: int

    def json(self) -> dict[str, Any]:
        """Return standard output as the one JSON object it should be."""
        answer: dict[str, Any] = json.loads(self.stdout)
        return answer


class CommandFailed(AssertionError):
    """A command failed; the message has its output."""


class Home:
    """A machine: a TGDAV_HOME below ``folder``, with the vault's passphrase and the WebDAV password in its environment.

    ``program`` is the words that start tgdav; ``config`` is written to config.yaml when given.
    ``variables`` go into the environment, None takes one away.
    """

    def __init__(
        self, folder: Path, name: str = "home", *, config: str = "", passphrase: str = "correct horse battery",
        password: str = "staple", program: Sequence[str] = PROGRAM, variables: dict[str, str | None] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.path = folder, folder / name
        self.passphrase, self.password, self.variables = passphrase, password, variables or {}
        self.program = tuple(program)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if config:
            (self.path / "config.yaml").write_text(config, encoding="utf-8")

    @property
    def auth(self) -> tuple[str, str]:
        return USER, self.password

    def environment(self) -> dict[str, str]:
        """Return the environment commands run in: ours, without any TGDAV_ variable but this home's."""
        found = {name: value for name, value in os.environ.items() if not name.startswith("TGDAV_")}
        found |= {"TGDAV_HOME": str(self.path), "TGDAV_PASSPHRASE": self.passphrase, "PYTHONUNBUFFERED": "1"}
        found["TGDAV_WEBDAV_PASSWORD"] = self.password
        for name, value in self.variables.items():
            found.pop(name, None)
            if value is not None:
                found[name] = value
        return found

    def beside(self, name: str, **changes: Any) -> "Home":
        """Return another machine's home with the same secrets; it joins the vault when its store is the same."""
        return Home(
            self.folder,
            name,
            **({"passphrase": self.passphrase, "password": self.password, "program": self.program} | changes),
        )

    def run(
        self, *args: str, input: str | None = None, check: bool = True, timeout: float = 60.0,  # noqa: A002
        prefix: Sequence[str] = (),
    ) -> Completed:  # fmt: skip
        """Run a command to its end. Raises CommandFailed when ``check`` and it does not exit 0."""
        done = subprocess.run(
            [*prefix, *self.program, *args], env=self.environment(), text=True, capture_output=True, timeout=timeout,
            check=False, **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
        )  # fmt: skip
        completed = Completed(args, done.stdout, done.stderr, done.returncode)
        if check and completed.code:
            raise CommandFailed(f"{args} exited {completed.code}\n{completed.stdout}\n{completed.stderr}")
        return completed

    def server(self, *args: str, **options: Any) -> "Server":
        return Server(self, *args, **options)


class Server:
    """``tgdav serve --port 0`` with ``args``, listening when the ``with`` block begins, gone when it ends.

    ``prefix`` goes before the program, as strace does; ``pid`` is the program's own all the same.
    """

    def __init__(self, home: Home, *args: str, prefix: Sequence[str] = (), deadline: float = 30.0) -> None:
        self.home, self.args, self.prefix, self.deadline = home, args, tuple(prefix), deadline
        self.url, self.auth = "", home.auth
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> "Server":
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> "Server":
        """Start and wait until it listens. Raises CommandFailed when it ends before, TimeoutError."""
        command = [*self.prefix, *self.home.program, "serve", "--port", "0", *self.args]
        self.url, self.lines, self.errors = "", [], []
        self._process = subprocess.Popen(
            command, env=self.home.environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        pipes = ((self._process.stdout, self.lines), (self._process.stderr, self.errors))
        self._readers = [threading.Thread(target=_collect, args=pair, daemon=True) for pair in pipes]
        for reader in self._readers:
            reader.start()
        wait_for(self._listening, self.deadline, what="the server to listen")
        return self

    def _listening(self) -> bool:
        for line in list(self.lines):
            if line.startswith("listening on http"):
                self.url = line.removeprefix("listening on ").strip()
                return True
        if self._popen.poll() is not None:
            raise CommandFailed(f"serve exited {self._popen.returncode}\n{self.output}")
        return False

    @property
    def _popen(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the server was not started"
        return self._process

    @property
    def output(self) -> str:
        """What it wrote so far, standard output first."""
        return "".join(self.lines + self.errors)

    @property
    def pid(self) -> int:
        if not self.prefix:
            return self._popen.pid
        return psutil.Process(self._popen.pid).children()[0].pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._popen.poll()

    def client(self, timeout: float = 60.0) -> RawClient:
        """Return a new connection that logs in."""
        return RawClient(self.url, self.auth, timeout)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def terminate(self, timeout: float = 60.0) -> str:
        """Stop it in good order and return its output. Raises CommandFailed unless it exits 0."""
        self.signal(signal.SIGTERM)
        if code := self.wait(timeout):
            raise CommandFailed(f"serve exited {code} after SIGTERM\n{self.output}")
        return self.output

    def kill(self) -> None:
        """Kill it with SIGKILL, at once; nothing happens when it is gone already."""
        if self._process is None:
            return
        if self._process.poll() is None:
            if self.prefix:
                for child in psutil.Process(self._process.pid).children():
                    child.kill()
            self._process.kill()
        self.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end and return the exit code. Raises subprocess.TimeoutExpired."""
        code = self._popen.wait(timeout)
        for reader in self._readers:
            reader.join(10)
        return code


def _collect(pipe: Any, lines: list[str]) -> None:
    with pipe:
        for line in pipe:
            lines.append(line)  # noqa: PERF402 - seen by others while the pipe is open
