"""``tgdav get`` and ``put``: copies between the drive and the local disk, without a mount."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import click

from tgdav.cli.commands.files import at_option, refuse_both, version_option
from tgdav.cli.errors import ExitCode
from tgdav.cli.files.access import BLOCK_BYTES, Entry, Files, NewAttributes, names_of, path_of
from tgdav.cli.files.get import Getter
from tgdav.cli.files.put import owner, put, total_bytes
from tgdav.cli.files.transfer import Transfer, naming
from tgdav.cli.help import command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.process import interrupted_by_sigterm
from tgdav.cli.secrets import HINT, find_passphrase, passphrase
from tgdav.cli.session import files_session
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError, NotFound, UsageError
from tgdav.metadata.types import DIRECTORY, SYMLINK, Kind
from tgdav.wording import readable_size, shown_path

STANDARD = "-"
"""Standard input or output, in place of a local path."""

_recursive = click.option(
    "-r",
    "--recursive",
    is_flag=True,
    expose_value=False,
    help="Changes nothing: directories are always copied with all that is in them.",
)


@command("get", example="tgdav get /photos/2026 ~/Pictures")
@click.argument("paths", metavar="REMOTE... [LOCAL]", nargs=-1, required=True)
@_recursive
@at_option
@version_option
@global_options
@click.pass_obj
def get_command(invocation: Invocation, *, paths: tuple[str, ...], snapshot: str | None, version: int | None) -> int:
    """Copy files and directories from the drive to this machine.

    Times, modes and symbolic links are kept. LOCAL is a directory, or the new name of a single REMOTE; without it, the copies
    go to the current directory. '-' is standard output.
    """
    refuse_both(snapshot, version)
    sources, local = (paths, ".") if len(paths) == 1 else (paths[:-1], paths[-1])
    remote = [os.fsencode(path) for path in sources]
    if local == STANDARD:
        return _print(invocation, remote, snapshot, version)
    output = invocation.output
    with (
        interrupted_by_sigterm(),
        files_session(invocation, snapshot) as files,
        output.progress("fetching") as progress,
    ):
        tops = [_entry(files, path) for path in remote]
        if version is not None:
            _require_files(tops)
        targets = _local_targets(tops, local)
        total = _total(files, remote) if output.shows_progress else 0
        transfer = Transfer(output, progress, "fetched bytes", total)
        getter = Getter(files, transfer, invocation.platform.entropy)
        for path, target in zip(remote, targets, strict=True):
            getter.get(path, target, version)
    output.result(transfer.result(), [transfer.line("fetched")])
    return transfer.code


def _print(invocation: Invocation, remote: Iterable[bytes], snapshot: str | None, version: int | None) -> int:
    if invocation.json:
        raise UsageError("standard output is for the content, so there is no place for JSON", hint="omit --json")
    with files_session(invocation, snapshot) as files:
        for path in remote:
            with naming(path):
                files.read(path, sys.stdout.buffer.write, version)
    sys.stdout.buffer.flush()
    return ExitCode.DONE


def _require_files(tops: Iterable[Entry]) -> None:
    for top in tops:
        if top.kind != Kind.FILE:
            raise UsageError(f"{shown_path(top.path)} is not a file", hint="only files have versions")


def _entry(files: Files, path: bytes) -> Entry:
    with naming(path):
        return files.entry(path)


def _total(files: Files, paths: Iterable[bytes]) -> int:
    return sum(entry.size for path in paths for entry in files.walk(path) if entry.kind == Kind.FILE)


def _local_targets(tops: Sequence[Entry], local: str) -> list[str]:
    """Return the path for each copy. Raises UsageError."""
    names = [os.fsdecode(top.path.rpartition(b"/")[2]) for top in tops]
    if os.path.isdir(local):
        _refuse_twins(names)
        return [os.path.join(local, name) if name else local for name in names]
    if len(tops) > 1 or (local.endswith("/") and tops[0].kind != DIRECTORY):
        raise UsageError(f"{local} is not a directory", hint="create it first")
    parent = os.path.dirname(local.rstrip("/"))
    if parent and not os.path.isdir(parent):
        raise UsageError(f"there is no directory {parent}", hint="create it first")
    # As cp does, a file is written to where a link leads.
    return [os.path.realpath(local) if os.path.isfile(local) else local.rstrip("/")]


def _refuse_twins(names: Sequence[str]) -> None:
    """Raise UsageError if two copies would get the same name: the second would replace the first."""
    twins = [name for name, count in Counter(names).items() if count > 1]
    if twins:
        raise UsageError(
            f"several of the paths end in '{twins[0]}'", hint="copy them one at a time, to different names"
        )


# ---- put -------------------------------------------------------------------------------------------------------------


@command("put", example="tgdav put ~/Pictures /photos")
@click.argument("paths", metavar="LOCAL... REMOTE", nargs=-1, required=True)
@_recursive
@global_options
@click.pass_obj
def put_command(invocation: Invocation, *, paths: tuple[str, ...]) -> int:
    """Copy files and directories of this machine into the drive.

    Times, modes and symbolic links are kept. REMOTE is a directory, or the new name of a single LOCAL; missing directories are
    created. A file that exists gets the new content. '-' is standard input.
    """
    if len(paths) < 2:
        raise UsageError("put needs a local path and a path in the drive", hint="see 'tgdav put --help'")
    local, remote = paths[:-1], os.fsencode(paths[-1])
    names_of(remote)
    for path in local:
        if path != STANDARD and not os.path.lexists(path):
            raise UsageError(f"there is no {path}")
    if STANDARD in local and len(local) > 1:
        raise UsageError("'-' cannot be combined with other paths", hint="give it alone")
    output = invocation.output
    ask = _passphrase_beside_content if local == (STANDARD,) else passphrase
    with files_session(invocation, ask=ask) as files, output.progress("storing") as progress:
        targets = _remote_targets(files, local, remote)
        total = sum(map(total_bytes, local)) if output.shows_progress and local != (STANDARD,) else 0
        transfer = Transfer(output, progress, "stored bytes", total)
        for path, target in zip(local, targets, strict=True):
            _put(files, path, target, transfer)
        pending = files.sync()
    waits = [f"{readable_size(pending['bytes'])} on the way to the store"] if pending["bytes"] else []
    output.result(transfer.result() | {"pending": dict(pending)}, [transfer.line("stored"), *waits])
    return transfer.code


def _put(files: Files, local: str, remote: bytes, transfer: Transfer) -> None:
    with naming(remote):
        files.make_directory(path_of(names_of(remote)[:-1]), NewAttributes(owner()))
    if local != STANDARD:
        put(files, local, remote, transfer)
        return
    with naming(remote):
        files.write(remote, NewAttributes(owner()), _standard_input(transfer))


def _standard_input(transfer: Transfer) -> Iterator[bytes]:
    count = 0
    # Not 'sys.stdin.buffer.read': between the system calls that it makes, it notices no signal.
    while block := os.read(sys.stdin.fileno(), BLOCK_BYTES):
        yield block
        count += len(block)
        transfer.moved(len(block))
    transfer.copied(count)


def _remote_targets(files: Files, local: Sequence[str], remote: bytes) -> list[bytes]:
    """Return the path for each copy. Raises UsageError."""
    names = [os.fsencode(os.path.basename(path.rstrip("/"))) for path in local]
    found = _found(files, remote)
    is_directory = found is not None and found.kind == DIRECTORY
    if found is not None and found.kind == SYMLINK and not all(map(os.path.islink, local)):
        where = shown_path(found.target)
        raise UsageError(f"{shown_path(remote)} is a symbolic link to {where}", hint="give the path that it leads to")
    if is_directory or (found is None and (len(local) > 1 or remote.endswith(b"/"))):
        if names == [os.fsencode(STANDARD)] and local == (STANDARD,):
            raise UsageError(f"{shown_path(remote)} is a directory", hint="give the new file's path")
        _refuse_twins([os.fsdecode(name) for name in names])
        above = remote.rstrip(b"/")
        return [remote if name in (b"", b".", b"..") else above + b"/" + name for name in names]
    if len(local) > 1:
        raise UsageError(f"{shown_path(remote)} is not a directory", hint="give a directory for several files")
    return [remote]


def _found(files: Files, path: bytes) -> Entry | None:
    try:
        return _entry(files, path)
    except NotFound:
        return None


def _passphrase_beside_content(invocation: Invocation) -> Secret:
    """Return the passphrase, but never read it from standard input. Raises AccessError."""
    found = find_passphrase(invocation)
    if found is None:
        raise AccessError("no passphrase was given, and standard input is the content", hint=HINT)
    return found
