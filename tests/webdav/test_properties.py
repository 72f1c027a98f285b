"""What PROPPATCH keeps and what it costs: only what a value needs, bounded, and nothing before locks are asked."""

import sys
from collections.abc import Callable

import pytest
from lxml import etree

from tests.webdav.client import Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import LOCKINFO, lock, propfind, proppatch, put
from tgdav.webdav.methods.proppatch import Patch
from tgdav.webdav.xml import MAX_NAMESPACES, parse_xml, serialize


def request(count: int, namespaces: int) -> bytes:
    """A PROPPATCH of ``count`` properties below so many namespace declarations."""
    declared = " ".join(f'xmlns:n{number}="urn:{number}:{"x" * 100}"' for number in range(namespaces))
    properties = "".join(
        f"<n{number % namespaces}:p{number}>value</n{number % namespaces}:p{number}>" for number in range(count)
    )
    return f'<D:propertyupdate xmlns:D="DAV:" {declared}><D:set><D:prop>{properties}</D:prop></D:set></D:propertyupdate>'.encode()


def test_only_namespaces_in_use_are_kept() -> None:
    """Declarations that a value does not name stay out of it, its own and those above it."""
    root = parse_xml(
        b'<a xmlns="DAV:" xmlns:u="urn:u" xmlns:n="urn:n"><x:v xmlns:x="urn:x" xmlns:m="urn:m" u:t="1"><u:i/></x:v></a>'
    )
    assert serialize(root[0]) == b'<x:v xmlns:x="urn:x" xmlns:u="urn:u" u:t="1"><u:i/></x:v>'


def test_prefixes_in_values_keep_their_meaning() -> None:
    """A value such as ``xs:string`` names a namespace too."""
    root = parse_xml(b'<a xmlns:xs="urn:xs" xmlns:q="urn:q" xmlns:n="urn:n"><v t="xs:string">see q:name</v></a>')
    found = etree.fromstring(serialize(root[0]))
    assert found.nsmap == {"xs": "urn:xs", "q": "urn:q"}


@pytest.mark.parametrize("namespaces", [1, 100, 400])
def test_what_is_kept_grows_with_what_is_said(dav: Client, served: Served, namespaces: int) -> None:
    """The values of a request take about as many bytes as the request, however many namespaces it declares."""
    put(dav, "/f")
    body = request(400, namespaces)
    assert dav("PROPPATCH", "/f", body).status == 207
    inode = served.fs.lookup(served.fs.root, b"f").inode
    kept = served.fs.properties([inode])[inode]
    assert len(kept) == 400
    assert sum(len(name) + len(value) for name, value in kept.items()) <= 400 * 400


def steps(work: Callable[[], object]) -> int:
    """Return how many calls, of Python's and of C's functions, ``work`` makes."""
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(step)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_twice_as_many_cost_twice_as_much() -> None:
    """Nothing is done for each pair of a property and a namespace, and no value holds all namespaces."""

    def work(count: int) -> tuple[int, int]:
        patch = Patch(parse_xml(request(count, count)))
        values: list[dict[bytes, bytes | None]] = []
        return steps(lambda: values.append(patch.values)), sum(len(value or b"") for value in values[0].values())

    (calls, size), (more_calls, more_size) = work(200), work(400)
    assert more_calls < 2.2 * calls
    assert more_size < 2.2 * size


def test_bounds(dav: Client) -> None:
    """Too many namespaces, names or bytes are 413, and nothing of the request is done."""
    put(dav, "/f")
    assert dav("PROPPATCH", "/f", request(10, MAX_NAMESPACES + 1)).status == 413
    wide = request(10, MAX_NAMESPACES + 1).decode().encode("utf-16")
    assert dav("PROPPATCH", "/f", wide).status == 413
    long = "urn:" + "x" * 5000
    many = "".join(f"<p{number} xmlns:u='{long}' u:a=''/>" for number in range(2))
    shared = (
        f"<D:propertyupdate xmlns:D='DAV:' xmlns:u='{long}'><D:set><D:prop>{{}}</D:prop></D:set></D:propertyupdate>"
    )
    assert dav("PROPPATCH", "/f", shared.format("".join(f"<u:p{n}/>" for n in range(300)))).status == 413
    assert dav("PROPPATCH", "/f", shared.format(many)).status == 207
    assert dav("PROPFIND", "/", propfind(" ".join(f"p{n}" for n in range(300)), long), Depth="1").status == 413
    owner = LOCKINFO.format(scope="exclusive").replace("somebody", "x" * 20_000)
    assert dav("LOCK", "/f", owner).status == 413


def test_locks_are_asked_first(served: Served, dav: Client) -> None:
    """A PROPPATCH that may not be is refused before its body, which need not even be XML."""
    lock(dav, "/f")
    other = served.client(("other", "secret"))
    other.send_head("PROPPATCH", "/f", 100_000, Expect="100-continue")
    assert other.reply().status == 423
    other.close()
    assert other("PROPPATCH", "/f", b"no XML").status == 423
    assert other("PROPPATCH", "/f", b"no XML", If_Match='"other"').status == 412
    assert dav("PROPPATCH", "/f", proppatch('<x xmlns="urn:x">1</x>')).status == 423
    win32 = '<Z:Win32FileAttributes xmlns:Z="urn:schemas-microsoft-com:">00000020</Z:Win32FileAttributes>'
    assert dav("PROPPATCH", "/f", proppatch(win32)).status == 207
    assert dav("PROPPATCH", "/missing", b"no XML").status == 404
