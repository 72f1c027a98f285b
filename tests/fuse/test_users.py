"""Mounts of users other than root, and what root and others see of them; ``mount -t tgdav``."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.private_machine import OTHER, USER, VAULT, PrivateMachine
from tests.support.mounts import CONFIG, MountedVault
from tests.support.server import Home
from tests.support.volumes import PASSPHRASE
from tests.support.waiting import wait_for

MOUNT = str(VAULT / "mnt")
HELPER = Path(__file__).parents[2] / "deploy" / "mount.tgdav"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(each) is None for each in ("unshare", "nsenter", "setpriv", "fusermount3")),
    reason="playing other users needs root, and util-linux",
)


@pytest.fixture
def machine(vault: MountedVault) -> Iterator[PrivateMachine]:
    """A vault that belongs to a user."""
    (vault.home.path / "config.yaml").write_text(CONFIG.format(store=VAULT / "store"))
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(vault.base)], check=True)
    home = Home(vault.base, passphrase=PASSPHRASE, variables={"TGDAV_HOME": str(VAULT / "home")})
    with PrivateMachine(vault.base, home) as machine:
        yield machine


def _errors(done: "subprocess.CompletedProcess[str]") -> str:
    return next(line for line in done.stderr.splitlines() if line.startswith("tgdav: ") and "argon2" not in line)


def test_a_user_mounts_privately(machine: PrivateMachine) -> None:
    machine.tgdav("mount", MOUNT)
    machine.run("sh", "-c", f"echo content > {MOUNT}/file", user=USER)
    assert machine.run("stat", "-c", "%u:%g", f"{MOUNT}/file", user=USER).stdout == f"{USER}:{USER}\n"
    for other in (0, OTHER):
        assert "denied" in machine.run("cat", f"{MOUNT}/file", user=other, check=False).stderr
    refused = machine.tgdav("unmount", MOUNT, user=OTHER, check=False)
    assert (refused.returncode, "the user who mounted it can" in refused.stderr) == (2, True)
    machine.tgdav("unmount", MOUNT)


def test_allow_other_needs_the_machine_to_allow_it(machine: PrivateMachine, vault: MountedVault) -> None:
    configuration = vault.base / "fuse.conf"
    configuration.write_text("# nothing\n")
    machine.show(configuration, Path("/etc/fuse.conf"))
    refused = machine.tgdav("mount", MOUNT, "-o", "allow_other", check=False)
    assert (refused.returncode, "user_allow_other" in _errors(refused)) == (1, True)
    configuration.write_text("user_allow_other\n")
    machine.tgdav("mount", MOUNT, "-o", "allow_other")
    assert machine.run("stat", "-c", "%u:%g", MOUNT).stdout == f"{USER}:{USER}\n"
    machine.run("sh", "-c", f"echo content > {MOUNT}/file", user=USER)
    assert machine.run("cat", f"{MOUNT}/file", user=OTHER).stdout == "content\n"
    assert machine.run("sh", "-c", f"echo more >> {MOUNT}/file", user=OTHER, check=False).returncode != 0
    machine.tgdav("unmount", MOUNT)


def test_what_a_user_may_not_do_is_reported(machine: PrivateMachine, vault: MountedVault) -> None:
    (vault.base / "roots").mkdir()
    refused = machine.tgdav("mount", str(VAULT / "roots"), check=False)
    assert (refused.returncode, "no write access" in _errors(refused)) == (1, True)
    (vault.base / "device").chmod(0o600)
    refused = machine.tgdav("mount", MOUNT, check=False)
    assert (refused.returncode, "group" in _errors(refused)) == (1, True)


def test_a_users_stale_mount_is_cleared(machine: PrivateMachine) -> None:
    machine.tgdav("mount", MOUNT)
    _kill_mount(machine)
    assert "not connected" in machine.run("ls", MOUNT, user=USER, check=False).stderr
    machine.tgdav("mount", MOUNT)
    assert machine.run("ls", MOUNT, user=USER).stdout == ""
    _kill_mount(machine)
    assert "cleared" in machine.tgdav("unmount", MOUNT).stdout


def _kill_mount(machine: PrivateMachine) -> None:
    os.kill(machine.process(f"-m tgdav_fuse {MOUNT} "), signal.SIGKILL)
    wait_for(lambda: machine.run("stat", "-f", MOUNT, user=USER, check=False).returncode != 0, what="the mount's end")


@pytest.fixture
def with_helper(machine: PrivateMachine, vault: MountedVault) -> PrivateMachine:
    """The helper where mount(8) expects it, and the program."""
    for name in ("upper", "work"):
        (vault.base / name).mkdir()
    shutil.copy(HELPER, vault.base / "upper" / "mount.tgdav")
    program = vault.base / "upper" / "tgdav"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tgdav "$@"\n')
    program.chmod(0o755)
    layers = f"lowerdir=/usr/sbin,upperdir={vault.base / 'upper'},workdir={vault.base / 'work'}"
    done = machine.run("mount", "-t", "overlay", "overlay", "-o", layers, "/usr/sbin", check=False)
    if done.returncode:
        pytest.skip(f"no overlay can be mounted here: {done.stderr}")
    return machine


def test_mount_by_type(with_helper: PrivateMachine, vault: MountedVault) -> None:
    """``mount -t tgdav`` and a line in fstab mount. A failure has mount(8)'s exit code, and the reason."""
    secret = vault.base / "secret"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    options = f"home={VAULT / 'home'},passphrase_file={VAULT / 'secret'},allow_other,noauto,_netdev"
    subprocess.run(["chown", "-R", "0:0", str(vault.base / "home"), str(vault.base / "store")], check=True)
    with_helper.run("mount", "-t", "tgdav", "tgdav", MOUNT, "-o", options)
    with_helper.run("sh", "-c", f"echo content > {MOUNT}/file")
    with_helper.run("umount", MOUNT)
    table = vault.base / "fstab"
    table.write_text(f"tgdav {MOUNT} tgdav {options},ro 0 0\n")
    wait_for(
        lambda: with_helper.run("mount", "-T", str(VAULT / "fstab"), MOUNT, check=False).returncode == 0, what="it"
    )
    assert with_helper.run("cat", f"{MOUNT}/file").stdout == "content\n"
    assert "Read-only" in with_helper.run("touch", f"{MOUNT}/new", check=False).stderr
    with_helper.run("umount", MOUNT)
    secret.write_text("no such")
    refused = with_helper.run("mount", "-t", "tgdav", "tgdav", MOUNT, "-o", options, check=False)
    assert refused.returncode == 32
    assert "passphrase" in refused.stderr
