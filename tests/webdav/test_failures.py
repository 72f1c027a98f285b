"""What clients see when the file system cannot do what they ask: damage, a store away, no space, another writer."""

import logging
from collections.abc import Callable

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.webdav.client import DAV
from tests.webdav.conftest import Served
from tgdav.errors import DamageError, FileTooLarge, LocalFailure, NoSpace, StoreUnavailable, TgdavError, WriterReplaced
from tgdav.fs.api import FileHandle, Upload
from tgdav.ids import Inode

MIB = 1 << 20


class Handle:
    """A file handle whose reads from ``start`` on fail ``times`` times."""

    def __init__(self, handle: FileHandle, fault: "FaultyFileSystem") -> None:
        self._handle, self._fault = handle, fault
        self.inode = handle.inode

    def read(self, offset: int, length: int) -> bytes:
        if self._fault.error is not None and offset + length > self._fault.start and self._fault.times:
            self._fault.times -= 1
            raise self._fault.error
        return self._handle.read(offset, length)

    def keep_content(self) -> bytes | None:
        return self._handle.keep_content()

    def close(self) -> None:
        self._handle.close()
        self._fault.closed += 1


class FaultyFileSystem(ModelFileSystem):
    """The model, with errors where a test wants them."""

    error: TgdavError | None = None
    refusal: TgdavError | None = None
    start = 0
    times = -1
    closed = 0

    def open(self, inode: Inode, *, writable: bool = False, truncate: bool = False) -> Handle:  # type: ignore[override]
        return Handle(super().open(inode, writable=writable, truncate=truncate), self)

    def upload(self, *arguments: object, **options: object) -> Upload:
        if self.refusal is not None:
            raise self.refusal
        return super().upload(*arguments, **options)  # type: ignore[arg-type]


@pytest.fixture
def fs() -> FaultyFileSystem:
    return FaultyFileSystem()


@pytest.fixture
def served(serve: Callable[..., Served], fs: FaultyFileSystem) -> Served:
    served = serve(fs, store_wait=20.0)
    assert served.client()("PUT", "/secret-name", bytes(3 * MIB)).status == 201
    return served


def test_damage_at_the_start_is_a_500(fs: FaultyFileSystem, served: Served) -> None:
    """Damage in the first block is told before the first byte; the name is in no log line."""
    fs.error = DamageError("a chunk failed its check", blob="ab" * 16)
    reply = served.client()("GET", "/secret-name")
    assert reply.status == 500
    assert b"a chunk failed its check" in reply.body
    assert fs.closed == 1


def test_damage_later_cuts_the_connection(fs: FaultyFileSystem, served: Served) -> None:
    """Damage after the first byte cuts the answer short: never other bytes, never a whole answer."""
    fs.error, fs.start = DamageError("a chunk failed its check"), 2 * MIB
    client = served.client()
    client.send_head("GET", "/secret-name")
    with pytest.raises(ConnectionError):
        client.reply()
    assert fs.closed == 1
    undamaged = served.client()("GET", "/secret-name", Range="bytes=0-1000")
    assert (undamaged.status, len(undamaged.body)) == (206, 1001)


@pytest.mark.parametrize("start", [0, 2 * MIB])
def test_a_store_away_is_waited_for(fs: FaultyFileSystem, served: Served, start: int) -> None:
    """A store that comes back in time is not noticed: Finder would forget a file for one 503."""
    fs.error, fs.start, fs.times = StoreUnavailable("away", retry_after=0.01), start, 5
    reply = served.client()("GET", "/secret-name")
    assert (reply.status, len(reply.body)) == (200, 3 * MIB)


def test_a_store_that_stays_away_is_a_503(serve: Callable[..., Served], fs: FaultyFileSystem) -> None:
    """In the end it is said, with Retry-After, before the first byte."""
    dav = serve(fs, store_wait=0.0).client()
    dav("PUT", "/f", b"x")
    fs.error = StoreUnavailable("away", retry_after=7)
    reply = dav("GET", "/f")
    assert (reply.status, reply["Retry-After"]) == (503, "7")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoSpace(), 507),
        (FileTooLarge(), 413),
        (WriterReplaced("another machine writes"), 403),
        (LocalFailure(), 500),
    ],
)
def test_refused_writes(fs: FaultyFileSystem, served: Served, error: TgdavError, status: int) -> None:
    """A full disk is 507 (Finder: disk full), a file too large 413, a replaced writer 403, a failing disk 500."""
    fs.refusal = error
    reply = served.client()("PUT", "/new", b"x")
    assert reply.status == status
    assert status != 507 or reply.error() == "quota-not-exceeded"


def test_no_space_in_the_middle(serve: Callable[..., Served]) -> None:
    """A PUT that runs out of space is 507; the old content stays, a new name never was, and a smaller one fits."""
    dav = serve(ModelFileSystem(total=2 * MIB)).client()
    assert dav("PUT", "/old", b"old").status == 201
    for path in ("/old", "/new"):
        assert dav("PUT", path, bytes(4 * MIB)).status == 507
    assert dav("GET", "/old").body == b"old"
    assert dav("GET", "/new").status == 404
    assert dav("PUT", "/new", bytes(MIB)).status == 201


def test_logs_hold_no_names(fs: FaultyFileSystem, served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """From level info up, no file name is logged, whatever goes wrong."""
    caplog.set_level(logging.INFO)
    dav = served.client()
    fs.error = DamageError("a chunk failed its check")
    dav("GET", "/secret-name")
    fs.refusal = LocalFailure()
    dav("PUT", "/secret-name", b"x")
    dav("GET", "/secret-name%00")
    dav("BREW", "/secret-name")
    fs.refusal = RuntimeError("secret-name")  # type: ignore[assignment]
    assert dav("PUT", "/secret-name", b"x").status == 500
    assert caplog.records
    assert "secret-name" not in caplog.text


# ---- XML ---------------------------------------------------------------------------------------------------------

BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    '<propfind xmlns="DAV:"><prop><x xmlns="&b;"/></prop></propfind>'
)
EXTERNAL = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    '<propertyupdate xmlns="DAV:"><set><prop><x xmlns="urn:x">&e;</x></prop></set></propertyupdate>'
)


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(("method", "body"), [("PROPFIND", BOMB), ("PROPPATCH", EXTERNAL), ("LOCK", BOMB)])
def test_xml_with_a_doctype(served: Served, method: str, body: str, coding: str) -> None:
    """Entities, internal and external, are refused whatever the encoding."""
    reply = served.client()(method, "/secret-name", body.encode(coding), Depth="0")
    assert reply.status == 400
    assert b"root:" not in reply.body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<x>" * 200_000, 413),
        (b"<x>" * 20_000, 400),
        (b"<propfind xmlns='DAV:'><allprop/>" + b"<b/>" * 200_000 + b"</propfind>", 413),
        ("<propfind xmlns='DAV:'><allprop/>".encode("utf-16") + "<b/>".encode("utf-16-le") * 90_000, 413),
        (b"<propfind xmlns='DAV:' " + b" ".join(b"a%d=''" % n for n in range(60_000)) + b"><allprop/></propfind>", 413),
        (b"<propfind xmlns='DAV:'>" + b" " * (1 << 20) + b"</propfind>", 413),
        (b"not xml", 400),
        (b"<propfind xmlns='DAV:'><prop></propfind>", 400),
        (b"<propfind xmlns='DAV:'/>", 400),
        (b"<other xmlns='DAV:'/>", 400),
        (b"<propfind xmlns='DAV:'><prop>" + b"".join(b"<p%d/>" % n for n in range(600)) + b"</prop></propfind>", 413),
        (b"\xff\xfe\x00", 400),
        (b"<?xml version='1.0' encoding='nonsense'?><propfind xmlns='DAV:'/>", 400),
    ],
)
def test_malformed_xml(served: Served, body: bytes, status: int) -> None:
    """Too deep, too large, too many, not well-formed: a 4xx, and the server goes on."""
    assert served.client()("PROPFIND", "/", body, Depth="0").status == status
    assert served.client()("GET", "/").status == 200


def test_utf_16(served: Served) -> None:
    """Clients may send UTF-16."""
    body = '<?xml version="1.0" encoding="utf-16"?><propfind xmlns="DAV:"><prop><getetag/></prop></propfind>'
    reply = served.client()("PROPFIND", "/secret-name", body.encode("utf-16"), Depth="0")
    assert DAV + "getetag" in reply.properties()


def test_large_xml_without_length(served: Served) -> None:
    """A chunked body is bounded too."""
    assert served.client()("PROPFIND", "/", b" " * (2 << 20), chunked=True, Depth="0").status == 413
