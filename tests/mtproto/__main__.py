"""`python -m tests.mtproto --state DIR [--port N] [--seed N] [--latency S] [--bandwidth B] [--faults JSON]`: a process.

The first line on standard output says where it listens, as JSON. Then each line on standard input is a command, `{"do":
"noise", "with": ["9996621234", 3], "named": {}}`, and is answered by a line `{"result": …}` or `{"error": "…"}`. It
ends when standard input ends, or, with --stay, when it is killed.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.mtproto.commands import Commands
from tests.mtproto.faults import Faults
from tests.mtproto.rules import Rules
from tests.mtproto.server import HOST, LoopServer
from tests.mtproto.world import HOME_DC


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mtproto", description="An MTProto server on loopback")
    parser.add_argument("--state", type=Path, required=True, help="folder of its state")
    parser.add_argument("--port", type=int, default=0, help="main port of DC 2 (0: any free one)")
    parser.add_argument("--seed", type=int, default=0, help="seed of its faults")
    parser.add_argument("--latency", type=float, default=0.0, help="round trip in seconds")
    parser.add_argument("--bandwidth", type=float, default=0.0, help="bytes a second and direction, 0: any")
    parser.add_argument(
        "--faults", type=json.loads, default={}, help='probability a call of each kind, as JSON: {"internal": 0.01}'
    )
    parser.add_argument("--rules", type=json.loads, default={}, help="settings of tests.mtproto.rules.Rules, as JSON")
    parser.add_argument(
        "--account", action="append", default=[], metavar="PHONE:CODE[:PASSWORD]", help="an account to make"
    )
    parser.add_argument("--stay", action="store_true", help="go on when standard input ends")
    return parser.parse_args()


def _obey(commands: Commands, line: str) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        name = asked["do"]
        if name.startswith("_") or not hasattr(Commands, name):
            raise ValueError(f"no command is called {name!r}")
        return {"result": getattr(commands, name)(*asked.get("with", ()), **asked.get("named", {}))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


async def _main(options: argparse.Namespace) -> None:
    faults = Faults(options.seed)
    faults.latency, faults.bandwidth = options.latency, options.bandwidth
    faults.set_rates(options.faults)
    server = LoopServer(options.state, faults, Rules(**options.rules), options.port)
    await server.start()
    commands = Commands(server)
    for account in options.account:
        commands.add_account(*account.split(":"))
    ready = {
        "address": HOST,
        "port": server.world.ports[HOME_DC][0],
        "dc": HOME_DC,
        "public_key_file": commands.public_key_file(),
    }
    print(json.dumps(ready), flush=True)
    lines = asyncio.StreamReader(limit=256 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        print(json.dumps(_obey(commands, line.decode())), flush=True)
    if options.stay:
        await asyncio.Event().wait()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(_main(_options()))
