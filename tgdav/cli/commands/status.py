"""``tgdav status``, ``sync`` and ``cache``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from tgdav.cli.commands.joined import left_out_lines
from tgdav.cli.errors import ExitCode
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import Call, session
from tgdav.config import require_supported
from tgdav.errors import UsageError
from tgdav.version import __version__
from tgdav.volume.control import Progress
from tgdav.wording import counted, machine_names, readable_duration, readable_size

_LABEL_WIDTH = 12


@command("status", example="tgdav status -v")
@global_options
@click.pass_obj
def status(invocation: Invocation) -> int:
    """Show the store, pending uploads, the cache and the last error.

    With -v also the queues and the running process.
    """
    with session(invocation) as call, invocation.output.progress("asking") as progress:
        found = dict(call("status", progress))
        found["queues"] = _optional(call, "queues", progress)
        found["process"] = _optional(call, "process", progress)
    found["store"] = found["store"] | {"place": invocation.store_place}
    invocation.output.result(found, _columns(_status_lines(found, verbose=bool(invocation.verbose))))
    return ExitCode.DONE


def _optional(call: Call, name: str, progress: Progress) -> Mapping[str, Any] | None:
    """Call a command that may not exist: no process runs, or one of an older version. None then."""
    try:
        return call(name, progress)
    except (KeyError, UsageError):
        return None


Line = tuple[str, str]
"""A label and a text."""


def _columns(lines: Iterable[Line]) -> Iterator[str]:
    for label, text in lines:
        yield f"{label:<{_LABEL_WIDTH}}{text}"


def _status_lines(found: Mapping[str, Any], *, verbose: bool) -> Iterator[Line]:
    store = found["store"]
    yield "store", f"{_store(found)}, {'reachable' if store['reachable'] else 'not reachable'}{_waiting(store)}"
    if found["account"] is not None:
        yield "account", _account(found["account"])
    yield "waiting", _pending(found)
    if found["staging"]["full"]:
        yield "staging", f"full, {_of(found['staging'])}: writes fail until some of it is uploaded"
    yield "sent today", sent(found["sent_today"])
    yield "files", f"{found['files']}, {readable_size(found['bytes'])}"
    yield "cache", _of(found["cache"])
    if found.get("clock_problem"):
        yield "clock", str(found["clock_problem"])
    names = machine_names((machine["id"], machine["name"]) for machine in found["machines"])
    for machine in found["machines"]:
        this = " (this one)" if machine["id"] == found.get("machine") else ""
        yield "machine", names[machine["id"]] + this
    if found.get("read_only"):
        yield "read-only", str(found["read_only"])
    for line in left_out_lines(found["left_out"]):
        label, _, text = line.partition(": ")
        yield label, text
    yield "last error", str(found["last_error"] or "none")
    if verbose:
        yield from _details(found)


def _details(found: Mapping[str, Any]) -> Iterator[Line]:
    """Yield the lines that ``-v`` adds."""
    pending, queues, process = found["pending"], found["queues"], found["process"]
    if queues is not None:
        yield "queue", f"{counted(queues['packs'], 'pack')} of file contents, {readable_size(pending['bytes'])}"
    yield "queue", f"{counted(pending['operations'], 'change')} of names and attributes"
    yield "staging", _of(found["staging"])
    for machine in found["machines"]:
        yield "machine", f"{machine['name']} is {machine['id']}"
    if process is None:
        yield "process", "none: this command opened the vault itself"
        yield "version", __version__
        return
    yield "process", f"{process['process']}, since {process['started']}, {readable_duration(process['uptime_seconds'])}"
    yield "address", process["address"] or "none: it only serves a mount"
    for mount in process["mounts"] or ["none"]:
        yield "mount", mount
    yield "version", process["version"]


def _store(found: Mapping[str, Any]) -> str:
    store = found["store"]
    return f"directory {store['place']}" if store["backend"] == "directory" else str(store["place"])


def _waiting(found: Mapping[str, Any]) -> str:
    if not found["waiting_seconds"]:
        return ""
    until = found["waiting_until"].partition("T")[2][:8]
    return f", waiting {found['waiting_seconds']:.0f} s, until {until} UTC: {found['waiting_for']}"


def _account(found: Mapping[str, Any]) -> str:
    text = f"deleted by Telegram after {found['deleted_after_days']} days without use, not before {found['not_before']}"
    return f"{text}: {found['warning']}" if found["warning"] else text


def _of(found: Mapping[str, Any]) -> str:
    return f"{readable_size(found['bytes'])} of {readable_size(found['max_bytes'])}"


def _pending(found: Mapping[str, Any]) -> str:
    pending = found["pending"]
    if not any(pending.values()):
        return "nothing: everything is in the store"
    return f"{readable_size(pending['bytes'])} and {counted(pending['operations'], 'change')} on the way to the store"


def sent(sums: Mapping[str, Any]) -> str:
    """Return as text how much was uploaded, and in how many blobs: messages in Telegram, files in a directory."""
    kinds = [sums[kind] for kind in ("packs", "segments", "checkpoints", "headers")]
    blobs = sum(kind["messages"] for kind in kinds)
    if not blobs:
        return "nothing"
    return f"{readable_size(sum(kind['bytes'] for kind in kinds))} in {counted(blobs, 'message')}"


@command("sync", example="tgdav sync --wait")
@click.option("--wait", is_flag=True, help="Return when nothing is pending.")
@global_options
@click.pass_obj
def sync(invocation: Invocation, *, wait: bool) -> int:
    """Push changes to the store, and pull from it, now."""
    require_supported(invocation.config, invocation.namespace)
    with session(invocation) as call, invocation.output.progress("sending") as progress:
        found = call("sync", progress, wait=wait)
    waits = f"{_pending(found)}{_waiting(found)}"
    invocation.output.result(found, _columns((("sent", sent(found["sent"])), ("waiting", waits))))
    return ExitCode.DONE


@command("cache", example="tgdav cache clear")
@click.argument("action", required=False, metavar="[clear]", type=click.Choice(["clear"]))
@click.option("--clear", is_flag=True, help="Remove what can be downloaded again; the same as 'cache clear'.")
@global_options
@click.pass_obj
def cache(invocation: Invocation, *, action: str | None, clear: bool) -> int:
    """Show statistics of the cache, or clear it."""
    with session(invocation) as call, invocation.output.progress("asking") as progress:
        found = call("cache-clear" if clear or action else "cache", progress)
    lines = (
        ("holds", f"{_of(found)} in {counted(found['chunks'], 'chunk')}"),
        ("found", f"{counted(found['hits'], 'time')}, not found {counted(found['misses'], 'time')}"),
    )
    invocation.output.result(found, _columns(lines))
    return ExitCode.DONE
