"""Who may talk to a server without passwords."""

import pytest

from tests.webdav.conftest import Served
from tgdav.webdav.origin import is_local


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:{port}", 200),
        ("127.0.0.1:{port}", 200),
        ("[::1]:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("localhost", 421),
        ("127.0.0.1:1", 421),
        ("evil.example:{port}", 421),
        ("localhost.evil.example:{port}", 421),
        ("user@localhost:{port}", 421),
        ("127.0.0.2:{port}", 421),
        ("", 421),
        ("[::1", 421),
    ],
)
def test_host(open_server: Served, host: str, status: int) -> None:
    """Only this machine's own names with our port are answered: a rebound name is 421."""
    client = open_server.client()
    client.host = host.format(port=open_server.port)
    assert client("GET", "/").status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:{port}"}, 201),
        ({"Origin": "http://localhost:{port}", "Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_cross_site(open_server: Served, headers: dict[str, str], status: int) -> None:
    """What a page of another site can make a browser send is 403, whatever the method."""
    client = open_server.client()
    filled = {name: value.format(port=open_server.port) for name, value in headers.items()}
    assert client("PUT", "/f", b"x", **filled).status == status
    assert client("GET", "/", **filled).status == (200 if status == 201 else 403)


LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://{host}"}, True),
        ({"Origin": "http://{host}"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": ""}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, False),
        ({"Sec-Fetch-Site": "Cross-Site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, False),
        ({**LINK, "Sec-Fetch-Dest": "iframe"}, False),
        ({**LINK, "Sec-Fetch-Dest": "embed"}, False),
    ],
)
def test_cross_site_with_a_login(served: Served, headers: dict[str, str], allowed: bool) -> None:
    """A login that a browser remembers is of no use to pages of other sites: neither reading nor changing, nor asking."""
    client = served.client()
    assert client("PUT", "/f", b"x").status == 201
    filled = {name: value.format(host=client.host) for name, value in headers.items()}
    for method, status in (("GET", 200), ("HEAD", 200), ("PROPFIND", 207), ("OPTIONS", 200), ("PUT", 204)):
        assert client(method, "/f", Depth="0", **filled).status == (status if allowed else 403)
    stranger = served.client(login=None)
    assert stranger("GET", "/f", **filled).status == (401 if allowed else 403)


def test_links_from_other_sites_lead_here(served: Served) -> None:
    """Following a link is reading a page of its own, and nothing else."""
    client = served.client()
    client("PUT", "/f", b"x")
    assert client("GET", "/f", **LINK).status == client("GET", "/", **LINK).status == 200
    for method in ("PUT", "DELETE", "PROPFIND", "MKCOL", "POST"):
        assert client(method, "/f", **LINK).status == 403


def test_passwords_make_hosts_free(served: Served) -> None:
    """With logins any Host is answered: names and proxies are the user's business."""
    client = served.client()
    client.host = "drive.example"
    assert client("GET", "/").status == 200


def test_default_ports() -> None:
    assert is_local("localhost", 80, secure=False)
    assert is_local("localhost", 443, secure=True)
    assert not is_local("localhost", 80, secure=True)
