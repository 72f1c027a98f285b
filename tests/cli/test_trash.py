"""``tgdav trash``, alone and beside a server."""

import pytest

from tests.cli.conftest import Machine


def entries(vault: Machine) -> list[dict[str, object]]:
    found: list[dict[str, object]] = vault.run("--json", "trash", "list").json()["entries"]
    return found


def test_it_is_listed_restored_and_emptied_beside_a_server(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        for path, size in (("/a", 1000), ("/b", 10)):
            assert client.request("PUT", path, body=b"x" * size).status == 201
        vault.run("sync", "--wait")
        for path in ("/a", "/b"):
            assert client.request("DELETE", path).status == 204
        second, first = entries(vault)
        assert (first["path"], first["bytes"], second["path"], second["bytes"]) == ("/a", 1000, "/b", 10)
        assert str(first["deleted"]).endswith("Z")
        assert "/a" in vault.run("trash").stdout
        assert vault.run("--json", "trash", "restore", "/a").json() == {"path": "/a"}
        assert client.request("GET", "/a").body == b"x" * 1000
        assert client.request("PUT", "/b", body=b"new").status == 201
        assert vault.run("--json", "trash", "restore", str(second["id"])).json() == {"path": "/b (restored)"}
        assert client.request("GET", "/b%20(restored)").body == b"x" * 10
        assert client.request("DELETE", "/a").status == 204
        assert vault.run("--json", "trash", "empty", "--older-than", "1").json() == {"purged": 0}
        assert vault.run("--json", "trash", "empty").json() == {"purged": 1}
        assert entries(vault) == []
        vault.run("sync", "--wait")
    assert vault.run("trash", "list").stdout.strip() == "the trash is empty"
    assert vault.run("check").code == 0


def test_another_machine_has_the_same_trash(vault: Machine) -> None:
    with vault.server() as running, running.client() as client:
        assert client.request("MKCOL", "/d").status == 201
        for path in ("/d/a", "/b"):
            assert client.request("PUT", path, body=b"abc").status == 201
        vault.run("sync", "--wait")
        for path in ("/d", "/b"):
            assert client.request("DELETE", path).status == 204
    before = entries(vault)
    assert [(each["path"], each["bytes"]) for each in before] == [("/b", 3), ("/d", 3)]
    vault.run("sync", "--wait")
    other = vault.beside("other", config=(vault.path / "config.yaml").read_text())
    other.run("init", "--join")
    assert entries(other) == before
    assert other.run("--json", "trash", "empty").json() == {"purged": 2}
    vault.run("sync", check=False)
    assert vault.run("trash", "empty", check=False).code == 7
    assert vault.run("trash", "restore", "/b", check=False).code == 7


@pytest.mark.parametrize(
    "words",
    [("restore", "/nothing"), ("restore", ""), ("empty", "--older-than", "-1"), ("empty", "--older-than", "x"), ("x",)],
)
def test_what_makes_no_sense_is_exit_2(vault: Machine, words: tuple[str, ...]) -> None:
    refused = vault.run("trash", *words, check=False)
    assert refused.code == 2
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("days", ["x", "-1", "nan", "1e3", "1000000", ""])
def test_an_impossible_age_is_refused_in_words(vault: Machine, days: str) -> None:
    found = vault.run("trash", "empty", "--older-than", days, check=False)
    assert (found.code, found.stderr.count("\n")) == (2, 1)
    assert f"--older-than: give a number of days from 0 to 999999, such as 7 or 0.5, not {days!r};" in found.stderr
