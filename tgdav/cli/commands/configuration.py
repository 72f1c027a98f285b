"""``tgdav config``: checks, shows and migrates the configuration."""

from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel, SecretStr

from tgdav.cli.errors import ExitCode
from tgdav.cli.help import Group, show_help
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.secrets import webdav_users
from tgdav.cli.session import session
from tgdav.config import Config, notices
from tgdav.config import migrate as migrated
from tgdav.config.validation_errors import HIDDEN
from tgdav.errors import ConfigError, UsageError
from tgdav.vault.state_dir import vault_exists


@click.group(cls=Group)
@global_options
@click.pass_context
def config(context: click.Context) -> None:
    """Check, show or migrate the configuration."""
    show_help(context)


@config.command("check", example="tgdav config check")
@global_options
@click.pass_obj
def check(invocation: Invocation) -> int:
    """Check the configuration. Exit code 2: it has errors."""
    try:
        lines = notices(invocation.config)
    except ConfigError as error:
        invocation.output.result({"ok": False, "errors": error.problems}, error.message.split("\n"))
        return ExitCode.USAGE
    file = invocation.initial_paths.config_file
    where = f"ok: {file}" if invocation.has_config_file else "ok: no configuration file, defaults apply"
    invocation.output.result({"ok": True, "errors": [], "notices": lines}, [where, *lines])
    return ExitCode.DONE


@config.command("show", example="tgdav config show --secrets")
@click.option("--secrets", is_flag=True, help="Include secrets, and the generated WebDAV password.")
@global_options
@click.pass_obj
def show_command(invocation: Invocation, *, secrets: bool) -> int:
    """Print the configuration in force, defaults included."""
    found = values_of(invocation.config, secrets=secrets)
    if not invocation.config.webdav.users:
        found["webdav"]["users"] = _own_user(invocation, secrets=secrets)
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    invocation.output.result(found, text.splitlines())
    return ExitCode.DONE


def values_of(config: Config, *, secrets: bool = False) -> dict[str, Any]:
    """Return all values as types of JSON; secrets as ``(hidden)`` unless ``secrets``."""
    values: dict[str, Any] = _plain(config, secrets=secrets)
    return values


def _plain(value: Any, *, secrets: bool) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name), secrets=secrets) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [_plain(item, secrets=secrets) for item in value]
    if isinstance(value, SecretStr):
        return value.get_secret_value() if secrets else HIDDEN
    return str(value) if isinstance(value, Path) else value


def _own_user(invocation: Invocation, *, secrets: bool) -> list[dict[str, Any]]:
    if not secrets:
        return [{"name": "tgdav", "password": HIDDEN}]

    def sealed() -> str:
        with session(invocation) as call:
            return str(call("webdav-password", lambda _stage, _done, _total: None)["password"])

    if not invocation.environment.get("TGDAV_WEBDAV_PASSWORD") and not vault_exists(invocation.paths.state):
        return []
    return [{"name": name, "password": password} for name, password in webdav_users(invocation, sealed).items()]


@config.command("migrate", example="tgdav --config old.json config migrate > config.yaml")
@global_options
@click.pass_obj
def migrate(invocation: Invocation) -> int:
    """Print the configuration as version 2, with the secrets that it contains."""
    loaded = invocation.load_file()
    if loaded is None:
        raise UsageError("there is no configuration file", hint="name one with --config")
    text = migrated(loaded)
    if invocation.json:
        invocation.output.result({"text": text, "from_version": loaded.version}, ())
    else:
        click.echo(text, nl=False)
    return ExitCode.DONE
