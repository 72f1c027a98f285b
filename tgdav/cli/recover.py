"""``tgdav recover``: the local state from the store alone; and how joining is told."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tgdav.cli.exit_codes import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.output import Output
from tgdav.cli.secrets import passphrase_or_recovery_key
from tgdav.errors import UsageError
from tgdav.vault.state_dir import vault_exists
from tgdav.wording import counted, iso_time, machine_names

if TYPE_CHECKING:
    from tgdav.vault.join import JoinedVault, MachineReport

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def recovery_key_option(decorated: Decorated) -> Decorated:
    """Add ``--recovery-key-file``, kept in the invocation."""

    def keep(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
        context.ensure_object(Invocation).recovery_key_file = value

    option = click.option(
        "--recovery-key-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=keep,
        expose_value=False,
        help="File with the recovery key, in place of the passphrase.",
    )
    return option(decorated)


@command("recover", example="tgdav recover --recovery-key-file key.txt")
@recovery_key_option
@global_options
@click.pass_obj
def recover(invocation: Invocation) -> int:
    """Rebuild the local state from the store, with the passphrase or the recovery key.

    Prints each machine's last operation. What is missing in the store is named, and the exit code is 4 then.
    """
    from tgdav.cli.init import refuse_store
    from tgdav.config import select_namespace
    from tgdav.volume.initialize import recover_vault

    config = select_namespace(invocation.config, invocation.namespace)
    if vault_exists(invocation.paths.state):
        raise UsageError("there is a vault here already", hint="to rebuild it, move its folder away first")
    refuse_store(invocation, joins=True)
    secret = passphrase_or_recovery_key(invocation)
    with invocation.output.progress("rebuilding") as progress:
        joined = recover_vault(invocation.paths, config, secret, platform=invocation.platform, progress=progress)
    return print_joined(invocation.output, joined, "Recovered")


def print_joined(output: Output, joined: "JoinedVault", word: str) -> int:
    """Print what joining found and return the exit code: 4 when something is missing."""
    # This module also gives other commands an option, and they should not wait for the database.
    from tgdav.check.findings import left_out_objects

    left_out = left_out_objects(joined.left_out)
    found = {
        "epoch": joined.epoch,
        "replaced": joined.replaced or None,
        "machines": [_machine(machine) for machine in joined.machines],
        "damage": joined.damage,
        "left_out": left_out,
        "held": joined.held or None,
    }
    output.result(found, (*_lines(joined, word), *left_out_lines(left_out)))
    return ExitCode.DAMAGE if joined.damage or joined.held else ExitCode.DONE


def left_out_lines(found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Return a line for each machine whose later work does not count."""
    for each in found:
        changes = counted(each["changes"], "change")
        verb = "is" if each["changes"] == 1 else "are"
        author = f"{each['name']} ({each['id'][:8]})"
        yield f"notice: {changes} of {author}, last at {each['last']}, made after it was replaced, {verb} not in the tree"


def _machine(machine: "MachineReport") -> dict[str, Any]:
    time = iso_time(machine.last_operation) if machine.last_operation else None
    known = str(uuid.UUID(machine.id))
    return {"id": known, "name": machine.name, "last_operation": time, "last_sequence": machine.last_sequence}


def _lines(joined: "JoinedVault", word: str) -> Iterator[str]:
    replacing = f", replacing {joined.replaced}" if joined.replaced else ""
    if joined.held:
        yield f"{word}. This machine is not the writer yet (epoch {joined.epoch}){replacing}"
    else:
        yield f"{word}. This machine is now the writer (epoch {joined.epoch}){replacing}"
    names = machine_names([*((machine.id, machine.name) for machine in joined.machines), ("", joined.name)])
    for machine in joined.machines:
        last = iso_time(machine.last_operation) if machine.last_operation else "never"
        yield f"machine {names[machine.id]}: last operation {machine.last_sequence}, {last}"
    for line in joined.damage:
        yield f"damage: {line}"
    if joined.held:
        yield f"not the writer yet: {joined.held}"
