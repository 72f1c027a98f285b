"""The rules on names and on what rclone's vendor owncloud says beside WebDAV (see test_checklist)."""

import hashlib

import pytest

from tests.webdav.client import Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import LOCKINFO, propfind, put

# ---- names -------------------------------------------------------------------------------------------------------


def test_names_in_any_normal_form(served: Served, dav: Client) -> None:
    """A name is kept as sent and found by any normal form, so that Finder's NFD is no second file."""
    composed, decomposed = "/caf%C3%A9", "/cafe%CC%81"
    put(dav, composed, b"one")
    assert dav("PUT", decomposed, b"two").status == 204
    assert dav("GET", composed).body == b"two"
    assert [entry.name for entry in served.fs.list_directory(served.fs.root)] == ["caf\u00e9".encode()]
    assert dav("MKCOL", decomposed).status == 405
    assert dav("MOVE", decomposed, Destination="/plain").status == 201
    put(dav, decomposed)
    put(dav, "/x")
    assert dav("COPY", "/x", Destination=composed, Overwrite="F").status == 412
    assert dav("COPY", "/x", Destination=composed).status == 204
    assert dav("DELETE", composed).status == 204
    assert dav("PROPFIND", "/", Depth="1").hrefs == ["/", "/plain", "/x"]


def test_a_final_slash_does_not_matter(dav: Client) -> None:
    """``/x`` and ``/x/`` name the same; hrefs of folders end in a slash, no redirect is sent (§5.2)."""
    dav("MKCOL", "/d/")
    put(dav, "/d/f")
    assert dav("PROPFIND", "/d", Depth="1").hrefs == ["/d/", "/d/f"]
    assert dav("GET", "/d").status == dav("GET", "/d/").status == dav("GET", "/d/f/").status == 200


@pytest.mark.parametrize("path", ["/%FF", "/a%C3", "/%00", "/a/../b", "/%2e%2e/b", "/a%2Fb", "/%zz", "/./a"])
def test_impossible_paths(dav: Client, path: str) -> None:
    """Invalid UTF-8, NUL, dots, an encoded slash and broken escapes are 400."""
    for method in ("GET", "PUT", "PROPFIND", "MKCOL"):
        assert dav(method, path, Depth="0").status == 400


def test_names_too_long(dav: Client) -> None:
    """Names beyond 255 bytes are a 4xx."""
    assert dav("PUT", "/" + "n" * 255, b"x").status == 201
    assert dav("PUT", "/" + "n" * 256, b"x").status == 414
    assert dav("MKCOL", "/" + "n" * 256).status == 414


@pytest.mark.parametrize("name", [".snapshots", ".versions", ".trash", ".namespaces", ".conflicts", "-"])
def test_reserved_names(dav: Client, name: str) -> None:
    """What history and the server's own pages use cannot be made, moved to or locked: 403."""
    put(dav, "/f")
    for path in (f"/{name}", f"/{name}/x"):
        assert dav("PUT", path, b"x").status == 403
        assert dav("MKCOL", path).status == 403
        assert dav("MOVE", "/f", Destination=path).status == 403
        assert dav("LOCK", path, LOCKINFO.format(scope="exclusive")).status == 403
        assert dav("DELETE", path).status == 403
    assert dav("PUT", f"/{name}.txt", b"x").status == 201


# ---- X-OC --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "COPY", "MOVE"])
def test_oc_mtime(dav: Client, method: str) -> None:
    """X-OC-Mtime sets the modification time and is acknowledged (rclone's vendor owncloud)."""
    put(dav, "/source")
    target = {} if method == "PUT" else {"Destination": "/f"}
    path = "/f" if method == "PUT" else "/source"
    reply = dav(method, path, **target, X_OC_Mtime="1700000000")
    assert (reply.status, reply["X-OC-Mtime"]) == (201, "accepted")
    assert dav("HEAD", "/f")["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert dav("PUT", "/g", b"", X_OC_Mtime="yesterday").status == 400


@pytest.mark.parametrize("algorithm", ["SHA1", "MD5"])
def test_oc_checksum(dav: Client, algorithm: str) -> None:
    """OC-Checksum is compared with the body, kept and listed; a wrong one stores nothing."""
    digest = hashlib.new(algorithm, b"content").hexdigest()
    assert dav("PUT", "/f", b"content", OC_Checksum=f"{algorithm}:{digest}").status == 201
    assert dav("PUT", "/f", b"changed", OC_Checksum=f"{algorithm}:{digest}").status == 400
    sums = " ".join(f"{name}:{hashlib.new(name, b'content').hexdigest()}" for name in ("SHA1", "MD5"))
    wanted = propfind("checksums", "http://owncloud.org/ns")
    shown = dav("PROPFIND", "/f", wanted, Depth="0").properties()["{http://owncloud.org/ns}checksums"]
    assert shown.findtext("{http://owncloud.org/ns}checksum") == sums
    assert dav("GET", "/f").body == b"content"
    put(dav, "/f", b"something else")
    sums = " ".join(f"{name}:{hashlib.new(name, b'something else').hexdigest()}" for name in ("SHA1", "MD5"))
    shown = dav("PROPFIND", "/f", wanted, Depth="0").properties()["{http://owncloud.org/ns}checksums"]
    assert shown.findtext("{http://owncloud.org/ns}checksum") == sums
