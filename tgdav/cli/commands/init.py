"""``tgdav init``: creates a vault, or joins the one in the store."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from tgdav.cli.commands.joined import print_joined
from tgdav.cli.errors import ExitCode
from tgdav.cli.help import Number, command
from tgdav.cli.invocation import Invocation, filled, global_options, recovery_key_option
from tgdav.cli.secrets import chosen_passphrase, is_terminal, passphrase_or_recovery_key
from tgdav.config import Config, notices, select_namespace
from tgdav.errors import NotLoggedIn, StoreUnavailable, UsageError
from tgdav.replication.blob_listing import header_blobs
from tgdav.vault.state_dir import make_directory, vault_exists, write_file
from tgdav.vault.stores import open_store
from tgdav.vault.telegram_login import PENDING
from tgdav.volume.initialize import create_vault, join_vault


@command("init", example="tgdav init --backend directory --path /media/disk/store")
@click.option("--join", is_flag=True, help="Join the vault in the store, and become its writer.")
@click.option("--backend", type=click.Choice(["directory", "telegram"]), help="Kind of store.")
@click.option("--path", type=click.Path(path_type=Path), metavar="P", help="Directory of the directory store.")
@click.option("--api-id", type=Number(1, 2**31 - 1), metavar="N", help="Application's number at Telegram.")
@click.option("--api-hash", metavar="H", help="Application's hash at Telegram.")
@recovery_key_option
@global_options
@click.pass_obj
def init(
    invocation: Invocation,
    *,
    join: bool,
    backend: str | None,
    path: Path | None,
    api_id: int | None,
    api_hash: str | None,
) -> int:
    """Create a vault in the store, or join the existing one.

    An existing configuration is used unchanged; the options add what it lacks. The recovery key is printed once.
    """
    if vault_exists(invocation.initial_paths.state):
        raise UsageError("there is a vault here already", hint="to start again, move its directory away first")
    if path is not None and backend == "telegram":
        raise UsageError("--path belongs to the directory store", hint="leave out --path, or --backend telegram")
    options = option_tree(backend, path, api_id, api_hash)
    if not options and not invocation.has_config_file and is_terminal():
        options = _asked_store(invocation)
    with kept_options(invocation, options):
        require_account(invocation.config, wanted=api_id is not None or api_hash is not None)
        config = select_namespace(invocation.config, invocation.namespace)
        refuse_store(invocation, joins=join)
        for line in notices(invocation.config):
            invocation.output.warn(line)
        return (_join if join else _create)(invocation, config)


def _asked_store(invocation: Invocation) -> dict[str, Any]:
    """Ask on the terminal for the store; return the answer as options."""
    kind = click.prompt(
        "Where is the store: in a directory, or in Telegram?",
        type=click.Choice(["directory", "telegram"]),
        default="directory",
        err=True,
    )
    if kind == "directory":
        directory = click.prompt("Directory", default=str(invocation.initial_paths.store), err=True)
        return option_tree("directory", Path(directory).expanduser(), None, None)
    click.echo("Take an api_id and an api_hash of your own from https://my.telegram.org/apps", err=True)
    api_id = click.prompt("api_id", type=Number(1, 2**31 - 1), err=True)
    return option_tree("telegram", None, api_id, click.prompt("api_hash", err=True).strip())


def require_account(config: Config, *, wanted: bool) -> None:
    """Raise UsageError if a store in Telegram is configured or ``wanted``, and the API id or hash is missing."""
    telegram = config.telegram
    missing = {"--api-id": telegram.api_id, "--api-hash": telegram.api_hash}
    lacking = [option for option, value in missing.items() if value is None]
    if lacking and (wanted or config.backend() == "telegram"):
        raise UsageError(
            f"{' and '.join(lacking)} must be given for a store in Telegram",
            hint="take both from https://my.telegram.org/apps",
        )
    if wanted and config.backend() != "telegram":
        raise UsageError(
            "--api-id and --api-hash belong to a store in Telegram", hint="leave out either them or --backend"
        )


def refuse_store(invocation: Invocation, *, joins: bool) -> None:
    """Refuse a store that does not fit the command, before asking for a secret.

    Of Telegram, only the existence of a login can be checked: the login itself is sealed. Raises UsageError (there is a
    vault already, or none to join), StoreUnavailable (when joining), NotLoggedIn.
    """
    if invocation.config.backend() != "directory":
        if not (invocation.paths.state / PENDING).exists():
            raise NotLoggedIn
        return
    with closing(open_store(invocation.config, invocation.paths, invocation.platform).store) as store:
        try:
            has_vault = any(True for _ in header_blobs(store.list()))
        except StoreUnavailable:
            if joins:
                raise
            return  # the directory will be created
    if joins and not has_vault:
        raise UsageError("the store has no vault", hint="use 'tgdav init' to create one")
    if has_vault and not joins:
        raise UsageError("the store already has a vault", hint="use 'tgdav init --join' to join it")


def _create(invocation: Invocation, config: Config) -> int:
    passphrase = chosen_passphrase(invocation)
    created = create_vault(invocation.paths, config, passphrase.text, platform=invocation.platform)
    found = {"vault": created.vault.hex(), "recovery_key": created.recovery_key}
    lines = (
        f"vault created in {invocation.store_place}",
        f"recovery key: {created.recovery_key}",
        "Write it down: it is shown only now, and opens the vault if you lose the passphrase.",
    )
    invocation.output.result(found, lines)
    return ExitCode.DONE


def _join(invocation: Invocation, config: Config) -> int:
    secret = passphrase_or_recovery_key(invocation)
    with invocation.output.progress("joining") as progress:
        joined = join_vault(invocation.paths, config, secret, platform=invocation.platform, progress=progress)
    return print_joined(invocation.output, joined, "Joined")


def option_tree(backend: str | None, path: Path | None, api_id: int | None, api_hash: str | None) -> dict[str, Any]:
    """Return the options as a configuration tree of version 2."""
    given = {
        "storage": {"backend": backend or ("directory" if path else None), "directory": {"path": _text(path)}},
        "telegram": {"api_id": api_id, "api_hash": None if api_hash is None else api_hash.replace("${", "$${")},
    }
    return _without_empty(given)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute()).replace("${", "$${")


def _without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _without_empty(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in kept.items() if value not in (None, {})}


@contextmanager
def kept_options(invocation: Invocation, options: dict[str, Any]) -> Iterator[None]:
    """Keep the options for later commands, unless the block fails for another reason than a missing login.

    Without a configuration file, they become one. An existing file is not changed: what it lacks is kept beside the key
    file. Raises UsageError when the file contradicts an option.
    """
    if not options:
        yield
        return
    loaded = invocation.load_file() if invocation.initial_paths.config_file.exists() else None
    if loaded is None:
        file = invocation.initial_paths.config_file
        data = yaml.safe_dump({"version": 2} | options, sort_keys=False, allow_unicode=True).encode()
    else:
        lacking = _lacking(loaded.raw, options, str(loaded.path))
        invocation.completed(loaded, lacking)
        file, data = invocation.options_file, msgspec.json.encode(lacking)
        if not lacking:
            yield
            return
    make_directory(file.parent, invocation.platform.disk)
    write_file(file, data, invocation.platform.disk)
    try:
        yield
    except NotLoggedIn:
        raise  # 'tgdav auth' is next, and needs the options
    except BaseException:
        invocation.platform.disk.unlink(file)
        raise


def _lacking(raw: Mapping[str, Any], options: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the part of ``options`` that ``raw`` lacks. Raises UsageError when the two contradict each other."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        held = raw.get(key)
        if isinstance(value, Mapping):
            result[key] = _lacking(held if isinstance(held, Mapping) else {}, value, file)
        elif held is None:
            result[key] = value
        elif held != value:
            raise UsageError(f"{file} and the option differ in {key}", hint="leave out the option, or change the file")
    return _without_empty(filled({}, result))
