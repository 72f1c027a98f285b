"""What ``init --join`` and ``recover`` print."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tgdav.cli.errors import ExitCode
from tgdav.cli.output import Output
from tgdav.wording import counted, iso_time, machine_names

if TYPE_CHECKING:
    from tgdav.vault.join import JoinedVault, MachineReport


def print_joined(output: Output, joined: "JoinedVault", done: str) -> int:
    """Print the result of joining or recovering; return the exit code: 4 when something is missing."""
    # Imported here: other commands import this module, and do not need the database.
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
    output.result(found, (*_lines(joined, done), *left_out_lines(left_out)))
    return ExitCode.DAMAGE if joined.damage or joined.held else ExitCode.DONE


def left_out_lines(found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Return a line for each machine whose later changes do not count."""
    for each in found:
        changes = counted(each["changes"], "change")
        verb = "is" if each["changes"] == 1 else "are"
        author = f"{each['name']} ({each['id'][:8]})"
        yield f"notice: {changes} of {author}, last at {each['last']}, made after it was replaced, {verb} not in the tree"


def _machine(machine: "MachineReport") -> dict[str, Any]:
    time = iso_time(machine.last_operation) if machine.last_operation else None
    known = str(uuid.UUID(machine.id))
    return {"id": known, "name": machine.name, "last_operation": time, "last_sequence": machine.last_sequence}


def _lines(joined: "JoinedVault", done: str) -> Iterator[str]:
    replacing = f", replacing {joined.replaced}" if joined.replaced else ""
    if joined.held:
        yield f"{done}. This machine is not the writer yet (epoch {joined.epoch}){replacing}"
    else:
        yield f"{done}. This machine is now the writer (epoch {joined.epoch}){replacing}"
    names = machine_names([*((machine.id, machine.name) for machine in joined.machines), ("", joined.name)])
    for machine in joined.machines:
        last = iso_time(machine.last_operation) if machine.last_operation else "never"
        yield f"machine {names[machine.id]}: last operation {machine.last_sequence}, {last}"
    for line in joined.damage:
        yield f"damage: {line}"
    if joined.held:
        yield f"not the writer yet: {joined.held}"
