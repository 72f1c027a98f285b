"""The page for browsers, the probes, media types, names of every kind."""

import json
from collections.abc import Callable

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import Served
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind
from tgdav.webdav import Probes
from tgdav.webdav.listing import listing
from tgdav.wording import readable_size

ODD = [
    b"plain.txt",
    b"with space",
    b"100%",
    b"%41",
    b"a%FFb",
    b"<script>alert(1)",
    b"a&b;c='d\"",
    b"question?hash#",
    b"semi;colon,comma",
    "\u00fc\u4e2d\U0001f600".encode(),
    b"new\nline\x01",
    b"back\\slash",
    b"carriage\rreturn\r\n\ttab",
]


def test_the_page_lists(dav: Client) -> None:
    """Folders come first, with links that work, sizes and times."""
    dav("MKCOL", "/folder")
    dav("PUT", "/a%20file", b"x" * 2048)
    page = dav("GET", "/")
    assert page["Content-Type"] == "text/html; charset=utf-8"
    text = page.body.decode()
    assert text.index('href="/folder/"') < text.index('href="/a%20file"')
    assert "2.0 KiB" in text
    assert "default-src 'none'" in page["Content-Security-Policy"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names(served: Served, dav: Client, name: bytes) -> None:
    """Whatever a name holds, listing and page lead to it, and neither breaks."""
    served.fs.create(served.fs.root, name, Kind.FILE, 0o644, Owner())
    reply = dav("PROPFIND", "/", '<propfind xmlns="DAV:"><prop><displayname/></prop></propfind>', Depth="1")
    href = reply.hrefs[1]
    assert dav("GET", href).status == 200
    assert dav("PUT", href, b"found").status == 204
    assert len(served.fs.list_directory(served.fs.root)) == 1
    page = dav("GET", "/").body.decode()
    assert f'href="{href}"' in page
    assert "<script" not in page
    shown = reply.properties(href)[DAV + "displayname"].text
    assert shown is not None
    assert b"\r" not in reply.body
    if b"\x01" not in name:
        assert shown.encode() == name


def test_names_that_are_not_utf_8(served: Served, dav: Client) -> None:
    """They show with %XX for the bad bytes, and are found, replaced, moved and deleted by that."""
    served.fs.create(served.fs.root, b"bad\xff\xfename", Kind.FILE, 0o644, Owner())
    href = dav("PROPFIND", "/", Depth="1").hrefs[1]
    assert href == "/bad%25FF%25FEname"
    assert dav("PUT", href, b"x").status == 204
    assert dav("GET", href).body == b"x"
    assert dav("COPY", href, Destination="/copy").status == 201
    assert dav("DELETE", href).status == 204
    assert dav("PROPFIND", "/", Depth="1").hrefs == ["/", "/copy"]


def test_what_webdav_cannot_show(served: Served, dav: Client) -> None:
    """Symlinks and devices are not listed and not there."""
    served.fs.create(served.fs.root, b"link", Kind.SYMLINK, 0o777, Owner(), target=b"/etc/passwd")
    assert dav("PROPFIND", "/", Depth="1").hrefs == ["/"]
    assert dav("GET", "/link").status == dav("PROPFIND", "/link", Depth="0").status == 404
    assert dav("DELETE", "/link").status == 204


def test_files_cannot_act(dav: Client) -> None:
    """A stored page is served, but sandboxed and under the type its name says."""
    dav("PUT", "/evil.html", b"<script>alert(1)</script>")
    got = dav("GET", "/evil.html")
    assert got["Content-Type"] == "text/html; charset=utf-8"
    assert got["Content-Security-Policy"] == "sandbox"
    assert got["X-Content-Type-Options"] == "nosniff"
    dav("PUT", "/noending", b"")
    assert dav("GET", "/noending")["Content-Type"] == "application/octet-stream"


def test_probes(serve: Callable[..., Served]) -> None:
    """``/-/…`` shows what the server was given to show."""
    state = {"healthy": True}
    probes = Probes(healthy=lambda: state["healthy"], metrics=lambda: "tgdav_files 3\n", status=lambda: {"files": 3})
    dav = serve(ModelFileSystem(), probes=probes).client()
    assert dav("GET", "/-/healthz").status == 200
    assert dav("GET", "/-/metrics").body == b"tgdav_files 3\n"
    assert json.loads(dav("GET", "/-/status").body) == {"files": 3}
    assert dav("GET", "/-/other").status == 404
    state["healthy"] = False
    assert dav("GET", "/-/healthz").status == 503


def test_sizes() -> None:
    assert [readable_size(size) for size in (0, 1023, 1536, 3 << 40)] == ["0 B", "1023 B", "1.5 KiB", "3.0 TiB"]


def test_impossible_times(served: Served, dav: Client) -> None:
    """Times that no calendar holds do not break a listing."""
    from tgdav.metadata.types import AttributeChange

    made = served.fs.create(served.fs.root, b"f", Kind.FILE, 0o644, Owner())
    for moment in (-(2**62), 2**62):
        served.fs.set_attributes(made.inode, AttributeChange(mtime=moment, btime=moment))
        assert dav("PROPFIND", "/f", Depth="0").status == 207
        assert dav("GET", "/").status == 200


def test_long_listings_go_out_in_blocks(serve: Callable[..., Served]) -> None:
    """A listing of many files is whole; each of its blocks is gone once it is sent."""
    fs = ModelFileSystem()
    for number in range(3000):
        fs.create(fs.root, b"%d" % number, Kind.FILE, 0o644, Owner())
    dav = serve(fs).client()
    reply = dav("PROPFIND", "/", '<propfind xmlns="DAV:"><allprop/></propfind>', Depth="1")
    assert sorted(reply.hrefs) == sorted(["/", *(f"/{number}" for number in range(3000))])
    answer = listing(207, [], ["\u00fc"] * 50_000)
    assert not isinstance(answer.body, bytes)
    assert answer.length == 100_000
    assert len(next(answer.body)) == 40_000
    assert sum(map(len, answer.body)) == 60_000
    assert listing(207, [], []).body == b""
