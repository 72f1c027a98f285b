"""Connections that hold something back: they hold no thread, and sockets are taken from those that never logged in."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.support.waiting import wait_for
from tests.webdav.client import Client
from tests.webdav.conftest import LOGIN, Served
from tgdav.webdav.rate_limits import limited_peer, networks

MANY = 340
"""More than there are threads."""

Serve = Callable[..., Served]


def idle(served: Served) -> bool:
    """Return whether no thread is held."""
    requests = served.server._http.requests
    return requests.idle == len(requests._threads) and not requests.qsize


def is_open(client: Client) -> bool:
    """Return whether the server has neither ended the connection nor sent a byte."""
    client.socket.setblocking(False)
    try:
        return client.socket.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        client.socket.settimeout(30)


def silent(served: Served, count: int, first: bytes = b"", source: str = "") -> list[Client]:
    """Connect and send ``first``, and nothing more."""
    clients = [served.client(login=None) for _ in range(count)]
    for client in clients:
        if source:
            address = (served.server.context.options.host, served.port)
            client._socket = socket.create_connection(address, 30, source_address=(source, 0))
        client.socket.sendall(first)
    return clients


def open_connections(served: Served) -> int:
    return len(served.server._http._connections._open)


class TlsClient(Client):
    """A client whose TLS records can be sent in parts."""

    def __init__(self, served: Served, certificate: Path) -> None:
        super().__init__(served.port, LOGIN)
        served.clients.append(self)
        self.plain = socket.create_connection(("127.0.0.1", served.port), timeout=30)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(certificate))
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._patiently(self._tls.do_handshake)

    def _patiently(self, call: Callable[[], object]) -> object:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                self.plain.sendall(self._out.read())
                data = self.plain.recv(65536)
                if not data:
                    raise ConnectionError("the server ended the connection") from None
                self._in.write(data)
            finally:
                if self._out.pending:
                    self.plain.sendall(self._out.read())

    def records(self, data: bytes) -> bytes:
        """Return the record of ``data``, not sent."""
        self._tls.write(data)
        return self._out.read()

    def send(self, data: bytes) -> None:
        self.plain.sendall(self.records(data))

    def _receive(self) -> None:
        self._buffer += self._patiently(lambda: self._tls.read(65536))  # type: ignore[operator]

    def close(self) -> None:
        self.plain.close()


@pytest.fixture
def secure(serve: Serve, certificate: tuple[Path, Path]) -> Served:
    return serve(ModelFileSystem(), certificate=str(certificate[0]), key=str(certificate[1]))


def head(path: str = "/", host: str = "x") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


# ---- no thread ---------------------------------------------------------------------------------------------------


def test_half_begun_handshakes_hold_no_thread(secure: Served, certificate: tuple[Path, Path]) -> None:
    """As many as you like, and others shake hands while they last."""
    begun = silent(secure, MANY, b"\x16\x03\x01\x02")
    client = TlsClient(secure, certificate[0])
    assert client("GET", "/").status == 200
    assert all(is_open(each) for each in begun)
    wait_for(lambda: idle(secure), 5)


def test_a_head_in_parts_of_records_holds_no_thread(secure: Served, certificate: tuple[Path, Path]) -> None:
    """Half a TLS record makes a socket readable, and nothing can be read from it; then the rest is taken."""
    client = TlsClient(secure, certificate[0])
    data = head()
    for start in range(0, len(data), 9):
        record = client.records(data[start : start + 9])
        client.plain.sendall(record[:7])
        wait_for(lambda: idle(secure), 5)
        client.plain.sendall(record[7:])
    assert client.reply().status == 401


def test_handshake_and_head_have_one_deadline(secure: Served, certificate: tuple[Path, Path]) -> None:
    """A client that shakes hands in nine seconds has one left for its head."""
    client = TlsClient(secure, certificate[0])
    client.send(b"GET / HT")
    secure.clock.shift = 9.0
    assert TlsClient(secure, certificate[0])("GET", "/").status == 200
    secure.clock.shift = 10.5
    assert client.reply().status == 408


def test_a_kept_connection_has_its_time_anew(served: Served, dav: Client) -> None:
    """The head's time counts from its first byte on a connection that had an answer before."""
    assert dav("GET", "/").status == 200
    served.clock.shift = 9.0
    dav.send(b"GET /-/healthz HTTP/1.1\r\n")
    wait_for(lambda: any(each.stream.buffer.head_has_begun for each in served.waiting()))
    served.clock.shift = 18.0
    assert served.client()("GET", "/").status == 200
    dav.send(b"Host: x\r\n\r\n")
    assert dav.reply().status == 200


def test_a_refused_body_that_does_not_come_holds_no_thread(serve: Serve) -> None:
    """Neither a client without login that keeps its body back, nor one whose connection ends."""
    served = serve(ModelFileSystem())
    for length in (1000, 1 << 30):
        client = served.client(login=None)
        client.send_head("PUT", "/f", length)
        assert client.reply().status == 401
    wait_for(lambda: idle(served), 0.9)


def test_answers_that_no_anonymous_client_takes_hold_no_thread(serve: Serve) -> None:
    """A client without login that asks and asks and reads nothing is cut off; nobody waits for it."""
    served = serve(ModelFileSystem())
    served.server._http.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = served.client(login=None)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.socket.setblocking(False)
    requests = head() * 500

    def is_cut() -> bool:
        try:
            client.socket.send(requests)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        return False

    wait_for(is_cut, 30)
    wait_for(lambda: idle(served), 5)


def test_a_client_that_logged_in_may_read_slowly(served: Served, dav: Client) -> None:
    """Its answers are waited for."""
    assert dav("PUT", "/f", bytes(8 << 20)).status == 201
    dav.send_head("GET", "/f")
    wait_for(dav.has_answer)
    assert served.client()("GET", "/").status == 200
    assert len(dav.reply().body) == 8 << 20


# ---- sockets run short -------------------------------------------------------------------------------------------


def test_the_longest_silent_anonymous_client_makes_room(serve: Serve) -> None:
    """At the bound a new connection is taken and the oldest without a login goes; those that logged in stay."""
    served = serve(ModelFileSystem(), max_connections=20)
    kept = served.client()
    assert kept("GET", "/").status == 200
    before = kept.socket
    anonymous = silent(served, 60)
    late = served.client()
    assert late("GET", "/").status == 200
    wait_for(lambda: sum(map(is_open, anonymous)) <= 18)
    assert all(is_open(each) for each in anonymous[-18:])
    assert kept("GET", "/").status == 200
    assert kept.socket is before
    assert open_connections(served) <= 20


def test_bytes_alone_are_no_merit(serve: Serve) -> None:
    """Of those without a login the one goes that is longest without a whole request, however busily it dribbles."""
    served = serve(ModelFileSystem(), max_connections=20)
    dribbling = silent(served, 5, b"GET / HT")
    asking = [served.client(login=None) for _ in range(4)]
    for client in dribbling:
        client.send(b"TP")
    for client in asking:
        assert client("GET", "/").status == 401
    silent(served, 16)
    wait_for(lambda: not any(map(is_open, dribbling)))
    assert all(map(is_open, asking))


def test_a_login_is_never_closed_for_an_anonymous_one(serve: Serve) -> None:
    """Where all that waits has logged in, the one that is idle longest makes room, once: then those without a login do."""
    served = serve(ModelFileSystem(), max_connections=10)
    known = [served.client() for _ in range(10)]
    for client in known:
        assert client("GET", "/").status == 200
    wait_for(lambda: len(served.server._http._connections._authenticated) == 10)
    anonymous = silent(served, 20)
    wait_for(lambda: sum(map(is_open, anonymous)) == 1)
    assert sum(map(is_open, known)) == 9


def test_newcomers_wait_while_nothing_can_be_closed(serve: Serve) -> None:
    """All sockets are at work for a few clients that logged in: a newcomer is not refused, nor is an idle login closed."""
    served = serve(ModelFileSystem(), max_connections=10)
    idle_one = served.client()
    assert idle_one("GET", "/").status == 200
    busy = [served.client() for _ in range(9)]
    for number, client in enumerate(busy):
        client.send_head("PUT", f"/{number}", 5, Expect="100-continue")
        assert client.reply().status == 100
    wait_for(lambda: len(served.waiting()) == 1)
    late = served.client()
    late.send_head("GET", "/")
    wait_for(lambda: not served.server._http._connections._accepting)
    assert is_open(idle_one)
    for client in busy:
        client.send(b"12345")
        assert client.reply().status == 201
    busy[0].close()
    assert late.reply().status == 200


def test_anonymous_clients_have_less_time_while_sockets_run_short(serve: Serve) -> None:
    """Three seconds instead of ten; who logged in keeps the ten."""
    served = serve(ModelFileSystem(), max_connections=20)
    known = served.client()
    assert known("GET", "/").status == 200
    few = silent(served, 5)
    wait_for(lambda: open_connections(served) == 6)
    served.clock.shift = 4.0
    many = silent(served, 10)
    wait_for(lambda: not any(map(is_open, few)))
    assert all(map(is_open, many))
    assert is_open(known)


def test_one_peer_has_a_bound(serve: Serve) -> None:
    """Off loopback one address cannot take all sockets, and its own go first; this machine's programs have no bound."""
    served = serve(ModelFileSystem(), max_connections=80)
    served.server._http.limited_peer = lambda address: "" if address == "127.0.0.1" else address
    others = silent(served, 5, source="127.0.0.3")
    local = silent(served, 15)
    flood = silent(served, 30, source="127.0.0.2")
    wait_for(lambda: sum(map(is_open, flood)) <= 10)
    assert all(map(is_open, [*others, *local, *flood[-10:]]))
    known = silent(served, 1, source="127.0.0.2")[0]
    known.login = LOGIN
    assert known("GET", "/").status == 200
    again = silent(served, 30, source="127.0.0.2")
    wait_for(lambda: sum(map(is_open, again)) <= 10)
    assert is_open(known)


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("127.0.0.1", ""),
        ("127.4.5.6", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_peers(address: str, counts_as: str) -> None:
    assert limited_peer(address) == counts_as


def test_a_trusted_proxy_has_no_bound() -> None:
    """All its clients come from its address."""
    proxies = networks(["192.0.2.0/25", "2001:db8::1"])
    peers = [limited_peer(address, proxies) for address in ("192.0.2.7", "2001:db8::1", "192.0.2.200", "2001:db8::2")]
    assert peers == ["", "", "192.0.2.200", "2001:db8::/64"]


def test_no_descriptor_is_left(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may open no more files closes those without a login, does not spin, and accepts again when it can."""
    served = serve(ModelFileSystem())
    anonymous = silent(served, 3)
    wait_for(lambda: open_connections(served) == 3)
    loop = served.server._http._connections
    listener = loop._listener

    class Exhausted:
        """A listener that cannot accept."""

        calls = 0

        def accept(self) -> None:
            self.calls += 1
            raise OSError(24, "Too many open files")

        def fileno(self) -> int:
            return listener.fileno()

    exhausted = Exhausted()
    monkeypatch.setattr(loop, "_listener", exhausted)
    late = served.client()
    late.send_head("GET", "/")
    wait_for(lambda: not loop._accepting)
    assert not any(map(is_open, anonymous))
    assert exhausted.calls <= 8
    monkeypatch.setattr(loop, "_listener", listener)
    assert late.reply().status == 200


def test_a_selector_that_many_wait_in_is_left_when_the_server_stops(serve: Serve) -> None:
    served = serve(ModelFileSystem())
    clients = silent(served, 50)
    wait_for(lambda: open_connections(served) == 50)
    served.clients.clear()
    served.server.stop()
    assert all(client.is_ended() for client in clients)
    for client in clients:
        client.close()
