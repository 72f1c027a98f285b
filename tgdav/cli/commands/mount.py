"""``tgdav mount`` and ``tgdav unmount``, and the mount in the foreground (``tgdav-fuse``)."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from tgdav.cli import process
from tgdav.cli.errors import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.process import await_signal, freeze_objects, notify, stopping_by_signals
from tgdav.cli.secrets import COMMAND, ask, find_passphrase, passphrase
from tgdav.cli.serving.mount_point import nonempty_warning, refuse_own_files, require_fuse
from tgdav.cli.session import open_volume, refuse_running, require_vault
from tgdav.config import require_supported
from tgdav.errors import TgdavError
from tgdav.volume.control_client import ControlClient
from tgdav.wording import counted, readable_size
from tgdav_fuse import mount_table
from tgdav_fuse.options import MountOptions, parse_options

PROGRAM = (sys.executable, "-P", "-m", "tgdav_fuse")
"""``-P``: do not import modules from the working directory, which may belong to someone else."""
_PLACES = {"home": "TGDAV_HOME", "config": "TGDAV_CONFIG", "passphrase_file": "TGDAV_PASSPHRASE_FILE"}
_END_SECONDS = 60.0

options_option = click.option(
    "-o",
    "option_lists",
    multiple=True,
    metavar="OPTIONS",
    help="Mount options, separated by commas (see docs/fuse.md).",
)


@command("mount", example="tgdav mount ~/drive")
@click.argument("path")
@options_option
@global_options
@click.pass_obj
def mount(invocation: Invocation, *, path: str, option_lists: Sequence[str]) -> int:
    """Mount the drive at PATH, an existing directory, and return when it is ready."""
    options = parse_options(option_lists)
    invocation = with_mount_paths(invocation, options)
    where = mount_table.prepare(path)
    require_vault(invocation)
    if (line := nonempty_warning(where)) is not None:
        invocation.output.warn(line)
    client = ControlClient.connect(invocation.paths.control_file)
    if client is not None:
        with client, invocation.output.progress("mounting") as progress:
            client.call("mount", {"path": os.fspath(where), "options": ",".join(option_lists)}, progress)
    elif code := _spawn(invocation, where, option_lists):
        return code
    invocation.output.result({"mounted": os.fspath(where)}, [f"mounted at {where}"])
    return ExitCode.DONE


def with_mount_paths(invocation: Invocation, options: MountOptions) -> Invocation:
    """Return an invocation with the paths in the mount options: fstab cannot set environment variables."""
    if not options.places:
        return invocation
    changed = {name: options.places[key] for key, name in _PLACES.items() if key in options.places}
    return Invocation(
        dict(invocation.environment) | changed,
        invocation.platform,
        json=invocation.json,
        verbose=invocation.verbose,
        config_option=None if "config" in options.places else invocation.config_option,
        namespace=options.places.get("namespace", invocation.namespace),
        passphrase_file=None if "passphrase_file" in options.places else invocation.passphrase_file,
    )


def _spawn(invocation: Invocation, where: Path, option_lists: Sequence[str]) -> int:
    """Start the program that serves the mount; return 0 once it is mounted, else its exit code.

    It inherits the standard streams, prints its own errors, and closes the streams when it is mounted.
    """
    require_supported(invocation.config, invocation.namespace)
    require_fuse()
    refuse_own_files(invocation.paths, where)
    # Read the passphrase here: TGDAV_PASSPHRASE_COMMAND may need the terminal, which the child detaches from.
    given = find_passphrase(invocation)
    typed = (given.text if given else ask("Passphrase", "passphrase")) + "\n"
    environment = {name: value for name, value in invocation.environment.items() if name != COMMAND}
    ready, writer = os.pipe()
    command = [*PROGRAM, os.fspath(where), "--ready", str(writer), *_global_arguments(invocation)]
    for options in option_lists:
        command += ["-o", options]
    with os.fdopen(ready, "rb") as waiting:
        child = subprocess.Popen(  # noqa: S603 - this program itself
            command, stdin=subprocess.PIPE, pass_fds=[writer], start_new_session=True, env=environment
        )
        os.close(writer)
        _give(child, typed)
        is_ready = waiting.read(1) == b"+"
    if is_ready:
        child.returncode = 0  # keeps Popen from warning that the process still runs
        return ExitCode.DONE
    return child.wait() or ExitCode.FAILURE


def _give(child: "subprocess.Popen[bytes]", typed: str) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(typed.encode())
        child.stdin.close()
    except BrokenPipeError:
        pass  # the child ended before it read; it has printed why


def _global_arguments(invocation: Invocation) -> list[str]:
    arguments = ["--json"] * invocation.json + ["-v"] * invocation.verbose
    named = {
        "--config": invocation.config_option,
        "--namespace": invocation.namespace,
        "--passphrase-file": invocation.passphrase_file,
    }
    for option, value in named.items():
        arguments += [] if value is None else [option, str(value)]
    return arguments


def serve_mount(invocation: Invocation, path: str, options: MountOptions, on_ready: Callable[[Path], None]) -> None:
    """Mount, serve until unmounted or stopped by a signal, and close, so that all written data is on disk."""
    # Imported here: asking another process for a mount does not need the volume.
    from tgdav.cli.serving.host import MountHost, ProcessInfo, control_server

    stop = threading.Event()
    with stopping_by_signals(stop), ExitStack() as closing:
        require_vault(invocation)
        require_supported(invocation.config, invocation.namespace)
        where = mount_table.prepare(path)
        refuse_own_files(invocation.paths, where)
        refuse_running(invocation)
        require_fuse()
        if (line := nonempty_warning(where)) is not None:
            invocation.output.warn(line)
        process.set_up_server_logging()
        volume = open_volume(invocation, passphrase(invocation))
        closing.callback(volume.close)
        host = MountHost(volume, stays=False, on_end=stop.set)
        control = control_server(invocation, volume, ProcessInfo(invocation.platform.clock, host))
        control.start()
        closing.callback(control.stop)
        where = host.mount(path, options)
        closing.callback(volume.disconnect_soon)
        closing.callback(host.finish, lambda line: click.echo(f"tgdav: {line}", err=True))
        volume.start()
        on_ready(where)
        freeze_objects()
        notify(invocation.environment, "READY=1", f"STATUS=mounted at {where}")
        await_signal(stop)
        notify(invocation.environment, "STOPPING=1")


@command("unmount", example="tgdav unmount ~/drive")
@click.argument("path")
@global_options
@click.pass_obj
def unmount(invocation: Invocation, *, path: str) -> int:
    """Unmount PATH, and return when all written data is safe on this machine's disk."""
    where = mount_table.require_mounted(path)
    if mount_table.is_stale(where):
        mount_table.unmount(where, lazily=True)
        result: Mapping[str, Any] = {"unmounted": os.fspath(where), "stale": True}
        invocation.output.result(result, [f"cleared {where}, whose tgdav is gone"])
        return ExitCode.DONE
    found = _ask_owner(invocation, where)
    if found is None:
        mount_table.unmount(where)
        found = {"unmounted": os.fspath(where)}
    elif found["ends"]:
        _wait_for_end(int(found["process"]))
    for line in found.get("notices", ()):
        click.echo(f"tgdav: {line}", err=True)
    invocation.output.result(_shown(found), _lines(found, where))
    return ExitCode.DONE


def _ask_owner(invocation: Invocation, where: Path) -> Mapping[str, Any] | None:
    """Ask the process that holds the mount to unmount it; None when it cannot be reached from here."""
    client = ControlClient.connect(invocation.paths.control_file)
    if client is None:
        return None
    with client, invocation.output.progress("unmounting") as progress:
        if os.fspath(where) not in client.call("mounts", {}, progress)["mounts"]:
            return None
        return client.call("unmount", {"path": os.fspath(where)}, progress)


def _wait_for_end(process: int) -> None:
    """Wait until the process that held the mount has ended: only then is the vault closed."""
    try:
        descriptor = os.pidfd_open(process)
    except (OSError, AttributeError):
        return
    try:
        if not select.select([descriptor], [], [], _END_SECONDS)[0]:
            raise TgdavError("the drive is unmounted, but its process is still running", hint="see 'tgdav status'")
    finally:
        os.close(descriptor)


def _shown(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key in ("unmounted", "pending")}


def _lines(found: Mapping[str, Any], where: Path) -> list[str]:
    lines = [f"unmounted {where}"]
    pending = found.get("pending")
    if pending is not None and any(pending.values()):
        waiting = f"{readable_size(pending['bytes'])} and {counted(pending['operations'], 'change')}"
        lines.append(f"not uploaded yet: {waiting}; they are safe on this machine, 'tgdav sync --wait' uploads them")
    return lines


def detach(descriptor: int, log: Path) -> None:
    """Replace the inherited standard streams, so that nobody waits for their end, and report that the mount is ready.

    Standard error goes to ``log``, which is truncated.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream, target in ((0, nothing), (1, nothing), (2, kept)):
        os.dup2(target, stream)
    os.close(nothing)
    os.close(kept)
    os.write(descriptor, b"+")
    os.close(descriptor)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
