"""The commands of an open volume by name, for the control socket and for commands that open the volume themselves."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from tgdav.cli.files.access import VolumeFiles
from tgdav.cli.files.remote import file_commands, file_streams
from tgdav.cli.secrets import from_wire
from tgdav.config import Config, find_namespace
from tgdav.crypto.header import unlock
from tgdav.errors import Exists, NotADirectory, NotFound, UsageError
from tgdav.metadata.difference import ADDED, path_of
from tgdav.metadata.types import Attributes
from tgdav.vault.telegram_login import TelegramLogin
from tgdav.volume import report
from tgdav.volume.control import Command, Progress, StreamCommand
from tgdav.volume.volume import Volume
from tgdav.wording import shown_path

T = TypeVar("T")
R = TypeVar("R")


def commands(volume: Volume, config: Config, namespace: str | None) -> dict[str, Command]:
    """Return the commands of ``volume``. Each raises UsageError for a request that names another namespace."""
    table: dict[str, Command] = {
        "status": lambda _arguments, _progress: report.status(volume),
        "queues": lambda _arguments, _progress: {"packs": report.counters(volume)["queue"]},
        "sync": lambda arguments, progress: volume.sync(bool(arguments.get("wait")), progress),
        "check": lambda arguments, progress: _check(volume, arguments, progress),
        "gc": lambda arguments, progress: volume.gc(bool(arguments.get("dry_run")), progress),
        "cache": lambda _arguments, _progress: report.cache(volume),
        "cache-clear": lambda _arguments, _progress: _clear_cache(volume),
        "snapshot": lambda arguments, _progress: report.snapshot(volume.make_snapshot(_name(arguments))),
        "snapshots": lambda _arguments, _progress: {"snapshots": list(map(report.snapshot, volume.list_snapshots()))},
        "snapshot-delete": lambda arguments, _progress: _delete_snapshot(volume, arguments),
        "trash-list": lambda _arguments, _progress: {
            "entries": [report.deleted(each) for each in volume.fs.trash.items()]
        },
        "trash-restore": lambda arguments, _progress: _restore_deleted(volume, arguments),
        "trash-empty": lambda arguments, progress: _empty_trash(volume, arguments, progress),
        "restore": lambda arguments, progress: _restore(volume, arguments, progress),
        "versions": lambda arguments, _progress: _versions(volume, arguments),
        "restore-version": lambda arguments, _progress: _restore_version(volume, arguments),
        "diff": lambda arguments, _progress: _diff(volume, arguments),
        "passwd": lambda arguments, _progress: _change_passphrase(volume, arguments),
        "recovery-key": lambda arguments, _progress: _new_recovery_key(volume, arguments),
        "webdav-password": lambda _arguments, _progress: {"password": volume.webdav_password()[0]},
        "telegram-login": lambda arguments, _progress: _log_in(volume, arguments),
        "telegram-logout": lambda _arguments, _progress: {"logged_out": volume.log_out()},
        **file_commands(VolumeFiles(volume)),
    }
    opened = find_namespace(config, namespace).name
    return {name: _only_in(opened, command) for name, command in table.items()}


def streams(volume: Volume, config: Config, namespace: str | None) -> dict[str, StreamCommand]:
    """Return the commands of ``volume`` that send or receive streams. They raise as ``commands``."""
    opened = find_namespace(config, namespace).name
    table = file_streams(VolumeFiles(volume))
    return {name: _only_in(opened, command) for name, command in table.items()}


def _only_in(opened: str, command: Callable[[Mapping[str, Any], T], R]) -> Callable[[Mapping[str, Any], T], R]:
    def run(arguments: Mapping[str, Any], extra: T) -> R:
        wanted = arguments.get("namespace")
        if wanted not in (None, opened):
            raise UsageError(f"the running tgdav has opened the namespace '{opened}'", hint="stop it first")
        return command(arguments, extra)

    return run


def _check(volume: Volume, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    wanted = {name: bool(arguments.get(name)) for name in ("repair", "dry_run", "drill")}
    return volume.check(_percent(arguments), progress=progress, **wanted)


def _percent(arguments: Mapping[str, Any]) -> float | None:
    percent = arguments.get("read_data")
    if percent is None:
        return None
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent <= 100:
        raise UsageError("the share of data to read must be a percentage above 0, at most 100")
    return float(percent)


def _name(arguments: Mapping[str, Any], key: str = "name") -> str:
    name = arguments.get(key)
    if not isinstance(name, str):
        raise UsageError(f"malformed control request: no {key}")
    return name


def _delete_snapshot(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    name = _name(arguments)
    volume.snapshots.delete(name)
    return {"deleted": name}


def _restore_deleted(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    wanted = _bytes(arguments, "wanted")
    if not wanted:
        raise UsageError("give the id or the path of what to restore")
    try:
        return {"path": shown_path(volume.fs.trash.restore(wanted))}
    except NotFound as error:
        raise UsageError(error.message, hint="see 'tgdav trash list'") from error


def _empty_trash(volume: Volume, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    days = arguments.get("older_than")
    if days is not None and (isinstance(days, bool) or not isinstance(days, int | float) or not 0 <= days <= 1e6):
        raise UsageError("the age must be a number of days")
    before = None if days is None else volume.platform.clock.now_ns() - round(days * 86_400e9)
    return {"purged": volume.fs.trash.empty(before, lambda done: progress("purging", done, 0))}


def _diff(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    second = None if arguments.get("second") is None else _name(arguments, "second")
    found = volume.snapshots.diff(_name(arguments, "first"), second)
    return {"changes": [report.difference(each) for each in found]}


def _restore(volume: Volume, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    snapshot = _name(arguments, "snapshot")
    path, to = _path(arguments, "path") or (), _path(arguments, "to")
    if arguments.get("dry_run"):
        top = path_of(path if to is None else to)
        found = volume.restorer.differences(snapshot, path, to)
        added = sum(each.change == ADDED for each in found)
        return {
            "restored": len(found) - added,
            "removed": added,
            "changes": [report.difference(each, top) for each in found],
        }
    done = volume.restorer.restore(snapshot, path, to, progress)
    return {"restored": done.restored, "removed": done.removed}


def _versions(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    found = volume.versions.listed(_resolve(volume, _path(arguments, "path") or ()).inode)
    return {"versions": list(map(report.version, found))}


def _restore_version(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    path, to, number = _path(arguments, "path") or (), _path(arguments, "to"), arguments.get("version")
    if isinstance(number, bool) or not isinstance(number, int):
        raise UsageError("the version must be a number")
    if to == ():
        raise UsageError("the root is no file", hint="give the path of a new file")
    target = None if to is None else (_resolve(volume, to[:-1]).inode, to[-1])
    try:
        found = volume.versions.restore(_resolve(volume, path).inode, number, target)
    except Exists as error:
        raise UsageError(f"{shown_path(path_of(to or ()))} exists", hint="give the path of a new file") from error
    return {"path": shown_path(path_of(path if to is None else to)), **report.version(found)}


def _resolve(volume: Volume, names: tuple[bytes, ...]) -> Attributes:
    try:
        return volume.fs.resolve(names, normalized=True)
    except (NotFound, NotADirectory) as error:
        hint = "if it was deleted, 'tgdav trash restore PATH' puts it back"
        raise UsageError(f"there is no {shown_path(path_of(names))}", hint=hint) from error


def _path(arguments: Mapping[str, Any], key: str) -> tuple[bytes, ...] | None:
    """Return the names of a path, None if it was not given."""
    path = None if arguments.get(key) is None else _bytes(arguments, key)
    if path is None:
        return None
    names = tuple(name for name in path.split(b"/") if name)
    if not path.startswith(b"/") or b"." in names or b".." in names:
        hint = "paths begin with / and contain no . or .."
        raise UsageError(f"'{shown_path(path)}' is no path of the drive", hint=hint)
    return names


def _bytes(arguments: Mapping[str, Any], key: str) -> bytes:
    """Return an argument that is bytes here and Base64 in the JSON of the control socket."""
    try:
        return msgspec.convert(arguments.get(key), bytes)
    except msgspec.ValidationError as error:
        raise UsageError(f"malformed control request: no {key}") from error


def _clear_cache(volume: Volume) -> dict[str, Any]:
    """Remove from the cache what can be fetched again; return the ``cache`` object."""
    volume.content.reader.clear()
    return report.cache(volume)


def _change_passphrase(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    wanted = arguments.get("new_passphrase")
    if not isinstance(wanted, str) or not wanted:
        raise UsageError("the new passphrase is empty")
    _require_secret(volume, arguments)
    volume.change_passphrase(wanted)
    return {"changed": True}


def _new_recovery_key(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    _require_secret(volume, arguments)
    return {"recovery_key": volume.new_recovery_key()}


def _log_in(volume: Volume, arguments: Mapping[str, Any]) -> dict[str, Any]:
    session, user_id = arguments.get("session"), arguments.get("user_id")
    if not isinstance(session, str) or not session or not isinstance(user_id, int):
        raise UsageError("malformed control request: no login")
    volume.log_in(TelegramLogin(session, user_id))
    return {"logged_in": True}


def _require_secret(volume: Volume, arguments: Mapping[str, Any]) -> None:
    """Raise AccessError unless the request contains a secret that opens the vault: that it is open here is not enough.

    Raises StoreUnavailable.
    """
    volume.headers.ensure()  # another machine may have changed the secrets
    unlock(volume.header, from_wire(arguments.get("secret")))
