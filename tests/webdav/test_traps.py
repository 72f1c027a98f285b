"""What WsgiDAV and cheroot do by themselves, and must not do here. (Framings and stalls: test_http; If: test_locks.)"""

import logging
import os
import socket
import threading
from collections.abc import Callable

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.support.waiting import wait_for
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import Served
from tests.webdav.test_checklist import LOCKINFO, lock, propfind, put


def test_no_empty_file_before_the_body(served: Served, dav: Client) -> None:
    """WsgiDAV makes the file before it reads the body: here nothing shows until all of it is there."""
    dav.send_head("PUT", "/f", 100_000)
    dav.send(b"x" * 99_999)
    other = served.client()
    assert other("GET", "/f").status == 404
    assert other("PROPFIND", "/", Depth="1").hrefs == ["/"]
    dav.send(b"x")
    assert dav.reply().status == 201
    assert len(other("GET", "/f").body) == 100_000


def test_a_failed_put_leaves_nothing(served: Served, dav: Client) -> None:
    """WsgiDAV keeps a file of 0 bytes after a refused PUT."""
    wrong = "SHA1:" + "0" * 40
    assert dav("PUT", "/f", b"x", OC_Checksum=wrong).status == 400
    assert dav("PUT", "/f", b"x", If_Match='"x"').status == 412
    assert served.fs.list_directory(served.fs.root) == []


def test_a_lock_taken_during_a_put(served: Served, dav: Client) -> None:
    """The decision is made again when the body is there: a lock taken meanwhile refuses the PUT."""
    put(dav, "/f", b"old")
    slow = served.client(("other", "secret"))
    slow.send_head("PUT", "/f", 10)
    slow.send(b"01234")
    lock(dav, "/f")
    slow.send(b"56789")
    assert slow.reply().status == 423
    assert dav("GET", "/f").body == b"old"


def test_a_put_during_a_get(served: Served, dav: Client) -> None:
    """A reader gets the content that its answer began with, whole, never a mixture."""
    old, new = b"o" * (24 << 20), b"n" * (24 << 20)
    put(dav, "/f", old)
    reader = served.client()
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    reader.send_head("GET", "/f")
    wait_for(reader.has_answer)
    put(dav, "/f", new)
    assert reader.reply().body == old
    assert dav("GET", "/f").body == new


def test_more_than_four_locks(dav: Client) -> None:
    """WsgiDAV keeps at most four locks."""
    tokens = {lock(dav, "/f", "shared") for _ in range(10)}
    shown = dav("PROPFIND", "/f", propfind("lockdiscovery"), Depth="0").properties()[DAV + "lockdiscovery"]
    assert {f"<{element.text}>" for element in shown.iterfind(f"{DAV}activelock/{DAV}locktoken/{DAV}href")} == tokens


def test_lockdiscovery_after_the_root_is_gone(served: Served, dav: Client) -> None:
    """WsgiDAV fails to list locks whose root was removed."""
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    lock(dav, "/d")
    served.fs.remove_tree(served.fs.root, b"d")
    dav("MKCOL", "/d")
    put(dav, "/d/f")
    for path in ("/d", "/d/f", "/"):
        assert dav("PROPFIND", path, propfind("lockdiscovery"), Depth="1").status == 207


def test_expired_locks_are_forgotten(served: Served, dav: Client) -> None:
    """Locks of crashed clients leave the database too."""
    lock(dav, "/f", Timeout="Second-10")
    served.clock.shift = 11
    lock(dav, "/g")
    assert len(served.server.context.locks.live()) == 1
    assert len(served.fs.load_locks()) == 1


def test_listen_pid_in_the_environment(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    """cheroot takes descriptor 3 for a socket when LISTEN_PID is set, whatever that is."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert serve(ModelFileSystem(), login=False).client()("GET", "/-/healthz").status == 200


def test_an_address_in_use(served: Served, serve: Callable[..., Served]) -> None:
    """The caller is told, and no thread is left behind."""
    before = threading.active_count()
    with pytest.raises(OSError, match="in use"):
        serve(ModelFileSystem(), port=served.port)
    assert threading.active_count() == before


def test_paths_are_not_logged(served: Served, dav: Client, caplog: pytest.LogCaptureFixture) -> None:
    """WsgiDAV logs each path at its usual verbosity, and puts a handler on its logger."""
    caplog.set_level(logging.INFO)
    put(dav, "/secret-name")
    for method in ("OPTIONS", "MKCOL", "COPY", "MOVE", "PROPPATCH", "DELETE", "POST"):
        dav(method, "/secret-name", Destination="/other-secret-name")
    assert "secret-name" not in caplog.text


def test_many_clients_write_at_once(served: Served) -> None:
    """Fifty clients on kept connections: each answer belongs to its request."""
    wrong: list[str] = []

    def work(number: int) -> None:
        client = served.client()
        for step in range(10):
            body = f"{number}-{step}".encode() * 50
            if client("PUT", f"/f{number}", body).status not in (201, 204) or client("GET", f"/f{number}").body != body:
                wrong.append(f"{number}-{step}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_lock_answers_are_readable(dav: Client) -> None:
    """neon refuses a LOCK answer that is not typed as XML, and a Lock-Token without brackets."""
    reply = dav("LOCK", "/f", LOCKINFO.format(scope="exclusive"))
    assert reply["Content-Type"] == 'application/xml; charset="utf-8"'
    assert reply["Lock-Token"][0] + reply["Lock-Token"][-1] == "<>"
