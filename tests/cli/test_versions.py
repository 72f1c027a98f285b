"""``tgdav versions`` and ``tgdav restore PATH --version``, alone and beside a server.

A snapshot ends a burst of saves, so that tests need not wait.
"""

import os

import pytest

from tests.cli.conftest import Machine


def listed(vault: Machine, path: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = vault.run("--json", "versions", path).json()["versions"]
    return found


def test_they_are_listed_and_restored_beside_a_server(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        for number, body in enumerate((b"one", b"second", b"the third")):
            assert client.request("PUT", "/a", body=body).status in (201, 204)
            vault.run("snapshot", f"s{number}")
        found = listed(vault, "/a")
        assert [(each["number"], each["bytes"], each["current"]) for each in found] == [
            (3, 9, True),
            (2, 6, False),
            (1, 3, False),
        ]
        assert all(str(each["time"]).endswith("Z") and each["machine"] for each in found)
        assert "(present)" in vault.run("versions", "/a").stdout
        done = vault.run("--json", "restore", "/a", "--version", "1").json()
        assert (done["path"], done["number"], done["bytes"]) == ("/a", 1, 3)
        assert client.request("GET", "/a").body == b"one"
        assert [each["bytes"] for each in listed(vault, "/a")] == [3, 9, 6, 3]
        # At once, in a burst.
        vault.run("restore", "/a", "--version", "2")
        assert [each["bytes"] for each in listed(vault, "/a")] == [6, 3, 9, 6, 3]
        assert vault.run("restore", "/a", "--version", "3", "--to", "/b").stdout == "restored version 3 of /a to /b\n"
        assert client.request("GET", "/b").body == b"the third"
        assert [each["number"] for each in listed(vault, "/b")] == [1]
        assert client.request("DELETE", "/a").status == 204
        error = vault.run("versions", "/a", check=False)
        assert (error.code, "tgdav trash restore" in error.stderr) == (2, True)
        vault.run("trash", "restore", "/a")
        assert len(listed(vault, "/a")) == 5
    assert len(listed(vault, "/a")) == 5
    vault.run("sync", "--wait")
    assert vault.run("check", "--drill").code == 0


def test_names_that_are_not_utf_8(vault: Machine) -> None:
    name = os.fsdecode(b"/\xff name")

    def works() -> None:
        vault.run("put", __file__, name)
        assert len(listed(vault, name)) == 1
        done = vault.run("restore", name, "--version", "1", "--to", name + "2")
        assert done.stdout == "restored version 1 of /\\xff name to /\\xff name2\n"
        vault.run("restore", "before", "--path", name)
        vault.run("restore", "before", "--path", name, "--to", name + "3")
        vault.run("restore", "before")
        assert vault.run("--json", "trash", "restore", name + "2").json() == {"path": "/\\xff name2"}
        refused = vault.run("snapshot", name.strip("/"), check=False)
        assert (refused.code, "Error" in refused.stderr) == (2, False)
        vault.run("restore", "before")

    vault.run("put", __file__, name)
    vault.run("snapshot", "before")
    works()
    with vault.server():
        works()


@pytest.mark.parametrize(
    "words",
    [
        ("versions", "/nothing"),
        ("versions", "/"),
        ("versions", "a"),
        ("restore", "/a", "--version", "2"),
        ("restore", "/a", "--version", "0"),
        ("restore", "/a", "--version", "1", "--dry-run"),
        ("restore", "/a", "--version", "1", "--path", "/a"),
        ("restore", "/a", "--version", "1", "--to", "/a"),
        ("restore", "/a", "--version", "1", "--to", "/"),
        ("restore", "/a", "--version", "1", "--to", "/no/where"),
        ("restore", "/a", "--version", "1", "--to", "/.DS_Store"),
    ],
)
def test_what_is_wrong_is_said(vault: Machine, words: tuple[str, ...]) -> None:
    vault.run("put", __file__, "/a")
    found = vault.run(*words, check=False)
    assert found.code == 2, found.stderr
    assert "Traceback" not in found.stderr
