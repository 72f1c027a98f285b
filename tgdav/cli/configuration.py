"""``tgdav config``: check it, show it, bring it to version 2."""

from typing import Any

import click
import yaml

from tgdav.cli.exit_codes import ExitCode
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.secrets import webdav_users
from tgdav.cli.session import session
from tgdav.config import migrate as migrated
from tgdav.config import notices, show
from tgdav.errors import ConfigError, UsageError
from tgdav.volume.local_state import vault_exists


@click.group(no_args_is_help=False)
@global_options
def config() -> None:
    """Work with the configuration."""


@config.command
@global_options
@click.pass_obj
def check(invocation: Invocation) -> int:
    """Say what is wrong with the configuration. Exit code 2: something is."""
    try:
        said = notices(invocation.config)
    except ConfigError as error:
        invocation.output.result({"ok": False, "errors": error.problems}, error.message.split("\n"))
        return ExitCode.USAGE
    where = str(invocation.bare_places.config_file) if invocation.has_config_file else "no file, defaults"
    invocation.output.result({"ok": True, "errors": [], "notices": said}, [f"good: {where}", *said])
    return ExitCode.DONE


@config.command("show")
@click.option("--secrets", is_flag=True, help="With secrets, the made WebDAV password among them.")
@global_options
@click.pass_obj
def show_command(invocation: Invocation, *, secrets: bool) -> int:
    """Print what holds, defaults included; secrets are hidden unless asked for."""
    found = show(invocation.config, secrets)
    if not invocation.config.webdav.users:
        found["webdav"]["users"] = _own_user(invocation, secrets=secrets)
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    invocation.output.result(found, text.splitlines())
    return ExitCode.DONE


def _own_user(invocation: Invocation, *, secrets: bool) -> list[dict[str, Any]]:
    if not secrets:
        return [{"name": "tgdav", "password": "(hidden)"}]

    def sealed() -> str:
        with session(invocation) as call:
            return str(call("webdav-password", lambda _stage, _done, _total: None)["password"])

    if not invocation.environment.get("TGDAV_WEBDAV_PASSWORD") and not vault_exists(invocation.places.state):
        return []
    return [{"name": name, "password": password} for name, password in webdav_users(invocation, sealed).items()]


@config.command
@global_options
@click.pass_obj
def migrate(invocation: Invocation) -> int:
    """Print the configuration as version 2; its secrets too, if it holds any."""
    loaded = invocation.load_file()
    if loaded is None:
        raise UsageError("there is no configuration file", hint="name one with --config")
    text = migrated(loaded)
    if invocation.json:
        invocation.output.result({"text": text, "from_version": loaded.version}, ())
    else:
        click.echo(text, nl=False)
    return ExitCode.DONE
