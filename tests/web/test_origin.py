"""Who may talk to a server without passwords."""

import pytest

from tests.web.conftest import Served
from tgdav.web.origin import is_local


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


def test_passwords_make_hosts_free(served: Served) -> None:
    """With logins any Host is answered: names and proxies are the user's business."""
    client = served.client()
    client.host = "drive.example"
    assert client("GET", "/").status == 200


def test_default_ports() -> None:
    assert is_local("localhost", 80, secure=False)
    assert is_local("localhost", 443, secure=True)
    assert not is_local("localhost", 80, secure=True)
