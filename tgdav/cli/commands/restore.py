"""``tgdav restore``: brings back what a snapshot shows, or a version of a file; ``tgdav versions`` lists those."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import Number, command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import session
from tgdav.errors import UsageError
from tgdav.wording import counted, readable_size, shown_path

_WORDS = {"added": "remove", "removed": "restore", "changed": "restore", "renamed": "move back"}
"""What a restore does about a difference."""


@command("restore", example="tgdav restore monday --path /photos --to /photos-of-monday")
@click.argument("name", metavar="NAME")
@click.option(
    "--version",
    "version",
    type=Number(1),
    metavar="N",
    help="Bring back version N of the file NAME; 'tgdav versions' lists them.",
)
@click.option("--path", metavar="P", help="Restore this path only.")
@click.option("--to", "to", metavar="DEST", help="Make a copy there instead: the new path of P, or of the root.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@global_options
@click.pass_obj
def restore(
    invocation: Invocation, *, name: str, version: int | None, path: str | None, to: str | None, dry_run: bool
) -> int:
    """Bring back what a snapshot shows, or a version of a file.

    NAME is that of the snapshot; with --version, it is the path of the file. What is newer is not lost: contents become
    earlier versions, and names go to the trash.
    """
    if version is not None:
        if path is not None or dry_run:
            raise UsageError("--version goes with --to alone", hint="the path is the argument")
        return _restore_version(invocation, name, version, to)
    with session(invocation) as call, invocation.output.progress("restoring") as progress:
        found = call("restore", progress, snapshot=name, path=_bytes(path), to=_bytes(to), dry_run=dry_run)
    invocation.output.result(found, _lines(found, dry_run=dry_run))
    return ExitCode.DONE


def _restore_version(invocation: Invocation, path: str, version: int, to: str | None) -> int:
    with session(invocation) as call, invocation.output.progress("restoring") as progress:
        found = call("restore-version", progress, path=os.fsencode(path), version=version, to=_bytes(to))
    invocation.output.result(
        found, [f"restored version {version} of {shown_path(os.fsencode(path))} to {found['path']}"]
    )
    return ExitCode.DONE


@command("versions", example="tgdav versions /letters/to-anna.odt")
@click.argument("path", metavar="PATH")
@global_options
@click.pass_obj
def versions(invocation: Invocation, *, path: str) -> int:
    """List the contents that a file has now and had before."""
    with session(invocation) as call, invocation.output.progress("listing") as progress:
        found = call("versions", progress, path=os.fsencode(path))
    invocation.output.result(found, _table(found["versions"]))
    return ExitCode.DONE


def _bytes(path: str | None) -> bytes | None:
    """Return the bytes of a path, which need not be UTF-8: JSON has them in Base64."""
    return None if path is None else os.fsencode(path)


def _table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    width = max(len(str(each["number"])) for each in found)
    size = max(len(readable_size(each["bytes"])) for each in found)
    for each in found:
        when, present = each["time"][:19].replace("T", " "), "  (present)" if each["current"] else ""
        yield f"{each['number']:>{width}}  {when}  {readable_size(each['bytes']):>{size}}  {each['machine']}{present}"


def _lines(found: Mapping[str, Any], *, dry_run: bool) -> Iterator[str]:
    for change in found.get("changes", ()):
        source = "" if change["from"] is None else f" to {change['from']}"
        yield f"would {_WORDS[change['change']]} {change['path']}{source}"
    would = "would restore" if dry_run else "restored"
    removed = f", and {'would send' if dry_run else 'sent'} {found['removed']} to the trash" if found["removed"] else ""
    yield f"{would} {counted(found['restored'], 'path')}{removed}"
