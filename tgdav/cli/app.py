"""The program: the table of commands, and the one place where exceptions become an error line and an exit code."""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence

import click

from tgdav.cli import process
from tgdav.cli.errors import ExitCode, as_json, exit_code, one_line
from tgdav.cli.help import Commands, show_help
from tgdav.cli.invocation import GlobalOption, Invocation, global_options
from tgdav.errors import TgdavError, UsageError
from tgdav.platform import Platform
from tgdav.threads import exit_within
from tgdav.version import __version__

_COMMANDS = {
    "To start": {
        "init": ("commands.init", "init", "Create a vault in the store, or join the existing one."),
        "auth": ("commands.auth", "auth", "Log in to the Telegram account that holds, or will hold, the vault."),
        "serve": ("commands.serve", "serve", "Serve the drive over WebDAV until SIGTERM or SIGINT."),
        "mount": (
            "commands.mount",
            "mount",
            "Mount the drive at PATH, an existing directory, and return when it is ready.",
        ),
        "unmount": (
            "commands.mount",
            "unmount",
            "Unmount PATH, and return when all written data is safe on this machine's disk.",
        ),
    },
    "Every day": {
        "status": (
            "commands.status",
            "status",
            "Show the store, pending uploads, the cache and the last error.",
        ),
        "sync": ("commands.status", "sync", "Push changes to the store, and pull from it, now."),
        "check": ("commands.check", "check", "Check the database, the log and the store."),
        "gc": ("commands.gc", "gc", "Delete from the store what no file, version, snapshot or trash entry refers to."),
        "cache": ("commands.status", "cache", "Show statistics of the cache, or clear it."),
    },
    "Files, without a mount": {
        "ls": ("commands.files", "ls", "List directories of the drive."),
        "find": ("commands.files", "find", "Print the paths of what is below a directory, or of a part of it."),
        "cat": ("commands.files", "cat", "Print the content of files."),
        "get": ("commands.transfer", "get_command", "Copy files and directories from the drive to this machine."),
        "put": ("commands.transfer", "put_command", "Copy files and directories of this machine into the drive."),
    },
    "History": {
        "snapshot": ("commands.snapshots", "snapshot", "Keep the present state of the drive under NAME."),
        "snapshots": ("commands.snapshots", "snapshots", "List the snapshots, or delete one."),
        "trash": ("commands.trash", "trash", "List what was deleted, put it back, or delete it for good."),
        "versions": ("commands.restore", "versions", "List the contents that a file has now and had before."),
        "restore": ("commands.restore", "restore", "Bring back what a snapshot shows, or a version of a file."),
        "diff": ("commands.snapshots", "diff", "Show what changed between two snapshots, or between one and now."),
    },
    "Keys and recovery": {
        "passwd": ("commands.keys", "passwd", "Set a new passphrase, with the old one or the recovery key."),
        "recovery-key": (
            "commands.keys",
            "recovery_key",
            "Create a new recovery key and print it once; the old one stops working.",
        ),
        "recover": (
            "commands.recover",
            "recover",
            "Rebuild the local state from the store, with the passphrase or the recovery key.",
        ),
    },
    "Configuration and help": {
        "config": ("commands.configuration", "config", "Check, show or migrate the configuration."),
        "completion": ("help", "completion", "Print the script that lets a shell complete commands and options."),
        "help": ("help", "help_command", "Show the help of a command, or the list of commands."),
        "version": ("help", "version", "Print the version."),
    },
}


@click.group(
    cls=Commands,
    table=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    __version__, "-V", "--version", cls=GlobalOption, prog_name="tgdav", message="%(prog)s %(version)s"
)
@global_options
@click.pass_context
def tgdav(context: click.Context) -> None:
    """An encrypted drive: files are encrypted on this machine, kept in a store, and served over WebDAV."""
    show_help(context)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run the program with ``arguments`` and ``environment`` (default: those of the process); return its exit code."""
    argv = sys.argv[1:] if arguments is None else arguments
    code = run_program(tgdav, "tgdav", argv, os.environ if environment is None else environment)
    if arguments is None:
        exit_within(code)
    return code


def run_program(program: click.Command, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run ``program`` and return its exit code. An error is printed as one line after ``tgdav:``."""
    os.umask(0o077)
    process.disable_core_dumps()
    process.tune_allocator()
    process.set_up_logging()
    invocation = Invocation(environment, Platform.system())
    try:
        return _run(program, name, list(arguments), invocation)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _forget_standard_output()
        return ExitCode.FAILURE


def _run(program: click.Command, name: str, argv: list[str], invocation: Invocation) -> int:
    try:
        code = program.main(argv, prog_name=name, standalone_mode=False, obj=invocation)
        if sys.stdout is not None:  # None where the caller closed the stream
            sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        raise
    except click.ClickException as error:
        return _fail(_translated(error), invocation, argv)
    except Exception as error:  # the boundary: every other error is reported in one line
        return _fail(error, invocation, argv)


def _translated(error: click.ClickException) -> TgdavError:
    context = getattr(error, "ctx", None)
    hint = f"see '{context.command_path} --help'" if context else "see 'tgdav --help'"
    match error:
        case click.NoSuchOption():
            message = f"there is no option '{error.option_name}'"
            if error.possibilities:
                hint = f"did you mean {' or '.join(repr(each) for each in error.possibilities)}?"
        case click.MissingParameter():
            message = error.format_message()
        case click.BadParameter() if error.param is not None:
            message = f"{' / '.join(error.param.opts)}: {error.message}"
        case _:
            message = error.format_message()
    line = " ".join(message.split()).rstrip(".")
    return UsageError(line[:1].lower() + line[1:], hint=hint)


def _fail(error: Exception, invocation: Invocation, argv: Sequence[str]) -> int:
    if invocation.verbose:
        traceback.print_exception(error)
    click.echo(f"tgdav: {one_line(error)}", err=True)
    if invocation.json or "--json" in argv:  # click may have stopped parsing before it came to the option
        invocation.output.error(as_json(error))
    return exit_code(error)


def _forget_standard_output() -> None:
    """The reader of the pipe is gone. Without this, the interpreter would fail to flush at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
