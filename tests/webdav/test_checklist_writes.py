"""The rules on COPY, MOVE, LOCK and UNLOCK (see test_checklist). Sections are RFC 4918's."""

import pytest

from tests.webdav.client import DAV, Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import LOCKINFO, lock, propfind, proppatch, put

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
