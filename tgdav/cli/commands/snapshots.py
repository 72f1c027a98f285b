"""``tgdav snapshot``, ``snapshots`` and ``diff``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import Group, command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import session
from tgdav.wording import counted, readable_size


@command("snapshot", example="tgdav snapshot before-the-upgrade")
@click.argument("name", metavar="NAME")
@global_options
@click.pass_obj
def snapshot(invocation: Invocation, *, name: str) -> int:
    """Keep the present state of the drive under NAME."""
    with session(invocation) as call, invocation.output.progress("saving") as progress:
        found = call("snapshot", progress, name=name)
    lines = [f"made the snapshot {name}"]
    if not found["settled"]:
        lines.append("files that are being written show their last saved content in it")
    invocation.output.result(found, lines)
    return ExitCode.DONE


@click.group(cls=Group)
@global_options
@click.pass_context
def snapshots(context: click.Context) -> int:
    """List the snapshots, or delete one."""
    return ExitCode.DONE if context.invoked_subcommand is not None else _list(context.ensure_object(Invocation))


@snapshots.command("list", example="tgdav snapshots list")
@global_options
@click.pass_obj
def list_command(invocation: Invocation) -> int:
    """List the snapshots, the oldest first."""
    return _list(invocation)


@snapshots.command("delete", example="tgdav snapshots delete before-the-upgrade")
@click.argument("name", metavar="NAME")
@global_options
@click.pass_obj
def delete_command(invocation: Invocation, *, name: str) -> int:
    """Delete a snapshot. What only it contains is gone then."""
    with session(invocation) as call, invocation.output.progress("deleting") as progress:
        found = call("snapshot-delete", progress, name=name)
    invocation.output.result(found, [f"deleted the snapshot {name}"])
    return ExitCode.DONE


def _list(invocation: Invocation) -> int:
    with session(invocation) as call, invocation.output.progress("counting") as progress:
        found = call("snapshots", progress)
    invocation.output.result(found, _lines(found["snapshots"]))
    return ExitCode.DONE


def _lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not found:
        yield "no snapshots"
    width = max((len(each["name"]) for each in found), default=0)
    for each in found:
        if each["files"] is None:
            counts = "not counted yet"
        else:
            counts = f"{counted(each['files'], 'file')}, {readable_size(each['bytes'])}"
            counts += f", {readable_size(each['new_bytes'])} new" if each["new_bytes"] is not None else ""
        yield f"{each['name']:<{width}}  {each['time'][:19].replace('T', ' ')}  {counts}"


@command("diff", example="tgdav diff monday tuesday")
@click.argument("first", metavar="A")
@click.argument("second", metavar="[B]", required=False)
@global_options
@click.pass_obj
def diff(invocation: Invocation, *, first: str, second: str | None) -> int:
    """Show what changed between two snapshots, or between one and now."""
    with session(invocation) as call, invocation.output.progress("comparing") as progress:
        found = call("diff", progress, first=first, second=second)
    invocation.output.result(found, map(_change_line, found["changes"]))
    return ExitCode.DONE


def _change_line(change: Mapping[str, Any]) -> str:
    source = "" if change["from"] is None else f"  (was {change['from']})"
    return f"{change['change']:<8}  {change['path']}{source}"
