"""How a file's bytes are sent: types and charsets, headers that keep pages from acting, one content for one answer."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.volumes import new_vault, open_volume
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import propfind
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind
from tgdav.webdav import media_types
from tgdav.webdav.media_types import is_active, is_utf8, media_type

MIB = 1 << 20

SAMPLES = {
    "a.mp4": "video/mp4",
    "a.MKV": "video/x-matroska",
    "a.ts": "video/mp2t",
    "a.webm": "video/webm",
    "a.mov": "video/quicktime",
    "a.mp3": "audio/mpeg",
    "a.m4a": "audio/mp4",
    "a.opus": "audio/ogg",
    "a.flac": "audio/flac",
    "a.webp": "image/webp",
    "a.heic": "image/heic",
    "a.avif": "image/avif",
    "a.svg": "image/svg+xml",
    "a.pdf": "application/pdf",
    "a.log": "text/plain",
    "a.yaml": "text/yaml",
    "a.md": "text/markdown",
    "a.py": "text/plain",
    "a.html": "text/html",
    "a.js": "text/javascript",
    "a.json": "application/json",
    "a.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "a.tar.gz": "application/gzip",
    "a": "application/octet-stream",
    "a.": "application/octet-stream",
    "a.unheard-of": "application/octet-stream",
}
TEXTUAL = frozenset(name for name, kind in SAMPLES.items() if kind.startswith("text/")) | {"a.svg", "a.json"}


@pytest.mark.parametrize(("name", "kind"), SAMPLES.items())
def test_types(dav: Client, name: str, kind: str) -> None:
    """The ending decides, whatever the host's tables say; text that is UTF-8 is called so; PROPFIND agrees."""
    dav("PUT", f"/{name}", "Gr\u00fc\u00dfe")
    shown = f"{kind}; charset=utf-8" if name in TEXTUAL else kind
    assert dav("GET", f"/{name}")["Content-Type"] == shown
    assert dav("HEAD", f"/{name}")["Content-Type"] == shown
    found = dav("PROPFIND", f"/{name}", propfind("getcontenttype"), Depth="0").properties()
    assert found[DAV + "getcontenttype"].text == kind


def test_the_table_names_each_ending_once() -> None:
    rows = [line.split() for line in media_types._TABLE.splitlines() if line]
    endings = [ending for _, *row in rows for ending in row]
    assert sorted(endings) == sorted(set(endings))


def test_the_host_decides_nothing(tmp_path: Path) -> None:
    """No table of the system's is read: the module that reads them is not even loaded for it."""
    program = (
        "import sys, tgdav.webdav.methods.get; from tgdav.webdav.media_types import media_type; media_type(b'a.ts'); "
    )
    program += "import mimetypes; sys.exit(mimetypes.inited)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_utf8() -> None:
    """A code point cut by the sample's end is right there, and wrong at the end of the whole."""
    text = "x" * (64 * 1024 - 1) + "\u00fc"
    start = text.encode()[: 64 * 1024]
    assert is_utf8(start, whole=False)
    assert not is_utf8(start, whole=True)
    assert not is_utf8(b"Gr\xfc\xdfe", whole=True)
    assert is_utf8(b"", whole=True)


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (b"", True),
        ("\u00fc".encode() * 40_000, True),
        (b"x" + "\u00fc".encode() * 40_000, True),
        ("\u20ac".encode() * 700_000, True),
        (b"Gr\xfc\xdfe", False),
        ("\u00fc".encode("utf-16"), False),
        (b"Gr\xc3", False),
    ],
)
def test_charset(dav: Client, body: bytes, charset: bool) -> None:
    """Said where the beginning is UTF-8, by GET, HEAD and each range alike."""
    dav("PUT", "/f.txt", body)
    kind = "text/plain; charset=utf-8" if charset else "text/plain"
    got = dav("GET", "/f.txt")
    assert (got["Content-Type"], got.body) == (kind, body)
    assert dav("HEAD", "/f.txt")["Content-Type"] == kind
    if len(body) > 3:
        part = dav("GET", "/f.txt", Range="bytes=3-")
        assert (part.status, part["Content-Type"], part.body) == (206, kind, body[3:])


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_head_says_what_get_says(dav: Client, name: str) -> None:
    """The same headers, with and without the bytes (RFC 9110 §9.3.2)."""
    for body in (b"", b"content", bytes(2 * MIB)):
        dav("PUT", f"/{name}", body)
        got, head = dav("GET", f"/{name}"), dav("HEAD", f"/{name}")
        got.headers.pop("date"), head.headers.pop("date")
        assert got.headers == head.headers


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml", "a.svg", "a.xml", "a.xsl", "a.rss", "a.mml", "a.SVG"])
def test_what_runs_scripts_has_no_origin(dav: Client, name: str) -> None:
    """HTML and all of XML is in a bare sandbox, framed by nobody."""
    dav("PUT", f"/{name}", b"<x/>")
    for status, headers in ((200, {}), (206, {"Range": "bytes=1-2"}), (304, {"If-None-Match": "*"})):
        got = dav("GET", f"/{name}", **headers)
        assert got.status == status
        assert got.headers["content-security-policy"] == ["sandbox"]
        assert got["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("name", ["a.mp4", "a.mp3", "a.pdf", "a.png", "a.txt", "a.js", "a.zip", "a"])
def test_what_runs_nothing_keeps_its_origin(dav: Client, name: str) -> None:
    """Media ask for their own ranges, which a sandbox would forbid; nothing else may be loaded."""
    dav("PUT", f"/{name}", b"xyz")
    policy = (
        "default-src 'none'; media-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
    )
    for headers in ({}, {"Range": "bytes=1-2"}, {"If-None-Match": "*"}):
        assert dav("GET", f"/{name}", **headers).headers["content-security-policy"] == [policy]


def test_no_active_type_is_forgotten() -> None:
    """Each type of the table that is HTML's or XML's counts as active."""
    kinds = set(media_types._TYPES.values())
    assert {kind for kind in kinds if "html" in kind or "xml" in kind.partition("-office")[0]} - {
        "application/vnd.openxmlformats"
    } <= {kind for kind in kinds if is_active(kind) or "openxmlformats" in kind}
    assert not is_active(media_type(b"a.js"))


def test_every_answer_is_closed_to_other_sites(dav: Client) -> None:
    """Whatever is asked, and however it ends."""
    replies = [
        dav("GET", "/"),
        dav("PUT", "/f", b"x"),
        dav("GET", "/f"),
        dav("HEAD", "/f"),
        dav("GET", "/missing"),
        dav("GET", "/f", Range="bytes=9-"),
        dav("OPTIONS", "/"),
        dav("PROPFIND", "/", Depth="0"),
        dav("MKCOL", "/f"),
        dav("GET", "/-/healthz"),
        dav("BREW", "/"),
        dav("GET", "/f", Authorization="Basic eDp5"),
        dav("GET", "/..", X=""),
    ]
    for reply in replies:
        assert reply.headers["cross-origin-resource-policy"] == ["same-origin"]
        assert reply.headers["x-content-type-options"] == ["nosniff"]
        assert reply.headers["referrer-policy"] == ["no-referrer"]
        if reply.status != 204:
            assert len(reply.headers["content-security-policy"]) == 1
            assert "frame-ancestors 'none'" in reply["Content-Security-Policy"]


# ---- one content for one answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["PUT", "MOVE", "DELETE"])
def test_an_answer_goes_on_with_its_content(dav: Client, served: Served, change: str) -> None:
    """A file that is replaced or removed while it is sent is sent whole as it was when the answer began."""
    old, new = b"old!" * (8 * MIB), b"new!" * MIB
    dav("PUT", "/f", old)
    dav("PUT", "/other", new)
    reader = served.client()
    reader.send_head("GET", "/f")
    while len(reader.buffered) < 1000:
        reader._receive()
    if change == "PUT":
        assert dav("PUT", "/f", new).status == 204
    elif change == "MOVE":
        assert dav("MOVE", "/other", Destination="/f").status == 204
    else:
        assert dav("DELETE", "/f").status == 204
    assert reader.reply().body == old
    assert dav("GET", "/f").status == (404 if change == "DELETE" else 200)


def test_a_closed_file_is_content(tmp_path: Path) -> None:
    """What was written and closed through a mount has a content to keep to, though its commit is a moment away."""
    new_vault(tmp_path)
    volume = open_volume(tmp_path)
    try:
        volume.start()
        fs = volume.fs
        made = fs.create(fs.root, b"f", Kind.FILE, 0o644, Owner())
        writer = fs.open(made.inode, writable=True)
        writer.write(0, b"closed")
        assert writer.close_nowait()
        reader = fs.open(made.inode)
        assert reader.keep_content() == fs.attributes(made.inode).tag
        writer = fs.open(made.inode, writable=True)
        writer.write(0, b"opened again")
        writer.close()
        assert reader.read(0, 100) == b"closed"
        reader.close()
    finally:
        volume.close()


def test_a_handle_keeps_its_content(tmp_path: Path) -> None:
    """``keep_content`` tells the tag, and reads show that content through writes, cuts and the end of the name."""
    new_vault(tmp_path)
    volume = open_volume(tmp_path)
    try:
        fs = volume.fs
        made = fs.create(fs.root, b"f", Kind.FILE, 0o644, Owner())
        writer = fs.open(made.inode, writable=True)
        reader = fs.open(made.inode)
        assert reader.keep_content() == fs.attributes(made.inode).tag
        assert reader.read(0, 10) == b""
        writer.write(0, b"first")
        assert fs.open(made.inode).keep_content() is None
        writer.flush()
        second = fs.open(made.inode)
        assert second.keep_content() == fs.attributes(made.inode).tag
        writer.truncate(2)
        writer.write(0, b"other content")
        writer.close()
        fs.unlink(fs.root, b"f")
        assert (reader.read(0, 10), second.read(0, 10), second.read(3, 10)) == (b"", b"first", b"st")
        reader.close()
        second.close()
    finally:
        volume.close()
