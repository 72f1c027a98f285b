"""``tgdav init``: a new vault, or joining the one that the store holds."""

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
@click.option("--join", is_flag=True, help="Join the vault that the store holds, and become its writer.")
@click.option("--backend", type=click.Choice(["directory", "telegram"]), help="Kind of store.")
@click.option("--path", type=click.Path(path_type=Path), metavar="P", help="Folder of the directory store.")
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
    """Make a vault in the store, or join the one that is there.

    A configuration that is there is used as it is; the options fill what it lacks. The recovery key is printed once.
    """
    if vault_exists(invocation.initial_paths.state):
        raise UsageError("there is a vault here already", hint="to start anew, move its folder away first")
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
    """Ask on the terminal where the store is to be; return the answer as options."""
    kind = click.prompt(
        "Where is the store: in a folder, or in Telegram?",
        type=click.Choice(["folder", "telegram"]),
        default="folder",
        err=True,
    )
    if kind == "folder":
        folder = click.prompt("Folder", default=str(invocation.initial_paths.store), err=True)
        return option_tree("directory", Path(folder).expanduser(), None, None)
    click.echo("Take an api_id and an api_hash of your own from https://my.telegram.org/apps", err=True)
    api_id = click.prompt("api_id", type=Number(1, 2**31 - 1), err=True)
    return option_tree("telegram", None, api_id, click.prompt("api_hash", err=True).strip())


def require_account(config: Config, *, wanted: bool) -> None:
    """Raise UsageError where the store is, or is ``wanted`` in Telegram, and what identifies the application lacks."""
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
    """Refuse a store that cannot be what is wanted, before anybody is asked for a secret.

    Telegram's can be asked only with the login, which is sealed; whether there is one shows. Raises UsageError (a vault is
    there, or none to join), StoreUnavailable (to be joined, and away), NotLoggedIn.
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
            return  # it is made
    if joins and not has_vault:
        raise UsageError("the store has no vault", hint="use 'tgdav init' to make one")
    if has_vault and not joins:
        raise UsageError("the store already has a vault", hint="use 'tgdav init --join' to join it")


def _create(invocation: Invocation, config: Config) -> int:
    passphrase = chosen_passphrase(invocation)
    created = create_vault(invocation.paths, config, passphrase.text, platform=invocation.platform)
    found = {"vault": created.vault.hex(), "recovery_key": created.recovery_key}
    lines = (
        f"vault made in {invocation.store_place}",
        f"recovery key: {created.recovery_key}",
        "Write it down: it is shown this once, and opens the vault when the passphrase is lost.",
    )
    invocation.output.result(found, lines)
    return ExitCode.DONE


def _join(invocation: Invocation, config: Config) -> int:
    secret = passphrase_or_recovery_key(invocation)
    with invocation.output.progress("joining") as progress:
        joined = join_vault(invocation.paths, config, secret, platform=invocation.platform, progress=progress)
    return print_joined(invocation.output, joined, "Joined")


def option_tree(backend: str | None, path: Path | None, api_id: int | None, api_hash: str | None) -> dict[str, Any]:
    """Return the options as a configuration of version 2."""
    given = {
        "storage": {"backend": backend or ("directory" if path else None), "directory": {"path": _text(path)}},
        "telegram": {"api_id": api_id, "api_hash": None if api_hash is None else api_hash.replace("${", "$${")},
    }
    return _without_nothing(given)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute()).replace("${", "$${")


def _without_nothing(tree: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _without_nothing(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in kept.items() if value not in (None, {})}


@contextmanager
def kept_options(invocation: Invocation, options: dict[str, Any]) -> Iterator[None]:
    """Keep the options for later commands; when the block fails otherwise than for want of a login, they go again.

    Without a configuration file they become one. A file that is there is the user's: it stays as it is, and what it
    lacks is kept beside the key file. Raises UsageError when the file says otherwise than an option.
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
        raise  # 'auth' comes next, and needs them
    except BaseException:
        invocation.platform.disk.unlink(file)
        raise


def _lacking(raw: Mapping[str, Any], options: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return what ``options`` has and ``raw`` lacks. Raises UsageError when both have a value and they differ."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        held = raw.get(key)
        if isinstance(value, Mapping):
            result[key] = _lacking(held if isinstance(held, Mapping) else {}, value, file)
        elif held is None:
            result[key] = value
        elif held != value:
            raise UsageError(
                f"{file} has another {key} than the option", hint="leave out the option, or change the file"
            )
    return _without_nothing(filled({}, result))
