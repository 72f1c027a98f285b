"""The rules that clients rely on, one by one. Sections are RFC 4918's where nothing else is said."""

import pytest

from tests.webdav.client import DAV, Client
from tests.webdav.conftest import Served

LOCKINFO = (
    '<?xml version="1.0" encoding="utf-8"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:{scope}/></D:lockscope>'
    "<D:locktype><D:write/></D:locktype><D:owner><D:href>somebody</D:href></D:owner></D:lockinfo>"
)


def put(dav: Client, path: str, body: bytes = b"content") -> str:
    reply = dav("PUT", path, body)
    assert reply.status in (201, 204)
    return reply["ETag"]


def lock(dav: Client, path: str, scope: str = "exclusive", **headers: str) -> str:
    reply = dav("LOCK", path, LOCKINFO.format(scope=scope), **headers)
    assert reply.status in (200, 201), reply.body
    return reply["Lock-Token"]


def propfind(names: str, namespace: str = "DAV:") -> str:
    inner = "".join(f'<{name} xmlns="{namespace}"/>' for name in names.split())
    return f'<D:propfind xmlns:D="DAV:"><D:prop>{inner}</D:prop></D:propfind>'


def proppatch(inner: str, action: str = "set") -> str:
    return (
        '<D:propertyupdate xmlns:D="DAV:" xmlns:Z="urn:schemas-microsoft-com:">'
        f"<D:{action}><D:prop>{inner}</D:prop></D:{action}></D:propertyupdate>"
    )


# ---- OPTIONS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/missing", "/a/b/c", "*"])
def test_options_on_any_path(dav: Client, path: str) -> None:
    """OPTIONS tells class 1 and 2, Allow and MS-Author-Via, whether or not the path exists (§10.1, §18)."""
    reply = dav("OPTIONS", path)
    assert reply.status == 200
    assert {"1", "2"} <= set(reply["DAV"].replace(" ", "").split(","))
    assert reply["MS-Author-Via"] == "DAV"
    assert {"LOCK", "PROPFIND", "PUT"} <= set(reply["Allow"].split(", "))


def test_options_wants_a_login(served: Served) -> None:
    """OPTIONS is answered to known users only: Office stays anonymous for good where it was let in once."""
    assert served.client(login=None)("OPTIONS", "/").status == 401


# ---- PROPFIND ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"Depth": "infinity"}, {}])
def test_propfind_infinity_is_refused(dav: Client, headers: dict[str, str]) -> None:
    """Depth infinity, and a missing Depth which means it, get 403 with propfind-finite-depth (§9.1)."""
    reply = dav("PROPFIND", "/", **headers)
    assert (reply.status, reply.error()) == (403, "propfind-finite-depth")


@pytest.mark.parametrize("headers", [{"Depth": "infinity"}, {"Depth": "Infinity"}, {"Depth": "1"}, {}])
def test_propfind_of_a_file(dav: Client, headers: dict[str, str]) -> None:
    """Nothing lies below a file, so each depth means the file alone (§9.1, §10.2)."""
    put(dav, "/f")
    reply = dav("PROPFIND", "/f", **headers)
    assert (reply.status, reply.hrefs) == (207, ["/f"])
    assert dav("PROPFIND", "/f", Depth="2").status == 400
    assert dav("PROPFIND", "/missing", **headers).status == 404


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity", "aws-chunked", "x"])
def test_coded_bodies(dav: Client, coding: str) -> None:
    """A body with a Content-Encoding is no content: 415 says what is taken, before the body (RFC 9110 §15.5.16)."""
    reply = dav("PUT", "/f", b"\x1f\x8b", Content_Encoding=coding)
    assert (reply.status, reply["Accept-Encoding"]) == (415, "identity")
    assert dav("GET", "/f").status == 404
    assert dav("PROPFIND", "/", propfind("getetag"), Content_Encoding=coding, Depth="0").status == 415
    dav.send_head("PUT", "/f", 5, Content_Encoding=coding, Expect="100-continue")
    assert dav.reply().status == 415
    dav.close()
    for fine in ("identity", "Identity", ""):
        assert dav("PUT", "/f", b"x", Content_Encoding=fine).status in (201, 204)


def test_propfind_unknown_property(dav: Client) -> None:
    """A property that is not there comes back in a 404 propstat, beside those that are (§9.1)."""
    put(dav, "/f")
    reply = dav("PROPFIND", "/f", propfind("getcontentlength nonsense"), Depth="0")
    assert reply.status == 207
    assert reply.properties()[DAV + "getcontentlength"].text == "7"
    assert set(reply.properties(status=404)) == {DAV + "nonsense"}


def test_propfind_without_body_is_brief(dav: Client) -> None:
    """A listing asked for without body stays below 400 B an entry, without locks and dead properties (§9.1)."""
    for number in range(50):
        put(dav, f"/file-{number:05}.txt")
    reply = dav("PROPFIND", "/", Depth="1")
    assert len(reply.hrefs) == 51
    assert len(reply.body) / 51 < 400
    assert DAV + "lockdiscovery" not in reply.properties("/file-00000.txt")


def test_propfind_missing(dav: Client) -> None:
    """PROPFIND of nothing is 404, also below a file (§9.1)."""
    put(dav, "/f")
    assert dav("PROPFIND", "/missing", Depth="0").status == 404
    assert dav("PROPFIND", "/f/below", Depth="0").status == 404


def test_propname_lists_names(dav: Client) -> None:
    """propname gives the names of all properties, dead ones too, without values (§9.1)."""
    put(dav, "/f")
    dav("PROPPATCH", "/f", proppatch('<x xmlns="urn:x">1</x>'))
    names = dav("PROPFIND", "/f", '<propfind xmlns="DAV:"><propname/></propfind>', Depth="0").properties()
    assert {DAV + "getetag", "{urn:x}x"} <= set(names)
    assert all(element.text is None for element in names.values())


def test_allprop_with_include(dav: Client) -> None:
    """allprop shows live and dead properties and what include adds, but not what must be named (§9.1)."""
    put(dav, "/f")
    dav("PROPPATCH", "/f", proppatch('<x xmlns="urn:x">1</x>'))
    body = '<propfind xmlns="DAV:"><allprop/><include><quota-used-bytes/><lastmodified/></include></propfind>'
    shown = dav("PROPFIND", "/f", body, Depth="0").properties()
    assert {DAV + "getetag", "{urn:x}x", DAV + "lastmodified", DAV + "supportedlock"} <= set(shown)
    assert "{tgdav:}state" not in shown


def test_quota(dav: Client) -> None:
    """Folders tell quota-available-bytes and quota-used-bytes, when asked by name (RFC 4331)."""
    shown = dav("PROPFIND", "/", propfind("quota-available-bytes quota-used-bytes"), Depth="0").properties()
    assert int(shown[DAV + "quota-available-bytes"].text or "") > 0
    assert int(shown[DAV + "quota-used-bytes"].text or "") >= 0


def test_state_by_name_only(dav: Client) -> None:
    """{tgdav:}state is answered when named and cannot be set."""
    put(dav, "/f")
    shown = dav("PROPFIND", "/f", propfind("state", "tgdav:"), Depth="0").properties()
    assert shown["{tgdav:}state"].text == "local"
    assert "403" in dav("PROPPATCH", "/f", proppatch('<state xmlns="tgdav:">x</state>')).body.decode()


# ---- PROPPATCH ---------------------------------------------------------------------------------------------------


def test_proppatch_all_or_nothing(dav: Client) -> None:
    """One refused property refuses all: it gets 403, the rest 424, and nothing is stored (§9.2)."""
    put(dav, "/f")
    reply = dav("PROPPATCH", "/f", proppatch('<x xmlns="urn:x">1</x><D:getetag>"mine"</D:getetag>'))
    assert set(reply.properties(status=403)) == {DAV + "getetag"}
    assert set(reply.properties(status=424)) == {"{urn:x}x"}
    assert "{urn:x}x" in dav("PROPFIND", "/f", propfind("x", "urn:x"), Depth="0").properties(status=404)


def test_proppatch_win32_without_token(served: Served, dav: Client) -> None:
    """Win32 times without token pass for the lock's owner, and for nobody else (§9.2, Explorer and Office)."""
    put(dav, "/f")
    lock(dav, "/f")
    times = proppatch("<Z:Win32LastModifiedTime>Tue, 14 Nov 2023 22:13:20 GMT</Z:Win32LastModifiedTime>")
    assert dav("PROPPATCH", "/f", times).status == 207
    assert dav("HEAD", "/f")["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert served.client(("other", "secret"))("PROPPATCH", "/f", times).status == 423
    assert dav("PROPPATCH", "/f", proppatch('<x xmlns="urn:x">1</x>')).status == 423


def test_proppatch_win32_round_trip(dav: Client) -> None:
    """The four Win32 properties are accepted and read back as they were set."""
    put(dav, "/f")
    values = {
        "Win32CreationTime": "Mon, 13 Nov 2023 22:13:20 GMT",
        "Win32LastAccessTime": "Wed, 15 Nov 2023 22:13:20 GMT",
        "Win32LastModifiedTime": "Tue, 14 Nov 2023 22:13:20 GMT",
        "Win32FileAttributes": "00000020",
    }
    reply = dav("PROPPATCH", "/f", proppatch("".join(f"<Z:{name}>{text}</Z:{name}>" for name, text in values.items())))
    assert len(reply.properties()) == 4
    shown = dav("PROPFIND", "/f", propfind(" ".join(values), "urn:schemas-microsoft-com:"), Depth="0").properties()
    assert {name.rpartition("}")[2]: element.text for name, element in shown.items()} == values
    created = dav("PROPFIND", "/f", propfind("creationdate"), Depth="0").properties()
    assert created[DAV + "creationdate"].text == "2023-11-13T22:13:20Z"


def test_proppatch_lastmodified(dav: Client) -> None:
    """{DAV:}lastmodified in Unix seconds sets the modification time (rclone)."""
    put(dav, "/f")
    assert dav("PROPPATCH", "/f", proppatch("<D:lastmodified>1700000000</D:lastmodified>")).properties()
    assert dav("HEAD", "/f")["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"


# ---- GET and HEAD ------------------------------------------------------------------------------------------------


def test_etag_per_content_version(dav: Client) -> None:
    """The ETag is strong, quoted, equal in GET, HEAD, PUT and PROPFIND, and changes with the content (RFC 9110 §8.8.3)."""
    first = put(dav, "/f", b"one")
    assert first.startswith('"')
    assert first.endswith('"')
    listed = dav("PROPFIND", "/f", propfind("getetag"), Depth="0").properties()[DAV + "getetag"].text
    assert first == dav("GET", "/f")["ETag"] == dav("HEAD", "/f")["ETag"] == listed
    dav("PROPPATCH", "/f", proppatch('<x xmlns="urn:x">1</x>'))
    assert dav("HEAD", "/f")["ETag"] == first
    assert put(dav, "/f", b"two") != first


def test_not_modified(dav: Client) -> None:
    """304 when Last-Modified is not after the date; If-None-Match goes first (RFC 9110 §13.1.3)."""
    etag = put(dav, "/f")
    date = dav("HEAD", "/f")["Last-Modified"]
    reply = dav("GET", "/f", If_Modified_Since=date)
    assert (reply.status, reply.body, reply["ETag"]) == (304, b"", etag)
    assert dav("GET", "/f", If_Modified_Since="Tue, 14 Nov 2000 22:13:20 GMT").status == 200
    assert dav("GET", "/f", If_None_Match=etag).status == 304
    assert dav("GET", "/f", If_None_Match='"other"', If_Modified_Since=date).status == 200


@pytest.mark.parametrize(
    ("wanted", "status", "content_range", "body"),
    [
        ("bytes=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=-2", 206, "bytes 8-9/10", b"89"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=-0", 416, "bytes */10", None),
        ("bytes=0-1,4-5", 200, None, b"0123456789"),
        ("bytes=5-2", 200, None, b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
def test_ranges(dav: Client, wanted: str, status: int, content_range: str | None, body: bytes | None) -> None:
    """One range is 206, several a plain 200, none that fits 416 with ``bytes */N`` (RFC 9110 §14)."""
    put(dav, "/f", b"0123456789")
    reply = dav("GET", "/f", Range=wanted)
    assert (reply.status, reply.get("Content-Range")) == (status, content_range)
    assert body is None or reply.body == body


def test_if_range(dav: Client) -> None:
    """If-Range with the ETag or the very date keeps the range, anything else sends all (RFC 9110 §13.1.5)."""
    etag = put(dav, "/f", b"0123456789")
    date = dav("HEAD", "/f")["Last-Modified"]
    for condition, status in ((etag, 206), (date, 206), ('"other"', 200), ("Tue, 14 Nov 2000 22:13:20 GMT", 200)):
        assert dav("GET", "/f", Range="bytes=5-", If_Range=condition).status == status


def test_head_on_a_folder(dav: Client) -> None:
    """HEAD of a folder is 200 (Office, Cyberduck)."""
    dav("MKCOL", "/d")
    assert dav("HEAD", "/").status == dav("HEAD", "/d").status == dav("HEAD", "/d/").status == 200


# ---- PUT ---------------------------------------------------------------------------------------------------------


def test_put_statuses(dav: Client) -> None:
    """201 for a new name, 204 for an old one, both with ETag and Last-Modified (RFC 9110 §9.3.4)."""
    for status in (201, 204):
        reply = dav("PUT", "/f", b"x")
        assert reply.status == status
        assert reply["ETag"]
        assert reply["Last-Modified"]
        assert reply["Date"]


def test_put_refusals(dav: Client) -> None:
    """409 without parent, 405 on a folder, 400 for Content-Range, 412 for If-Match on nothing (§9.7, RFC 9110 §14.5)."""
    dav("MKCOL", "/d")
    assert dav("PUT", "/missing/f", b"x").status == 409
    assert dav("PUT", "/d", b"x").status == 405
    assert dav("PUT", "/", b"x").status == 405
    assert dav("PUT", "/f", b"x", Content_Range="bytes 0-0/10").status == 400
    assert dav("PUT", "/f", b"x", If_Match='"any"').status == 412
    assert dav("PUT", "/f", b"x", If_Match="*").status == 412
    assert dav("PUT", "/f/below", b"x").status == 409
    assert dav("GET", "/f").status == 404


# ---- MKCOL, DELETE -----------------------------------------------------------------------------------------------


def test_mkcol(dav: Client) -> None:
    """201; 405 where something is, 409 without parent, 415 with a body (§9.3)."""
    assert dav("MKCOL", "/d", Content_Type="text/xml").status == 201
    assert dav("MKCOL", "/d").status == 405
    assert dav("MKCOL", "/missing/d").status == 409
    assert dav("MKCOL", "/e", "<x/>").status == 415
    assert dav("PROPFIND", "/e", Depth="0").status == 404


def test_delete(dav: Client) -> None:
    """204 for a file and for a folder with all it holds; 404 for nothing (§9.6)."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    assert dav("DELETE", "/d").status == 204
    assert dav("GET", "/d/f").status == 404
    assert dav("DELETE", "/d").status == 404


def test_delete_of_a_folder_takes_all_or_nothing(dav: Client) -> None:
    """§9.6.1: a folder is deleted with Depth infinity; another Depth asks for what cannot be, and deletes nothing."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    for depth in ("0", "1", "zzz"):
        assert dav("DELETE", "/d", Depth=depth).status == 400
    assert dav("GET", "/d/f").status == 200
    assert dav("DELETE", "/d/f", Depth="0").status == 204
    assert dav("DELETE", "/d", Depth="Infinity").status == 204


def test_delete_with_a_locked_child(dav: Client) -> None:
    """423 when something below is locked, and nothing is gone; with the token it goes, locks too (§9.6.1)."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    put(dav, "/d/g")
    token = lock(dav, "/d/f")
    reply = dav("DELETE", "/d")
    assert (reply.status, reply.error()) == (423, "lock-token-submitted")
    assert dav("GET", "/d/g").status == 200
    assert dav("DELETE", "/d", If=f"</d/f> ({token})").status == 204
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    assert dav("DELETE", "/d").status == 204
