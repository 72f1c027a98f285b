"""What each client sends, replayed over a bare socket, and what it needs to see."""

import hashlib
import re

import pytest

from tests.webdav.client import DAV, FINDER_PROPFIND, Client
from tests.webdav.conftest import Served
from tests.webdav.test_auth import answer, challenge

FINDER_LOCK = (
    '<?xml version="1.0" encoding="utf-8"?>\n<D:lockinfo xmlns:D="DAV:">\n<D:lockscope><D:exclusive/></D:lockscope>\n'
    "<D:locktype><D:write/></D:locktype>\n<D:owner>\n<D:href>http://www.apple.com/webdav_fs/</D:href>\n</D:owner>\n"
    "</D:lockinfo>\n"
)
FINDER_STATFS = (
    '<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop><D:quota-available-bytes/>'
    "<D:quota-used-bytes/><D:quota/><D:quotaused/></D:prop></D:propfind>"
)


def test_finder(served: Served, dav: Client) -> None:
    """Finder: mounts, makes a file by an empty PUT and then LOCK, writes it chunked, refreshes, moves, reads again."""
    assert "2" in dav("OPTIONS", "/")["DAV"]
    assert (
        dav("PROPFIND", "/", FINDER_PROPFIND, Depth="0").properties()[DAV + "resourcetype"][0].tag == DAV + "collection"
    )
    space = dav("PROPFIND", "/", FINDER_STATFS, Depth="0").properties()
    assert {DAV + "quota-available-bytes", DAV + "quota-used-bytes"} <= set(space)
    for junk in ("/._new.txt", "/.DS_Store", "/.Spotlight-V100"):
        assert dav("PROPFIND", junk, FINDER_PROPFIND, Depth="0").status == 404
    created = dav("PUT", "/new.txt", b"")
    assert created.status == 201
    assert created["ETag"]
    assert created["Last-Modified"]
    assert created["Date"]
    locked = dav("LOCK", "/new.txt", FINDER_LOCK, Depth="0", Timeout="Second-600")
    token = locked.xml.findtext(f".//{DAV}activelock/{DAV}locktoken/{DAV}href")
    assert locked.status == 200
    data = b"x" * 300_000
    written = dav("PUT", "/new.txt", data, chunked=True, X_Expected_Entity_Length="300000", If=f"(<{token}>)")
    assert written.status == 204
    assert dav("LOCK", "/new.txt", If=f"(<{token}>)", Timeout="Second-600").status == 200
    assert dav("PUT", "/new.txt", data[1:], If=f"(<{token}>)").status == 204
    assert dav("UNLOCK", "/new.txt", Lock_Token=f"<{token}>").status == 204
    assert dav("MOVE", "/new.txt", Destination=f"http://{dav.host}/moved.txt").status == 201
    got = dav("GET", "/moved.txt")
    assert got.body == data[1:]
    assert dav("GET", "/moved.txt", If_Modified_Since=got["Last-Modified"]).status == 304
    resumed = dav("GET", "/moved.txt", Range="bytes=299000-", If_Range=got["Last-Modified"])
    assert (resumed.status, len(resumed.body)) == (206, 999)
    listed = dav("PROPFIND", "/", FINDER_PROPFIND, Depth="1").properties("/moved.txt")
    assert listed[DAV + "getcontentlength"].text == "299999"


def test_explorer(served: Served) -> None:
    """Explorer: Digest on plain HTTP, OPTIONS and PROPFIND on each parent, empty PUT, LOCK, PUT, Win32 times, UNLOCK."""
    dav = served.client(login=None)
    nonce = challenge(dav)["nonce"]
    count = 0

    def ask(method: str, path: str, body: bytes | str = b"", **headers: str) -> object:
        nonlocal count
        count += 1
        login = answer(nonce, path, method, count=count)
        return dav(
            method, path, body, Authorization=login, Translate="f", User_Agent="Microsoft-WebDAV-MiniRedir", **headers
        )

    assert ask("OPTIONS", "/")["MS-Author-Via"] == "DAV"
    assert ask("MKCOL", "/Folder%20A").status == 201
    for path in ("/", "/Folder%20A"):
        assert ask("PROPFIND", path, Depth="0").status == 207
    listing = ask("PROPFIND", "/", Depth="1")
    assert not re.search(rb">\s+<", listing.body)
    assert "/Folder%20A/" in listing.hrefs
    assert ask("PUT", "/Folder%20A/f.txt", b"").status == 201
    info = (
        '<?xml version="1.0" encoding="utf-8" ?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>'
        "<D:locktype><D:write/></D:locktype><D:owner><D:href>PC\\User</D:href></D:owner></D:lockinfo>"
    )
    token = ask("LOCK", "/Folder%20A/f.txt", info, Timeout="Second-3600", Depth="infinity")["Lock-Token"]
    assert ask("PUT", "/Folder%20A/f.txt", b"content", If=f"({token})").status == 204
    times = (
        '<?xml version="1.0" encoding="utf-8" ?><D:propertyupdate xmlns:D="DAV:" xmlns:Z="urn:schemas-microsoft-com:">'
        "<D:set><D:prop><Z:Win32CreationTime>Mon, 13 Nov 2023 22:13:20 GMT</Z:Win32CreationTime>"
        "<Z:Win32LastAccessTime>Mon, 13 Nov 2023 22:13:20 GMT</Z:Win32LastAccessTime>"
        "<Z:Win32LastModifiedTime>Tue, 14 Nov 2023 22:13:20 GMT</Z:Win32LastModifiedTime>"
        "<Z:Win32FileAttributes>00000020</Z:Win32FileAttributes></D:prop></D:set></D:propertyupdate>"
    )
    assert len(ask("PROPPATCH", "/Folder%20A/f.txt", times, If=f"({token})").properties()) == 4
    assert ask("UNLOCK", "/Folder%20A/f.txt", Lock_Token=token.strip("<>")).status == 204
    shown = ask("PROPFIND", "/Folder%20A/f.txt", Depth="0").properties()
    assert shown[DAV + "getlastmodified"].text == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_office(dav: Client) -> None:
    """Office: HEAD on folders, LOCK of at least 180 s, PUT with Lock-Token and no If, temporary file moved over."""
    assert dav("HEAD", "/").status == 200
    dav("PUT", "/doc.docx", b"first")
    locked = dav("LOCK", "/doc.docx", FINDER_LOCK, Timeout="Second-180", Depth="0")
    assert locked.xml.findtext(f".//{DAV}timeout") in ("Second-180", "Second-179")
    assert dav("PUT", "/doc.docx", b"second", Lock_Token=locked["Lock-Token"]).status == 204
    patch = (
        '<D:propertyupdate xmlns:D="DAV:" xmlns:Z="urn:schemas-microsoft-com:"><D:set><D:prop>'
        "<Z:Win32LastModifiedTime>Tue, 14 Nov 2023 22:13:20 GMT</Z:Win32LastModifiedTime></D:prop></D:set></D:propertyupdate>"
    )
    assert dav("PROPPATCH", "/doc.docx", patch).properties()
    assert dav("UNLOCK", "/doc.docx", Lock_Token=locked["Lock-Token"]).status == 204
    dav("PUT", "/~tmp.docx", b"third")
    assert dav("MOVE", "/~tmp.docx", Destination="/doc.docx", Overwrite="T").status == 204
    assert dav("GET", "/doc.docx").body == b"third"


def test_libreoffice(dav: Client) -> None:
    """LibreOffice: token and timeout are read from the LOCK body, then PUT with If."""
    dav("PUT", "/a.odt", b"first")
    body = dav("LOCK", "/a.odt", FINDER_LOCK, Timeout="Second-180").xml
    token = body.findtext(f".//{DAV}locktoken/{DAV}href")
    assert body.findtext(f".//{DAV}timeout").startswith("Second-")
    assert dav("PUT", "/a.odt", b"second", If=f"(<{token}>)").status == 204


def test_gvfs(dav: Client) -> None:
    """gvfs: creates by HEAD and PUT, replaces with If-Match of the listed quoted ETag, moves with Overwrite T and F."""
    assert dav("HEAD", "/f").status == 404
    assert dav("PUT", "/f", b"one").status == 201
    wanted = '<D:propfind xmlns:D="DAV:"><D:prop><D:getetag/><D:getcontenttype/><D:resourcetype/></D:prop></D:propfind>'
    etag = dav("PROPFIND", "/f", wanted, Depth="0").properties()[DAV + "getetag"].text
    assert etag is not None
    assert etag[0] == etag[-1] == '"'
    assert dav("PUT", "/f", b"two", If_Match=etag).status == 204
    assert dav("PUT", "/f", b"three", If_Match=etag).status == 412
    dav("PUT", "/g", b"g")
    destination = f"http://user@{dav.host}/g"
    assert dav("MOVE", "/f", Destination=destination, Overwrite="F").status == 412
    assert dav("MOVE", "/f", Destination=destination, Overwrite="T").status == 204


def test_kio(dav: Client) -> None:
    """KIO: MKCOL with Content-Type is plain 201, MOVE with Depth infinity and webdav:// in the Destination."""
    assert dav("MKCOL", "/d", Content_Type="text/xml; charset=utf-8").status == 201
    assert dav("PROPFIND", "/d/f", FINDER_PROPFIND, Depth="0").status == 404
    assert dav("PUT", "/d/f", b"x").status == 201
    moved = dav("MOVE", "/d", Destination=f"webdav://{dav.host}/e", Depth="infinity", Overwrite="F")
    assert moved.status == 201
    assert dav("DELETE", "/e", Depth="infinity").status == 204


def test_davfs2(served: Served, dav: Client) -> None:
    """davfs2: locks an unmapped name, HEAD, later PUT with If-Match and a tagged If; finds its lock by lockdiscovery."""
    info = FINDER_LOCK.replace("http://www.apple.com/webdav_fs/", "davfs2")
    locked = dav("LOCK", "/new", info, Depth="0", Timeout="Second-1800")
    assert locked.status == 201
    token = locked["Lock-Token"]
    etag = dav("HEAD", "/new")["ETag"]
    assert dav("HEAD", "/new")["ETag"] == etag
    url = f"<http://{dav.host}/new>"
    written = dav("PUT", "/new", b"data", If=f"{url} ({token})", If_Match=etag)
    assert written.status == 204
    assert dav("GET", "/new", If_None_Match=written["ETag"]).status == 304
    assert dav("LOCK", "/new", info, Depth="0").status == 423
    wanted = '<D:propfind xmlns:D="DAV:"><D:prop><D:lockdiscovery/></D:prop></D:propfind>'
    found = dav("PROPFIND", "/new", wanted, Depth="0").properties()[DAV + "lockdiscovery"]
    assert f"<{found.findtext(f'.//{DAV}locktoken/{DAV}href')}>" == token
    assert dav("UNLOCK", "/new", Lock_Token=token).status == 204


def test_rclone_owncloud(dav: Client) -> None:
    """rclone, vendor owncloud: PROPFIND, PUT with time and checksum, PROPFIND, GET with Depth, chunked rcat, new times."""
    body = b"content"
    sums = f"SHA1:{hashlib.sha1(body).hexdigest()}"
    wanted = (
        '<?xml version="1.0"?><d:propfind xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns"><d:prop><d:displayname/>'
        "<d:getlastmodified/><d:getcontentlength/><d:resourcetype/><d:getcontenttype/><oc:checksums/></d:prop></d:propfind>"
    )
    assert dav("PROPFIND", "/f", wanted, Depth="0").status == 404
    reply = dav("PUT", "/f", body, X_OC_Mtime="1700000000", OC_Checksum=sums)
    assert reply["X-OC-Mtime"] == "accepted"
    shown = dav("PROPFIND", "/f", wanted, Depth="0").properties()
    assert sums in shown["{http://owncloud.org/ns}checksums"].findtext("{http://owncloud.org/ns}checksum")
    assert shown[DAV + "getlastmodified"].text == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert dav("GET", "/f", Depth="0").body == body
    assert dav("PUT", "/rcat", body, chunked=True).status == 201
    touch = (
        '<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><lastmodified xmlns="DAV:">1600000000</lastmodified></D:prop>'
        "</D:set></D:propertyupdate>"
    )
    assert dav("PROPPATCH", "/f", touch).properties()
    assert dav("HEAD", "/f")["Last-Modified"] == "Sun, 13 Sep 2020 12:26:40 GMT"


def test_cyberduck(dav: Client) -> None:
    """Cyberduck: HEAD of home, Expect, PUT with Content-Range is 400, its own time properties are kept."""
    assert dav("HEAD", "/").status == 200
    dav.send_head("PUT", "/f", 4, Expect="100-continue")
    assert dav.reply().status == 100
    dav.send(b"half")
    assert dav.reply().status == 201
    assert dav("PUT", "/f", b"rest", Content_Range="bytes 4-7/8").status == 400
    patch = (
        '<D:propertyupdate xmlns:D="DAV:" xmlns:S="SAR:"><D:set><D:prop><S:lastmodified>Tue, 14 Nov 2023 22:13:20 GMT'
        "</S:lastmodified><S:lastmodified_server>x</S:lastmodified_server></D:prop></D:set></D:propertyupdate>"
    )
    dav("PROPPATCH", "/f", patch)
    shown = dav("PROPFIND", "/f", '<D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>', Depth="0").properties()
    assert shown["{SAR:}lastmodified"].text == "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize("path", ["/folder", "/folder/"])
def test_simple_parsers(dav: Client, path: str) -> None:
    """Infuse, Material Files and the like: prefix ``D:``, hrefs of folders with a slash, no redirects."""
    dav("MKCOL", "/folder")
    dav("MKCOL", "/folder/inner")
    reply = dav("PROPFIND", path, Depth="1")
    assert reply.status == 207
    assert b"<D:href>/folder/inner/</D:href>" in reply.body
    assert b"<D:resourcetype><D:collection/></D:resourcetype>" in reply.body
    assert b"ns0:" not in reply.body
