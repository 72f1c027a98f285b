"""``tgdav gc``: deletes what nothing refers to any more from the store."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import session
from tgdav.wording import counted, readable_size


@command("gc", example="tgdav gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and change nothing.")
@global_options
@click.pass_obj
def gc(invocation: Invocation, *, dry_run: bool) -> int:
    """Delete from the store what no file, version, snapshot or trash entry refers to."""
    with session(invocation) as call, invocation.output.progress("collecting") as progress:
        found = call("gc", progress, dry_run=dry_run)
    invocation.output.result(found, _lines(found))
    return ExitCode.DONE


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["packs_deleted"]:
        yield "nothing to delete"
        return
    verb = "would delete" if found["dry_run"] else "deleted"
    yield f"{verb} {counted(found['packs_deleted'], 'pack')}, {readable_size(found['bytes_freed'])} in all"
    if found["packs_repacked"]:
        verb = "would be" if found["dry_run"] else "was"
        yield f"what is in use in {counted(found['packs_repacked'], 'pack')} of these {verb} moved to new packs"
