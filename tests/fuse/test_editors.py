"""How programs save a file, through a mount: what ``versions`` shows then, and what is in the trash.

Real programs where they are installed, else the system calls that they make. A snapshot between two saves ends the burst, so that
no test waits.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import MountedVault
from tests.support.volumes import places
from tests.support.waiting import wait_for
from tgdav.volume.control_client import ControlClient

SAVES = 4
_numbers = count()
_LIBRARY = ctypes.CDLL(None, use_errno=True)
_HERE, _EXCHANGE = -100, 2


def call(vault: MountedVault, command: str, **arguments: object) -> dict[str, Any]:
    client = ControlClient.connect(places(vault.base).control_file)
    assert client is not None
    with client:
        return client.call(command, arguments, lambda *_: None)


def contents(mounted: MountedVault, path: Path) -> list[str]:
    """Return the contents of a file's versions, the oldest first, as ``/.versions`` has them."""
    below = path.relative_to(mounted.path)
    numbers = [each["number"] for each in call(mounted, "versions", path=os.fsencode(f"/{below}"))["versions"][::-1]]

    def named() -> list[str]:
        return sorted(os.listdir(mounted.path / ".versions" / below), key=lambda name: int(name.partition("-")[0]))

    # The kernel may cache names of history for a second.
    wait_for(lambda: [int(name.partition("-")[0]) for name in named()] == numbers, what="the versions to be listed")
    return [(mounted.path / ".versions" / below / name).read_text() for name in named()]


def in_trash(mounted: MountedVault, directory: Path) -> set[str]:
    """Return the names in the trash that were in a directory."""
    entries = call(mounted, "trash-list")["entries"]
    paths = [Path(each["path"]) for each in entries]
    return {path.name for path in paths if Path("/") / directory.relative_to(mounted.path) == path.parent}


def save(mounted: MountedVault, path: Path, way: Callable[[Path, str], None]) -> list[str]:
    """Save a file several times; return what the contents were."""
    expected = [f"save {number}\n" * 20 for number in range(SAVES)]
    path.write_text(expected[0])
    for text in expected[1:]:
        call(mounted, "snapshot", name=f"burst-{next(_numbers)}")
        way(path, text)
        assert path.read_text() == text
    return expected


# ---- by system calls -------------------------------------------------------------------------------------------------


def in_place(path: Path, text: str) -> None:
    """Nano, most simple editors, shells."""
    path.write_text(text)


def truncated_and_synced(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.ftruncate(descriptor, 0)
    os.fsync(descriptor)
    os.write(descriptor, text.encode())
    os.fsync(descriptor)
    os.close(descriptor)


def vim(path: Path, text: str) -> None:
    """A backup by rename, deleted after the save."""
    backup = path.with_name(path.name + "~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def vim_copying(path: Path, text: str) -> None:
    """With backupcopy=yes: the file stays."""
    backup = path.with_name(path.name + "~")
    shutil.copy2(path, backup)
    path.write_text(text)
    backup.unlink()


def emacs(path: Path, text: str) -> None:
    """A backup by rename that stays; the next session replaces it."""
    path.rename(path.with_name(path.name + "~"))
    path.write_text(text)


def libreoffice(path: Path, text: str) -> None:
    lock = path.with_name(f".~lock.{path.name}#")
    lock.write_text(",user,host,01.12.2026;")
    temporary = path.with_name("lu4711abc.tmp")
    temporary.write_text(text)
    temporary.replace(path)
    lock.unlink()


def gtk(path: Path, text: str) -> None:
    """GLib: a hidden temporary file, synced and renamed over; the backup is a hard link."""
    backup = path.with_name(path.name + "~")
    backup.unlink(missing_ok=True)
    backup.hardlink_to(path)
    temporary = path.with_name(".goutputstream-ABC123")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def textedit(path: Path, text: str) -> None:
    """A safe save of macOS: the new file in a directory beside, exchanged with the old one, which is deleted."""
    directory = path.with_name(path.name + ".sb-1234abcd-XyZ")
    directory.mkdir()
    temporary = directory / path.name
    temporary.write_text(text)
    done = _LIBRARY.renameat2(_HERE, os.fsencode(temporary), _HERE, os.fsencode(path), _EXCHANGE)
    assert done == 0, os.strerror(ctypes.get_errno())
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "way",
    [in_place, truncated_and_synced, vim, vim_copying, emacs, libreoffice, gtk, textedit],
    ids=lambda way: way.__name__,
)
def test_every_save_is_a_version(mounted: MountedVault, directory: Path, way: Callable[[Path, str], None]) -> None:
    path = directory / "letter.txt"
    expected = save(mounted, path, way)
    assert contents(mounted, path) == expected
    assert "letter.txt" not in in_trash(mounted, directory)


@pytest.mark.parametrize("way", [vim, emacs, libreoffice, textedit], ids=lambda way: way.__name__)
def test_no_old_content_is_in_the_trash(
    mounted: MountedVault, directory: Path, way: Callable[[Path, str], None]
) -> None:
    """Temporary files that never had the name, such as locks, are the matter of other tests."""
    path = directory / "letter.txt"
    save(mounted, path, way)
    assert not in_trash(mounted, directory) & {"letter.txt", "letter.txt~", "lu4711abc.tmp"}


def test_a_backup_that_stays_has_the_earlier_contents_too(mounted: MountedVault, directory: Path) -> None:
    path = directory / "letter.txt"
    expected = save(mounted, path, emacs)
    assert contents(mounted, path.with_name("letter.txt~"))[-1] == expected[-2]


def test_quick_saves_are_one_version(mounted: MountedVault, directory: Path) -> None:
    """Within the 5 s of one burst, if this machine is fast enough; else there are more, and none is lost."""
    path = directory / "letter.txt"
    path.write_text("first")
    call(mounted, "snapshot", name=f"burst-{next(_numbers)}")
    for number in range(3):
        libreoffice(path, f"quick {number}")
    found = contents(mounted, path)
    assert (found[0], found[-1]) == ("first", "quick 2")


def test_a_log_that_is_rotated_keeps_its_history(mounted: MountedVault, directory: Path) -> None:
    path = directory / "log"
    path.write_text("old")
    call(mounted, "snapshot", name=f"burst-{next(_numbers)}")
    path.rename(directory / "log.1")
    path.write_text("new")
    assert contents(mounted, path) == ["old", "new"]
    assert contents(mounted, directory / "log.1") == ["old"]


# ---- real programs -----------------------------------------------------------------------------------------------------


def run(*command: str | Path, **environment: str) -> None:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("backup_copy", ["auto", "yes", "no", "auto,breakhardlink"])
def test_real_vim(mounted: MountedVault, directory: Path, tmp_path: Path, backup_copy: str) -> None:
    def way(path: Path, text: str) -> None:
        source = tmp_path / "text"
        source.write_text(text)
        commands = ("%d", f"0r {source}", "wq")
        run("vim", "-u", "NONE", "-es", "--cmd", f"set backupcopy={backup_copy}", *(f"-c{c}" for c in commands), path)

    path = directory / "letter.txt"
    expected = save(mounted, path, way)
    assert contents(mounted, path) == expected
    assert "letter.txt" not in in_trash(mounted, directory)


def test_real_rsync(mounted: MountedVault, directory: Path, tmp_path: Path) -> None:
    def way(path: Path, text: str) -> None:
        source = tmp_path / path.name
        source.write_text(text)
        run("rsync", "-a", "--ignore-times", source, f"{path.parent}/")

    path = directory / "letter.txt"
    expected = save(mounted, path, way)
    assert contents(mounted, path) == expected
    # It sends what is the same already: no version.
    way(path, expected[-1])
    assert contents(mounted, path) == expected
    assert in_trash(mounted, directory) == set()


def test_real_sed(mounted: MountedVault, directory: Path) -> None:
    path = directory / "letter.txt"
    path.write_text("one\n")
    for number, word in ((0, "two"), (1, "three")):
        call(mounted, "snapshot", name=f"burst-{next(_numbers)}")
        run("sed", "-i", f"s/.*/{word}/", path)
        assert len(contents(mounted, path)) == number + 2
    assert contents(mounted, path) == ["one\n", "two\n", "three\n"]


def test_real_git(mounted: MountedVault, directory: Path) -> None:
    """Branches and the index are saved by renaming lock files: they have versions, and none is in the trash."""
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    git: tuple[str | Path, ...] = ("git", "-C", directory, "-c", "gc.auto=0", "-c", "safe.directory=*")
    run(*git, "init", "-q", "-b", "main", **identity)
    heads = []
    for number in range(3):
        (directory / "file").write_text(f"content {number}\n")
        run(*git, "add", "file", **identity)
        run(*git, "commit", "-q", "-m", f"commit {number}", **identity)
        heads.append((directory / ".git/refs/heads/main").read_text())
        call(mounted, "snapshot", name=f"burst-{next(_numbers)}")
    assert contents(mounted, directory / ".git/refs/heads/main") == heads
    assert contents(mounted, directory / "file") == [f"content {number}\n" for number in range(3)]
    for below in (".git", ".git/refs/heads"):
        assert not in_trash(mounted, directory / below) & {"HEAD", "config", "index", "main", "COMMIT_EDITMSG"}
    run(*git, "fsck", **identity)
