"""A home that an earlier program left behind opens: the local state, not only the formats in the store, must stay readable.

``tests/golden/home-v1.tar.xz`` has a home and its directory store, made by the program of commit 67483bd. Its server was
killed after the last answer, so the database's log has changes that the database file has not. It holds text files, one of
them of several chunks, times, a property, a moved and a deleted file, a file that is not in the store yet, and junk.
"""

import tarfile
from pathlib import Path

import pytest

from tests.support.server import Home, RawClient, Server

ARCHIVE = Path(__file__).parent.parent / "golden" / "home-v1.tar.xz"
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


@pytest.fixture
def home(tmp_path: Path) -> Home:
    with tarfile.open(ARCHIVE) as archive:
        # Before Python 3.11.4 there are no filters; since 3.12 a missing one is warned of.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (tmp_path / "home").chmod(0o700)
    return Home(tmp_path, config=CONFIG.format(store=tmp_path / "store"))


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
