"""Checksums of what came without them: made when asked for, of what is on this machine, and right after each change."""

import base64
import hashlib
from pathlib import Path

import pytest

from tests.support.volumes import new_vault, open_volume
from tests.webdav.client import Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import propfind
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind
from tgdav.webdav import checksums

OWNCLOUD = "{http://owncloud.org/ns}"
WANTED = propfind("checksums", "http://owncloud.org/ns")


def sums(content: bytes) -> str:
    return f"SHA1:{hashlib.sha1(content).hexdigest()} MD5:{hashlib.md5(content).hexdigest()}"


def shown(dav: Client, path: str) -> str | None:
    found = dav("PROPFIND", path, WANTED, Depth="0").properties().get(f"{OWNCLOUD}checksums")
    return None if found is None else found.findtext(f"{OWNCLOUD}checksum")


def write(served: Served, name: bytes, content: bytes) -> None:
    """Write a file as a mount does."""
    fs = served.fs
    try:
        inode = fs.lookup(fs.root, name).inode
    except Exception:
        inode = fs.create(fs.root, name, Kind.FILE, 0o644, Owner()).inode
    handle = fs.open(inode, writable=True, truncate=True)
    for at in range(0, len(content), 1 << 20):
        handle.write(at, content[at : at + (1 << 20)])
    handle.close()


@pytest.mark.parametrize("content", [b"", b"small", b"large" * (1 << 20)])
def test_what_a_mount_wrote(served: Served, dav: Client, content: bytes) -> None:
    """Its checksums are those of its content, alone and in a listing, and new ones after a change."""
    write(served, b"f", content)
    dav("PUT", "/g", b"without a checksum of the client's")
    assert shown(dav, "/f") == sums(content)
    listed = dav("PROPFIND", "/", WANTED, Depth="1")
    for path, wanted in (("/f", content), ("/g", b"without a checksum of the client's")):
        assert listed.properties(path)[f"{OWNCLOUD}checksums"].findtext(f"{OWNCLOUD}checksum") == sums(wanted)
    write(served, b"f", b"changed" + content)
    assert shown(dav, "/f") == sums(b"changed" + content)
    inode = served.fs.lookup(served.fs.root, b"f").inode
    assert served.fs.properties([inode]) == {}, "asking keeps nothing in the file system"


def test_a_file_that_is_being_written_has_none(served: Served, dav: Client) -> None:
    write(served, b"f", b"x")
    inode = served.fs.lookup(served.fs.root, b"f").inode
    handle = served.fs.open(inode, writable=True)
    handle.write(1, b"y")
    assert shown(dav, "/f") is None
    handle.close()
    assert shown(dav, "/f") == sums(b"xy")


def test_a_request_reads_only_so_much(served: Served, dav: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound files have none yet; the next request goes on, for what was made is remembered."""
    monkeypatch.setattr(checksums, "MAX_BYTES", 250)
    for number in range(6):
        write(served, b"f%d" % number, bytes([number]) * 100)

    def found() -> int:
        return dav("PROPFIND", "/", WANTED, Depth="1").body.count(b"SHA1:")

    assert [found() for _ in range(4)] == [2, 4, 6, 6]


@pytest.mark.parametrize("want", ["Want-Digest", "Want-Repr-Digest"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_whoever_asks_is_told_with_each_range(served: Served, dav: Client, want: str, method: str) -> None:
    """Digest, Repr-Digest and OC-Checksum are of the whole content, so parts of two contents can be told apart."""
    content = b"content" * 100
    write(served, b"f", content)
    sha1, md5 = (base64.b64encode(hashlib.new(name, content).digest()).decode() for name in ("sha1", "md5"))
    for headers in ({}, {"Range": "bytes=5-9"}):
        reply = dav(method, "/f", **{want: "sha, md5", **headers})
        assert reply.status == (206 if headers and method == "GET" else 200)
        assert reply["OC-Checksum"] == sums(content).split()[0]
        assert reply["Digest"] == f"SHA={sha1},MD5={md5}"
        assert reply["Repr-Digest"] == f"sha=:{sha1}:, md5=:{md5}:"
    assert dav(method, "/f").get("Digest") is None


def test_what_is_in_the_store_alone_is_not_fetched(tmp_path: Path) -> None:
    """No listing makes this machine download a drive."""
    new_vault(tmp_path)
    volume = open_volume(tmp_path)
    served = Served(volume.fs)
    try:
        volume.start()
        write(served, b"f", b"content" * 100_000)
        assert volume.content.flush(60)
        dav = served.client()
        assert shown(dav, "/f") == sums(b"content" * 100_000)
        served.server.context.checksums = checksums.Checksums(volume.fs)
        volume.content.reader.clear()
        assert shown(dav, "/f") is None
        assert dav("GET", "/f").body == b"content" * 100_000
        assert shown(dav, "/f") == sums(b"content" * 100_000)
    finally:
        served.stop()
        volume.close()
