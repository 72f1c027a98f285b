"""The server with a handler of three lines: no WebDAV and no files are needed to serve HTTP."""

import http.client
import threading
from collections.abc import Iterator

import pytest

from tgdav.clock import SystemClock
from tgdav.http import HttpServer, Request, Response


def echo(request: Request) -> Response:
    if request.target == "/fails":
        raise ConnectionError("the handler wants no response to be sent")
    return Response(200, [("Method", request.method)], request.body.read(1 << 20), delay=0.0)


@pytest.fixture
def port() -> Iterator[int]:
    server = HttpServer(("127.0.0.1", 0), echo, SystemClock())
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield int(server.bind_addr[1])
    server.stop()
    thread.join()


def test_requests_on_one_connection(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for body in (b"", b"x" * 4096, b"y" * 200_000):
        connection.request("PUT", "/f", body)
        reply = connection.getresponse()
        assert (reply.status, reply.headers["Method"], reply.read()) == (200, "PUT", body)
    connection.close()


def test_a_chunked_body_and_a_head_without_body(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/", iter([b"a" * 10, b"b" * 70_000]), encode_chunked=True)
    assert connection.getresponse().read() == b"a" * 10 + b"b" * 70_000
    connection.request("HEAD", "/", b"four")
    reply = connection.getresponse()
    assert (reply.headers["Content-Length"], reply.read()) == ("4", b"")
    connection.close()


def test_a_connection_error_of_the_handler_ends_the_connection(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/fails")
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    connection.close()
