"""The program: its group of commands, and the one place where errors become a line and an exit code."""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence

import click

from tgdav import __version__
from tgdav.cli import logs
from tgdav.cli.access import passwd, recovery_key
from tgdav.cli.check import check
from tgdav.cli.configuration import config
from tgdav.cli.exit_codes import ExitCode, exit_code
from tgdav.cli.init import init
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.mount import mount, unmount
from tgdav.cli.recover import recover
from tgdav.cli.reports import as_json, one_line
from tgdav.cli.serve import serve
from tgdav.cli.state import cache, status, sync
from tgdav.errors import TgdavError, UsageError
from tgdav.volume.seams import Seams


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=False)
@click.version_option(__version__, prog_name="tgdav", message="%(prog)s %(version)s")
@global_options
def tgdav() -> None:
    """An encrypted drive: files are sealed on this machine, kept in a store, served over WebDAV."""


for command in (init, serve, mount, unmount, status, sync, cache, check, recover, passwd, recovery_key, config):
    tgdav.add_command(command)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run the program with ``arguments`` and ``environment`` (default: the process's own) and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    return run_program(tgdav, "tgdav", words, os.environ if environment is None else environment)


def run_program(program: click.Command, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run ``program`` and return its exit code; errors become one line, after ``tgdav:``."""
    os.umask(0o077)
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
