"""``tgdav passwd`` and ``tgdav recovery-key``: change the secrets that open the vault."""

from pathlib import Path

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options, recovery_key_option
from tgdav.cli.secrets import confirm, drop_key_file, is_terminal, new_passphrase, passphrase_or_recovery_key, to_wire
from tgdav.cli.session import require_vault, session

OLD_COPIES = "Anyone who kept an old copy of the vault's header, and the secret for it, can still open this vault."


@command("passwd", example="tgdav passwd --new-passphrase-file new.txt")
@click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the new passphrase (default: a prompt).",
)
@recovery_key_option
@global_options
@click.pass_obj
def passwd(invocation: Invocation, *, new_passphrase_file: Path | None) -> int:
    """Set a new passphrase, with the old one or the recovery key."""
    require_vault(invocation)
    ready = None if new_passphrase_file is None else new_passphrase(invocation, new_passphrase_file)
    secret = passphrase_or_recovery_key(invocation)
    wanted = ready or new_passphrase(invocation, None)
    with (
        session(invocation, lambda _: secret) as call,
        invocation.output.progress("changing the passphrase") as progress,
    ):
        call("passwd", progress, secret=to_wire(secret), new_passphrase=wanted.text)
    dropped = drop_key_file(invocation)
    lines = ["passphrase changed", OLD_COPIES]
    if dropped:
        lines.append("The key file is removed; from now on the passphrase is required.")
    invocation.output.result({"changed": True, "key_file_removed": dropped}, lines)
    return ExitCode.DONE


@command("recovery-key", example="tgdav recovery-key --yes")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@recovery_key_option
@global_options
@click.pass_obj
def recovery_key(invocation: Invocation, *, yes: bool) -> int:
    """Create a new recovery key and print it once; the old one stops working.

    On a terminal it asks for confirmation first.
    """
    require_vault(invocation)
    if not yes and is_terminal():
        confirm("The present recovery key, on paper or elsewhere, stops working. Create a new one?")
    secret = passphrase_or_recovery_key(invocation)
    with session(invocation, lambda _: secret) as call, invocation.output.progress("making a key") as progress:
        made = call("recovery-key", progress, secret=to_wire(secret))
    invocation.output.result(made, (f"recovery key: {made['recovery_key']}", OLD_COPIES))
    return ExitCode.DONE
