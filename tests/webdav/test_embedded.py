"""The provider in a stock WsgiDAVApp: what the suite over both servers does not show."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lxml import etree
from wsgidav.dav_error import DAVError
from wsgidav.dav_provider import DAVCollection, DAVNonCollection
from wsgidav.wsgidav_app import WsgiDAVApp

from tests.support.model_fs import ModelFileSystem
from tests.webdav.client import DAV, Client
from tests.webdav.conftest import EmbeddedServed, Served
from tests.webdav.differences import DIFFERENCES, RACES
from tests.webdav.test_failures import FaultyFileSystem
from tgdav.errors import DamageError
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind
from tgdav.webdav.provider import Provider
from tgdav.webdav.provider_resources import File, Folder

DOCUMENT = Path(__file__).parents[2] / "docs" / "embedding.md"
MIB = 1 << 20
LOCKINFO = '<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>'


@pytest.fixture
def embed() -> Iterator[Callable[..., EmbeddedServed]]:
    """Serve file systems through stock applications."""
    running: list[EmbeddedServed] = []

    def start(fs: ModelFileSystem | None = None, **options: object) -> EmbeddedServed:
        running.append(EmbeddedServed(fs or ModelFileSystem(), **options))
        return running[-1]

    yield start
    for served in running:
        served.stop()


# ---- bodies and contents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [b"", b"old content"])
def test_a_body_that_is_cut_off_changes_nothing(embed: Callable[..., EmbeddedServed], old: bytes) -> None:
    """WSGI servers end it like a complete one, and WsgiDAV would answer 201."""
    served = embed()
    if old:
        assert served.client()("PUT", "/f", old).status == 201
    client = served.client()
    client.send_head("PUT", "/f", 1000)
    client.send(b"half")
    client.half_close()
    assert client.reply().status == 400
    assert served.client()("GET", "/f").body == old if old else served.client()("GET", "/f").status == 404


def test_damage_at_the_start_is_a_500_and_later_cuts_the_connection(embed: Callable[..., EmbeddedServed]) -> None:
    fs = FaultyFileSystem()
    served = embed(fs)
    assert served.client()("PUT", "/f", bytes(3 * MIB)).status == 201
    fs.error = DamageError("a chunk failed its check", blob="ab" * 16)
    reply = served.client()("GET", "/f")
    assert (reply.status, b"a chunk failed its check" in reply.body) == (500, True)
    fs.start = 2 * MIB
    client = served.client()
    client.send_head("GET", "/f")
    with pytest.raises(ConnectionError):
        client.reply()
    assert served.client()("GET", "/f", Range="bytes=0-1000").status == 206
    assert fs.closed >= 3


# ---- locks -------------------------------------------------------------------------------------------------------


def test_locks_are_shared_with_our_own_server(
    serve: Callable[..., Served], embed: Callable[..., EmbeddedServed]
) -> None:
    """Over one file system in one process; and each sees what the other ends."""
    fs = ModelFileSystem()
    ours, theirs = serve(fs).client(), embed(fs).client()
    assert ours("PUT", "/f", b"x").status == 201
    token = ours("LOCK", "/f", LOCKINFO)["Lock-Token"]
    assert theirs("PUT", "/f", b"y").status == 423
    assert theirs("PUT", "/f", b"y", If=f"({token})").status == 204
    assert token.strip("<>").encode() in theirs("PROPFIND", "/f", ALLPROP, Depth="0").body
    assert theirs("LOCK", "/f", If=f"({token})", Timeout="Second-100").status == 200
    assert theirs("UNLOCK", "/f", Lock_Token=token).status == 204
    assert ours("PUT", "/f", b"z").status == 204
    token = theirs("LOCK", "/f", LOCKINFO)["Lock-Token"]
    assert ours("DELETE", "/f").status == 423
    assert ours("DELETE", "/f", If=f"({token})").status == 204
    assert not fs.load_locks()


ALLPROP = '<D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>'


def test_locks_survive_a_restart(embed: Callable[..., EmbeddedServed]) -> None:
    fs = ModelFileSystem()
    first = embed(fs)
    token = first.client()("LOCK", "/f", LOCKINFO)["Lock-Token"]
    assert [record.token for record in fs.load_locks()] == [token.strip("<>")]
    first.stop()
    first.server.provider._end_sharing()
    assert embed(fs).client()("PUT", "/f", b"x").status == 423


def test_a_lock_is_refreshed_and_ended_by_its_user_alone(embed: Callable[..., EmbeddedServed]) -> None:
    served = embed()
    owner, other = served.client(), served.client(("other", "secret"))
    token = owner("LOCK", "/f", LOCKINFO)["Lock-Token"]
    assert other("LOCK", "/f", If=f"({token})").status == 412
    assert other("UNLOCK", "/f", Lock_Token=token).status == 403
    assert other("PUT", "/f", b"x", If=f"({token})").status == 423


# ---- changes -----------------------------------------------------------------------------------------------------


def test_a_proppatch_is_all_or_nothing(embed: Callable[..., EmbeddedServed]) -> None:
    """WsgiDAV sets one property after another; here the first call sets all, in one durable change."""
    fs = ModelFileSystem()
    calls: list[tuple[int, bool]] = []
    original = fs.set_properties

    def counted(
        inode: int, values: dict[bytes, bytes | None], *, attributes: object = None, durable: bool = True
    ) -> None:
        calls.append((len(values), durable))
        original(inode, values, attributes=attributes, durable=durable)

    fs.set_properties = counted  # type: ignore[method-assign]
    dav = embed(fs).client()
    dav("PUT", "/f", b"x")
    body = '<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop>{}</D:prop></D:set></D:propertyupdate>'
    assert dav("PROPPATCH", "/f", body.format('<a xmlns="u">1</a><b xmlns="u">2</b>')).status == 207
    assert calls == [(2, True)]
    refused = dav("PROPPATCH", "/f", body.format('<a xmlns="u">3</a><D:getetag>x</D:getetag>'))
    assert set(refused.properties(status=403)) == {DAV + "getetag"}
    assert set(refused.properties(status=424)) == {"{u}a"}
    assert calls == [(2, True)]


def test_every_change_is_durable_when_it_is_answered(embed: Callable[..., EmbeddedServed]) -> None:
    """tests/crash cuts the power; here each call of the file system says so."""
    fs = ModelFileSystem()
    durable: list[bool] = []

    def recorded(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            durable.append(bool(options.get("durable")))
            return method(*arguments, **options)

        return call

    for name in ("create", "remove_tree", "rename", "copy", "set_attributes"):
        setattr(fs, name, recorded(getattr(fs, name)))
    dav = embed(fs).client()
    assert dav("MKCOL", "/d").status == 201
    assert dav("LOCK", "/d/new", LOCKINFO).status == 201
    assert dav("PUT", "/f", b"x").status == 201
    assert dav("COPY", "/f", Destination="/g", X_OC_Mtime="1000").status == 201
    assert dav("MOVE", "/f", Destination="/h").status == 201
    assert dav("DELETE", "/h").status == 204
    assert durable == [True] * 6


# ---- shares ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shares(embed: Callable[..., EmbeddedServed]) -> Client:
    """An application with two drives, at /a and /b."""
    served = embed()
    app = WsgiDAVApp(
        {
            "provider_mapping": {"/a": Provider(ModelFileSystem()), "/b": Provider(ModelFileSystem())},
            "simple_dc": {"user_mapping": {"*": True}},
            "verbose": 0,
        }
    )
    served.server._server.wsgi_app = app
    return served.client(login=None)


def test_a_drive_at_a_share(shares: Client) -> None:
    """URLs in answers begin with the share; a Destination is one below it, and another share is another server."""
    assert shares("PUT", "/a/f;1", b"x").status == 201
    assert shares("PUT", "/a/f", b"other").status == 201
    assert shares("PROPFIND", "/a/", Depth="1").hrefs == ["/a/", "/a/f", "/a/f;1"]
    assert shares("MOVE", "/a/f;1", Destination=f"http://{shares.host}/a/g%3B1").status == 201
    assert shares("GET", "/a/g%3B1").body == b"x"
    assert shares("MOVE", "/a/f", Destination="/b/f").status == 502
    assert shares("MOVE", "/a/f", Destination="/f").status == 502
    assert shares("GET", "/a/f").body == b"other"
    lock = shares("LOCK", "/a/f", LOCKINFO)
    assert lock.xml.findtext(f".//{DAV}lockroot/{DAV}href") == "/a/f"
    assert shares("UNLOCK", "/a/f", Lock_Token=lock["Lock-Token"]).status == 204


# ---- resources without requests ----------------------------------------------------------------------------------


class Bench:
    """A provider and the environment that WsgiDAV makes for a resource that is looked up by code."""

    def __init__(self) -> None:
        self.fs = ModelFileSystem()
        self.provider = Provider(self.fs)
        self.provider.set_share_path("/")

    def look_up(self, path: str) -> Folder | File | None:
        environ = {
            "wsgidav.provider": self.provider,
            "wsgidav.config": {},
            "REQUEST_METHOD": "",
            "PATH_INFO": path,
            "wsgi.input": None,
        }
        return self.provider.get_resource_inst(path, environ)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_folders_and_files_are_wsgidavs(bench: Bench) -> None:
    """They can be listed, made, written, read, copied, moved and deleted without a request server."""
    root = bench.look_up("/")
    assert isinstance(root, DAVCollection)
    root.create_collection("d")
    new = root.create_empty_resource("f")
    assert isinstance(new, DAVNonCollection)
    stream = new.begin_write()
    stream.write(b"hello ")
    stream.write(b"world")
    stream.close()
    assert root.get_member_names() == ["d", "f"]
    file = bench.look_up("/f")
    assert isinstance(file, File)
    content = file.get_content()
    content.seek(6)
    assert (content.read(3), content.read(10), content.read(1)) == (b"wor", b"ld", b"")
    content.close()
    assert file.get_content_length() == 11
    assert file.get_etag() == file.get_property_value(DAV + "getetag").text.strip('"')
    assert file.handle_copy("/d/g", depth_infinity=False)
    assert file.handle_move("/d/h")
    assert [member.path for member in bench.look_up("/d").get_member_list()] == ["/d/g", "/d/h"]
    assert bench.look_up("/d").delete() == []
    assert root.get_member_names() == []


def test_names_that_are_not_utf_8(bench: Bench) -> None:
    """They show as in our own server, and are found by what they show."""
    bench.fs.create(bench.fs.root, b"a\xffb", Kind.FILE, 0o644, Owner())
    [member] = bench.look_up("/").get_member_list()
    assert (member.path, member.get_href()) == ("/a%FFb", "/a%25FFb")
    assert isinstance(bench.look_up("/a%FFb"), File)


def test_what_webdav_does_not_show_is_not_there(bench: Bench) -> None:
    bench.fs.create(bench.fs.root, b"pipe", Kind.FIFO, 0o644, Owner())
    assert bench.look_up("/pipe") is None
    assert bench.look_up("/missing/deep") is None
    assert bench.look_up("/").get_member_names() == []


def test_properties_of_a_resource(bench: Bench) -> None:
    """Through the resource and through the property manager; what cannot be set is 403, what is not there 404."""
    root = bench.look_up("/")
    root.set_property_value("{u}a", etree.XML('<a xmlns="u">1</a>'))
    manager = bench.provider.prop_manager
    assert manager.get_properties("/") == ["{u}a"]
    assert bench.look_up("/").get_property_value("{u}a").text == "1"
    manager.write_property("/", "{u}b", b'<b xmlns="u">2</b>')
    manager.remove_property("/", "{u}a")
    assert manager.get_property("/", "{u}b") == b'<b xmlns="u">2</b>'
    assert "{u}b" in root.get_property_names(is_allprop=True)
    manager.remove_properties("/")
    assert manager.get_properties("/") == []
    for name, status in ((DAV + "getetag", 403), (DAV + "lastmodified", 400)):
        element = etree.Element(name)
        element.text = "never"
        with pytest.raises(DAVError) as error:
            bench.look_up("/").set_property_value(name, element)
        assert error.value.value == status
    with pytest.raises(DAVError) as missing:
        root.get_property_value("{u}c")
    assert missing.value.value == 404


def test_the_lock_storage(bench: Bench) -> None:
    """As WsgiDAV's own: locks by path, children, refresh, delete; the same table that our server uses."""
    bench.look_up("/").create_collection("d")
    storage = bench.provider.lock_manager.storage
    wish = {
        "scope": "exclusive",
        "depth": "infinity",
        "owner": b"",
        "principal": "anna",
        "timeout": None,
        "type": "write",
    }
    lock = storage.create("/d", dict(wish))
    assert lock["token"] == bench.provider.context.locks.live()[0].token
    assert storage.get(lock["token"]) == lock
    options = {"include_root": True, "include_children": False, "token_only": True}
    assert storage.get_lock_list("/d", **options) == [lock["token"]]
    assert storage.get_lock_list("/", **options) == []
    assert storage.get_lock_list("/", **{**options, "include_children": True}) == [lock["token"]]
    assert storage.refresh(lock["token"], timeout=5)["timeout"] == 5
    assert storage.delete(lock["token"])
    assert not storage.delete(lock["token"])
    assert storage.get(lock["token"]) is None


# ---- the document ------------------------------------------------------------------------------------------------


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def run_example(code: str, variables: dict[str, object], path: str) -> None:
    """Run a program that serves, on a free port, until a file was put, read and deleted through it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    thread = threading.Thread(target=exec, args=(code.replace("8080", str(port)), variables))
    thread.start()
    client = Client(port, ("anna", "secret"))
    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.1):
                break
        except OSError:
            thread.join(0.1)
    try:
        assert client("PUT", path, b"x").status == 201
        client.close()
        assert client("GET", path).body == b"x"
        client.close()
    finally:
        server = variables["server"]
        getattr(server, "shutdown", getattr(server, "stop", None))()  # type: ignore[misc]
        thread.join()
        getattr(server, "server_close", lambda: None)()  # type: ignore[operator]


@pytest.mark.parametrize("which", [1, 2])
def test_the_short_examples(which: int) -> None:
    code = blocks()
    variables: dict[str, object] = {"fs": ModelFileSystem()}
    exec(code[0].replace("WsgiDAVApp({", 'WsgiDAVApp({"verbose": 0, '), variables)
    run_example(code[which], variables, "/f")


def test_the_whole_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.server import Home

    home = Home(tmp_path, config="version: 2\nencryption: {argon2_memory_kib: 1024, argon2_iterations: 1}\n")
    home.run("init", "--backend", "directory", "--path", str(tmp_path / "store"))
    monkeypatch.setenv("TGDAV_HOME", str(home.path))
    monkeypatch.setenv("TGDAV_PASSPHRASE", home.passphrase)
    code = blocks()[3].replace('"block_size": 1 << 20,', '"block_size": 1 << 20, "verbose": 0,')
    run_example(code, {}, "/drive/f")
    with home.server() as server, server.client() as client:
        assert client.request("GET", "/f").body == b"x"


def test_every_reason_is_explained() -> None:
    text = " ".join(DOCUMENT.read_text().split()).casefold()
    for reason in {*DIFFERENCES.values(), *RACES.values()}:
        assert f"**{reason}**".casefold() in text
