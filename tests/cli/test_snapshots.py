"""``tgdav snapshot`` and ``snapshots``, alone and beside a server."""

import pytest

from tests.cli.conftest import Machine
from tests.support.waiting import wait_for


def names(vault: Machine) -> list[str]:
    return [each["name"] for each in vault.run("--json", "snapshots").json()["snapshots"]]


def test_it_is_made_listed_and_deleted(vault: Machine) -> None:
    made = vault.run("--json", "snapshot", "one").json()
    assert (made["name"], made["settled"]) == ("one", True)
    vault.run("snapshot", "two words")
    found = vault.run("--json", "snapshots", "list").json()["snapshots"]
    assert [each["name"] for each in found] == ["one", "two words"]
    assert found[0] == made | {"files": 0, "bytes": 0, "new_bytes": 0}
    assert found[0]["time"].endswith("Z")
    assert found[0]["machine"]
    assert "two words" in vault.run("snapshots").stdout
    vault.run("snapshots", "delete", "one")
    assert names(vault) == ["two words"]


BAD = ["", ".", "..", "a/b", "line\nend", "x" * 256, "hourly-2026-12-01T10"]


@pytest.mark.parametrize("name", BAD)
def test_impossible_names_are_refused(vault: Machine, name: str) -> None:
    refused = vault.run("snapshot", "--", name, check=False)
    assert refused.code == 2
    assert len(refused.stderr.splitlines()) == 1


def test_a_name_is_given_once_and_only_known_ones_are_deleted(vault: Machine) -> None:
    vault.run("snapshot", "one")
    again = vault.run("snapshot", "one", check=False)
    assert (again.code, "already" in again.stderr) == (2, True)
    unknown = vault.run("snapshots", "delete", "two", check=False)
    assert (unknown.code, "no snapshot 'two'" in unknown.stderr) == (2, True)
    vault.run("snapshots", "delete", "one")
    vault.run("snapshot", "one")
    assert names(vault) == ["one"]


def test_a_machine_that_was_replaced_makes_none(vault: Machine) -> None:
    vault.run("snapshot", "one")
    vault.run("sync", "--wait")
    other = vault.beside("other", config=(vault.path / "config.yaml").read_text())
    other.run("init", "--join")
    assert names(other) == ["one"]
    vault.run("sync", check=False)
    for words in (("snapshot", "two"), ("snapshots", "delete", "one")):
        assert vault.run(*words, check=False).code == 7
    assert names(vault) == ["one"]


def test_beside_a_server_it_has_what_was_answered(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        assert client.request("PUT", "/a", body=b"x" * 1000).status == 201
        assert client.request("PUT", "/b", body=b"y" * 100).status == 201
        made = vault.run("--json", "snapshot", "one").json()
        assert made["settled"]
        assert client.request("DELETE", "/a").status == 204
        assert client.request("PUT", "/c", body=b"z" * 10).status == 201
        assert client.request("COPY", "/b", headers={"Destination": "/d"}).status == 201
        vault.run("snapshot", "two")
        refused = vault.run("snapshot", "two", check=False)
        assert refused.code == 2

        def counts() -> list[tuple[int, ...]] | None:
            found = vault.run("--json", "snapshots").json()["snapshots"]
            known = [(each["files"], each["bytes"], each["new_bytes"]) for each in found]
            return known if all(None not in each for each in known) else None

        assert wait_for(counts) == [(2, 1100, 1100), (3, 210, 10)]
        vault.run("snapshots", "delete", "one")
        assert counts() == [(3, 210, 210)]
    assert names(vault) == ["two"]


def test_diff(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        for name in ("/a", "/b", "/c"):
            client.request("PUT", name, body=name.encode() * 10)
        client.request("MKCOL", "/d")
        vault.run("snapshot", "one")
        client.request("PUT", "/a", body=b"other")
        client.request("DELETE", "/b")
        client.request("MOVE", "/c", headers={"Destination": "/d/c"})
        client.request("PUT", "/%C3%A9", body=b"1234")
        vault.run("snapshot", "two")
        client.request("PUT", "/d/e", body=b"12345")
        expected = [
            ("/a", "changed", None, 5),
            ("/b", "removed", None, 20),
            ("/d/c", "renamed", "/c", 20),
            ("/é", "added", None, 4),
        ]

        def changes(*words: str) -> list[tuple[object, ...]]:
            found = vault.run("--json", "diff", *words).json()["changes"]
            return [(each["path"], each["change"], each["from"], each["bytes"]) for each in found]

        assert changes("one", "two") == expected
        assert changes("two") == [("/d/e", "added", None, 5)]
        assert changes("one") == [*expected[:3], ("/d/e", "added", None, 5), expected[3]]
        assert changes("two", "two") == []
        assert ("/d/c", "removed") not in changes("two", "one")
        assert "renamed   /d/c  (was /c)" in vault.run("diff", "one", "two").stdout
        assert vault.run("diff", "one", "none", check=False).code == 2


def test_restore(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        client.request("MKCOL", "/d")
        for name in ("/a", "/d/b"):
            client.request("PUT", name, body=name.encode() * 10)
        vault.run("snapshot", "one")
        client.request("PUT", "/a", body=b"other")
        client.request("DELETE", "/d")
        client.request("PUT", "/new", body=b"new")
        planned = vault.run("--json", "restore", "one", "--dry-run").json()
        assert (planned["restored"], planned["removed"]) == (3, 1)
        assert [(each["path"], each["change"]) for each in planned["changes"]] == [
            ("/a", "changed"), ("/d", "removed"), ("/d/b", "removed"), ("/new", "added")
        ]  # fmt: skip
        assert "would restore /d/b" in vault.run("restore", "one", "--dry-run").stdout
        assert client.request("GET", "/a").body == b"other"
        vault.run("restore", "one", "--path", "/d", "--to", "/copy")
        assert client.request("GET", "/copy/b").body == b"/d/b" * 10
        assert client.request("GET", "/d/b").status == 404
        vault.run("restore", "one", "--path", "/d")
        assert client.request("GET", "/d/b").body == b"/d/b" * 10
        assert client.request("GET", "/new").body == b"new"
        assert vault.run("--json", "restore", "one").json() == {"restored": 1, "removed": 3}
        assert client.request("GET", "/a").body == b"/a" * 10
        assert client.request("GET", "/new").status == 404
        assert vault.run("--json", "diff", "one").json()["changes"] == []
        for words in (
            ["none"], ["one", "--path", "/none"], ["one", "--path", "d"], ["one", "--path", "/d/.."], ["one", "--to", "/d"],
            ["one", "--path", "/a", "--to", "/a/b"],
        ):  # fmt: skip
            refused = vault.run("restore", *words, check=False)
            assert (refused.code, len(refused.stderr.splitlines())) == (2, 1), words


def test_a_server_makes_those_of_the_schedule(home: Machine) -> None:
    (home.path / "config.yaml").write_text(
        (home.path / "config.yaml").read_text() + "snapshots: {schedule: {hourly: 2, monthly: 1}}\n"
    )
    home.run("init")
    with home.server():
        kinds = wait_for(lambda: sorted(name.partition("-")[0] for name in names(home)))
        assert kinds in (["hourly", "monthly"], ["hourly"])
        wait_for(lambda: len(names(home)) >= 2)
    assert home.run("restore", names(home)[0]).code == 0


def test_a_killed_server_leaves_what_was_answered(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        client.request("PUT", "/a", body=b"one")
        vault.run("snapshot", "one")
        client.request("PUT", "/a", body=b"another")
        vault.run("restore", "one")
        running.kill()
    assert names(vault) == ["one"]
    assert vault.run("--json", "diff", "one").json()["changes"] == []
    with vault.server() as running, running.client() as client:
        assert client.request("GET", "/a").body == b"one"
    assert vault.run("check").code == 0


def test_a_deleted_file_comes_back_with_its_last_content_as_a_version(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        assert client.request("PUT", "/a", body=b"one").status == 201
        vault.run("snapshot", "s")
        assert client.request("PUT", "/a", body=b"second").status == 204
        assert client.request("DELETE", "/a").status == 204
        vault.run("restore", "s", "--path", "/a")
        assert client.request("GET", "/a").body == b"one"
        assert vault.run("check").code == 0
        found = vault.run("--json", "versions", "/a").json()["versions"]
        assert [each["bytes"] for each in found] == [3, 6, 3]
        vault.run("sync", "--wait")
        assert vault.run("check", "--drill").code == 0
