"""``tgdav recover``: rebuilds the local state from the store alone."""

import click

from tgdav.cli.commands.joined import print_joined
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options, recovery_key_option
from tgdav.cli.secrets import passphrase_or_recovery_key
from tgdav.errors import UsageError
from tgdav.vault.state_dir import vault_exists


@command("recover", example="tgdav recover --recovery-key-file key.txt")
@recovery_key_option
@global_options
@click.pass_obj
def recover(invocation: Invocation) -> int:
    """Rebuild the local state from the store, with the passphrase or the recovery key.

    Prints each machine's last operation, and what is missing in the store; the exit code is 4 then.
    """
    from tgdav.cli.commands.init import refuse_store
    from tgdav.config import select_namespace
    from tgdav.volume.initialize import recover_vault

    config = select_namespace(invocation.config, invocation.namespace)
    if vault_exists(invocation.paths.state):
        raise UsageError("there is a vault here already", hint="to rebuild it, move its directory away first")
    refuse_store(invocation, joins=True)
    secret = passphrase_or_recovery_key(invocation)
    with invocation.output.progress("rebuilding") as progress:
        joined = recover_vault(invocation.paths, config, secret, platform=invocation.platform, progress=progress)
    return print_joined(invocation.output, joined, "Recovered")
