"""``tgdav ls``, ``find`` and ``cat``: what is in the drive, without a mount."""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Any

import click

from tgdav.cli.errors import ExitCode
from tgdav.cli.files.access import Entry, Files
from tgdav.cli.files.conditions import (
    KINDS,
    Condition,
    is_before,
    is_named,
    is_of_kind,
    is_since,
    parse_size,
    parse_time,
)
from tgdav.cli.files.transfer import Transfer, naming
from tgdav.cli.help import Number, command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.session import files_session
from tgdav.errors import UsageError
from tgdav.metadata.types import DIRECTORY, FORMATS
from tgdav.wording import iso_time, readable_size, shown_path

_SIZE_WIDTH = 10


def _checked(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """Return the name of a snapshot, which is text."""
    try:
        return None if name is None else name.encode().decode()
    except UnicodeEncodeError:
        raise click.BadParameter("the name of a snapshot is text in UTF-8") from None


at_option = click.option(
    "--at", "snapshot", metavar="SNAPSHOT", callback=_checked, help="Look at the drive as it was in this snapshot."
)
version_option = click.option(
    "--version", "version", type=Number(1), metavar="N", help="Take version N of the file; 'tgdav versions' lists them."
)


def refuse_both(snapshot: str | None, version: int | None) -> None:
    """Raise UsageError if both options are given."""
    if snapshot is not None and version is not None:
        raise UsageError("--at and --version exclude each other", hint="give one of them, or none")


@command("ls", example="tgdav ls -l /photos")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("-l", "--long", is_flag=True, help="Show type, mode, size and time of the last change, too.")
@click.option("-R", "--recursive", is_flag=True, help="List everything below the directories, as paths.")
@click.option("-d", "--directory", is_flag=True, help="Show directories themselves, not what is in them.")
@click.option("-a", "--all", is_flag=True, expose_value=False, help="Changes nothing: all names are always shown.")
@at_option
@global_options
@click.pass_obj
def ls(
    invocation: Invocation,
    *,
    paths: tuple[str, ...],
    long: bool,
    recursive: bool,
    directory: bool,
    snapshot: str | None,
) -> int:
    """List directories of the drive.

    PATH begins with a slash; without one, the root is listed.
    """
    depth = 0 if directory else None if recursive else 1
    wanted = [os.fsencode(path) for path in paths] or [b"/"]
    with files_session(invocation, snapshot) as files:
        listings = [_listing(files, path, depth) for path in wanted]
        if invocation.json:
            invocation.output.result({"entries": [entry_object(each) for _, found in listings for each in found]}, ())
            return ExitCode.DONE
        for number, (top, entries) in enumerate(listings):
            if len(wanted) > 1 and top.kind == DIRECTORY and depth == 1:
                invocation.output.result({}, [*([""] if number else []), f"{shown_path(top.path)}:"])
            invocation.output.result({}, _lines(top, entries, depth, long=long))
    return ExitCode.DONE


def _listing(files: Files, path: bytes, depth: int | None) -> tuple[Entry, Iterator[Entry]]:
    """Return what a path names, and what ``ls`` shows of it. Raises NotFound."""
    with naming(path):
        found = files.walk(path, depth)
        top = next(found)
    shows_itself = top.kind != DIRECTORY or depth == 0
    return top, chain((top,), found) if shows_itself else found


def _lines(top: Entry, entries: Iterable[Entry], depth: int | None, *, long: bool) -> Iterator[str]:
    shows_names = depth == 1 and top.kind == DIRECTORY
    for entry in entries:
        name = shown_path(entry.path.rpartition(b"/")[2] if shows_names else entry.path)
        yield long_line(entry, name) if long else name


def long_line(entry: Entry, name: str) -> str:
    """Return what ``ls -l`` shows, with the time as this machine's clock shows it."""
    mode = stat.filemode(FORMATS[entry.kind] | entry.mode)
    size = "-" if entry.kind == DIRECTORY else readable_size(entry.size)
    changed = datetime.fromtimestamp(entry.mtime // 1_000_000_000).astimezone()
    target = f" -> {shown_path(entry.target)}" if entry.target else ""
    return f"{mode} {size:>{_SIZE_WIDTH}} {changed:%Y-%m-%d %H:%M} {name}{target}"


def entry_object(entry: Entry) -> dict[str, Any]:
    """Return an entry for JSON."""
    kind = entry.kind.name.lower().replace("_", "-")
    found: dict[str, Any] = {"path": shown_path(entry.path), "kind": kind, "bytes": entry.size, "mode": entry.mode}
    found["permissions"] = stat.filemode(FORMATS[entry.kind] | entry.mode)
    found["mtime"] = iso_time(entry.mtime)
    if entry.target:
        found["target"] = shown_path(entry.target)
    return found


# ---- find ------------------------------------------------------------------------------------------------------------


@command("find", example="tgdav find /photos --name '*.jpg' --newer 7d")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--name", metavar="GLOB", help="Whose name matches; * ? and [] are as in a shell.")
@click.option("--iname", metavar="GLOB", help="As --name, but upper and lower case are the same.")
@click.option(
    "--type", "kind", type=click.Choice(tuple(KINDS)), help="Of this type: file, directory, symbolic link, ..."
)
@click.option("--size", metavar="[+|-]N", help="Of N bytes, more (+) or fewer (-); N may end in k, M, G or T.")
@click.option("--newer", metavar="WHEN", help="Changed after WHEN: an age (7d, 12h), a time, or the path of a file.")
@click.option("--older", metavar="WHEN", help="Changed before WHEN.")
@click.option("--print0", is_flag=True, help="End each path with a NUL instead of a line end, and escape nothing.")
@at_option
@global_options
@click.pass_obj
def find(
    invocation: Invocation, *, paths: tuple[str, ...], name: str | None, iname: str | None, kind: str | None,
    size: str | None, newer: str | None, older: str | None, print0: bool,
    snapshot: str | None,
) -> int:  # fmt: skip
    """Print the paths of what is below a directory, or of a part of it.

    PATH begins with a slash; without one, everything in the drive is searched.
    """
    now = invocation.platform.clock.now_ns()
    conditions = [is_named(glob, ignores_case=glob is iname) for glob in (name, iname) if glob is not None]
    conditions += [is_of_kind(kind)] if kind else []
    conditions += [parse_size(size)] if size else []
    with files_session(invocation, snapshot) as files:
        conditions += [is_since(_moment(files, newer, now))] if newer else []
        conditions += [is_before(_moment(files, older, now))] if older else []
        found = _matching(files, [os.fsencode(path) for path in paths] or [b"/"], conditions)
        if print0:
            for path in found:
                sys.stdout.buffer.write(path + b"\0")
        elif invocation.json:
            invocation.output.result({"paths": [shown_path(path) for path in found]}, ())
        else:
            invocation.output.result({}, (shown_path(path) for path in found))
    return ExitCode.DONE


def _moment(files: Files, text: str, now: int) -> int:
    """Return the time that ``text`` means, in ns since 1970: an age, a time, or the mtime of a file in the drive."""
    if not text.startswith("/"):
        return parse_time(text, now)
    path = os.fsencode(text)
    with naming(path):
        return files.entry(path).mtime


def _matching(files: Files, paths: Iterable[bytes], conditions: list[Condition]) -> Iterator[bytes]:
    for path in paths:
        with naming(path):
            for entry in files.walk(path):
                if all(condition(entry) for condition in conditions):
                    yield entry.path


# ---- cat -------------------------------------------------------------------------------------------------------------


@command("cat", example="tgdav cat /notes/todo.txt")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@at_option
@version_option
@global_options
@click.pass_obj
def cat(invocation: Invocation, *, paths: tuple[str, ...], snapshot: str | None, version: int | None) -> int:
    """Print the content of files.

    A file that cannot be read is reported, and the next one is printed.
    """
    refuse_both(snapshot, version)
    transfer = Transfer(invocation.output, lambda _stage, _done, _total: None, "", 0)
    out = sys.stdout.buffer
    with files_session(invocation, snapshot) as files:
        for path in map(os.fsencode, paths):
            with transfer.attempt(shown_path(path)), naming(path):
                files.read(path, out.write, version)
    out.flush()
    return transfer.code
