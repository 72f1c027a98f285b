"""``/.snapshots``, ``/.versions`` and ``/.trash`` over real HTTP, from our own server and from a stock WsgiDAVApp."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.fs.access import Ability
from tests.fs.behaviour import shown
from tests.fs.direct_access import DirectAccess, abilities
from tests.fs.registry import Behaviour
from tests.fs.snapshot_access import LACKS, NOT_KEPT, SnapshotAccess
from tests.support.volumes import new_vault, open_volume
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import EmbeddedServed, Served
from tests.webdav.snapshot_reader import NOT_IN_WEBDAV, SnapshotReader
from tgdav.volume.volume import Volume

LEFT_OUT = LACKS | NOT_IN_WEBDAV | {Ability.PROPERTIES}
KEPT = [each for each in shown(abilities(normalized=True) - LEFT_OUT) if each.name not in NOT_KEPT]
BIG = bytes(range(250)) * 2000


class Drive:
    """A volume, and a server over it."""

    def __init__(self, folder: Path, kind: type[Served]) -> None:
        new_vault(folder)
        self.volume: Volume = open_volume(folder)
        self.served = kind(self.volume.fs)
        self.dav: Client = self.served.client()

    def put(self, path: str, body: bytes) -> None:
        assert self.dav("PUT", path, body).status in (201, 204)

    def stop(self) -> None:
        self.served.stop()
        self.volume.close()


@pytest.fixture(params=[Served, EmbeddedServed], ids=["own", "stock"])
def drive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path, request.param)
    yield made
    made.stop()


def test_a_file_of_last_week(drive: Drive) -> None:
    dav = drive.dav
    assert dav("MKCOL", "/d").status == 201
    drive.put("/d/f", BIG)
    drive.put("/caf%C3%A9", b"1")
    etag, changed = dav("HEAD", "/d/f")["etag"], dav("HEAD", "/d/f")["last-modified"]
    colour = '<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><c xmlns="x:">red</c></D:prop></D:set></D:propertyupdate>'
    assert dav("PROPPATCH", "/d/f", colour).status == 207
    drive.volume.snapshots.make("last week")
    drive.put("/d/f", b"new")
    assert dav("DELETE", "/d").status == 204
    listed = dav("PROPFIND", "/.snapshots/", Depth="1")
    assert listed.hrefs == ["/.snapshots/", "/.snapshots/last%20week/"]
    assert dav("PROPFIND", "/.snapshots/last%20week", Depth="1").hrefs[1:] == [
        "/.snapshots/last%20week/caf%C3%A9",
        "/.snapshots/last%20week/d/",
    ]
    path = "/.snapshots/last%20week/d/f"
    answer = dav("GET", path)
    assert (answer.status, answer.body, answer["etag"], answer["last-modified"]) == (200, BIG, etag, changed)
    part = dav("GET", path, Range="bytes=100000-100499")
    assert (part.status, part.body) == (206, BIG[100_000:100_500])
    assert dav("GET", path, If_None_Match=etag).status == 304
    assert dav("GET", "/.snapshots/last%20week/cafe%CC%81").body == b"1"
    found = dav("PROPFIND", path, '<D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>', Depth="0").properties()
    assert found["{x:}c"].text == "red"
    assert found[DAV + "getcontentlength"].text == str(len(BIG))
    state = '<D:propfind xmlns:D="DAV:"><D:prop><s:state xmlns:s="tgdav:"/><D:lockdiscovery/></D:prop></D:propfind>'
    assert dav("PROPFIND", path, state, Depth="0").properties()["{tgdav:}state"].text == "local"
    for missing in ("/.snapshots/none", "/.snapshots/none/d", path + "/x", "/.snapshots/last%20week/x"):
        assert dav("GET", missing).status == 404
        assert dav("PROPFIND", missing, Depth="0").status == 404


def test_versions_and_trash(drive: Drive) -> None:
    dav = drive.dav
    drive.put("/f", b"one")
    drive.volume.database.writer.run(lambda t: t.execute("UPDATE nodes SET burst = burst - 10000000000"))
    drive.put("/f", b"two!")
    hrefs = dav("PROPFIND", "/.versions/f", Depth="1").hrefs
    assert hrefs[0] == "/.versions/f/"
    assert [dav("GET", href).body for href in hrefs[1:]] == [b"one", b"two!"]
    drive.volume.sync()  # what never left the machine may leave no trace
    dav("DELETE", "/f")
    [_, day] = dav("PROPFIND", "/.trash", Depth="1").hrefs
    assert dav("PROPFIND", day, Depth="1").hrefs[1:] == [day + "f"]
    assert dav("GET", day + "f").body == b"two!"
    assert dav("PROPFIND", "/.versions/f", Depth="0").status == 404


def test_history_is_not_found_by_looking_around(drive: Drive) -> None:
    drive.put("/f", b"")
    drive.volume.snapshots.make("a")
    assert drive.dav("PROPFIND", "/", Depth="1").hrefs == ["/", "/f"]
    assert b".snapshots" not in drive.dav("GET", "/").body
    for path in ("/", "/.snapshots/", "/.versions/"):
        answer = drive.dav("PROPFIND", path, Depth="infinity")
        assert (answer.status, answer.error()) == (403, "propfind-finite-depth")


LOCKINFO = '<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>'
UPDATE = '<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><x/></D:prop></D:set></D:propertyupdate>'


@pytest.mark.parametrize("top", ["/.snapshots", "/.versions", "/.trash"])
def test_every_change_is_refused_in_words(drive: Drive, top: str) -> None:
    dav = drive.dav
    drive.put("/live", b"1")
    drive.put("/gone", b"2")
    drive.volume.snapshots.make("a")
    drive.volume.sync()
    dav("DELETE", "/gone")
    inside = dav("PROPFIND", top, Depth="1").hrefs[1]
    file = dav("PROPFIND", inside, Depth="1").hrefs[1]
    new, headers = inside + "new", {"Destination": inside + "new"}
    before = [dav("PROPFIND", path, Depth="1").hrefs for path in ("/", top, inside)]
    answers = {
        "PUT new": dav("PUT", new, b"x"),
        "PUT": dav("PUT", file, b"x"),
        "MKCOL": dav("MKCOL", new),
        "DELETE": dav("DELETE", file),
        "DELETE top": dav("DELETE", top),
        "PROPPATCH": dav("PROPPATCH", file, UPDATE),
        "LOCK": dav("LOCK", file, LOCKINFO),
        "LOCK new": dav("LOCK", new, LOCKINFO),
        "MOVE into": dav("MOVE", "/live", **headers),
        "MOVE out of": dav("MOVE", file, Destination="/new"),
        "MOVE within": dav("MOVE", file, **headers),
        "MOVE top": dav("MOVE", top, Destination="/new"),
        "COPY into": dav("COPY", "/live", **headers),
        "COPY within": dav("COPY", file, **headers),
    }
    assert {what: answer.status for what, answer in answers.items()} == dict.fromkeys(answers, 403)
    assert [what for what, answer in answers.items() if b"history cannot be changed" not in answer.body] == []
    assert [dav("PROPFIND", path, Depth="1").hrefs for path in ("/", top, inside)] == before


def test_copies_out_of_history(drive: Drive) -> None:
    dav = drive.dav
    dav("MKCOL", "/d")
    drive.put("/d/f", BIG)
    drive.put("/g", b"old")
    drive.volume.snapshots.make("a")
    drive.volume.sync(wait=True)
    dav("DELETE", "/d")
    drive.put("/g", b"new")
    pending = drive.volume.pending()["bytes"]
    assert dav("COPY", "/.snapshots/a/d", Destination="/back").status == 201
    assert dav("GET", "/back/f").body == BIG
    assert dav("COPY", "/.snapshots/a/g", Destination="/g").status == 204
    assert dav("GET", "/g").body == b"old"
    assert dav("COPY", "/.snapshots/a/g", Destination="/g", Overwrite="F").status == 412
    assert dav("COPY", "/.snapshots/a/none", Destination="/x").status == 404
    assert dav("COPY", "/.snapshots/a", Destination="/whole").status == 201
    assert dav("PROPFIND", "/whole", Depth="1").hrefs == ["/whole/", "/whole/d/", "/whole/g"]
    assert dav("GET", "/whole/d/f").body == BIG
    assert drive.volume.pending()["bytes"] <= pending


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    made = Drive(tmp_path_factory.mktemp("drive"), Served)
    yield made
    made.stop()


_numbers = count()


@pytest.mark.parametrize("behaviour", KEPT, ids=lambda behaviour: behaviour.name)
def test_behaviours(own: Drive, behaviour: Behaviour) -> None:
    """What is changed directly is read from snapshots over HTTP."""
    fs = own.volume.fs
    for entry in fs.list_directory(fs.root):
        fs.remove_tree(fs.root, entry.name)

    def take() -> SnapshotReader:
        name = own.volume.snapshots.make(str(next(_numbers))).name
        return SnapshotReader(own.dav, b".snapshots/" + name.encode())

    behaviour.check(SnapshotAccess(DirectAccess(fs, normalized=True), take, lacks=LEFT_OUT))


def test_what_webdav_can_show_is_much() -> None:
    assert len(KEPT) > 60
