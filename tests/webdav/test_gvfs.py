"""GNOME's own client (gvfs: Files, the file chooser, gio), on a session bus of the test's own."""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.webdav.conftest import LOGIN, PASSWORD, Served

pytestmark = pytest.mark.clients

BACKEND = Path("/usr/share/gvfs/mounts/dav.mount")
Gio = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a program needs to meet gvfs's daemons, which the bus starts, and which end with it."""
    if not (shutil.which("gio") and shutil.which("dbus-daemon") and BACKEND.exists()):
        pytest.skip("gio, dbus-daemon or gvfs-backends is not installed")
    home = tmp_path_factory.mktemp("desktop")
    (home / "runtime").mkdir(mode=0o700)
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "runtime"),
        "LC_ALL": "C.UTF-8",
        "GVFS_DISABLE_FUSE": "1",
        "GIO_USE_VOLUME_MONITOR": "unix",
        "GSETTINGS_BACKEND": "memory",
    }
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address=1"],
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with bus:
        assert bus.stdout is not None
        yield settings | {"DBUS_SESSION_BUS_ADDRESS": bus.stdout.readline().strip()}
        bus.terminate()


@pytest.fixture
def gio(environment: dict[str, str]) -> Gio:
    """Run gio with arguments, and ``data`` as its input."""

    def run(*args: str | Path, data: bytes = b"", works: bool = True) -> subprocess.CompletedProcess[bytes]:
        command = ["gio", *map(str, args)]
        done = subprocess.run(command, input=data, env=environment, capture_output=True, timeout=60, check=False)
        assert (done.returncode == 0) is works, (args, done.stdout, done.stderr)
        return done

    return run


@pytest.fixture
def drive(served: Served, gio: Gio) -> Iterator[str]:
    """The drive's URL, mounted with its password."""
    url = f"dav://{LOGIN[0]}@127.0.0.1:{served.port}/"
    gio("mount", url, data=f"{PASSWORD}\n".encode())
    yield url
    gio("mount", "-u", url)


def listed(gio: Gio, url: str) -> set[str]:
    return set(gio("list", url).stdout.decode().splitlines())


@pytest.mark.parametrize("size", [0, 1, 4096, (5 << 20) + 17])
def test_in_and_out(gio: Gio, drive: str, tmp_path: Path, size: int) -> None:
    """A file copied in comes out equal, with its size listed."""
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(random.randbytes(size))
    gio("copy", source, drive + "file.bin")
    assert gio("list", "-l", drive).stdout.split(b"\t")[:2] == [b"file.bin", b"%d" % size]
    gio("copy", drive + "file.bin", back)
    assert back.read_bytes() == source.read_bytes()


def test_replacing(gio: Gio, drive: str, tmp_path: Path) -> None:
    """Saving over a file, as an editor does, and copying over one, which replaces it at once."""
    gio("save", drive + "note.txt", data=b"first")
    gio("save", drive + "note.txt", data=b"the second one")
    assert gio("cat", drive + "note.txt").stdout == b"the second one"
    (tmp_path / "third").write_bytes(b"third")
    gio("copy", tmp_path / "third", drive + "note.txt")
    assert gio("cat", drive + "note.txt").stdout == b"third"
    assert listed(gio, drive) == {"note.txt"}


def test_an_etag_that_is_old_does_not_replace(served: Served, gio: Gio, drive: str) -> None:
    """Whoever saves says which content it read; was it changed meanwhile, nothing is overwritten."""
    gio("save", drive + "note.txt", data=b"read")
    shown = gio("info", "-a", "etag::value", drive + "note.txt").stdout.decode()
    (etag,) = re.findall(r"etag::value: (\S+)", shown)
    assert served.client()("PUT", "/note.txt", b"of another").status == 204
    assert b"modified" in gio("save", "-e", etag, drive + "note.txt", data=b"mine", works=False).stderr
    assert gio("cat", drive + "note.txt").stdout == b"of another"


def test_names_and_folders(gio: Gio, drive: str, tmp_path: Path) -> None:
    """Folders, renames, moves and removals, with names that need escapes."""
    folder, name = "B\u00fccher & mehr", "100 % #1?;\u00e4.txt"
    gio("mkdir", drive + quote(folder))
    gio("save", drive + "plain.txt", data=b"content")
    gio("rename", drive + "plain.txt", name)
    assert listed(gio, drive) == {folder, name}
    gio("move", drive + quote(name), drive + quote(f"{folder}/{name}"))
    assert listed(gio, drive + quote(folder)) == {name}
    assert gio("cat", drive + quote(f"{folder}/{name}")).stdout == b"content"
    gio("copy", drive + quote(f"{folder}/{name}"), drive + "copy.txt")
    assert gio("cat", drive + "copy.txt").stdout == b"content"
    gio("remove", drive + quote(f"{folder}/{name}"))
    gio("remove", drive + quote(folder))
    assert listed(gio, drive) == {"copy.txt"}


def test_refusals_are_understood(gio: Gio, drive: str) -> None:
    """What exists is not overwritten unasked, what does not exist is said so."""
    gio("save", drive + "a", data=b"a")
    gio("save", drive + "b", data=b"b")
    assert b"exists" in gio("rename", drive + "a", "b", works=False).stderr
    assert b"exists" in gio("mkdir", drive + "a", works=False).stderr
    assert b"Not Found" in gio("cat", drive + "missing", works=False).stderr
    assert gio("cat", drive + "b").stdout == b"b"


def test_space(gio: Gio, drive: str) -> None:
    """The room that is left shows in the window's corner."""
    shown = gio("info", "-f", drive).stdout.decode()
    assert int(re.findall(r"filesystem::free: (\d+)", shown)[0]) > 0


def test_a_wrong_password_mounts_nothing(served: Served, gio: Gio) -> None:
    gio("mount", f"dav://other@127.0.0.1:{served.port}/", data=b"wrong\n", works=False)
