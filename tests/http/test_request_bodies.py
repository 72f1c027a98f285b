"""Request bodies: chunked, cut off, lying about their length, refused. Sections are RFC 9112's."""

import hashlib
import random
import threading

import psutil
import pytest

from tests.http.test_protocol import names
from tests.support.waiting import wait_for
from tests.webdav.client import Client
from tests.webdav.conftest import Served

# ---- chunks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"1_0\r\nhello\r\n0\r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"ffffffffffffffff\r\nhello",
        b"5;" + b"a" * 5000,
    ],
)
def test_malformed_chunks(served: Served, dav: Client, chunks: bytes) -> None:
    """§7.1: chunk sizes are bare hexadecimal and chunks end in CRLF; else 400, closed, nothing stored."""
    dav.send_head("PUT", "/f", None)
    dav.send(chunks)
    assert dav.reply().status == 400
    assert dav.is_ended()
    assert names(served) == []


def test_chunk_extensions_and_trailers(dav: Client) -> None:
    """§7.1.1, §7.1.2: extensions and trailers are read and ignored; the next request is found after them."""
    dav.send_head("PUT", "/f", None)
    dav.send(b'5;name="value"\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n')
    assert dav.reply().status == 201
    assert dav("GET", "/f").body == b"hello"


def test_large_chunks(dav: Client) -> None:
    """A body in one large chunk arrives whole."""
    data = random.randbytes(8 << 20)
    assert dav("PUT", "/f", data, chunked=True).status == 201
    assert hashlib.sha256(dav("GET", "/f").body).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("method", ["PROPFIND", "PROPPATCH", "LOCK"])
def test_chunked_xml(dav: Client, method: str) -> None:
    """A body needs no Content-Length, for no method."""
    bodies = {
        "PROPFIND": '<propfind xmlns="DAV:"><prop><getetag/></prop></propfind>',
        "PROPPATCH": '<propertyupdate xmlns="DAV:"><set><prop><x xmlns="urn:x"/></prop></set></propertyupdate>',
        "LOCK": '<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>',
    }
    dav("PUT", "/f", b"")
    reply = dav(method, "/f", bodies[method], chunked=True, Depth="0")
    assert reply.status in (200, 207)
    assert b"getetag" in reply.body or method != "PROPFIND"


# ---- bodies that end early ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("sent", [0, 1, 5000, 2_000_000])
def test_a_put_cut_off_stores_nothing(served: Served, dav: Client, sent: int, chunked: bool) -> None:
    """A client that vanishes in the middle leaves the old content, and no new name."""
    dav("PUT", "/old", b"old")
    for path in ("/old", "/new"):
        client = served.client()
        client.send_head("PUT", path, None if chunked else 3_000_000)
        client.send((b"2dc6c0\r\n" if chunked else b"") + b"x" * sent)
        client.half_close()
        assert client.reply().status == 400
        assert client.is_ended()
    assert dav("GET", "/old").body == b"old"
    assert names(served) == [b"old"]


def test_every_cut_of_a_request(served: Served, dav: Client) -> None:
    """A request cut at any byte changes nothing, whoever still listens is told, and the server goes on."""
    head = f"PUT /f HTTP/1.1\r\nHost: {dav.host}\r\nAuthorization: Basic dGdkYXY6Y29ycmVjdCBob3JzZQ==\r\n"
    whole = f"{head}Content-Length: 10\r\n\r\n0123456789".encode()
    for length in range(len(whole)):
        client = served.client()
        client.send(whole[:length])
        client.half_close()
        assert not length or client.reply().status == 400
        assert client.is_ended()
    assert names(served) == []
    client = served.client()
    client.send(whole)
    assert client.reply().status == 201


def test_a_lie_about_the_length(served: Served, dav: Client) -> None:
    """8 GiB announced and 10 bytes sent: no memory is taken for what does not come."""
    before = psutil.Process().memory_info().rss
    dav.send_head("PUT", "/f", 8 << 30)
    dav.send(b"0123456789")
    assert served.client()("GET", "/").status == 200
    assert psutil.Process().memory_info().rss - before < 64 << 20
    dav.half_close()
    assert dav.reply().status == 400
    assert names(served) == []


# ---- refused bodies ----------------------------------------------------------------------------------------------


def test_no_continue_before_the_login(served: Served) -> None:
    """Expect: 100-continue is answered by the refusal itself, and the body never asked for (RFC 9110 §10.1.1)."""
    client = served.client(login=None)
    client.send_head("PUT", "/f", 1 << 30, Expect="100-continue")
    reply = client.reply()
    assert (reply.status, reply["Connection"]) == (401, "close")


def test_no_continue_before_conditions_and_locks(served: Served, dav: Client) -> None:
    """A PUT that cannot succeed is told so before its body."""
    dav("PUT", "/f", b"x")
    dav.send_head("PUT", "/f", 1 << 30, Expect="100-continue", If_None_Match="*")
    assert dav.reply().status == 412


def test_continue_when_welcome(dav: Client) -> None:
    """100 Continue comes before the body is read, the answer after it."""
    dav.send_head("PUT", "/f", 5, Expect="100-continue")
    assert dav.reply().status == 100
    dav.send(b"hello")
    assert dav.reply().status == 201


def test_a_giant_body_without_login(served: Served) -> None:
    """A refused body of 64 MiB is thrown away in blocks, and the answer is readable."""
    before = psutil.Process().memory_info().rss
    client = served.client(login=None)
    client.send_head("PUT", "/f", 64 << 20)
    block = b"x" * (1 << 20)

    def feed() -> None:
        try:
            for _ in range(64):
                client.send(block)
        except OSError:
            return

    sender = threading.Thread(target=feed)
    sender.start()
    assert client.reply().status == 401
    sender.join()
    assert psutil.Process().memory_info().rss - before < 32 << 20


def test_nobody_waits_for_a_refused_body_that_does_not_come(served: Served) -> None:
    """Who has no login and announces a small body is answered, and then holds no thread by keeping it back."""
    client = served.client(login=None)
    client.send_head("PUT", "/f", 1000)
    assert client.reply().status == 401
    wait_for(lambda: any(each.stream.buffer.is_skipping for each in served.waiting()))
    served.clock.shift = 6
    assert client.is_ended()


def test_a_chunk_too_large_for_xml(dav: Client) -> None:
    """A chunk that announces more than is taken is refused before it comes."""
    dav.send_head("PROPPATCH", "/", None)
    dav.send(b"40000000\r\n<propertyupdate")
    assert dav.reply().status == 413


@pytest.mark.parametrize("chunked", [False, True])
def test_a_small_refused_body_is_not_taken_for_a_request(dav: Client, chunked: bool) -> None:
    """After an early refusal the rest of the body is skipped, or the connection ends; it is never parsed."""
    dav("MKCOL", "/d")
    hidden = b"DELETE /d HTTP/1.1\r\nHost: x\r\n\r\n"
    reply = dav("PUT", "/missing/f", hidden, chunked=chunked)
    assert reply.status == 409
    if chunked:
        assert reply["Connection"] == "close"
    assert dav("PROPFIND", "/d", Depth="0").status == 207
