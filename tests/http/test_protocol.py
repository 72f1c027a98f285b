"""HTTP as strangers speak it: framings that smuggle, bodies cut or lying, clients that stall. Sections are RFC 9112's."""

import socket
import threading
from collections.abc import Callable

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.support.waiting import wait_for
from tests.webdav.client import Client
from tests.webdav.conftest import Served


def names(served: Served) -> list[bytes]:
    return [entry.name for entry in served.fs.list_directory(served.fs.root)]


def raw(client: Client, lines: str, body: bytes = b"") -> int:
    """Send a head given as lines, with login and Host unless it brings its own; return the status."""
    client.send((lines.replace("\n", "\r\n") + "\r\n\r\n").encode("latin-1") + body)
    return client.reply().status


@pytest.fixture
def open_dav(open_server: Served) -> Client:
    """A connection to a server without passwords, so that raw heads need no login."""
    return open_server.client()


GOOD = "PUT /f HTTP/1.1\nHost: {host}\n"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("Host: other\nContent-Length: 1", 400),
        ("Content-Length : 1", 400),
        ("Content-Length: 1\nContent-Length: 2", 400),
        ("Content-Length: 1\nContent-Length: 1", 400),
        ("Content-Length: 1, 1", 400),
        ("Content-Length: +1", 400),
        ("Content-Length: 0x1", 400),
        ("Content-Length: 1_0", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: \xb2", 400),
        ("Content-Length:", 400),
        ("Content-Length: 1\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked, chunked", 501),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: identity", 501),
        ("Transfer-Encoding: xchunked", 501),
        ("X: a\n folded: b", 400),
        ("No colon", 400),
        ("X\x00: a", 400),
        ("X: a\x00b", 400),
        (": empty name", 400),
        ("Expect: a miracle\nContent-Length: 1", 417),
    ],
)
def test_ambiguous_framing_is_refused_and_closed(open_dav: Client, fields: str, status: int) -> None:
    """What two parsers could read in two ways is refused, and the connection ends: §5.1, §6.1, §6.3, RFC 9110 §10.1.1."""
    hidden = b"x\r\nGET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    assert raw(open_dav, GOOD.format(host=open_dav.host) + fields, hidden) == status
    assert open_dav.is_ended()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /", 400),
        ("get / HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET / HTTP/2.0", 505),
        ("GET nowhere HTTP/1.1", 400),
        ("GET /a#b HTTP/1.1", 400),
        ("GET /\x00 HTTP/1.1", 400),
        ("\x16\x03\x01", 400),
        ("GET ftp://x/ HTTP/1.1", 400),
        ("GET http://[ HTTP/1.1", 400),
        ("GET http://[::1 HTTP/1.1", 400),
        ("GET http://]/ HTTP/1.1", 400),
    ],
)
def test_malformed_request_lines(open_dav: Client, line: str, status: int) -> None:
    """§3: anything but ``METHOD SP target SP version`` is refused and closed."""
    assert raw(open_dav, f"{line}\nHost: {open_dav.host}") == status
    assert open_dav.is_ended()


def test_host_is_needed(open_dav: Client) -> None:
    """§3.2: HTTP/1.1 without Host is 400."""
    assert raw(open_dav, "GET / HTTP/1.1\nX: y") == 400


def test_bare_line_feeds(open_dav: Client) -> None:
    """§2.2: lines end in CRLF; a bare LF within the head is refused."""
    open_dav.send(f"GET / HTTP/1.1\r\nHost: {open_dav.host}\nX: y\r\n\r\n".encode())
    assert open_dav.reply().status == 400


def test_absolute_form(open_dav: Client) -> None:
    """§3.2.2: the absolute form is accepted and its authority counts."""
    assert raw(open_dav, f"GET http://{open_dav.host}/-/healthz HTTP/1.1\nHost: {open_dav.host}") == 200
    assert raw(open_dav, f"GET http://evil.example/ HTTP/1.1\nHost: {open_dav.host}") == 421


def test_heads_are_bounded(open_dav: Client) -> None:
    """§3, §5: a URL or headers without end are 414 and 431."""
    open_dav.send(b"GET /" + b"a" * 70_000)
    assert open_dav.reply().status == 414
    other = Client(open_dav.port)
    other.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 12_000)
    assert other.reply().status == 431
    other.close()
    for count, status in ((200, 200), (300, 431)):
        other.send(f"GET /-/healthz HTTP/1.1\r\nHost: {other.host}\r\n".encode() + b"X: y\r\n" * count + b"\r\n")
        assert other.reply().status == status
    other.close()


def test_empty_lines_before_a_request(open_dav: Client) -> None:
    """§2.2: a CRLF before the request line is skipped."""
    assert raw(open_dav, f"\n\nGET /-/healthz HTTP/1.1\nHost: {open_dav.host}") == 200


# ---- connections ------------------------------------------------------------------------------------------


def test_keep_alive_and_close(served: Served, dav: Client) -> None:
    """§9.3: connections are kept, closed on request, and pipelined requests are answered in order."""
    first = dav.socket
    assert dav("GET", "/-/healthz").status == dav("GET", "/missing").status + 200 - 404
    assert dav.socket is first
    assert dav("GET", "/-/healthz", Connection="close")["Connection"] == "close"
    client = served.client()
    for path in ("/-/healthz", "/missing"):
        client.send_head("GET", path)
    assert [client.reply().status, client.reply().status] == [200, 404]


def test_http_1_0(served: Served) -> None:
    """§2.3: HTTP/1.0 is answered, with a length, and closed."""
    client = served.client()
    client.send(b"GET /-/healthz HTTP/1.0\r\n\r\n")
    reply = client.reply()
    assert (reply.status, reply.body) == (200, b"ok\n")
    assert client.is_ended()


def test_unknown_methods(dav: Client) -> None:
    """405 with Allow, from WsgiDAV's register of methods (RFC 9110 §15.5.6)."""
    for method in ("POST", "PATCH", "TRACE", "BREW"):
        reply = dav(method, "/")
        assert reply.status == 405
        assert "PROPFIND" in reply["Allow"]


def test_no_body_on_head_errors(dav: Client) -> None:
    """An error to HEAD has no body, so the connection stays in step (RFC 9110 §9.3.2)."""
    assert dav("HEAD", "/missing").status == 404
    assert dav("HEAD", "/").status == 200


# ---- stalls ------------------------------------------------------------------------------------------------------


def test_stalled_clients_do_not_keep_others_waiting(served: Served, dav: Client) -> None:
    """120 clients that stall, some in their heads, some in their bodies, hold up nobody."""
    stalled = [served.client() for _ in range(120)]
    for number, client in enumerate(stalled):
        if number % 3:
            client.send_head("PUT", f"/stalled{number}", 100)
            client.send(b"half")
        else:
            client.send(b"GET / HT")
    dav.socket.settimeout(20)
    assert dav("PUT", "/f", b"x").status == 201
    assert names(served) == [b"f"]


def test_a_slow_head_ends(served: Served) -> None:
    """A head has ten seconds in all, however often another byte of it comes."""
    client = served.client()
    client.send(b"GET / HTTP/1.1\r\n")
    wait_for(lambda: any(each.stream.buffer.head_has_begun for each in served.waiting()))
    for _ in range(2):
        served.clock.shift += 4
        client.send(b"X: y\r\n")
    served.clock.shift += 4
    assert client.reply().status == 408


def test_a_head_that_stops_ends(serve: Callable[..., Served]) -> None:
    """Who falls silent within a head is told so, and who only sends line feeds too: nothing more is coming."""
    served = serve(ModelFileSystem())
    for head in (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\nHost: x\n\n"):
        client = served.client()
        client.send(head)
        wait_for(lambda: any(each.stream.buffer.head_has_begun for each in served.waiting()))
        served.clock.shift += 11
        assert client.reply().status == 408
        assert client.is_ended()


@pytest.mark.parametrize("host", ["a b", "a/b", "a?b", "\xe4", '"', "a,b c"])
def test_malformed_hosts(dav: Client, host: str) -> None:
    """§3.2: a Host that is none is 400."""
    dav.host = host
    dav.send(f"GET /-/healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    assert dav.reply().status == 400


def test_stop_lets_a_request_finish(serve: Callable[..., Served]) -> None:
    """Stopping waits for what is under way: the answer still comes."""
    served = serve(ModelFileSystem())
    client = served.client()
    client.send_head("PUT", "/f", 10, Expect="100-continue")
    assert client.reply().status == 100
    served.clients.clear()
    stopping = threading.Thread(target=served.server.stop)
    stopping.start()
    wait_for(lambda: not _accepts(served.port))
    client.send(b"0123456789")
    assert client.reply().status == 201
    stopping.join()
    client.close()


def test_stop_does_not_wait_for_ever(serve: Callable[..., Served]) -> None:
    """A download that goes on and on is cut when the grace is over."""
    served = serve(ModelFileSystem())
    assert served.client()("PUT", "/f", bytes(48 << 20)).status == 201
    client = served.client()
    client.send_head("GET", "/f")
    wait_for(client.has_answer)
    stopping = threading.Thread(target=served.server.stop)
    stopping.start()
    wait_for(lambda: not _accepts(served.port))
    served.clock.shift = 11
    with pytest.raises(ConnectionError):
        client.reply()
    stopping.join()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
