"""What `recover`, `init --join`, `check` and `status` say of work that does not count, and of a log with a hole."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Machine, config_for
from tests.support.vaults import Vault, key_of, put, rows
from tests.support.volumes import PASSPHRASE
from tgdav.volume.volume import Volume

NOTICE = re.compile(
    r"^notice:? +(\d+) changes of \S+ \([0-9a-f]{8}\), last at 20\S+, made after it was replaced, are not in the tree$",
    re.M,
)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


@pytest.fixture
def joining(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "joining", config=config_for(tmp_path), passphrase=PASSPHRASE)


def send(volume: Volume, *names: str) -> None:
    for name in names:
        put(volume, name, name.encode())
        volume.content.flush(60)
        volume.replicator.pusher.push()


@pytest.mark.parametrize("command", [("recover",), ("init", "--join")])
def test_work_of_a_replaced_machine_is_a_notice(vault: Vault, joining: Machine, command: tuple[str, ...]) -> None:
    with vault.opened() as first:
        send(first, "one")
        vault.join("second")
        send(first, "late")
    told = joining.run(*command)
    assert NOTICE.findall(told.stdout) == ["3"]
    for again in ("check", "status"):
        done = joining.run(again)
        assert NOTICE.findall(done.stdout) == ["3"]
        (left,) = joining.run("--json", again).json()["left_out"]
        assert left["changes"] == 3
        assert set(left) == {"id", "name", "changes", "last"}
    assert "no damage" in joining.run("check").stdout


def test_a_hole_in_the_log_holds_joining_up_until_a_check(vault: Vault, joining: Machine) -> None:
    with vault.opened() as first:
        send(first, "one", "two", "three")
        names = rows(first, "SELECT name FROM segments WHERE incarnation = ? ORDER BY number", (key_of(first),))
    vault.blob(names[-2][0]).unlink()
    told = joining.run("--json", "recover", check=False)
    assert told.code == 4
    assert "is missing" in told.json()["held"]
    assert len(told.json()["damage"]) == 1
    assert "this machine" not in joining.run("sync", check=False).stdout
    assert joining.run("sync", check=False).code == 4
    assert joining.run("check", check=False).code == 4
    joining.run("sync", "--wait")
    assert joining.run("check", check=False).code == 4, "what is missing stays missing"
