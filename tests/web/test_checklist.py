"""The rules that clients rely on, one by one. Sections are RFC 4918's where nothing else is said."""

import hashlib

import pytest

from tests.web.client import DAV, Client
from tests.web.conftest import Served

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


# ---- COPY, MOVE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["COPY", "MOVE"])
def test_transfer_statuses(dav: Client, method: str) -> None:
    """201 new, 204 replaced, 412 Overwrite F, 403 onto itself, 409 no parent, 502 other host (§9.8.5, §9.9.4)."""
    put(dav, "/a", b"a")
    assert dav(method, "/a", Destination="/a").status == 403
    assert dav(method, "/a", Destination="/missing/b").status == 409
    assert dav(method, "/a", Destination="http://elsewhere.example/b").status == 502
    assert dav(method, "/a").status == 400
    assert dav(method, "/missing", Destination="/b").status == 404
    assert dav(method, "/a", Destination="/b").status == 201
    put(dav, "/a", b"again")
    assert dav(method, "/a", Destination="/b", Overwrite="F").status == 412
    assert dav("GET", "/b").body == b"a"
    assert dav(method, "/a", Destination="/b").status == 204
    assert dav("GET", "/b").body == b"again"
    assert dav("GET", "/a").status == (200 if method == "COPY" else 404)


@pytest.mark.parametrize("method", ["COPY", "MOVE"])
def test_transfer_into_itself(dav: Client, method: str) -> None:
    """A folder goes neither into itself nor over what holds it, and nothing is lost by trying (§9.8.5)."""
    dav("MKCOL", "/d")
    dav("MKCOL", "/d/e")
    assert dav(method, "/d", Destination="/d/e/f").status == 403
    assert dav(method, "/d/e", Destination="/d").status == 403
    assert dav("PROPFIND", "/d/e", Depth="0").status == 207


@pytest.mark.parametrize("method", ["COPY", "MOVE"])
def test_transfer_replaces_a_folder(dav: Client, method: str) -> None:
    """What stood at the destination is replaced whole, never merged (§9.8.4, §9.9.3)."""
    for folder in ("/a", "/b"):
        dav("MKCOL", folder)
        put(dav, f"{folder}/in{folder[1:]}")
    assert dav(method, "/a", Destination="/b").status == 204
    assert dav("PROPFIND", "/b", Depth="1").hrefs == ["/b/", "/b/ina"]


def test_copy_depth_0(dav: Client) -> None:
    """COPY with Depth 0 takes the folder and its properties alone (§9.8.3)."""
    dav("MKCOL", "/a")
    put(dav, "/a/f")
    dav("PROPPATCH", "/a", proppatch('<x xmlns="urn:x">1</x>'))
    assert dav("COPY", "/a", Destination="/b", Depth="0").status == 201
    assert dav("PROPFIND", "/b", Depth="1").hrefs == ["/b/"]
    assert "{urn:x}x" in dav("PROPFIND", "/b", propfind("x", "urn:x"), Depth="0").properties()


@pytest.mark.parametrize(
    "destination",
    [
        "{base}/a%3Bb%3Fc",
        "webdav://{host}/a%3Bb%3Fc",
        "http://user@{host}/a%3Bb%3Fc",
        "HTTP://user:password@{host}/a%3Bb%3Fc",
        "/a%3Bb%3Fc",
    ],
)
def test_destination_forms(dav: Client, destination: str) -> None:
    """The raw Destination is split before it is decoded once; scheme and userinfo do not matter (§10.3)."""
    put(dav, "/f", b"f")
    put(dav, "/a", b"stays")
    value = destination.format(base=f"http://{dav.host}", host=dav.host)
    assert dav("MOVE", "/f", Destination=value).status == 201
    assert dav("GET", "/a").body == b"stays"
    assert dav("GET", "/a%3Bb%3Fc").body == b"f"


@pytest.mark.parametrize("value", ["http://{host}/a#b", "/%zz", "/..", "http://[::1/x", "//", "mailto:x"])
def test_destination_malformed(dav: Client, value: str) -> None:
    """A Destination that is no URL of a name is a 4xx, never a guess (§10.3)."""
    put(dav, "/f")
    assert 400 <= dav("MOVE", "/f", Destination=value.format(host=dav.host)).status < 500
    assert dav("GET", "/f").status == 200


def test_locks_stay_properties_move(dav: Client) -> None:
    """MOVE takes properties along and leaves locks behind (§9.9, §7.5)."""
    put(dav, "/a")
    dav("PROPPATCH", "/a", proppatch('<x xmlns="urn:x">1</x>'))
    token = lock(dav, "/a")
    assert dav("MOVE", "/a", Destination="/b").status == 423
    assert dav("MOVE", "/a", Destination="/b", If=f"({token})").status == 201
    assert dav("PUT", "/b", b"not locked").status == 204
    assert dav("PUT", "/a", b"not locked").status == 201
    assert "{urn:x}x" in dav("PROPFIND", "/b", propfind("x", "urn:x"), Depth="0").properties()


def test_move_of_a_folder_with_a_locked_child(dav: Client) -> None:
    """A folder whose child is locked moves with the child's token, and only so (§9.9.4)."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    token = lock(dav, "/d/f")
    assert dav("MOVE", "/d", Destination="/e").status == 423
    assert dav("MOVE", "/d", Destination="/e", If=f"<http://{dav.host}/d/f> ({token})").status == 201


# ---- LOCK, UNLOCK ------------------------------------------------------------------------------------------------


def test_lock_unmapped(dav: Client) -> None:
    """LOCK of a name that is not there makes an empty file: 201 (§7.3)."""
    reply = dav("LOCK", "/new", LOCKINFO.format(scope="exclusive"))
    assert reply.status == 201
    assert reply["Content-Type"].startswith("application/xml")
    assert reply["Lock-Token"].startswith("<urn:uuid:")
    assert reply["Lock-Token"].strip("<>") in reply.body.decode()
    got = dav("GET", "/new")
    assert (got.status, got.body) == (200, b"")
    assert dav("LOCK", "/missing/new", LOCKINFO.format(scope="exclusive")).status == 409


def test_lock_refresh(served: Served, dav: Client) -> None:
    """A LOCK without body and with If refreshes, without a Lock-Token in the answer (§9.10.2)."""
    put(dav, "/f")
    token = lock(dav, "/f", Timeout="Second-100")
    served.clock.shift = 90
    reply = dav("LOCK", "/f", If=f"({token})", Timeout="Second-100")
    assert (reply.status, reply.get("Lock-Token")) == (200, None)
    served.clock.shift = 180
    assert dav("PUT", "/f", b"x").status == 423
    served.clock.shift = 191
    assert dav("PUT", "/f", b"x").status == 204
    assert dav("LOCK", "/f", If=f"({token})").status == 412


@pytest.mark.parametrize("wish", ["Infinite", "Second-4100000000", "Second-99999999999, Infinite"])
def test_lock_timeout_is_capped(dav: Client, wish: str) -> None:
    """No lock is given for more than an hour at a time (§10.7)."""
    reply = dav("LOCK", "/f", LOCKINFO.format(scope="exclusive"), Timeout=wish)
    assert reply.xml.findtext(f".//{DAV}timeout") in ("Second-3600", "Second-3599")


def test_unlock(dav: Client) -> None:
    """204; 409 with a token that is not this resource's lock; 400 without one (§9.11.1)."""
    put(dav, "/f")
    put(dav, "/g")
    token, other = lock(dav, "/f"), lock(dav, "/g")
    assert dav("UNLOCK", "/f").status == 400
    assert dav("UNLOCK", "/f", Lock_Token="<urn:uuid:0>").status == 409
    reply = dav("UNLOCK", "/f", Lock_Token=other)
    assert (reply.status, reply.error()) == (409, "lock-token-matches-request-uri")
    assert dav("UNLOCK", "/f", Lock_Token=token).status == 204
    assert dav("PUT", "/f", b"x").status == 204


# ---- names -------------------------------------------------------------------------------------------------------


def test_names_in_any_normal_form(served: Served, dav: Client) -> None:
    """A name is kept as sent and found by any normal form, so that Finder's NFD is no second file."""
    composed, decomposed = "/caf%C3%A9", "/cafe%CC%81"
    put(dav, composed, b"one")
    assert dav("PUT", decomposed, b"two").status == 204
    assert dav("GET", composed).body == b"two"
    assert [entry.name for entry in served.fs.list_directory(served.fs.root)] == ["caf\u00e9".encode()]
    assert dav("MKCOL", decomposed).status == 405
    assert dav("MOVE", decomposed, Destination="/plain").status == 201
    put(dav, decomposed)
    put(dav, "/x")
    assert dav("COPY", "/x", Destination=composed, Overwrite="F").status == 412
    assert dav("COPY", "/x", Destination=composed).status == 204
    assert dav("DELETE", composed).status == 204
    assert dav("PROPFIND", "/", Depth="1").hrefs == ["/", "/plain", "/x"]


def test_a_final_slash_does_not_matter(dav: Client) -> None:
    """``/x`` and ``/x/`` name the same; hrefs of folders end in a slash, no redirect is sent (§5.2)."""
    dav("MKCOL", "/d/")
    put(dav, "/d/f")
    assert dav("PROPFIND", "/d", Depth="1").hrefs == ["/d/", "/d/f"]
    assert dav("GET", "/d").status == dav("GET", "/d/").status == dav("GET", "/d/f/").status == 200


@pytest.mark.parametrize("path", ["/%FF", "/a%C3", "/%00", "/a/../b", "/%2e%2e/b", "/a%2Fb", "/%zz", "/./a"])
def test_impossible_paths(dav: Client, path: str) -> None:
    """Invalid UTF-8, NUL, dots, an encoded slash and broken escapes are 400."""
    for method in ("GET", "PUT", "PROPFIND", "MKCOL"):
        assert dav(method, path, Depth="0").status == 400


def test_names_too_long(dav: Client) -> None:
    """Names beyond 255 bytes are a 4xx."""
    assert dav("PUT", "/" + "n" * 255, b"x").status == 201
    assert dav("PUT", "/" + "n" * 256, b"x").status == 414
    assert dav("MKCOL", "/" + "n" * 256).status == 414


@pytest.mark.parametrize("name", [".snapshots", ".versions", ".trash", "-"])
def test_reserved_names(dav: Client, name: str) -> None:
    """What history and the server's own pages use cannot be made, moved to or locked: 403."""
    put(dav, "/f")
    for path in (f"/{name}", f"/{name}/x"):
        assert dav("PUT", path, b"x").status == 403
        assert dav("MKCOL", path).status == 403
        assert dav("MOVE", "/f", Destination=path).status == 403
        assert dav("LOCK", path, LOCKINFO.format(scope="exclusive")).status == 403
        assert dav("DELETE", path).status == 403
    assert dav("PUT", f"/{name}.txt", b"x").status == 201


# ---- X-OC --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "COPY", "MOVE"])
def test_oc_mtime(dav: Client, method: str) -> None:
    """X-OC-Mtime sets the modification time and is acknowledged (rclone's vendor owncloud)."""
    put(dav, "/source")
    target = {} if method == "PUT" else {"Destination": "/f"}
    path = "/f" if method == "PUT" else "/source"
    reply = dav(method, path, **target, X_OC_Mtime="1700000000")
    assert (reply.status, reply["X-OC-Mtime"]) == (201, "accepted")
    assert dav("HEAD", "/f")["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert dav("PUT", "/g", b"", X_OC_Mtime="yesterday").status == 400


@pytest.mark.parametrize("algorithm", ["SHA1", "MD5"])
def test_oc_checksum(dav: Client, algorithm: str) -> None:
    """OC-Checksum is compared with the body, kept and listed; a wrong one stores nothing."""
    digest = hashlib.new(algorithm, b"content").hexdigest()
    assert dav("PUT", "/f", b"content", OC_Checksum=f"{algorithm}:{digest}").status == 201
    assert dav("PUT", "/f", b"changed", OC_Checksum=f"{algorithm}:{digest}").status == 400
    sums = " ".join(f"{name}:{hashlib.new(name, b'content').hexdigest()}" for name in ("SHA1", "MD5"))
    wanted = propfind("checksums", "http://owncloud.org/ns")
    shown = dav("PROPFIND", "/f", wanted, Depth="0").properties()["{http://owncloud.org/ns}checksums"]
    assert shown.findtext("{http://owncloud.org/ns}checksum") == sums
    assert dav("GET", "/f").body == b"content"
    put(dav, "/f", b"something else")
    assert dav("PROPFIND", "/f", wanted, Depth="0").properties() == {}
