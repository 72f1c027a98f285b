"""Mounting and unmounting: messages, exit codes, and a way out of every state."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.mounts import FUSE, MountedVault
from tests.support.waiting import wait_for
from tgdav_fuse import mount_table

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other mount namespaces need root")


def test_mount_returns_when_ready_and_holds_no_stream(vault: MountedVault) -> None:
    done = vault.home.run(
        "mount", str(vault.path), timeout=30
    )  # its streams are captured: run() would hang if the background process kept them open
    assert done.stdout == f"mounted at {vault.path}\n"
    (vault.path / "file").write_bytes(b"content")
    assert json.loads(vault.home.run("--json", "status").stdout)["pending"]["operations"] > 0
    said = json.loads(vault.home.run("--json", "unmount", str(vault.path)).stdout)
    assert said["unmounted"] == str(vault.path)
    assert set(said["pending"]) == {"bytes", "operations"}
    assert not list(vault.path.iterdir())
    vault.home.run("mount", str(vault.path))  # at once: unmount waited for the process
    assert (vault.path / "file").read_bytes() == b"content"
    assert "not uploaded yet" in vault.home.run("unmount", str(vault.path)).stdout


def test_a_mount_warns_of_what_it_hides(vault: MountedVault) -> None:
    (vault.path / "hidden").touch()
    done = vault.home.run("mount", str(vault.path))
    said = f"tgdav: {vault.path} is not empty: the mount hides 1 entry in it\n"
    assert done.stderr == said
    vault.home.run("unmount", str(vault.path))
    assert (vault.path / "hidden").exists()


@pytest.mark.parametrize("command", ["mount", "fuse"])
def test_mounting_twice_is_a_usage_error(vault: MountedVault, command: str) -> None:
    vault.home.run("mount", str(vault.path))
    words = ("mount",) if command == "mount" else ()
    home = vault.home if command == "mount" else vault.home.beside("home", program=FUSE)
    again = home.run(*words, str(vault.path), check=False)
    assert again.code == 2
    assert "already mounted" in again.stderr
    vault.home.run("unmount", str(vault.path))


def test_what_cannot_be_mounted_or_unmounted_is_reported(vault: MountedVault) -> None:
    file = vault.base / "file"
    file.touch()
    for words, reason in (
        (("mount", str(vault.base / "nowhere")), "not a directory"),
        (("mount", str(file)), "not a directory"),
        (("mount", str(vault.path), "-o", "allow_otter"), "allow_otter"),
        (("mount", str(vault.path), "-o", "uid=me"), "number"),
        (("mount", str(vault.base)), "files of tgdav itself"),
        (("unmount", str(vault.path)), "not mounted"),
        (("unmount", str(vault.base / "nowhere")), "not mounted"),
    ):
        done = vault.home.run(*words, check=False)
        assert (done.code, done.stderr.count("\n")) == (2, 1), done
        assert reason in done.stderr


def test_a_failure_of_the_background_process_reaches_the_caller(vault: MountedVault) -> None:
    wrong = vault.home.beside("home", passphrase="no such")
    done = wrong.run("mount", str(vault.path), check=False)
    assert (done.code, "passphrase" in done.stderr) == (3, True)
    assert not mount_table.is_mounted(vault.path)


def test_a_passphrase_is_asked_for_before_it_goes_to_the_background(vault: MountedVault) -> None:
    asking = vault.home.beside("home", variables={"TGDAV_PASSPHRASE": None})
    asking.run("mount", str(vault.path), input=vault.home.passphrase + "\n")
    assert mount_table.is_mounted(vault.path)
    vault.home.run("unmount", str(vault.path))


def test_busy_is_refused_and_the_mount_goes_on(vault: MountedVault) -> None:
    vault.home.run("mount", str(vault.path))
    with open(vault.path / "held", "w") as held:
        done = vault.home.run("unmount", str(vault.path), check=False)
        assert (done.code, "busy" in done.stderr) == (6, True)
        held.write("still served")
    assert (vault.path / "held").read_text() == "still served"
    vault.home.run("unmount", str(vault.path))


def test_sigterm_waits_for_the_last_file(vault: MountedVault) -> None:
    vault.start()
    assert vault.process is not None
    assert vault.process.stderr is not None
    with open(vault.path / "held", "wb") as held:
        vault.process.send_signal(signal.SIGTERM)
        assert b"busy" in vault.process.stderr.readline()
        held.write(b"written after the signal")
        held.flush()
        assert (vault.path / "held").read_bytes() == b"written after the signal"
        assert vault.process.poll() is None
    assert vault.process.wait(30) == 0
    vault.process.stdout.close()
    vault.process.stderr.close()
    with vault:
        assert (vault.path / "held").read_bytes() == b"written after the signal"
        assert vault.stop() == ""


def test_a_second_sigterm_ends_a_busy_mount_at_once(vault: MountedVault) -> None:
    vault.start()
    assert vault.process is not None
    assert vault.process.stderr is not None
    held = os.open(vault.path / "held", os.O_CREAT | os.O_WRONLY)
    vault.process.send_signal(signal.SIGTERM)
    assert b"busy" in vault.process.stderr.readline()
    vault.process.send_signal(signal.SIGTERM)
    assert vault.process.wait(30) != 0
    with pytest.raises(OSError, match="not connected"):
        os.close(held)
    vault.process.communicate()
    with vault:
        assert (vault.path / "held").read_bytes() == b""


@contextmanager
def _another_namespace(*propagation: str) -> Iterator["subprocess.Popen[str]"]:
    """A shell in a mount namespace of its own, with copies of the current mounts. Runs commands line by line."""
    words = [
        "unshare",
        "--mount",
        *propagation,
        "sh",
        "-c",
        "echo ready; while read line; do eval $line; echo done; done",
    ]
    shell = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "ready\n"
    yield shell
    shell.kill()
    shell.communicate()


def _tell(shell: "subprocess.Popen[str]", line: str) -> None:
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(line + "\n")
    shell.stdin.flush()
    assert shell.stdout.readline() == "done\n"


@needs_root
def test_sigterm_ends_a_mount_that_another_namespace_holds(vault: MountedVault) -> None:
    """As a container does: the message names the process, and what was written there is on disk, synced or not."""
    vault.start()
    with _another_namespace("--propagation", "private") as shell:
        _tell(shell, f"exec 9> {vault.path}/there; echo written elsewhere >&9")
        errors = vault.stop(30)
        assert f"process {shell.pid} (sh)" in errors
        assert errors.count("\n") == 1
    with vault:
        assert (vault.path / "there").read_text() == "written elsewhere\n"


@needs_root
def test_unmount_ends_a_mount_that_is_bound_elsewhere(vault: MountedVault) -> None:
    bound = vault.base / "bound"
    bound.mkdir()
    vault.home.run("mount", str(vault.path))
    subprocess.run(["mount", "--bind", str(vault.path), str(bound)], check=True)
    try:
        (bound / "file").write_text("written elsewhere")
        done = vault.home.run("unmount", str(vault.path), timeout=60)
        assert f"also mounted at {bound}" in done.stderr
    finally:
        subprocess.run(["umount", str(bound)], check=True)
    vault.home.run("mount", str(vault.path))
    assert (vault.path / "file").read_text() == "written elsewhere"
    vault.home.run("unmount", str(vault.path))


def test_a_mount_in_the_background_writes_its_log(vault: MountedVault) -> None:
    vault.home.run("mount", str(vault.path))
    log = vault.home.path / "state" / "mount.log"
    assert (log.read_text(), log.stat().st_mode & 0o777) == ("", 0o600)
    with open(vault.path / "held", "w"):
        (process,) = [
            each for each in psutil.process_iter(["cmdline"]) if str(vault.path) in (each.info["cmdline"] or ())
        ]
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "busy" in log.read_text(), what="the mount to say that it is busy")
    wait_for(lambda: not mount_table.is_mounted(vault.path), what="the end")


def test_it_ends_cleanly_when_unmounted_by_others(vault: MountedVault) -> None:
    vault.start()
    (vault.path / "file").write_bytes(b"content")
    mount_table.unmount(vault.path)
    assert vault.process is not None
    assert vault.process.wait(30) == 0
    vault.process.communicate()
    with vault:
        assert (vault.path / "file").read_bytes() == b"content"


def test_a_stale_mount_is_cleared_by_unmount(vault: MountedVault) -> None:
    vault.start().kill()
    assert "cleared" in vault.home.run("unmount", str(vault.path)).stdout
    assert not mount_table.is_mounted(vault.path)


def test_a_stale_mount_is_cleared_by_mount(vault: MountedVault) -> None:
    vault.start().kill()
    vault.home.run("mount", str(vault.path))
    (vault.path / "file").touch()
    vault.home.run("unmount", str(vault.path))


def test_a_stale_mount_is_cleared_by_the_program(vault: MountedVault) -> None:
    vault.start().kill()
    with vault:
        (vault.path / "file").touch()


def test_a_stale_mount_is_cleared_by_serve(vault: MountedVault) -> None:
    vault.start().kill()
    with vault.home.server("--mount", str(vault.path)) as server:
        (vault.path / "file").write_bytes(b"over FUSE")
        with server.client() as client:
            assert client.request("GET", "/file").body == b"over FUSE"
        server.terminate()
    assert not mount_table.is_mounted(vault.path)


def test_a_running_server_mounts_when_asked(vault: MountedVault) -> None:
    with vault.home.server() as server:
        vault.home.run("mount", str(vault.path))
        (vault.path / "file").write_bytes(b"over FUSE")
        with server.client() as client:
            assert client.request("GET", "/file").body == b"over FUSE"
        other = vault.base / "other"
        other.mkdir()
        assert vault.home.run("mount", str(other), check=False).code == 2
        for _ in range(2):  # the same process mounts again
            vault.home.run("unmount", str(vault.path))
            assert server.code is None
            vault.home.run("mount", str(vault.path))
        with open(vault.path / "file", "rb"):
            assert vault.home.run("unmount", str(vault.path), check=False).code == 6
        server.terminate()
    assert not mount_table.is_mounted(vault.path)


def test_a_vault_in_use_is_not_mounted_by_the_program(vault: MountedVault) -> None:
    with vault.home.server():
        done = vault.home.beside("home", program=FUSE).run(str(vault.path), check=False)
    assert done.code == 6


def test_read_only(tmp_path: Path, vault: MountedVault) -> None:
    with vault:
        (vault.path / "file").write_bytes(b"content")
        vault.stop()
    vault.options = ("ro",)
    with vault:
        assert (vault.path / "file").read_bytes() == b"content"
        with pytest.raises(OSError, match="Read-only"):
            (vault.path / "new").touch()
        vault.stop()


def test_one_owner_for_all(vault: MountedVault) -> None:
    vault.options = ("uid=1234,gid=4321,allow_other",)
    with vault:
        made = vault.path / "file"
        made.touch()
        found = made.stat()
        assert (found.st_uid, found.st_gid) == (1234, 4321)
        with pytest.raises(PermissionError):
            os.chown(made, 1, -1)
        vault.stop()


def test_the_options_may_name_home_and_configuration(vault: MountedVault) -> None:
    bare = vault.home.beside("home", variables={"TGDAV_HOME": None, "TGDAV_PASSPHRASE": None})
    secret = vault.base / "secret"
    secret.write_text(vault.home.passphrase)
    places = f"home={vault.home.path},passphrase_file={secret},defaults,_netdev,x-systemd.automount"
    bare.run("mount", str(vault.path), "-o", places)
    vault.home.run("unmount", str(vault.path))


def test_systemd_is_notified_of_readiness_and_stop(vault: MountedVault) -> None:
    address = vault.base / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(30)
        vault.home.variables["NOTIFY_SOCKET"] = str(address)
        with vault:
            assert listener.recv(4096).startswith(b"READY=1")
            vault.stop()
            assert listener.recv(4096) == b"STOPPING=1"


def test_no_process_is_left_when_the_caller_dies(vault: MountedVault) -> None:
    """The background process has its own session, and ends only with its mount."""
    done = subprocess.run(
        ["setsid", "sh", "-c", f"{' '.join(vault.home.program)} mount {vault.path}; kill -HUP 0"],
        env=vault.home.environment(), check=False, capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == -signal.SIGHUP
    wait_for(lambda: mount_table.is_mounted(vault.path), what="the mount")
    assert not mount_table.is_stale(vault.path)
    vault.home.run("unmount", str(vault.path))
