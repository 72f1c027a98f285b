"""Help: groups of commands, options under headings, proposals for misspelt names, commands of later versions."""

import re
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.invocation import GlobalOption, Invocation, global_options
from tgdav.errors import UsageError
from tgdav.version import __version__
from tgdav.wording import closest

PAGE = "docs/commands.md"
SHELLS = ("bash", "zsh", "fish")

UNSUPPORTED = frozenset(
    (
        *("cluster", "conflicts", "doctor", "namespace"),
        *("service", "setup", "share"),
    )
)
"""Commands that the documentation announces and this version lacks."""

Table = Mapping[str, Mapping[str, tuple[str, str, str]]]
"""By heading and command: module below ``tgdav.cli``, function, and the first sentence of its help."""


class Command(click.Command):
    """A command whose help separates its own options from the global ones, and ends with an example and a reference."""

    def __init__(self, *arguments: Any, example: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under two headings."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example and the page of the documentation."""
        if self.example:
            with formatter.section("Example"):
                formatter.write(f"{'':>{formatter.current_indent}}{self.example}\n")
        formatter.write(f"\nMore: {PAGE}\n")


def command(name: str | None = None, *, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a command; ``example`` is one command line."""
    return click.command(name, cls=Command, example=example)


class Group(click.Group):
    """A group of commands that shows its help when no command is given, and proposes a name for a misspelt one."""

    command_class = Command

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **({"invoke_without_command": True, "no_args_is_help": False} | settings))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options and the list of commands."""
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the page of the documentation."""
        formatter.write(f"\nMore: {PAGE}\n")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` begins with. Raises UsageError for an unknown name."""
        found = self.get_command(ctx, args[0])
        if found is None and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise self.unknown(ctx, args[0])
        return super().resolve_command(ctx, args)

    def unknown(self, ctx: click.Context, name: str) -> UsageError:
        """Return the error for an unknown command."""
        proposed = closest(name, self.list_commands(ctx))
        hint = f"did you mean '{proposed}'?" if proposed else f"see '{ctx.command_path} --help'"
        return UsageError(f"there is no command '{name}'", hint=hint)


class Commands(Group):
    """The program's commands. Each is imported when it runs: importing all takes longer than most commands do."""

    def __init__(self, *arguments: Any, table: Table, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._table = table
        self._targets = {name: target for section in table.values() for name, target in section.items()}

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._targets)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, None if there is none."""
        if cmd_name not in self._targets:
            return None
        module, function = self._targets[cmd_name][:2]
        found: click.Command = getattr(import_module(f"tgdav.cli.{module}"), function)
        return found

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, without importing them."""
        width = max(map(len, self._targets))
        for heading, section in self._table.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", target[2]) for name, target in section.items()])

    def unknown(self, ctx: click.Context, name: str) -> UsageError:
        """Return the error for an unknown command, or one of a later version."""
        if name in UNSUPPORTED:
            return UsageError(f"'{name}' is not in {__version__} yet", hint=f"see '{ctx.command_path} --help'")
        return super().unknown(ctx, name)


def _write_options(described: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    own: list[tuple[str, str]] = []
    everywhere: list[tuple[str, str]] = []
    for parameter in described.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_global = isinstance(parameter, GlobalOption) or "--help" in parameter.opts
            (everywhere if is_global else own).append(record)
    for heading, records in (("Options", own), ("Global options", everywhere)):
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)


class Number(click.ParamType):  # type: ignore[type-arg] # generic in newer versions of click only
    """A whole number from ``least`` to ``most`` (None: no limit)."""

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail with the allowed range."""
        text = str(value)
        if re.fullmatch("[0-9]{1,18}", text) and self._least <= int(text) <= (self._most or int(text)):
            return int(text)
        allowed = f"of {self._least} or more" if self._most is None else f"from {self._least} to {self._most}"
        return self.fail(f"give a number {allowed}, not {value!r}", param, ctx)


def show_help(context: click.Context) -> None:
    """Print a group's help when no command was given. With ``--json``, raises UsageError instead."""
    if context.invoked_subcommand is not None:
        return
    if context.ensure_object(Invocation).json:
        raise UsageError("no command was given", hint=f"see '{context.command_path} --help'")
    click.echo(context.get_help())


@command("help", example="tgdav help serve")
@click.argument("names", metavar="[COMMAND]...", nargs=-1)
@global_options
@click.pass_context
def help_command(context: click.Context, *, names: Iterable[str]) -> int:
    """Show the help of a command, or the list of commands."""
    root = context.find_root()
    shown, found = root, root.command
    for name in names:
        below = found.get_command(shown, name) if isinstance(found, click.Group) else None
        if below is None:
            raise (
                found.unknown(shown, name)
                if isinstance(found, Group)
                else UsageError(f"'{shown.command_path}' has no commands", hint=f"see '{shown.command_path} --help'")
            )
        shown, found = type(context)(below, info_name=name, parent=shown), below
    text = found.get_help(shown)
    context.ensure_object(Invocation).output.result({"help": text}, text.split("\n"))
    return ExitCode.DONE


@command("version", example="tgdav version")
@global_options
@click.pass_obj
def version(invocation: Invocation) -> int:
    """Print the version."""
    invocation.output.result({"version": __version__}, [f"tgdav {__version__}"])
    return ExitCode.DONE


@command("completion", example='eval "$(tgdav completion bash)"')
@click.argument("shell", type=click.Choice(SHELLS))
@global_options
@click.pass_context
def completion(context: click.Context, *, shell: str) -> int:
    """Print the script that lets a shell complete commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    completing = kind(context.find_root().command, {}, "tgdav", "_TGDAV_COMPLETE")
    script = completing.source_template % completing.source_vars()
    context.ensure_object(Invocation).output.result({"script": script}, script.split("\n"))
    return ExitCode.DONE
