"""``tgdav init``: a new vault, or joining the one that the store holds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from tgdav.cli.exit_codes import ExitCode
from tgdav.cli.invocation import Invocation, filled, global_options
from tgdav.cli.recover import print_joined, recovery_key_option
from tgdav.cli.secrets import chosen_passphrase, passphrase_or_recovery_key
from tgdav.config import notices, opening
from tgdav.errors import UsageError
from tgdav.volume.folders import make_folder, write_file
from tgdav.volume.local_state import vault_exists
from tgdav.volume.telegram_login import NotLoggedIn
from tgdav.volume.vault import create_vault, join_vault


@click.command
@click.option("--join", is_flag=True, help="Join the vault that the store holds, and become its writer.")
@click.option("--backend", type=click.Choice(["directory", "telegram"]), help="Kind of store.")
@click.option("--path", type=click.Path(path_type=Path), metavar="P", help="Folder of the directory store.")
@click.option("--api-id", type=click.IntRange(min=1), metavar="N", help="Application's number at Telegram.")
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
    if vault_exists(invocation.bare_places.state):
        raise UsageError("there is a vault here already", hint="to start anew, move its folder away first")
    if path is not None and backend == "telegram":
        raise UsageError("--path belongs to the directory store", hint="leave out --path, or --backend telegram")
    with kept_options(invocation, option_tree(backend, path, api_id, api_hash)):
        for line in notices(invocation.config):
            invocation.output.notice(line)
        return _join(invocation) if join else _create(invocation)


def _create(invocation: Invocation) -> int:
    config = opening(invocation.config, invocation.namespace)
    passphrase = chosen_passphrase(invocation)
    created = create_vault(invocation.places, config, passphrase.text, seams=invocation.seams)
    found = {"vault": created.vault.hex(), "recovery_key": created.recovery_key}
    lines = (
        f"vault made in {where(invocation)}",
        f"recovery key: {created.recovery_key}",
        "Write it down: it is shown this once, and opens the vault when the passphrase is lost.",
    )
    invocation.output.result(found, lines)
    return ExitCode.DONE


def _join(invocation: Invocation) -> int:
    config = opening(invocation.config, invocation.namespace)
    secret = passphrase_or_recovery_key(invocation)
    with invocation.output.progress() as progress:
        joined = join_vault(invocation.places, config, secret, seams=invocation.seams, progress=progress)
    return print_joined(invocation.output, joined, "joined")


def where(invocation: Invocation) -> str:
    """Return in words where the store is."""
    if invocation.config.backend() == "directory":
        return str(invocation.places.store)
    peer = invocation.config.telegram.peer
    return f"Telegram ({'Saved Messages' if peer == 'me' else f'the chat {peer}'})"


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
    loaded = invocation.load_file() if invocation.bare_places.config_file.exists() else None
    if loaded is None:
        file = invocation.bare_places.config_file
        data = yaml.safe_dump({"version": 2} | options, sort_keys=False, allow_unicode=True).encode()
    else:
        lacking = _lacking(loaded.raw, options, str(loaded.path))
        invocation.completed(loaded, lacking)
        file, data = invocation.options_file, msgspec.json.encode(lacking)
        if not lacking:
            yield
            return
    make_folder(file.parent, invocation.seams.disk)
    write_file(file, data, invocation.seams.disk)
    try:
        yield
    except NotLoggedIn:
        raise  # 'auth' comes next, and needs them
    except BaseException:
        invocation.seams.disk.unlink(file)
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
