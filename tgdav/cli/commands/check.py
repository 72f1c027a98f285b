"""``tgdav check``: verifies that database, log and store are consistent, and that stored data is intact."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from tgdav.cli.commands.joined import left_out_lines
from tgdav.cli.errors import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import session
from tgdav.errors import DamageError, UsageError
from tgdav.wording import counted, describe_damage, readable_size


class _Optional(click.Option):
    """An option with an optional value after ``=`` or a space."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option as users type it, and its help."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0].replace(" [=", "[="), record[1])


def _percent(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Return the number in ``N%`` or ``N``."""
    if value is None:
        return None
    try:
        percent = float(value.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise click.BadParameter("give a percentage above 0, at most 100")
    return percent


@command("check", example="tgdav check --read-data=5%")
@click.option(
    "--read-data",
    is_flag=False,
    flag_value="100",
    callback=_percent,
    metavar="[=PERCENT]",
    cls=_Optional,
    help="Read the stored data, too: all of it, or this share.",
)
@click.option("--repair", is_flag=True, help="Repair what can be repaired.")
@click.option("--dry-run", is_flag=True, help="With --repair: say what it would do, and change nothing.")
@click.option("--drill", is_flag=True, help="Rebuild the metadata from the store alone, and compare.")
@global_options
@click.pass_obj
def check(invocation: Invocation, *, read_data: float | None, repair: bool, dry_run: bool, drill: bool) -> int:
    """Check the database, the log and the store. Exit code 4: damage was found."""
    if dry_run and not repair:
        raise UsageError("--dry-run says what --repair would do", hint="give both")
    arguments = {"repair": repair and not dry_run, "dry_run": dry_run, "drill": drill}
    try:
        with session(invocation) as call, invocation.output.progress("checking") as progress:
            found = call("check", progress, read_data=read_data, **arguments)
    except DamageError as error:
        found = _unopened(error)
    invocation.output.result(found, _lines(found))
    return ExitCode.DONE if found["ok"] else ExitCode.DAMAGE


def _unopened(error: DamageError) -> dict[str, Any]:
    """Return the result when the vault cannot be opened because of damage."""
    damage = {"blob": error.blob, "kind": "local", "reason": str(error), "paths": []}
    nothing = {"files": 0, "blobs": 0, "bytes_read": 0, "repaired": [], "repairs": [], "left_out": [], "drills": []}
    return {"ok": False, "damage": [damage], **nothing}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    read = f", {readable_size(found['bytes_read'])} read" if found["bytes_read"] else ""
    yield f"checked {counted(found['files'], 'file')} and {counted(found['blobs'], 'blob')}{read}"
    for repair in found["repairs"]:
        state = "repaired" if repair["done"] else "repair"
        yield f"{state}: {describe_damage(repair['blob'], repair['kind'], repair['action'])}"
    yield from _drill_lines(found["drills"])
    for damage in found["damage"]:
        yield f"damage: {describe_damage(damage['blob'], damage['kind'], damage['reason'])}"
        yield from (f"    affects {path}" for path in damage["paths"])
    yield from left_out_lines(found["left_out"])
    yield "no damage" if found["ok"] else f"{len(found['damage'])} damaged"


def _drill_lines(drills: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for drill in drills:
        number = drill["checkpoint"]
        start = "the beginning of the log" if number is None else f"checkpoint {number}"
        unsent = (
            f", with {counted(drill['unsent'], 'change')} that this machine has not sent" if drill["unsent"] else ""
        )
        verdict = "equal to this machine's state" if drill["ok"] else "not equal to this machine's state"
        yield f"drill from {start}{unsent}: {verdict}"
        yield from (f"    {problem}" for problem in drill["problems"])
        yield from (f"    {difference}" for difference in drill["differences"])
        if drill["differing"] > len(drill["differences"]):
            yield f"    and {drill['differing'] - len(drill['differences'])} more"
