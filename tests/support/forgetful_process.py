"""The process of the forgetful disk: mounts, serves requests and listens on the control socket."""

import argparse
import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from tests.support.disk_faults import OPERATIONS, FaultRule
from tests.support.forgetful_fuse import ForgetfulOperations
from tests.support.volatile_model import VolatileDisk


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="forgetful_disk", description="a mounted folder that forgets")
    parser.add_argument("backing", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--control", required=True, help="path of the control socket that is made")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--until-stdin-ends", action="store_true", help="exit when standard input ends")
    return parser.parse_args()


def main() -> None:
    """Mount and serve until unmounted, cut or asked to end."""
    arguments = _arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    disk = VolatileDisk(arguments.backing.resolve(), arguments.seed)
    operations = ForgetfulOperations(disk)
    pyfuse3.init(operations, str(arguments.mountpoint), {"fsname=forgetful", "default_permissions"})
    os.umask(0)
    try:
        trio.run(_serve, arguments, operations)
    finally:
        if operations.report is None:
            disk.close()
        # Closes our end even if files are open: their users get errors from now on.
        os._exit(0)


async def _serve(arguments: argparse.Namespace, operations: ForgetfulOperations) -> None:
    async with trio.open_nursery() as nursery:
        leave = trio.Event()
        nursery.start_soon(_listen, arguments.control, operations, leave, nursery)
        nursery.start_soon(_unmount, arguments.mountpoint, leave, nursery)
        if arguments.until_stdin_ends:
            nursery.start_soon(_watch_standard_input, leave)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _unmount(mountpoint: Path, leave: trio.Event, nursery: trio.Nursery) -> None:
    """Unmount on request. Requests are served meanwhile, or the kernel's last writes would wait for ever."""
    await leave.wait()
    command = ["fusermount3", "-u", "-z", str(mountpoint)]
    await trio.to_thread.run_sync(lambda: subprocess.run(command, check=False, capture_output=True))
    nursery.cancel_scope.cancel()


async def _watch_standard_input(leave: trio.Event) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        while await stream.receive_some(4096):
            pass
    leave.set()


async def _listen(path: str, operations: ForgetfulOperations, leave: trio.Event, nursery: trio.Nursery) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    with listener:
        await listener.bind(path)
        listener.listen(8)
        while True:
            channel, _ = await listener.accept()
            nursery.start_soon(_answer, trio.SocketStream(channel), operations, leave)


async def _answer(stream: trio.SocketStream, operations: ForgetfulOperations, leave: trio.Event) -> None:
    """Answer one line, a JSON object, with one line."""
    async with stream:
        line = b""
        while not line.endswith(b"\n"):
            line += await stream.receive_some(65536) or b"\n"
        command: dict[str, Any] = json.loads(line)
        try:
            answer = _do(operations, **command)
        except (TypeError, ValueError) as error:
            answer = {"refused": str(error)}
        await stream.send_all(json.dumps(answer).encode() + b"\n")
    if command["do"] == "power_cut":
        leave.set()


def _do(served: ForgetfulOperations, do: str, **values: Any) -> dict[str, Any]:
    faults = served.faults
    match do:
        case "power_cut":
            return served.power_cut().as_dict()
        case "fail":
            chosen = frozenset(values.pop("operations", OPERATIONS))
            faults.add(FaultRule(operations=chosen, **values))
        case "limit":
            faults.free = int(values["free"])
        case "heal":
            faults.heal()
        case "counts":
            return {"counts": dict(faults.counts), "cut": served.report is not None}
        case _:
            raise ValueError(f"unknown command {do!r}")
    return {}
