"""A mount namespace in which ``/dev/fuse`` is open to all users, and processes of other users. Needs root."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.server import Home

USER, OTHER = 65534, 1234
VAULT = Path("/mnt")
"""Where the vault's directory is mounted in the namespace: other users have no access to pytest's directories."""

READS_ALL = "+dac_read_search"
"""The users here may read everything, since the interpreter may be in root's home. FUSE requires more than that."""


class PrivateMachine:
    """Processes with a private mount namespace, in which ``directory`` is mounted at ``VAULT``."""

    def __init__(self, directory: Path, home: Home) -> None:
        self._directory, self._home = directory, home
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "PrivateMachine":
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            self._set_up(self._keeper)
        except BaseException:
            self._end(self._keeper)
            raise
        return self

    def _set_up(self, keeper: "subprocess.Popen[bytes]") -> None:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"ready\n"
        device = self._directory / "device"
        os.mknod(device, 0o020666, os.makedev(10, 229))
        device.chmod(0o666)
        self.show(device, Path("/dev/fuse"))
        self.show(self._directory, VAULT)

    def __exit__(self, *_: object) -> None:
        assert self._keeper is not None
        self.run("umount", "--lazy", str(VAULT / "mnt"), check=False)
        self._end(self._keeper)

    @staticmethod
    def _end(keeper: "subprocess.Popen[bytes]") -> None:
        keeper.kill()
        keeper.communicate()

    def show(self, source: Path, target: Path) -> None:
        """Bind ``source`` to ``target``."""
        self.run("mount", "--bind", str(source), str(target))

    def run(self, *words: str, user: int = 0, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a program as ``user``. With ``check``, raises AssertionError unless it exits with 0."""
        done = subprocess.run(
            [*self._inside(user), *words], env=self._home.environment(), capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 0 or not check, (words, done.returncode, done.stdout, done.stderr)
        return done

    def process(self, words: str) -> int:
        """Return the one process of this namespace whose command line contains ``words``."""
        assert self._keeper is not None
        ours = _namespace(self._keeper.pid)
        listed = self.run("ps", "-eo", "pid=,args=").stdout.splitlines()
        (found,) = [
            number
            for number in (int(line.split()[0]) for line in listed if words in line)
            if _namespace(number) == ours
        ]
        return found

    def tgdav(self, *words: str, user: int = USER, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a tgdav command."""
        return self.run(sys.executable, "-m", "tgdav", *words, user=user, check=check)

    def _inside(self, user: int) -> Sequence[str]:
        assert self._keeper is not None
        enter = ["nsenter", "--mount", "--target", str(self._keeper.pid), f"--wdns={os.getcwd()}"]
        if user == 0:
            return enter
        return [
            *enter, "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", f"--inh-caps={READS_ALL}",
            f"--ambient-caps={READS_ALL}",
        ]  # fmt: skip


def _namespace(process: int) -> str | None:
    """Return the mount namespace of a process, None if it has ended."""
    try:
        return os.fspath(Path(f"/proc/{process}/ns/mnt").readlink())
    except FileNotFoundError:
        return None
