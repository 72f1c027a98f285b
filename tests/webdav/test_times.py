"""Times that clients send: kept exactly, or brought to the nearest that can be kept, or refused as garbage."""

import logging

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import propfind, proppatch
from tgdav.webdav.dates import parse_seconds

SECOND = 1_000_000_000
FURTHEST = 2**63 // SECOND
WIN32 = "urn:schemas-microsoft-com:"


def seconds_of(dav: Client, path: str) -> int:
    reply = dav("PROPFIND", path, propfind("lastmodified"), Depth="0")
    return int(reply.properties()[DAV + "lastmodified"].text or "")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("-1", -1),
        ("-1.5", -2),
        ("1700000000.999", 1_700_000_000),
        ("9999999999999", FURTHEST),
        ("-9999999999999", -FURTHEST),
        ("9" * 30, FURTHEST),
        (str(2**33 + 1), 2**33 + 1),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "COPY", "MOVE"])
def test_oc_mtime_is_kept(dav: Client, method: str, value: str, seconds: int) -> None:
    """Zero is a date like any other, and one that no file can have becomes the nearest; the content is kept."""
    target = {} if method == "PUT" else {"Destination": "/f"}
    path = "/f" if method == "PUT" else "/source"
    dav("PUT", "/source", b"content")
    reply = dav(method, path, b"content" if method == "PUT" else b"", **target, X_OC_Mtime=value)
    assert (reply.status, reply["X-OC-Mtime"]) == (201, "accepted")
    assert dav("GET", "/f").body == b"content"
    assert seconds_of(dav, "/f") == seconds


@pytest.mark.parametrize("value", ["", "-", "1_000", "+5", "1e9", "0x10", "1.", ".5", "1.2.3", "-1.-5", "\u0663"])
def test_oc_mtime_garbage(dav: Client, value: str) -> None:
    """What is no decimal number is refused before anything is stored."""
    assert dav("PUT", "/g", b"x", X_OC_Mtime=value.encode().decode("latin-1")).status == 400
    assert dav("GET", "/g").status == 404


def test_fractions() -> None:
    """A fraction goes away from zero with its sign, and is cut after nine digits."""
    assert parse_seconds("-1.5") == -1_500_000_000
    assert parse_seconds("1.0000000019") == 1_000_000_001
    assert parse_seconds("-0.5") == -500_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Tue, 14 Nov 2023 22:13:20 GMT", 1_700_000_000),
        ("Tue, 14 Nov 2023 23:13:20 +0100", 1_700_000_000),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", 1_700_000_000),
        ("Tue Nov 14 22:13:20 2023", 1_700_000_000),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sat, 01 Jan 2300 00:00:00 GMT", FURTHEST),
        ("Fri, 31 Dec 9999 23:59:59 GMT", FURTHEST),
        ("Mon, 01 Jan 0001 00:00:00 GMT", -FURTHEST),
        ("Mon, 01 Jan 1601 00:00:01 GMT", -FURTHEST),
        ("-99999999999", -FURTHEST),
    ],
)
def test_win32_times(dav: Client, text: str, seconds: int) -> None:
    """PROPPATCH of a date sets it, or the nearest one that a file can have."""
    dav("PUT", "/f", b"x")
    element = f'<Z:Win32LastModifiedTime xmlns:Z="{WIN32}">{text}</Z:Win32LastModifiedTime>'
    reply = dav("PROPPATCH", "/f", proppatch(element))
    assert reply.status == 207
    assert f"{{{WIN32}}}Win32LastModifiedTime" in reply.properties(status=200)
    assert seconds_of(dav, "/f") == seconds


@pytest.mark.parametrize("text", ["Mon, 01 Jan 1601 00:00:00 GMT", "-11644473600"])
def test_no_date(dav: Client, text: str) -> None:
    """1601-01-01 is Windows' word for "no date": accepted, and nothing changes."""
    dav("PUT", "/f", b"x", X_OC_Mtime="1700000000")
    names = ("Win32LastModifiedTime", "Win32CreationTime")
    elements = "".join(f'<Z:{name} xmlns:Z="{WIN32}">{text}</Z:{name}>' for name in names)
    reply = dav("PROPPATCH", "/f", proppatch(elements))
    assert len(reply.properties(status=200)) == 2
    assert seconds_of(dav, "/f") == 1_700_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "Tue, 30 Feb 2024 00:00:00 GMT",
        "Tue, 14 Nov 2023 25:61:00 GMT",
        "Tue, 14 Nov 2_0 0:0:0 GMT",
        "1_0",
    ],
)
def test_win32_garbage(dav: Client, text: str) -> None:
    """What is no date is 400 for that property, and nothing of the request is done."""
    dav("PUT", "/f", b"x", X_OC_Mtime="1700000000")
    element = f'<lastmodified xmlns="DAV:">{text}</lastmodified><other xmlns="urn:x">1</other>'
    reply = dav("PROPPATCH", "/f", proppatch(element))
    assert set(reply.properties(status=400)) == {DAV + "lastmodified"}
    assert set(reply.properties(status=424)) == {"{urn:x}other"}
    assert seconds_of(dav, "/f") == 1_700_000_000


class Broken(ModelFileSystem):
    """Every change fails in a way that nobody foresaw."""

    broken = False

    def _fail(self) -> None:
        if self.broken:
            raise OverflowError("int too big: secret-name")

    def set_properties(self, *args: object, **options: object) -> None:
        self._fail()
        super().set_properties(*args, **options)

    def create(self, *args: object, **options: object) -> object:
        self._fail()
        return super().create(*args, **options)

    def rename(self, *args: object, **options: object) -> bool:
        self._fail()
        return super().rename(*args, **options)

    def remove_tree(self, *args: object, **options: object) -> None:
        self._fail()
        super().remove_tree(*args, **options)

    def upload(self, *args: object, **options: object) -> object:
        self._fail()
        return super().upload(*args, **options)


@pytest.mark.parametrize("method", ["PROPPATCH", "MKCOL", "MOVE", "DELETE", "PUT", "LOCK"])
def test_no_answer_shows_an_exception(serve: object, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is a 500 in plain words, whatever the method; the log names the kind of error alone."""
    fs = Broken()
    served: Served = serve(fs)  # type: ignore[operator]
    dav = served.client()
    dav("PUT", "/secret-name", b"x")
    fs.broken = True
    lock = '<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>'
    body = {"PROPPATCH": proppatch('<x xmlns="urn:x">1</x>'), "LOCK": lock}.get(method, "")
    path = "/new" if method in ("MKCOL", "LOCK") else "/secret-name"
    caplog.set_level(logging.INFO)
    reply = dav(method, path, body, Destination="/b")
    assert (reply.status, reply["Content-Type"], reply.body) == (500, "text/plain; charset=utf-8", b"internal error\n")
    ours = [record.message for record in caplog.records if record.name.startswith("tgdav")]
    assert ours == [f"{method} failed: OverflowError"]


def test_unknown_methods_are_refused_in_plain_words(dav: Client) -> None:
    """A method that is none of ours is 405 or 501 without a page of WsgiDAV's, and says what there is."""
    for method in ("PATCH", "TRACE", "BREW", "SEARCH"):
        reply = dav(method, "/")
        assert reply.status in (405, 501)
        assert reply["Content-Type"] == "text/plain; charset=utf-8"
        assert b"<" not in reply.body
