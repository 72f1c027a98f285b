"""The program: its group of commands, and the one place where errors become a line and an exit code."""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module

import click

from tgdav import __version__
from tgdav.cli import logs
from tgdav.cli.exit_codes import ExitCode, exit_code
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.memory import set_up_memory
from tgdav.cli.reports import as_json, one_line
from tgdav.errors import TgdavError, UsageError
from tgdav.threads import end_in_time
from tgdav.volume.seams import Seams

_COMMANDS = {
    "auth": ("auth", "auth", "Log in to the Telegram account that holds the vault, or is to hold it."),
    "cache": ("state", "cache", "Show what the cache holds, or empty it."),
    "check": ("check", "check", "Check the database, the log and the store."),
    "config": ("configuration", "config", "Work with the configuration."),
    "init": ("init", "init", "Make a vault in the store, or join the one that is there."),
    "mount": ("mount", "mount", "Mount the drive at PATH, an existing folder, and return when it can be used."),
    "passwd": ("access", "passwd", "Set a new passphrase, with the old one or the recovery key."),
    "recover": (
        "recover",
        "recover",
        "Rebuild the local state from the store, with the passphrase or the recovery key.",
    ),
    "recovery-key": (
        "access",
        "recovery_key",
        "Make a new recovery key and print it once; the old one opens the vault no more.",
    ),
    "serve": ("serve", "serve", "Serve the drive over WebDAV until SIGTERM or SIGINT."),
    "status": (
        "state",
        "status",
        "Show the store, what waits to be stored, the cache, the machines and the last error.",
    ),
    "sync": ("state", "sync", "Push to the store, and pull from it, now."),
    "unmount": ("mount", "unmount", "Unmount PATH; return when all that was written is safe on this machine's disk."),
}
"""Each command's module and function, and its first sentence."""


class Commands(click.Group):
    """The commands, each imported when it is run: all of them together take longer than most of them do."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the names, sorted."""
        return list(_COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, function = _COMMANDS[cmd_name][:2]
        command: click.Command = getattr(import_module(f"tgdav.cli.{module}"), function)
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
)
@click.version_option(__version__, prog_name="tgdav", message="%(prog)s %(version)s")
@global_options
def tgdav() -> None:
    """An encrypted drive: files are sealed on this machine, kept in a store, served over WebDAV."""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run the program with ``arguments`` and ``environment`` (default: the process's own) and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    code = run_program(tgdav, "tgdav", words, os.environ if environment is None else environment)
    if arguments is None:
        end_in_time(code)
    return code


def run_program(program: click.Command, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run ``program`` and return its exit code; errors become one line, after ``tgdav:``."""
    os.umask(0o077)
    set_up_memory()
    logs.set_up()
    invocation = Invocation(environment, Seams.system())
    try:
        return _run(program, name, list(arguments), invocation)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _forget_standard_output()
        return ExitCode.FAILURE


def _run(program: click.Command, name: str, words: list[str], invocation: Invocation) -> int:
    try:
        code = program.main(words, prog_name=name, standalone_mode=False, obj=invocation)
        if sys.stdout is not None:  # it is when the caller closed it
            sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        raise
    except click.ClickException as error:
        return _fail(_translated(error), invocation, words)
    except Exception as error:  # the boundary: whatever went wrong is told in one line
        return _fail(error, invocation, words)


def _translated(error: click.ClickException) -> TgdavError:
    context = getattr(error, "ctx", None)
    hint = f"see '{context.command_path} --help'" if context else "see 'tgdav --help'"
    return UsageError(" ".join(error.format_message().split()).rstrip("."), hint=hint)


def _fail(error: Exception, invocation: Invocation, words: Sequence[str]) -> int:
    if invocation.verbose:
        traceback.print_exception(error)
    click.echo(f"tgdav: {one_line(error)}", err=True)
    if invocation.json or "--json" in words:  # click may have stopped reading before it came to the option
        invocation.json = True
        invocation.output.result(as_json(error), ())
    return exit_code(error)


def _forget_standard_output() -> None:
    """Nobody reads any more: let the interpreter flush into nothing at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
