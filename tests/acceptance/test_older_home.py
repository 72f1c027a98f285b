"""A home that an earlier program left behind opens: the local state, not only the formats in the store, must stay readable.

``tests/golden/home-v1.tar.xz`` has a home and its directory store, made by the program of commit 67483bd. Its server was
killed after the last answer, so the database's log has changes that the database file has not. It holds text files, one of
them of several chunks, times, a property, a moved and a deleted file, a file that is not in the store yet, and junk.

``tests/golden/home-v1-redo.tar.xz`` was made by the program of commit 40ccb5e, whose schema is the first version too. Its mount
was killed right after its last answer: that answer and those before it are in the redo log alone.
"""

import tarfile
from pathlib import Path

import pytest

from tests.history.showing import read_tree
from tests.support.server import Home, RawClient, Server
from tgdav.config import StatePaths, load
from tgdav.crypto.passphrase import Passphrase
from tgdav.metadata.types import Kind
from tgdav.platform import Platform
from tgdav.volume.volume import Volume

GOLDEN = Path(__file__).parent.parent / "golden"
CONFIG = """version: 2
storage: {{backend: directory, directory: {{path: {store}}}}}
encryption: {{argon2_memory_kib: 1024, argon2_iterations: 1, argon2_parallelism: 1}}
"""
LARGE = b"".join(b"%d " % (line // 3000) + b"the same line again and again\n" for line in range(60_000))
STORED = {
    "/photos/2024/one.jpg": b"the first photo",
    "/photos/2024/two.jpg": bytes(70_000),
    "/photos/after.txt": b"moved",
    "/diary.txt": b"Dear diary, today",
    "/large.txt": LARGE,
    "/N%C3%A4me.txt": b"not ASCII",
}
HERE_ALONE = {
    "/staged.txt": b"not in the store yet",
    "/killed.txt": b"answered before the kill",
    "/.DS_Store": b"junk of this machine",
}
PROPFIND = b'<propfind xmlns="DAV:"><prop><colour xmlns="urn:test"/></prop></propfind>'


def unpacked(tmp_path: Path, name: str) -> Home:
    with tarfile.open(GOLDEN / name) as archive:
        # Before Python 3.11.4 there are no filters; since 3.12 a missing one is warned of.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (tmp_path / "home").chmod(0o700)
    return Home(tmp_path, config=CONFIG.format(store=tmp_path / "store"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return unpacked(tmp_path, "home-v1.tar.xz")


def contents(client: RawClient, paths: dict[str, bytes]) -> dict[str, bytes]:
    return {path: client.request("GET", path).body for path in paths}


def assert_as_it_was(client: RawClient, files: dict[str, bytes]) -> None:
    assert contents(client, files) == files
    one = client.request("HEAD", "/photos/2024/one.jpg")
    assert one.header("last-modified") == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert client.request("HEAD", "/gone.txt").status == 404
    assert client.request("PROPFIND", "/empty/", headers={"Depth": "0"}).status == 207
    properties = client.request("PROPFIND", "/diary.txt", headers={"Depth": "0"}, body=PROPFIND)
    assert b">blue<" in properties.body


def test_it_opens_with_all_that_was_answered_and_goes_on(home: Home) -> None:
    with Server(home) as server, server.client() as client:
        assert_as_it_was(client, STORED | HERE_ALONE)
        assert client.request("PUT", "/new.txt", body=b"by this program").status == 201
        home.run("sync", "--wait")
        server.terminate()
    home.run("check", "--read-data")
    other = home.beside("other", config=(home.path / "config.yaml").read_text(encoding="utf-8"))
    other.run("init", "--join")
    with Server(other) as server, server.client() as client:
        after = STORED | HERE_ALONE | {"/new.txt": b"by this program"}
        del after["/.DS_Store"]
        assert_as_it_was(client, after)
        server.terminate()


def test_its_vault_is_recovered_from_the_store_alone(home: Home) -> None:
    other = home.beside("other", config=(home.path / "config.yaml").read_text(encoding="utf-8"))
    other.run("recover")
    with Server(other) as server, server.client() as client:
        assert_as_it_was(client, STORED)
        server.terminate()
    other.run("check", "--read-data")


# ---- answered, and not committed -------------------------------------------------------------------------------------

ANSWERED = {
    b"answered/created.txt": b"created just before the kill",
    b"answered/linked.txt": b"second, just before the kill",
    b"answered/moved.txt": b"committed, not sent",
    b"stored/kept.txt": b"second, just before the kill",
    b"stored/link": b"kept.txt",
    b"stored/replaced.txt": b"new",
}


def opened(home: Home) -> Volume:
    paths = StatePaths.from_environment({"TGDAV_HOME": str(home.path)})
    config = load(home.path / "config.yaml", {}).config
    return Volume.open(paths, config, Passphrase(home.passphrase), platform=Platform.system())


def files(volume: Volume) -> dict[bytes, bytes]:
    tree = read_tree(volume.fs, volume.fs.attributes(volume.fs.root))
    return {b"/".join(path): shown.content for path, shown in tree.items() if shown.kind != Kind.DIRECTORY}


def assert_all_that_was_answered(volume: Volume) -> None:
    fs = volume.fs
    assert files(volume) == ANSWERED
    created, moved, kept = (
        fs.resolve(path.split(b"/")) for path in (b"answered/created.txt", b"answered/moved.txt", b"stored/kept.txt")
    )
    assert (created.mode, fs.get_xattr(created.inode, b"user.colour")) == (0o600, b"blue")
    assert moved.mtime == 1_700_000_000_000_000_000
    assert kept.nlink == 2
    assert fs.resolve([b"answered", b"linked.txt"]).inode == kept.inode


def test_what_was_only_in_the_redo_log_is_there_and_comes_along(tmp_path: Path) -> None:
    home = unpacked(tmp_path, "home-v1-redo.tar.xz")
    assert list((home.path / "state").glob("*.db-redo-*")), "the archive has a redo log"
    volume = opened(home)
    assert_all_that_was_answered(volume)
    volume.make_snapshot("migrated")
    fs = volume.fs
    fs.remove_tree(fs.root, b"answered", durable=True)
    volume.sync(wait=True)
    found = volume.check(read_data=100.0, drill=True)
    assert found["ok"], (found["damage"], found["drills"])
    volume.close()
    other = home.beside("other", config=(home.path / "config.yaml").read_text(encoding="utf-8"))
    other.run("init", "--join")
    joined = opened(other)
    try:
        assert files(joined) == {path: data for path, data in ANSWERED.items() if path.startswith(b"stored/")}
        shown = read_tree(joined.fs, joined.fs.resolve([b".snapshots", b"migrated"]))
        assert {b"/".join(path): each.content for path, each in shown.items() if each.content} == ANSWERED
        # That program did not log which file took the name of which.
        deleted = [b"/answered", b"/stored/gone.txt", b"/stored/replaced.txt"]
        assert [each.former for each in joined.fs.trash.items()] == deleted
    finally:
        joined.close()
    third = home.beside("third", config=(home.path / "config.yaml").read_text(encoding="utf-8"))
    third.run("recover")
    recovered = opened(third)
    assert set(files(recovered)) == {path for path in ANSWERED if path.startswith(b"stored/")}
    recovered.close()


def test_without_its_redo_log_it_lacks_what_was_answered_last(tmp_path: Path) -> None:
    home = unpacked(tmp_path, "home-v1-redo.tar.xz")
    for path in (home.path / "state").glob("*.db-redo-*"):
        path.unlink()
    volume = opened(home)
    assert files(volume) != ANSWERED
    volume.close()
