"""Locks and conditions together: RFC 4918 §6, §7, §10.4."""

import threading
from collections.abc import Callable

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import LOGIN, Served
from tests.webdav.test_checklist import LOCKINFO, lock, propfind, put
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind


def test_locks_survive_a_restart(serve: Callable[..., Served]) -> None:
    """A lock taken before a restart still holds after it, and its token still works."""
    fs = ModelFileSystem()
    first = serve(fs)
    token = lock(first.client(), "/f", Timeout="Second-3000")
    etag = first.client()("HEAD", "/f")["ETag"]
    first.stop()
    dav = serve(fs).client(LOGIN)
    assert dav("PUT", "/f", b"x").status == 423
    assert dav("HEAD", "/f")["ETag"] == etag
    shown = dav("PROPFIND", "/f", propfind("lockdiscovery"), Depth="0").properties()[DAV + "lockdiscovery"]
    assert shown.findtext(f".//{DAV}locktoken/{DAV}href") == token.strip("<>")
    assert shown.findtext(f".//{DAV}owner/{DAV}href") == "somebody"
    assert dav("PUT", "/f", b"x", If=f"({token})").status == 204
    assert dav("UNLOCK", "/f", Lock_Token=token).status == 204


def test_exclusive_and_shared(dav: Client) -> None:
    """§6.2: shared locks go together, an exclusive one with none; one shown token is enough."""
    first, second = lock(dav, "/f", "shared"), lock(dav, "/f", "shared")
    reply = dav("LOCK", "/f", LOCKINFO.format(scope="exclusive"))
    assert (reply.status, reply.error()) == (423, "no-conflicting-lock")
    assert reply.xml.findtext(f".//{DAV}href") == "/f"
    assert dav("PUT", "/f", b"x").status == 423
    assert dav("PUT", "/f", b"x", If=f"({second})").status == 204
    for token in (first, second):
        dav("UNLOCK", "/f", Lock_Token=token)
    lock(dav, "/f")
    assert dav("LOCK", "/f", LOCKINFO.format(scope="shared")).status == 423


def test_infinite_locks_reach_down(dav: Client) -> None:
    """§7.4: a lock of depth infinity covers what is below, now and later, and shows there."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    token = lock(dav, "/d")
    for method, path, headers in (
        ("PUT", "/d/f", {}),
        ("PUT", "/d/new", {}),
        ("MKCOL", "/d/e", {}),
        ("DELETE", "/d/f", {}),
        ("MOVE", "/d/f", {"Destination": "/f"}),
        ("PROPPATCH", "/d/f", {}),
    ):
        body = '<propertyupdate xmlns="DAV:"/>' if method == "PROPPATCH" else ""
        assert dav(method, path, body, **headers).status == 423
    assert dav("LOCK", "/d/f", LOCKINFO.format(scope="exclusive")).status == 423
    assert dav("PUT", "/d/new", b"x", If=f"</d> ({token})").status == 201
    shown = dav("PROPFIND", "/d/new", propfind("lockdiscovery"), Depth="0").properties()[DAV + "lockdiscovery"]
    assert shown.findtext(f".//{DAV}lockroot/{DAV}href") == "/d"
    listed = dav("PROPFIND", "/d", propfind("lockdiscovery"), Depth="1").properties("/d/f")
    assert len(listed[DAV + "lockdiscovery"]) == 1
    assert dav("UNLOCK", "/d/f", Lock_Token=token).status == 204
    assert dav("PUT", "/d/f", b"x").status == 204


def test_depth_0_locks_keep_the_members(dav: Client) -> None:
    """§7.4: a folder locked with depth 0 takes and loses no members, but their content may change."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    token = lock(dav, "/d", Depth="0")
    assert dav("PUT", "/d/f", b"x").status == 204
    assert dav("PUT", "/d/g", b"x").status == 423
    assert dav("DELETE", "/d/f").status == 423
    assert dav("COPY", "/d/f", Destination="/d/g").status == 423
    assert dav("COPY", "/d/f", Destination="/g").status == 201
    assert dav("MOVE", "/g", Destination="/d/g", If=f"</d> ({token})").status == 201


@pytest.mark.parametrize(
    ("depth", "path", "status"),
    [("infinity", "/d/e/new", 423), ("infinity", "/d/e/f", 423), ("0", "/d/e/new", 201), ("0", "/d/new", 423)],
)
def test_a_folder_locked_while_a_body_arrives(served: Served, dav: Client, depth: str, path: str, status: int) -> None:
    """A lock that was not there at the request's head, but is at its end, refuses: nothing is made or changed."""
    dav("MKCOL", "/d")
    dav("MKCOL", "/d/e")
    put(dav, "/d/e/f", b"before")
    writer = served.client()
    writer.send_head("PUT", path, 4, Expect="100-continue")
    assert writer.reply().status == 100
    token = lock(dav, "/d", Depth=depth)
    writer.send(b"body")
    assert writer.reply().status == status
    assert dav("GET", "/d/e/f").body == b"before"
    assert dav("HEAD", path).status == (404 if status == 423 and path != "/d/e/f" else 200)
    assert dav("PUT", path, b"again", If=f"</d> ({token})").status in (201, 204)


def test_a_folder_moved_into_a_locked_one_while_a_body_arrives(served: Served, dav: Client) -> None:
    """What decides is where the folder is when the body has come."""
    dav("MKCOL", "/locked")
    dav("MKCOL", "/d")
    token = lock(dav, "/locked")
    writer = served.client()
    writer.send_head("PUT", "/d/f", 4, Expect="100-continue")
    assert writer.reply().status == 100
    assert dav("MOVE", "/d", Destination="/locked/d", If=f"</locked> ({token})").status == 201
    writer.send(b"body")
    assert writer.reply().status == 423
    assert dav("HEAD", "/locked/d/f").status == 404


def test_a_folder_over_locked_children(dav: Client) -> None:
    """§7.4: a folder with a locked child cannot be locked whole, but alone."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    lock(dav, "/d/f")
    reply = dav("LOCK", "/d", LOCKINFO.format(scope="exclusive"))
    assert (reply.status, reply.xml.findtext(f".//{DAV}href")) == (423, "/d/f")
    lock(dav, "/d", Depth="0")


def test_a_refused_lock_makes_no_file(served: Served, dav: Client) -> None:
    """LOCK of a new name under a locked folder is 423 and leaves nothing behind."""
    dav("MKCOL", "/d")
    lock(dav, "/d")
    assert dav("LOCK", "/d/new", LOCKINFO.format(scope="exclusive")).status == 423
    assert dav("LOCK", "/e", "<lockinfo xmlns='DAV:'/>").status == 400
    assert dav("LOCK", "/e", LOCKINFO.format(scope="exclusive"), Depth="1").status == 400
    assert dav("LOCK", "/e").status == 400
    assert dav("PROPFIND", "/", Depth="1").hrefs == ["/", "/d/"]


def test_a_locked_destination(dav: Client) -> None:
    """§7.5: a locked file is replaced by MOVE only with its token, and stays locked."""
    put(dav, "/new", b"new")
    put(dav, "/f", b"old")
    token = lock(dav, "/f")
    assert dav("MOVE", "/new", Destination="/f").status == 423
    assert dav("MOVE", "/new", Destination="/f", If=f"</f> ({token})").status == 204
    assert dav("GET", "/f").body == b"new"
    assert dav("PUT", "/f", b"x").status == 423
    assert dav("UNLOCK", "/f", Lock_Token=token).status == 204


def test_a_new_file_is_not_locked_by_its_namesake(dav: Client) -> None:
    """A lock ends with its file: the next of the same name is free."""
    token = lock(dav, "/f")
    assert dav("DELETE", "/f", If=f"({token})").status == 204
    assert dav("PUT", "/f", b"x").status == 201
    assert dav("UNLOCK", "/f", Lock_Token=token).status == 409


def test_renamed_elsewhere(served: Served, dav: Client) -> None:
    """A lock is on the file, so a rename by another front end takes it along."""
    token = lock(dav, "/f")
    served.fs.rename(served.fs.root, b"f", served.fs.root, b"g")
    assert dav("PUT", "/g", b"x").status == 423
    assert dav("PUT", "/g", b"x", If=f"({token})").status == 204
    assert dav("PUT", "/f", b"x").status == 201


def test_lock_by_racing_clients(served: Served) -> None:
    """Of many that ask for the same exclusive lock, one gets it."""
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(served.client()("LOCK", "/f", LOCKINFO.format(scope="exclusive")).status)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(status in (200, 201) for status in statuses) == 1
    assert set(statuses) <= {200, 201, 423, 412}


def test_create_by_racing_clients(served: Served) -> None:
    """RFC 9110 §13.1.2: of twelve PUTs with If-None-Match: *, one gets 201 and the rest 412."""
    for attempt in range(5):
        statuses: list[int] = []
        barrier = threading.Barrier(12)

        def ask(
            path: str = f"/f{attempt}", statuses: list[int] = statuses, barrier: threading.Barrier = barrier
        ) -> None:
            client = served.client()
            barrier.wait()
            statuses.append(client("PUT", path, b"x", If_None_Match="*").status)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [201] + [412] * 11


# ---- If ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("({token})", 204),
        ("({token}[{etag}])", 204),
        ("({token} [{etag}])", 204),
        ('({token} ["wrong"])', 412),
        ('({token} ["wrong"]) ({token} [{etag}])', 204),
        ("({token} Not <DAV:no-lock>)", 204),
        ("(Not {token})", 412),
        ("(<DAV:no-lock>) ({token})", 204),
        ("(Not <DAV:no-lock>)", 423),
        ("<http://{host}/f> ({token} [{etag}])", 204),
        ('<http://{host}/f> ({token} ["wrong"])', 412),
        ("</f> ({token})", 204),
        ("</missing> ({token})", 412),
        ("</missing> (Not {token})", 204),
        ('</other> (["wrong"])', 412),
        ("</other> ([{other}]) </f> ({token})", 204),
        ("<http://elsewhere.example/f> ({token})", 502),
        ("<http://127.0.0.1:1/f> ({token} [{etag}])", 204),
        ("", 400),
        ("()", 400),
        ("({token}", 400),
        ("{token}", 400),
        ("nonsense", 400),
        ("(Not)", 400),
        ("(Not Not {token})", 400),
        ("(({token}))", 400),
    ],
)
def test_if(dav: Client, header: str, status: int) -> None:
    """§10.4: lists are alternatives, their conditions all needed, tags say whose; spaces are free."""
    put(dav, "/other")
    put(dav, "/f")
    token = lock(dav, "/f")
    values = {
        "token": token,
        "host": dav.host,
        "etag": dav("HEAD", "/f")["ETag"],
        "other": dav("HEAD", "/other")["ETag"],
    }
    assert dav("PUT", "/f", b"x", If=header.format(**values)).status == status


def test_if_on_a_new_name(dav: Client) -> None:
    """An ETag in If never holds for what does not exist."""
    assert dav("PUT", "/f", b"x", If='(["any"])').status == 412
    assert dav("PUT", "/f", b"x", If='(Not ["any"])').status == 201


def test_conditions_of_other_methods(dav: Client) -> None:
    """If-Match and its kin hold for every method that changes something (RFC 9110 §13.2.1)."""
    etag = put(dav, "/f")
    patch = '<propertyupdate xmlns="DAV:"><set><prop><x xmlns="urn:x"/></prop></set></propertyupdate>'
    for method, body, headers in (
        ("DELETE", "", {}),
        ("MOVE", "", {"Destination": "/g"}),
        ("COPY", "", {"Destination": "/g"}),
        ("PROPPATCH", patch, {}),
        ("PUT", "x", {}),
    ):
        assert dav(method, "/f", body, If_Match='"other"', **headers).status == 412
        assert dav(method, "/f", body, If_None_Match=etag, **headers).status == 412
        assert dav(method, "/f", body, If_Unmodified_Since="Tue, 14 Nov 2000 22:13:20 GMT", **headers).status == 412
    assert dav("DELETE", "/f", If_Match=f'"other", {etag}').status == 204


def test_weak_tags(dav: Client) -> None:
    """If-Match compares strongly, If-None-Match weakly (RFC 9110 §13.1)."""
    etag = put(dav, "/f")
    assert dav("PUT", "/f", b"content", If_Match=f"W/{etag}").status == 412
    assert dav("GET", "/f", If_None_Match=f"W/{etag}").status == 304


def test_a_lock_costs_uploads_beside_other_changes_nothing(dav: Client, shared_server: Served) -> None:
    """While a lock lives anywhere, each PUT looks at the moment of its change where its folder is."""
    dav("MKCOL", "/d")
    dav("MKCOL", "/d/e")
    lock(dav, "/locked")
    fs = shared_server.fs
    for number in range(10):
        fs.create(fs.root, f"{number}".encode(), Kind.FILE, 0o644, Owner(), durable=False)
        assert dav("PUT", f"/d/e/{number}", b"data").status == 201
