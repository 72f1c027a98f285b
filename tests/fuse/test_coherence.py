"""WebDAV and the mount in one process: changes of one are visible in the other at once, whatever the kernel has cached."""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.support.mounts import MountedVault
from tests.support.raw_client import RawClient
from tests.support.server import Home

HELD = b"held " * 4000
SHORT, LONG = b"short", b"a longer content " * 5000


class Both:
    """WebDAV and a mount of one vault."""

    def __init__(self, path: Path, client: RawClient, home: Home) -> None:
        self.path, self._client, self.home = path, client, home

    def dav(self, method: str, name: str, body: bytes = b"", **headers: str) -> bytes:
        answer = self._client.request(method, f"/{name}", body=body, headers=headers)
        assert answer.status < 300, (method, name, answer.status, answer.body)
        return bytes(answer.body)

    def status(self, method: str, name: str) -> int:
        return self._client.request(method, f"/{name}").status


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    vault = MountedVault(tmp_path_factory.mktemp("served"))
    with vault.home.server("--mount", str(vault.path)) as server, server.client() as client:
        yield Both(vault.path, client, vault.home)
        server.terminate()
    vault.clear()


def test_a_name_that_was_not_there_appears(served: Both) -> None:
    new = served.path / "appears"
    assert not new.exists()
    served.dav("PUT", "appears", SHORT)
    assert new.read_bytes() == SHORT
    assert "appears" in os.listdir(served.path)


def test_a_name_disappears(served: Both) -> None:
    gone = served.path / "gone"
    gone.write_bytes(SHORT)
    served.dav("DELETE", "gone")
    assert not gone.exists()
    assert "gone" not in os.listdir(served.path)
    gone.write_bytes(LONG)
    assert served.dav("GET", "gone") == LONG


@pytest.mark.parametrize("content", [SHORT, LONG, b""], ids=["shorter", "longer", "empty"])
def test_new_content_of_a_file_that_the_kernel_keeps(served: Both, content: bytes) -> None:
    file = served.path / f"kept-{len(content)}"
    file.write_bytes(HELD)
    assert (file.read_bytes(), file.stat().st_size) == (HELD, len(HELD))
    served.dav("PUT", file.name, content)
    assert (file.read_bytes(), file.stat().st_size) == (content, len(content))


@pytest.mark.parametrize("content", [SHORT, LONG, b""], ids=["shorter", "longer", "empty"])
def test_new_content_of_a_file_that_is_open(served: Both, content: bytes) -> None:
    file = served.path / f"open-{len(content)}"
    file.write_bytes(HELD)
    with open(file, "rb", buffering=0) as held:
        assert held.read() == HELD
        served.dav("PUT", file.name, content)
        held.seek(0)
        assert held.read() == content
        assert os.fstat(held.fileno()).st_size == len(content)
        assert file.read_bytes() == content


def test_the_time_of_a_file_that_is_open(served: Both) -> None:
    file = served.path / "open-time"
    file.write_bytes(HELD)
    with open(file, "rb") as held:
        held.read()
        served.dav("PUT", file.name, SHORT, **{"X-OC-Mtime": "1000000000"})
        assert os.fstat(held.fileno()).st_mtime == 1_000_000_000
    assert file.stat().st_mtime == 1_000_000_000
    assert "Sun, 09 Sep 2001 01:46:40 GMT" in served.dav("PROPFIND", file.name, Depth="0").decode()


def test_all_names_of_a_file_show_its_new_content(served: Both) -> None:
    first, second = served.path / "first", served.path / "second"
    first.write_bytes(HELD)
    second.hardlink_to(first)
    assert second.read_bytes() == HELD
    served.dav("PUT", "first", SHORT)
    assert (second.read_bytes(), second.stat().st_size) == (SHORT, len(SHORT))


def test_a_written_file_is_served_when_it_is_closed(served: Both) -> None:
    for content in (SHORT, LONG, b"", HELD):
        (served.path / "written").write_bytes(content)
        assert served.dav("GET", "written") == content


def test_what_was_synced_is_served_while_the_file_is_open(served: Both) -> None:
    with open(served.path / "synced", "wb") as file:
        file.write(LONG)
        file.flush()
        os.fsync(file.fileno())
        assert served.dav("GET", "synced") == LONG
        file.write(SHORT)
        file.flush()
        os.fsync(file.fileno())
        assert served.dav("GET", "synced") == LONG + SHORT


def test_a_moved_directory(served: Both) -> None:
    directory = served.path / "from"
    (directory / "below").mkdir(parents=True)
    (directory / "below" / "file").write_bytes(HELD)
    assert not (served.path / "to").exists()
    served.dav("MOVE", "from", Destination="/to")
    assert not directory.exists()
    assert (served.path / "to" / "below" / "file").read_bytes() == HELD
    (served.path / "to" / "below" / "file").write_bytes(SHORT)
    assert served.dav("GET", "to/below/file") == SHORT


def test_a_removed_tree_and_one_that_takes_its_place(served: Both) -> None:
    (served.path / "tree" / "below").mkdir(parents=True)
    (served.path / "tree" / "below" / "file").write_bytes(HELD)
    served.dav("DELETE", "tree")
    assert not (served.path / "tree" / "below").exists()
    served.dav("MKCOL", "tree")
    assert list((served.path / "tree").iterdir()) == []


def test_a_copy(served: Both) -> None:
    (served.path / "original").write_bytes(HELD)
    assert not (served.path / "copy").exists()
    served.dav("COPY", "original", Destination="/copy")
    assert (served.path / "copy").read_bytes() == HELD


def test_names_change_while_a_directory_is_read(served: Both) -> None:
    directory = served.path / "listed"
    directory.mkdir()
    for number in range(600):
        (directory / f"file-{number:04}").touch()
    with os.scandir(directory) as listing:
        seen = [next(listing).name for _ in range(100)]
        served.dav("DELETE", "listed/file-0599")
        served.dav("PUT", "listed/file-0000", LONG)
        seen += [entry.name for entry in listing]
    assert len(seen) == len(set(seen))
    assert set(seen) >= {f"file-{number:04}" for number in range(599)}
    assert not (directory / "file-0599").exists()
    assert (directory / "file-0000").stat().st_size == len(LONG)


def test_a_restore(served: Both) -> None:
    top = served.path / "restored"
    (top / "d").mkdir(parents=True)
    for name in ("a", "b", "d/x", "d/y"):
        (top / name).write_bytes(name.encode() * 5000)
    os.link(top / "a", top / "a2")
    os.utime(top / "d/y", ns=(10**18, 10**18))
    before = _contents(top)
    served.home.run("snapshot", "before")
    with (top / "a").open("r+b", buffering=0) as file:
        file.write(b"other, and not closed")
        (top / "b").unlink()
        (top / "d").rename(top / "e")
        (top / "e/x").write_bytes(SHORT)
        (top / "e/y").write_bytes(LONG)
        (top / "d").write_bytes(b"a file now")
        (top / "new").mkdir()
        assert _contents(top) != before
        served.home.run("restore", "before", "--path", "/restored")
        assert _contents(top) == before
        file.seek(0)
        assert file.read() == b"a" * 5000
    assert _contents(top) == before
    assert (top / "d/y").stat().st_mtime_ns == 10**18
    assert (top / "a").stat().st_ino == (top / "a2").stat().st_ino
    served.home.run("restore", "before", "--path", "/restored", "--to", "/copied")
    assert _contents(served.path / "copied") == before


def _contents(top: Path) -> dict[str, bytes]:
    """Return the content of each file below a directory; of a directory, nothing."""
    return {str(path.relative_to(top)): b"" if path.is_dir() else path.read_bytes() for path in sorted(top.rglob("*"))}


def test_the_state_is_readable_by_name_only(served: Both) -> None:
    file = served.path / "state"
    file.write_bytes(SHORT)
    assert os.getxattr(file, "user.tgdav.state") in (b"local", b"uploading", b"stored")
    assert os.listxattr(file) == []
    with pytest.raises(PermissionError):
        os.setxattr(file, "user.tgdav.state", b"stored")


class Sides:
    """Random changes of a few files from both sides, and their expected content."""

    def __init__(self, served: Both) -> None:
        self._served, self._choose = served, random.Random(5)
        self.names = [f"random/{number}" for number in range(6)]
        self.content: dict[str, bytes] = {}
        self._held: dict[str, BinaryIO] = {}

    def step(self) -> str:
        """Make one change. Return the name that it affected."""
        name = self._choose.choice(self.names)
        there = [self.delete, self.unlink, self.move, self.append, self.truncate, self.hold]
        self._choose.choice([self.put, self.write, self.drop, *(there if name in self.content else [])])(name)
        return name

    def _new_content(self, name: str) -> bytes:
        self.content[name] = self._choose.randbytes(self._choose.choice([0, 10, 5000, 70_000]))
        return self.content[name]

    def put(self, name: str) -> None:
        self._served.dav("PUT", name, self._new_content(name))

    def write(self, name: str) -> None:
        (self._served.path / name).write_bytes(self._new_content(name))

    def append(self, name: str) -> None:
        more = self._choose.randbytes(3000)
        with open(self._served.path / name, "ab") as file:
            file.write(more)
        self.content[name] += more

    def truncate(self, name: str) -> None:
        os.truncate(self._served.path / name, 1000)
        self.content[name] = self.content[name][:1000].ljust(1000, b"\0")

    def delete(self, name: str) -> None:
        self._served.dav("DELETE", name)
        del self.content[name]

    def unlink(self, name: str) -> None:
        (self._served.path / name).unlink()
        del self.content[name]

    def move(self, name: str) -> None:
        target = self._choose.choice([other for other in self.names if other != name])
        self._served.dav("MOVE", name, Destination="/" + target)
        self.content[target] = self.content.pop(name)

    def hold(self, name: str) -> None:
        if name not in self._held:
            self._held[name] = open(self._served.path / name, "rb")  # noqa: SIM115

    def drop(self, name: str) -> None:
        if name in self._held:
            self._held.pop(name).close()

    def close(self) -> None:
        for file in self._held.values():
            file.close()


def test_random_changes_from_both_sides(served: Both) -> None:
    (served.path / "random").mkdir()
    with closing(Sides(served)) as sides:
        for step in range(600):
            name = sides.step()
            for each in sides.names:
                path = served.path / each
                assert (path.read_bytes() if path.exists() else None) == sides.content.get(each), (step, each)
            shown = served.dav("GET", name) if served.status("HEAD", name) == 200 else None
            assert shown == sides.content.get(name), step
