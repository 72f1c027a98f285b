"""``tgdav restore``: brings back what a snapshot shows."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import session
from tgdav.wording import counted

_WORDS = {"added": "remove", "removed": "restore", "changed": "restore", "renamed": "move back"}
"""What a restore does about a difference."""


@command("restore", example="tgdav restore monday --path /photos --to /photos-of-monday")
@click.argument("name", metavar="NAME")
@click.option("--path", metavar="P", help="Restore this path only.")
@click.option("--to", "to", metavar="DEST", help="Make a copy there instead: the new path of P, or of the root.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@global_options
@click.pass_obj
def restore(invocation: Invocation, *, name: str, path: str | None, to: str | None, dry_run: bool) -> int:
    """Bring back what a snapshot shows: all of it, or one path.

    What is newer is not lost: contents become earlier versions, and names go to the trash.
    """
    with session(invocation) as call, invocation.output.progress("restoring") as progress:
        found = call("restore", progress, snapshot=name, path=path, to=to, dry_run=dry_run)
    invocation.output.result(found, _lines(found, dry_run=dry_run))
    return ExitCode.DONE


def _lines(found: Mapping[str, Any], *, dry_run: bool) -> Iterator[str]:
    for change in found.get("changes", ()):
        source = "" if change["from"] is None else f" to {change['from']}"
        yield f"would {_WORDS[change['change']]} {change['path']}{source}"
    would = "would restore" if dry_run else "restored"
    removed = f", and {'would send' if dry_run else 'sent'} {found['removed']} to the trash" if found["removed"] else ""
    yield f"{would} {counted(found['restored'], 'path')}{removed}"
