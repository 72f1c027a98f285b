"""The sandbox of the systemd units: the programs need no system call or capability that the units forbid."""

import configparser
import os
import random
import shutil
import signal
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

from tests.fuse.test_units import UNITS, settings
from tests.support.mounts import MountedVault
from tests.support.strace_kill import usable

pytestmark = [
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing"),
    pytest.mark.skipif(not usable(), reason="strace cannot be used here"),
]

SYSTEM = UNITS / "system"


@lru_cache(maxsize=1)
def _sets() -> dict[str, list[str]]:
    """Return systemd's named sets of system calls. systemd lists each name, then its members indented."""
    words = ["systemd-analyze", "--no-pager", "syscall-filter"]
    found: dict[str, list[str]] = {}
    for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith("@"):
            members = found.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return found


def _expanded(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    return {call for member in _sets()[name] for call in _expanded(member)}


def _allowed(unit: configparser.SectionProxy) -> set[str]:
    return {call for name in unit["SystemCallFilter"].split() for call in _expanded(name)}


def _counted(log: Path) -> set[str]:
    """Return the calls in a summary of ``strace -c``: the last word of each line of its table."""
    lines = [line.split() for line in log.read_text().splitlines() if line[:6].strip().replace(".", "").isdigit()]
    return {words[-1] for words in lines} - {"total"}


def _work(directory: Path) -> None:
    (directory / "made").mkdir()
    (directory / "made" / "file").write_bytes(random.randbytes(3_000_000))
    with open(directory / "made" / "file", "r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
        file.flush()
        os.fsync(file.fileno())
    os.rename(directory / "made" / "file", directory / "renamed")
    os.setxattr(directory / "renamed", "user.note", b"value")
    assert len((directory / "renamed").read_bytes()) == 3_000_000


def test_the_mount_needs_no_system_call_that_its_unit_forbids(vault: MountedVault) -> None:
    log = vault.base / "calls"
    vault.options = ("allow_other,default_permissions",)
    vault.start(prefix=["strace", "-f", "-c", "-o", str(log)])
    _work(vault.path)
    subprocess.run(["umount", str(vault.path)], check=True)
    assert vault.process is not None
    vault.process.communicate(timeout=60)
    found = _counted(log)
    assert {"mount", "fsync", "futex"} <= found
    assert "mount" not in _expanded("@system-service")
    assert found - _allowed(settings(SYSTEM / "tgdav-fuse@.service")["Service"]) == set()


@pytest.mark.mount_free
def test_the_server_needs_no_system_call_that_its_unit_forbids(vault: MountedVault) -> None:
    log = vault.base / "calls"
    server = vault.home.server(prefix=["strace", "-f", "-c", "-o", str(log)])
    with server, server.client() as client:
        client.request("PUT", "/file", body=random.randbytes(2_000_000))
        assert len(client.request("GET", "/file").body) == 2_000_000
        client.request("PROPFIND", "/", headers={"Depth": "1"})
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    found = _counted(log)
    assert {"listen", "accept4", "futex"} <= found
    assert found - _allowed(settings(SYSTEM / "tgdav.service")["Service"]) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_the_mount_works_with_the_rights_that_its_unit_leaves(vault: MountedVault) -> None:
    """The unit limits root to one capability and forbids new privileges."""
    unit = settings(SYSTEM / "tgdav-fuse@.service")["Service"]
    left = unit["CapabilityBoundingSet"].lower().replace("cap_", "+")
    bounds = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{left}", f"--inh-caps=-all,{left}"]
    vault.options = ("allow_other,default_permissions",)
    vault.start(prefix=bounds)
    status = Path(f"/proc/{vault.process.pid}/status").read_text()  # type: ignore[union-attr]
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    assert int(effective, 16).bit_count() == 1
    _work(vault.path)
    assert vault.stop() == ""
