"""Request heads parsed and response heads encoded. Sections are RFC 9112's."""

import pytest

from tgdav.http import HttpError, Response
from tgdav.http.head import encode_head, parse_head

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def test_a_request_head() -> None:
    """§3, §5: header names in lower case, values stripped, repeated ones joined, the query apart."""
    head = parse_head(b"PUT /a%20b?c=d HTTP/1.1\r\nHost: x\r\nCONTENT-LENGTH: 5\r\nX:  1 \r\nx: 2")
    assert (head.method, head.target, head.query) == ("PUT", "/a%20b", "c=d")
    assert head.headers == {"host": "x", "content-length": "5", "x": "1, 2"}
    assert (head.length, head.keep_alive, head.expects_continue) == (5, True, False)


@pytest.mark.parametrize(
    ("fields", "length", "keep_alive"),
    [
        (b"", 0, True),
        (b"\r\nTransfer-Encoding: chunked", None, True),
        (b"\r\nConnection: close", 0, False),
        (b"\r\nConnection: x, Close", 0, False),
    ],
)
def test_framing_headers(fields: bytes, length: int | None, keep_alive: bool) -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nHost: x" + fields)
    assert (head.length, head.keep_alive) == (length, keep_alive)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: x", 505),
        (b"get / HTTP/1.1\r\nHost: x", 400),
        (b"GET  / HTTP/1.1\r\nHost: x", 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x", 400),
        (b"GET / HTTP/1.1\r\nHost : x", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: more", 417),
    ],
)
def test_heads_that_are_refused(data: bytes, status: int) -> None:
    """§5, §6, §11.2: whatever lets two servers see different requests ends the connection."""
    with pytest.raises(HttpError) as error:
        parse_head(data)
    assert (error.value.status, error.value.close) == (status, True)


def test_a_response_head() -> None:
    """The length of bytes is known; each response carries what keeps browsers from guessing and framing."""
    lines = encode_head(Response(200, [("X", "y")], b"hello"), DATE, keep=True).decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert {f"Date: {DATE}", "X: y", "Content-Length: 5", "X-Content-Type-Options: nosniff"} <= set(lines)
    assert lines[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("response", "length"),
    [(Response(204), None), (Response(304), None), (Response(200, length=-1), None), (Response(200, length=7), "7")],
)
def test_lengths_of_responses(response: Response, length: str | None) -> None:
    """§6.3: no length where no body may follow, or where none is known."""
    lines = encode_head(response, DATE, keep=False).decode().split("\r\n")
    found = [line.partition(": ")[2] for line in lines if line.startswith("Content-Length")]
    assert found == ([] if length is None else [length])
    assert "Connection: close" in lines
