"""``tgdav trash``."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import Group
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import session
from tgdav.wording import counted, readable_size


class _Days(click.ParamType):  # type: ignore[type-arg] # generic in newer versions of click only
    """A number of days, with or without decimals."""

    name = "days"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with what is allowed."""
        if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,12})?", str(value)):
            return float(value)
        return self.fail(f"give a number of days from 0 to 999999, such as 7 or 0.5, not {value!r}", param, ctx)


@click.group(cls=Group)
@global_options
@click.pass_context
def trash(context: click.Context) -> int:
    """List what was deleted, put it back, or delete it for good."""
    return ExitCode.DONE if context.invoked_subcommand is not None else _list(context.ensure_object(Invocation))


@trash.command("list", example="tgdav trash list")
@global_options
@click.pass_obj
def list_command(invocation: Invocation) -> int:
    """List what is in the trash, the newest first."""
    return _list(invocation)


@trash.command("restore", example="tgdav trash restore /photos/2026/cat.jpg")
@click.argument("wanted", metavar="ID-or-PATH")
@global_options
@click.pass_obj
def restore_command(invocation: Invocation, *, wanted: str) -> int:
    """Put back what was deleted: by its id, or the newest with that path."""
    with session(invocation) as call, invocation.output.progress("restoring") as progress:
        found = call("trash-restore", progress, wanted=os.fsencode(wanted))
    invocation.output.result(found, [f"restored {found['path']}"])
    return ExitCode.DONE


@trash.command("empty", example="tgdav trash empty --older-than 7")
@click.option(
    "--older-than",
    type=_Days(),
    metavar="DAYS",
    help="Only what was deleted more than DAYS days ago.",
)
@global_options
@click.pass_obj
def empty_command(invocation: Invocation, *, older_than: float | None) -> int:
    """Delete what is in the trash for good."""
    with session(invocation) as call, invocation.output.progress("emptying the trash") as progress:
        found = call("trash-empty", progress, older_than=older_than)
    invocation.output.result(found, [f"deleted {counted(found['purged'], 'entry', 'entries')} for good"])
    return ExitCode.DONE


def _list(invocation: Invocation) -> int:
    with session(invocation) as call, invocation.output.progress("listing") as progress:
        found = call("trash-list", progress)
    invocation.output.result(found, _lines(found["entries"]))
    return ExitCode.DONE


def _lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not found:
        yield "the trash is empty"
    width = max((len(readable_size(each["bytes"])) for each in found), default=0)
    for each in found:
        when, size = each["deleted"][:19].replace("T", " "), readable_size(each["bytes"])
        yield f"{each['id']}  {when}  {size:>{width}}  {each['path']}"
