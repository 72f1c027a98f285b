"""A machine whose vault opens cheaply, beside its store, and whose commands run in this process."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import PROGRAM, CommandFailed, Completed, Home, Server
from tests.support.volumes import PASSPHRASE, new_vault
from tgdav.cli import main

CHEAP = "encryption: {argon2_memory_kib: 1024, argon2_iterations: 1, argon2_parallelism: 1}\n"


def config_for(folder: Path) -> str:
    """Return a configuration with a store of the machine's own and a cheap passphrase."""
    return f"version: 2\nstorage: {{backend: directory, directory: {{path: {folder / 'store'}}}}}\n{CHEAP}"


class Machine(Home):
    """A home whose commands run here, without starting an interpreter each time; servers are still processes."""

    def run(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        variables: dict[str, str] | None = None,
        **_: Any,
    ) -> Completed:
        """Run a command to its end; ``variables`` go into its environment."""
        out, err = io.StringIO(), io.StringIO()
        mask, standard_input = os.umask(0o022), sys.stdin
        sys.stdin = io.StringIO(input or "")
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = main(args, self.environment() | (variables or {}))
        finally:
            sys.stdin = standard_input
            os.umask(mask)
        if check and code:
            raise CommandFailed(f"{args} exited {code}\n{out.getvalue()}\n{err.getvalue()}")
        return Completed(args, out.getvalue(), err.getvalue(), code)

    def beside(self, name: str, **changes: Any) -> "Machine":
        return Machine(self.folder, name, **({"passphrase": self.passphrase, "password": self.password} | changes))


@pytest.fixture
def home(tmp_path: Path) -> Machine:
    """A home with a configuration and without a vault."""
    return Machine(tmp_path, config=config_for(tmp_path))


@pytest.fixture
def vault(home: Machine) -> Machine:
    """A home with a vault."""
    home.run("init")
    return home


@pytest.fixture
def copied_vault(tmp_path: Path) -> Machine:
    """A home with a vault, which is copied and not made."""
    new_vault(tmp_path)
    return Machine(tmp_path, config=config_for(tmp_path), passphrase=PASSPHRASE)


@pytest.fixture(params=["alone", "beside a server"])
def drive(request: pytest.FixtureRequest, copied_vault: Machine) -> Iterator[Machine]:
    """A machine whose vault is open in a server, or in no process."""
    if request.param == "alone":
        yield copied_vault
        return
    with Server(copied_vault):
        # Without the passphrase, commands have to ask the server.
        yield copied_vault.beside(copied_vault.path.name, variables={"TGDAV_PASSPHRASE": None})


def raw(home: Machine, *words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:  # noqa: A002
    """Run a command in a process of its own, for content that is not text."""
    return subprocess.run(
        [*PROGRAM, *words], env=home.environment(), input=input, capture_output=True, timeout=60, check=False
    )
