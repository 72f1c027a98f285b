"""The way in for tests: a server in a thread (`Server`) or a process of its own (`ServerProcess`), the same commands."""

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from telethon import TelegramClient
from telethon.crypto import AuthKey
from telethon.sessions import StringSession

from tests.mtproto.commands import Commands
from tests.mtproto.faults import Faults
from tests.mtproto.rules import Rules
from tests.mtproto.server import HOST, LoopServer
from tests.mtproto.world import HOME_DC

PHONE = "9996621234"
CODE = "22222"
_START_WAIT = 30.0


@dataclass(frozen=True)
class TestServer:
    """What `telegram.test_server` of the configuration wants to know."""

    __test__ = False

    address: str
    port: int
    dc: int
    public_key_file: Path


class _Asking:
    """Turns `server.noise(phone, 3)` into the command "noise"."""

    test_server: TestServer

    def ask(self, command: str, *arguments: Any, **named: Any) -> Any:
        """Runs a command of tests.mtproto.commands and returns its result."""
        raise AssertionError(command)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Commands, name):
            raise AttributeError(name)
        return lambda *arguments, **named: self.ask(name, *arguments, **named)

    @property
    def port(self) -> int:
        """The home DC's main port."""
        return self.test_server.port

    @property
    def public_key(self) -> str:
        """The public key as PKCS#1 PEM."""
        return self.test_server.public_key_file.read_text()

    def session(self, phone: str = PHONE) -> str:
        """A fresh login of the account as Telethon's StringSession, without the exchange of a key and a code."""
        session = StringSession()
        session.set_dc(HOME_DC, HOST, self.port)
        session.auth_key = AuthKey(base64.b64decode(self.ask("make_login", phone)))
        return str(session.save())


class Server(_Asking):
    """A server in a thread: `with Server(folder, seed=7, latency=0.06) as server:`.

    It has one account (PHONE, CODE, no password) from the start.

    A second `Server` on the same folder continues where the first ended. Commands (see tests.mtproto.commands) are
    methods.
    """

    def __init__(
        self, folder: Path, seed: int = 0, *, latency: float = 0.0, bandwidth: float = 0.0, port: int = 0, **rules: Any
    ) -> None:
        self.faults = Faults(seed)
        self.faults.latency, self.faults.bandwidth = latency, bandwidth
        self.rules = Rules(**rules)
        self._folder, self._port = folder, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="mtproto server", daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._server: LoopServer | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START_WAIT) or self._server is None:
            raise RuntimeError("the MTProto server did not start")
        self.ask("add_account", PHONE, CODE)
        forget_other_servers()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        assert self._server is not None
        assert not self._server.statistics.bugs, self._server.statistics.bugs

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._ready.set()
            self._loop.close()

    async def _main(self) -> None:
        server = LoopServer(self._folder, self.faults, self.rules, self._port)
        await server.start()
        self._server = server
        self._ready.set()
        await self._stop.wait()
        await server.stop()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_WAIT)

    def ask(self, command: str, *arguments: Any, **named: Any) -> Any:
        """Runs a command in the server's loop; its errors are raised here."""
        assert self._server is not None
        server = self._server

        async def work() -> Any:
            await server.ready()
            return getattr(Commands(server), command)(*arguments, **named)

        return self._run(work())

    def stop_listening(self) -> None:
        """The network goes away until `listen_again`."""
        assert self._server is not None
        self._run(self._server.pause())

    def listen_again(self) -> None:
        """The network is back."""
        assert self._server is not None
        self._run(self._server.start())

    @property
    def test_server(self) -> TestServer:  # type: ignore[override]
        """Where it is, as the configuration says it."""
        assert self._server is not None
        return TestServer(HOST, self._server.world.ports[HOME_DC][0], HOME_DC, self._server.world.key.public_file)


class ServerProcess(_Asking):
    """The same server as `python -m tests.mtproto`; commands go over its standard input.

    `kill()` ends it as kill -9 does. Measure speed with this one: it shares no interpreter lock with the client.
    """

    def __init__(
        self, folder: Path, seed: int = 0, *, latency: float = 0.0, bandwidth: float = 0.0, port: int = 0
    ) -> None:
        options = {"--state": folder, "--seed": seed, "--latency": latency, "--bandwidth": bandwidth, "--port": port}
        words = [str(word) for pair in options.items() for word in pair]
        self._command = [sys.executable, "-m", "tests.mtproto", *words]
        self._process: subprocess.Popen[str] | None = None
        self.test_server = TestServer(HOST, 0, HOME_DC, folder / "public_key.pem")

    def __enter__(self) -> Self:
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(
            self._command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            ready = self._line()
        except RuntimeError:
            self.kill()
            raise
        self.test_server = TestServer(ready["address"], ready["port"], ready["dc"], Path(ready["public_key_file"]))
        self.ask("add_account", PHONE, CODE)
        forget_other_servers()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self._process = None

    def _line(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the MTProto server process ended")
        return json.loads(line)

    def ask(self, command: str, *arguments: Any, **named: Any) -> Any:
        """Runs a command in the process."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, "with": arguments, "named": named}) + "\n")
        self._process.stdin.flush()
        answer = self._line()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


def forget_other_servers() -> None:
    """Telethon keeps the addresses of DCs on the class, from the first server on."""
    TelegramClient._config = None
