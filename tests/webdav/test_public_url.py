"""A server behind a proxy: its public URL's name is its own, and its path is taken off requests and put into links."""

from collections.abc import Callable

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import LOCKINFO, propfind, proppatch

PUBLIC = "https://drive.example/my%20dav/"
PREFIX = "/my%20dav"


@pytest.fixture
def proxied(serve: Callable[..., Served]) -> Client:
    """A connection as a proxy makes it that hands on the path as it is and no Host of the client's."""
    client = serve(ModelFileSystem(), public_url=PUBLIC).client()
    client.host = "backend:8080"
    return client


def test_links_hold_the_prefix(proxied: Client) -> None:
    """Every path in an answer is one that the client can ask for."""
    dav = proxied
    assert dav("MKCOL", f"{PREFIX}/d").status == 201
    assert dav("PUT", f"{PREFIX}/d/f%20g", b"x").status == 201
    assert dav("PROPFIND", f"{PREFIX}/", Depth="1").hrefs == [f"{PREFIX}/", f"{PREFIX}/d/"]
    assert dav("PROPFIND", PREFIX, Depth="1").hrefs == [f"{PREFIX}/", f"{PREFIX}/d/"]
    assert dav("PROPFIND", f"{PREFIX}/d/", Depth="1").hrefs == [f"{PREFIX}/d/", f"{PREFIX}/d/f%20g"]
    assert dav("PROPPATCH", f"{PREFIX}/d", proppatch('<x xmlns="urn:x"/>')).hrefs == [f"{PREFIX}/d/"]
    page = dav("GET", f"{PREFIX}/d/").body.decode()
    assert f'href="{PREFIX}/"' in page
    assert f'href="{PREFIX}/d/f%20g"' in page
    assert 'href="/"' not in page
    locked = dav("LOCK", f"{PREFIX}/d", LOCKINFO.format(scope="exclusive"))
    assert locked.xml.findtext(f".//{DAV}lockroot/{DAV}href") == f"{PREFIX}/d"
    found = dav("PROPFIND", f"{PREFIX}/d", propfind("lockdiscovery"), Depth="0").properties()
    assert found[DAV + "lockdiscovery"].findtext(f".//{DAV}lockroot/{DAV}href") == f"{PREFIX}/d"
    for refused in (dav("PUT", f"{PREFIX}/d/f", b"y"), dav("LOCK", f"{PREFIX}/d", LOCKINFO.format(scope="shared"))):
        assert (refused.status, refused.xml.findtext(f".//{DAV}href")) == (423, f"{PREFIX}/d")


def test_a_prefix_that_the_proxy_took_off(proxied: Client) -> None:
    """Requests without it are answered alike, with links that hold it."""
    proxied("PUT", "/f", b"x")
    assert proxied("GET", f"{PREFIX}/f").body == b"x"
    assert proxied("PROPFIND", "/f", Depth="0").hrefs == [f"{PREFIX}/f"]
    assert proxied("GET", f"{PREFIX}/-/healthz", Authorization="").status == 200


@pytest.mark.parametrize("method", ["MOVE", "COPY"])
@pytest.mark.parametrize(
    "base",
    [
        "https://drive.example/my%20dav",
        "http://drive.example:81/my%20dav",
        "http://backend/my%20dav",
        "http://backend",
        PREFIX,
    ],
)
def test_transfers(proxied: Client, method: str, base: str) -> None:
    """A Destination may name the public server, or the one that the proxy asks, with any port."""
    proxied("PUT", "/f", b"x")
    assert proxied(method, f"{PREFIX}/f", Destination=f"{base}/g").status == 201
    assert proxied("GET", f"{PREFIX}/g").body == b"x"


def test_if_names_the_public_url(proxied: Client) -> None:
    """A tagged list of If is found by the URL that the client knows."""
    url = "https://drive.example/my%20dav/f"
    tag = proxied("PUT", f"{PREFIX}/f", b"x")["ETag"]
    assert proxied("PUT", f"{PREFIX}/f", b"y", If=f"<{url}> ([{tag}])").status == 204
    assert proxied("PUT", f"{PREFIX}/f", b"z", If=f"<{url}> ([{tag}])").status == 412


@pytest.mark.parametrize("header", ["Destination", "If"])
def test_another_server_is_named(proxied: Client, header: str) -> None:
    """The refusal says whose name was asked for and which are ours."""
    proxied("PUT", "/f", b"x")
    value = "http://other.example:99/g" if header == "Destination" else '<http://other.example:99/g> (["x"])'
    reply = proxied("MOVE", "/f", **{"Destination": "/g", header: value})
    assert reply.status == 502
    for name in ("other.example:99", "backend:8080", "drive.example"):
        assert name in reply.body.decode()
    assert proxied("GET", "/f").status == 200


def test_without_a_public_url(dav: Client) -> None:
    """The commonest set-up of a proxy hands on ``Host`` without port; both names are in a refusal all the same."""
    dav("PUT", "/f", b"x")
    dav.host = "drive.example"
    assert dav("MOVE", "/f", Destination="https://drive.example:8443/g").status == 201
    assert dav("MOVE", "/g", Destination="http://drive.example/f").status == 201
    tag = dav("HEAD", "/f")["ETag"]
    assert dav("PUT", "/f", b"y", If=f"<https://drive.example:8443/f> ([{tag}])").status == 204
    dav.host = "backend"
    refused = dav("MOVE", "/f", Destination="https://drive.example/g")
    assert refused.status == 502
    assert b"drive.example" in refused.body
    assert b"backend" in refused.body
    assert b"webdav.public_url" in refused.body


def test_the_public_origin_is_ours(proxied: Client) -> None:
    """A browser's own page may ask, though the proxy hands on another Host."""
    assert proxied("PUT", "/f", b"x", Origin="https://drive.example").status == 201
    assert proxied("PUT", "/f", b"x", Origin="https://drive.example:444").status == 403
    assert proxied("PUT", "/f", b"x", Origin="https://other.example").status == 403
