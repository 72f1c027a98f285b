"""How programs save a file over WebDAV: the requests that they send, and what its versions and the trash are then."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.platform import ManualClock
from tests.support.volumes import new_vault, open_volume
from tests.webdav.client import Client
from tests.webdav.conftest import Served
from tests.webdav.test_programs import need, run
from tgdav.platform import Platform
from tgdav.volume.volume import Volume

SAVES = [b"save %d " % number * 20 for number in range(4)]
Save = Callable[[Client, bytes], None]


class Drive(Served):
    """A served volume with a clock that stands until it is moved, so that no two saves are one burst."""

    def __init__(self, folder: Path) -> None:
        new_vault(folder)
        self.file_clock, system = ManualClock(), Platform.system()
        platform = Platform(self.file_clock, system.entropy, system.disk)
        self.volume: Volume = open_volume(folder, platform=platform)
        super().__init__(self.volume.fs, login=False)

    def contents(self, path: str) -> list[bytes]:
        """Return the contents of a file's versions, the oldest first."""
        names = [name.encode() for name in path.strip("/").split("/")]
        found = self.volume.versions.listed(self.fs.resolve(names).inode)
        dav = self.client()
        listing = [href for href in dav("PROPFIND", f"/.versions{path}/", Depth="1").hrefs if not href.endswith("/")]
        by_number = {int(href.rpartition("/")[2].partition("-")[0]): dav("GET", href).body for href in listing}
        assert sorted(by_number) == [each.number for each in found[::-1]]
        return [by_number[number] for number in sorted(by_number)]

    def trash(self) -> list[bytes]:
        return [item.path for item in self.volume.fs.trash.items()]

    def stop(self) -> None:
        super().stop()
        self.volume.close()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path)
    yield made
    made.stop()


def put(dav: Client, content: bytes) -> None:
    """LibreOffice, GNOME, KDE, curl, rclone: the file itself."""
    assert dav("PUT", "/letter.odt", content).status in (201, 204)


def locked(dav: Client, content: bytes) -> None:
    """Office programs hold a lock meanwhile; Explorer first empties the file."""
    body = b"<D:lockinfo xmlns:D='DAV:'><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>"
    token = dav("LOCK", "/letter.odt", body, Timeout="Second-60")["Lock-Token"]
    assert dav("PUT", "/letter.odt", b"", If=f"({token})").status == 204
    assert dav("PUT", "/letter.odt", content, If=f"({token})").status == 204
    assert dav("UNLOCK", "/letter.odt", **{"Lock-Token": token}).status == 204


def word(dav: Client, content: bytes) -> None:
    """Two renames: the old file leaves to a temporary name, the new one takes its place, the old one is deleted."""
    assert dav("PUT", "/~WRD0000.tmp", content).status == 201
    assert dav("MOVE", "/letter.odt", Destination="/~WRL0001.tmp", Overwrite="F").status == 201
    assert dav("MOVE", "/~WRD0000.tmp", Destination="/letter.odt", Overwrite="F").status == 201
    assert dav("DELETE", "/~WRL0001.tmp").status == 204


def moved_over(dav: Client, content: bytes) -> None:
    """Nextcloud, Cyberduck, rclone with a temporary name."""
    assert dav("PUT", "/letter.odt.partial", content).status == 201
    assert dav("MOVE", "/letter.odt.partial", Destination="/letter.odt", Overwrite="T").status == 204


def textedit(dav: Client, content: bytes) -> None:
    """The safe save of macOS: a directory beside gets the new file, then the old one, and is deleted with it."""
    assert dav("MKCOL", "/letter.odt.sb-1a2b3c-XyZ").status == 201
    assert dav("PUT", "/letter.odt.sb-1a2b3c-XyZ/letter.odt", content).status == 201
    assert dav("MOVE", "/letter.odt", Destination="/letter.odt.sb-1a2b3c-XyZ/old").status == 201
    assert dav("MOVE", "/letter.odt.sb-1a2b3c-XyZ/letter.odt", Destination="/letter.odt").status == 201
    assert dav("DELETE", "/letter.odt.sb-1a2b3c-XyZ/old").status == 204
    assert dav("DELETE", "/letter.odt.sb-1a2b3c-XyZ/").status == 204


def textedit_at_once(dav: Client, content: bytes) -> None:
    """The directory is deleted with the old file in it."""
    assert dav("MKCOL", "/(A Document Being Saved By TextEdit)".replace(" ", "%20")).status == 201
    directory = "/(A%20Document%20Being%20Saved%20By%20TextEdit)"
    assert dav("PUT", f"{directory}/letter.odt", content).status == 201
    assert dav("MOVE", "/letter.odt", Destination=f"{directory}/old").status == 201
    assert dav("MOVE", f"{directory}/letter.odt", Destination="/letter.odt").status == 201
    assert dav("DELETE", f"{directory}/").status == 204


def copied_over(dav: Client, content: bytes) -> None:
    assert dav("PUT", "/new", content).status in (201, 204)
    assert dav("COPY", "/new", Destination="/letter.odt", Overwrite="T").status == 204


@pytest.mark.parametrize(
    "save",
    [put, locked, word, moved_over, textedit, textedit_at_once, copied_over],
    ids=lambda save: save.__name__,
)
def test_every_save_is_a_version(drive: Drive, save: Save) -> None:
    dav = drive.client()
    put(dav, SAVES[0])
    for content in SAVES[1:]:
        drive.file_clock.advance(60)
        save(dav, content)
        assert dav("GET", "/letter.odt").body == content
    assert drive.contents("/letter.odt") == SAVES
    left = [path for path in drive.trash() if not path.startswith((b"/letter.odt.sb", b"/(A Doc"))]
    assert left == [], "a save has left something in the trash"
    # When the trash is emptied, the versions stay.
    drive.volume.fs.trash.empty()
    assert drive.contents("/letter.odt") == SAVES
    assert drive.volume.check()["ok"]


def test_a_burst_of_moves_is_one_version(drive: Drive) -> None:
    dav = drive.client()
    put(dav, SAVES[0])
    drive.file_clock.advance(60)
    for content in SAVES[1:]:
        drive.file_clock.advance(1)
        moved_over(dav, content)
    assert drive.contents("/letter.odt") == [SAVES[0], SAVES[-1]]
    assert drive.trash() == []


def test_a_file_moved_by_mistake_over_one_that_was_just_written_loses_nothing(drive: Drive) -> None:
    dav = drive.client()
    assert dav("PUT", "/other", SAVES[1]).status == 201
    drive.file_clock.advance(1)
    put(dav, SAVES[0])
    assert dav("MOVE", "/other", Destination="/letter.odt", Overwrite="T").status == 204
    assert drive.contents("/letter.odt") == [SAVES[0], SAVES[1]]


def test_a_directory_that_replaces_a_file_sends_it_to_the_trash(drive: Drive) -> None:
    dav = drive.client()
    put(dav, SAVES[0])
    drive.file_clock.advance(60)
    assert dav("MKCOL", "/directory").status == 201
    assert dav("MOVE", "/directory", Destination="/letter.odt", Overwrite="T").status == 204
    assert drive.trash() == [b"/letter.odt (restored)"]


@pytest.mark.clients
def test_real_rclone(drive: Drive, tmp_path: Path) -> None:
    rclone, source = need("rclone"), tmp_path / "letter.odt"
    remote = f":webdav,url='http://127.0.0.1:{drive.port}',vendor=other:"
    for content in SAVES:
        drive.file_clock.advance(60)
        source.write_bytes(content)
        run(rclone, "copy", "--ignore-times", source, remote, "--config", "/dev/null", "--retries", "1")
    assert drive.contents("/letter.odt") == SAVES
    assert drive.trash() == []
