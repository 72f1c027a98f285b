"""``/.snapshots``, ``/.versions`` and ``/.trash`` in a mount."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.fs.access import Ability
from tests.fs.behaviour import shown
from tests.fs.mounted_access import NOT_IN_POSIX, MountedAccess
from tests.fs.registry import Behaviour
from tests.fs.snapshot_access import LACKS, NOT_KEPT, SnapshotAccess
from tests.support.mounts import MountedVault
from tests.support.volumes import places
from tests.support.waiting import wait_for
from tgdav.volume.control_client import ControlClient

PRIVILEGED = frozenset({Ability.OWNERS, Ability.SPECIAL_FILES}) if os.getuid() else frozenset[Ability]()
LEFT_OUT = LACKS | PRIVILEGED | {Ability.RESERVED_NAMES}
KEPT = [each for each in shown(frozenset(Ability) - NOT_IN_POSIX - LEFT_OUT) if each.name not in NOT_KEPT]
BIG = bytes(range(250)) * 2000

_numbers = count()


def call(vault: MountedVault, command: str, **arguments: object) -> dict[str, object]:
    """Give a command to the process of the mount."""
    client = ControlClient.connect(places(vault.base).control_file)
    assert client is not None
    with client:
        return client.call(command, arguments, lambda *_: None)


def snapshot(vault: MountedVault) -> str:
    """Make a snapshot; return its name."""
    name = f"snapshot-{next(_numbers)}"
    call(vault, "snapshot", name=name)
    return name


@pytest.mark.parametrize("behaviour", KEPT, ids=lambda behaviour: behaviour.name)
def test_behaviours(mounted: MountedVault, directory: Path, behaviour: Behaviour) -> None:
    """What is changed through the mount is read from snapshots through the mount."""

    def take() -> MountedAccess:
        return MountedAccess(mounted.path / ".snapshots" / snapshot(mounted) / directory.name)

    behaviour.check(SnapshotAccess(MountedAccess(directory), take, lacks=LEFT_OUT))


def test_what_a_mount_can_show_is_much() -> None:
    assert len(KEPT) > 90


def test_a_directory_of_last_week(mounted: MountedVault, directory: Path) -> None:
    (directory / "d").mkdir()
    (directory / "d" / "f").write_bytes(BIG)
    (directory / "d" / "link").symlink_to("f")
    os.setxattr(directory / "d" / "f", "user.colour", b"red")
    os.utime(directory / "d" / "f", ns=(1, 1_700_000_000_123_456_789))
    (directory / "d" / "f").chmod(0o600)
    before = os.stat(directory / "d" / "f")
    last_week = mounted.path / ".snapshots" / snapshot(mounted) / directory.name
    (directory / "d" / "f").write_bytes(b"new")
    shutil.rmtree(directory / "d")
    assert sorted(os.listdir(last_week / "d")) == ["f", "link"]
    assert (last_week / "d" / "link").read_bytes() == BIG
    assert (last_week / "d" / "link").readlink() == Path("f")
    assert os.getxattr(last_week / "d" / "f", "user.colour") == b"red"
    found = os.stat(last_week / "d" / "f")
    same = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_uid", "st_gid", "st_nlink", "st_blocks")
    assert {name: getattr(found, name) for name in same} == {name: getattr(before, name) for name in same}
    assert found.st_ino >= 1 << 48
    # Programs get all of it back.
    subprocess.run(["cp", "-a", last_week / "d", directory / "back"], check=True)
    assert (directory / "back" / "f").read_bytes() == BIG
    assert os.stat(directory / "back" / "f").st_mtime_ns == before.st_mtime_ns
    subprocess.run(["diff", "-r", last_week / "d", directory / "back"], check=True)
    subprocess.run(["tar", "-cf", directory / "t.tar", "-C", last_week, "d"], check=True)


def test_snapshots_appear_and_disappear(mounted: MountedVault, directory: Path) -> None:
    top = mounted.path / ".snapshots"
    (directory / "f").write_bytes(b"one")
    assert not (top / "later").exists()
    call(mounted, "snapshot", name="later")
    assert "later" in os.listdir(top)
    assert (top / "later").exists()
    assert (top / "later" / directory.name / "f").read_bytes() == b"one"
    call(mounted, "snapshot-delete", name="later")
    assert "later" not in os.listdir(top)
    assert not (top / "later").exists()
    # A name that is used again shows the new one.
    (directory / "f").write_bytes(b"two")
    call(mounted, "snapshot", name="later")
    assert (top / "later").exists()
    assert (top / "later" / directory.name / "f").read_bytes() == b"two"


def test_versions_follow_the_file(mounted: MountedVault, directory: Path) -> None:
    (directory / "f").write_bytes(b"one")
    top = mounted.path / ".versions" / directory.name
    assert os.listdir(top) == ["f"]
    # What was closed is committed a moment later, and versions are what is committed.
    wait_for(lambda: _last(top / "f") == b"one", what="the version to appear")
    # The same version goes on while a burst of saves lasts; the kernel must not keep the old size.
    (directory / "f").write_bytes(b"longer content")
    wait_for(lambda: _last(top / "f") == b"longer content", what="the version to change")
    (directory / "f").write_bytes(b"short")
    wait_for(lambda: _last(top / "f") == b"short", what="the version to change again")
    mtime = (directory / "f").stat().st_mtime_ns
    (directory / "f").write_bytes(b"SHORT")
    os.utime(directory / "f", ns=(mtime, mtime))
    wait_for(lambda: _last(top / "f") == b"SHORT", what="the version to change, of the same size and time")
    (directory / "g").mkdir()
    assert sorted(os.listdir(top)) == ["f", "g"]


def _last(versions: Path) -> bytes:
    return (versions / max(os.listdir(versions), key=lambda name: int(name.partition("-")[0]))).read_bytes()


def test_what_was_deleted_is_in_the_trash(mounted: MountedVault, directory: Path) -> None:
    # Names that nothing else deletes on this day.
    folder, file = f"folder of {directory.name}", f"file of {directory.name}"
    (directory / folder).mkdir()
    (directory / folder / file).write_bytes(BIG)
    call(mounted, "sync", wait=True)  # what never left the machine may leave no trace
    (directory / folder / file).unlink()
    (directory / folder).rmdir()
    day = max((mounted.path / ".trash").iterdir())
    assert {folder, file} <= set(os.listdir(day))
    assert (day / file).read_bytes() == BIG
    assert (day / file).stat().st_nlink == 1
    assert os.listdir(day / folder) == []


def test_an_emptied_trash_shows_nothing(vault: MountedVault) -> None:
    with vault:
        (vault.path / "f").write_bytes(BIG)
        call(vault, "sync", wait=True)
        (vault.path / "f").unlink()
        top = vault.path / ".trash"
        [day] = top.iterdir()
        with (day / "f").open("rb") as file:
            assert file.read(10) == BIG[:10]
            assert call(vault, "trash-empty") == {"purged": 1}
            wait_for(lambda: os.listdir(top) == [], what="the day to disappear")
            wait_for(lambda: not (day / "f").exists(), what="the file to disappear")
            # Who has it open reads on.
            file.seek(0)
            assert file.read() == BIG


def test_the_root_does_not_list_them(mounted: MountedVault) -> None:
    assert not [name for name in os.listdir(mounted.path) if name.startswith(".")]
    for name in (".snapshots", ".versions", ".trash"):
        assert (mounted.path / name).is_dir()
        assert (mounted.path / name / "..").samefile(mounted.path)


@pytest.mark.parametrize("top", [".snapshots", ".versions", ".trash"])
def test_every_change_is_refused(mounted: MountedVault, directory: Path, top: str) -> None:
    gone, live = f"gone from {directory.name}", directory / "live"
    live.write_bytes(b"1")
    (directory / gone).write_bytes(b"2")
    os.setxattr(directory / gone, "user.x", b"1")
    call(mounted, "sync", wait=True)
    above = {
        ".snapshots": mounted.path / ".snapshots" / snapshot(mounted) / directory.name,
        ".versions": mounted.path / ".versions" / directory.name / gone,
    }.get(top)
    if above is None:
        (directory / gone).unlink()
        above = max((mounted.path / ".trash").iterdir())
    file = next(each for each in above.iterdir() if each.name == gone or top == ".versions")
    refused: dict[str, Callable[[], object]] = {
        "create": lambda: os.open(above / "never", os.O_CREAT | os.O_WRONLY),
        "mkdir": (above / "never").mkdir,
        "mknod": lambda: os.mkfifo(above / "never"),
        "symlink": lambda: os.symlink("x", above / "never"),
        "link into": lambda: os.link(live, above / "never"),
        "link out of": lambda: os.link(file, directory / "never"),
        "unlink": file.unlink,
        "rmdir": above.rmdir,
        "rmdir top": (mounted.path / top).rmdir,
        "rename out of": lambda: os.rename(file, directory / "never"),
        "rename into": lambda: os.rename(live, above / "never"),
        "rename onto": lambda: os.rename(live, file),
        "rename top": lambda: os.rename(mounted.path / top, directory / "never"),
        "open to write": lambda: os.open(file, os.O_WRONLY),
        "open to append": lambda: os.open(file, os.O_RDWR | os.O_APPEND),
        "open empty": lambda: os.open(file, os.O_WRONLY | os.O_TRUNC),
        "truncate": lambda: os.truncate(file, 0),
        "chmod": lambda: file.chmod(0o600),
        "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.y", b""),
        "removexattr": lambda: os.removexattr(file, "user.x"),
    }
    before = {each.name: each.lstat() for each in above.iterdir()}
    results = {}
    for what, attempt in refused.items():
        try:
            attempt()
        except OSError as error:
            results[what] = errno.errorcode[error.errno]
        else:
            results[what] = "done"
    assert results == dict.fromkeys(refused, "EROFS")
    assert {each.name: each.lstat() for each in above.iterdir()} == before
    assert live.read_bytes() == b"1"


def test_the_names_cannot_be_made(mounted: MountedVault) -> None:
    for name in (".snapshots", ".versions", ".trash"):
        for make in (Path.mkdir, lambda path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)):
            with pytest.raises(OSError) as caught:
                make(mounted.path / name)
            assert caught.value.errno in (errno.EEXIST, errno.EPERM)
