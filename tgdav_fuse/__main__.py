"""The program ``tgdav-fuse``: a mount in the foreground, until it is unmounted or receives SIGTERM or SIGINT."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tgdav.cli.app import run_program
from tgdav.cli.commands.mount import detach, options_option, serve_mount, with_mount_paths
from tgdav.cli.errors import ExitCode
from tgdav.cli.help import Command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.errors import UsageError
from tgdav.threads import exit_within
from tgdav_fuse.options import parse_options


@click.command(
    cls=Command, example="tgdav-fuse ~/drive -o ro", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("paths", nargs=-1, metavar="[SOURCE] PATH")
@options_option
@click.option("-f", "foreground", is_flag=True, expose_value=False, help="Stay in the foreground (always the case).")
@click.option("--ready", type=int, hidden=True, help="Descriptor to report on that it is mounted.")
@global_options
@click.pass_obj
def tgdav_fuse(invocation: Invocation, *, paths: Sequence[str], option_lists: Sequence[str], ready: int | None) -> int:
    """Mount the drive at PATH, an existing directory, until it is unmounted or receives SIGTERM or SIGINT."""
    if not 1 <= len(paths) <= 2:  # mount(8) passes a SOURCE, which is ignored
        raise UsageError("give the directory to mount at", hint="see 'tgdav-fuse --help'")
    options = parse_options(option_lists)
    invocation = with_mount_paths(invocation, options)

    def on_ready(where: Path) -> None:
        if ready is not None:
            detach(ready, invocation.paths.mount_log)
        else:
            invocation.output.result({"mounted": os.fspath(where)}, [f"mounted at {where}"])

    serve_mount(invocation, paths[-1], options, on_ready)
    return ExitCode.DONE


def main() -> int:
    """Run ``tgdav-fuse`` with the process's arguments and return its exit code."""
    code = run_program(tgdav_fuse, "tgdav-fuse", sys.argv[1:], os.environ)
    exit_within(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
