"""``tgdav status``, ``sync`` and ``cache``: how things stand."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from tgdav.cli.exit_codes import ExitCode
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.output import size
from tgdav.cli.session import session
from tgdav.config import require_built


@click.command
@global_options
@click.pass_obj
def status(invocation: Invocation) -> int:
    """Show the store, what waits to be stored, the cache, the machines and the last error."""
    with session(invocation) as call, invocation.output.progress() as progress:
        found = call("status", progress)
    invocation.output.result(found, _status_lines(found))
    return ExitCode.DONE


def _status_lines(found: Mapping[str, Any]) -> Iterator[str]:
    store, cache = found["store"], found["cache"]
    reached = "reachable" if store["reachable"] else "not reachable"
    yield f"store     {store['backend']}, {reached}{_waiting(store)}"
    if found["account"] is not None:
        yield f"account   {_account(found['account'])}"
    yield f"pending   {_pending(found)}"
    if found["staging"]["full"]:
        yield f"staging   full, {_of(found['staging'])}: writing is refused until some of it is in the store"
    yield f"sent today {sent(found['sent_today'])}"
    yield f"files     {found['files']} with {size(found['bytes'])}"
    yield f"cache     {_of(cache)}"
    if found.get("clock_problem"):
        yield f"clock     {found['clock_problem']}"
    for machine in found["machines"]:
        yield f"machine   {machine['name']} ({machine['id']})"
    if found.get("read_only"):
        yield f"read-only {found['read_only']}"
    yield f"last error: {found['last_error'] or 'none'}"


def _waiting(found: Mapping[str, Any]) -> str:
    if not found["waiting_seconds"]:
        return ""
    until = found["waiting_until"].partition("T")[2][:8]
    return f", waiting {found['waiting_seconds']:.0f} s, until {until} UTC: {found['waiting_for']}"


def _account(found: Mapping[str, Any]) -> str:
    words = (
        f"deleted by Telegram after {found['deleted_after_days']} days without use, not before {found['not_before']}"
    )
    return f"{words}: {found['warning']}" if found["warning"] else words


def _of(found: Mapping[str, Any]) -> str:
    return f"{size(found['bytes'])} of {size(found['max_bytes'])}"


def _pending(found: Mapping[str, Any]) -> str:
    pending = found["pending"]
    return f"{size(pending['bytes'])} and {pending['operations']} operations"


def sent(sums: Mapping[str, Any]) -> str:
    """Return in words how many messages (blobs) went to the store, by kind, and their bytes."""
    counts = [
        f"{sums[kind]['messages']} {kind if sums[kind]['messages'] != 1 else kind[:-1]} ({size(sums[kind]['bytes'])})"
        for kind in ("packs", "segments", "checkpoints", "headers")
        if sums[kind]["messages"]
    ]
    return ", ".join(counts) or "nothing"


@click.command
@click.option("--wait", is_flag=True, help="Return when nothing is pending any more.")
@global_options
@click.pass_obj
def sync(invocation: Invocation, *, wait: bool) -> int:
    """Push to the store, and pull from it, now."""
    require_built(invocation.config, invocation.namespace)
    with session(invocation) as call, invocation.output.progress() as progress:
        found = call("sync", progress, wait=wait)
    nothing = not any(found["pending"].values())
    lines = (
        f"sent: {sent(found['sent'])}",
        f"pending: {'nothing' if nothing else _pending(found)}{_waiting(found)}",
    )
    invocation.output.result(found, lines)
    return ExitCode.DONE


@click.command
@click.option("--clear", is_flag=True, help="Drop what can be fetched again.")
@global_options
@click.pass_obj
def cache(invocation: Invocation, *, clear: bool) -> int:
    """Show what the cache holds, or empty it."""
    with session(invocation) as call, invocation.output.progress() as progress:
        found = call("cache-clear" if clear else "cache", progress)
    lines = (
        f"holds {_of(found)} in {found['chunks']} chunks",
        f"hits {found['hits']}, misses {found['misses']}",
    )
    invocation.output.result(found, lines)
    return ExitCode.DONE
