"""A mounted directory that forgets unsynced data: power cuts, failing calls and a full disk, for any program.

In a test::

    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk", seed=7) as disk:
        ...  # a program works below disk.path
        report = disk.power_cut()
        # disk.backing now holds what a power cut might have left; disk.start() mounts it again

By hand: ``python -m tests.support.forgetful_disk BACKING MOUNTPOINT --control SOCKET``; each line written to the
socket is a JSON object such as ``{"do": "fail", "error": 28, "after": 3, "operations": ["write"]}``. What is promised
and what is lost is written in ``tests.support.volatile_model``.
"""

import errno as errno_names
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.volatile_model import CutReport
from tests.support.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]


def usable() -> bool:
    """Return whether FUSE file systems can be mounted on this machine."""
    return shutil.which("fusermount3") is not None and os.access("/dev/fuse", os.R_OK | os.W_OK)


class ForgetfulDisk:
    """A mount of ``backing`` at ``mountpoint`` (both are made), run as a process of its own."""

    def __init__(self, backing: Path, mountpoint: Path, seed: int = 0) -> None:
        self.backing, self.path, self.seed = backing, mountpoint, seed
        self._mounts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets = tempfile.TemporaryDirectory(prefix="fd-")

    def __enter__(self) -> "ForgetfulDisk":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Mount, first or again after a power cut; each mount has a seed of its own, derived from ``seed``."""
        self.backing.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_graveyard()
        self._mounts += 1
        command = [sys.executable, "-m", "tests.support.forgetful_disk", str(self.backing), str(self.path)]
        command += ["--control", self._socket, "--seed", f"{self.seed}-{self._mounts}", "--until-stdin-ends"]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE)
        wait_for(self._answers, 20, what="the forgetful disk's mount")

    @property
    def _socket(self) -> str:
        return f"{self._sockets.name}/{self._mounts}"

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("the forgetful disk did not start")
        if not (os.path.exists(self._socket) and os.path.ismount(self.path)):
            return False
        try:
            self._ask("counts")
        except ConnectionRefusedError:  # the socket has its name before it listens
            return False
        return True

    def _ask(self, do: str, **values: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as channel, channel.makefile("rwb") as lines:
            channel.settimeout(60)
            channel.connect(self._socket)
            lines.write(json.dumps({"do": do, **values}).encode() + b"\n")
            lines.flush()
            answer: dict[str, Any] = json.loads(lines.readline())
        if "refused" in answer:
            raise ValueError(answer["refused"])
        return answer

    def power_cut(self) -> CutReport:
        """Cut the power: users of the mount get I/O errors, ``backing`` has the surviving data, and nothing is mounted."""
        report = CutReport(**self._ask("power_cut"))
        self._end()
        return report

    def cut_when(self, *, after: int, ops: Iterable[str] | str, suffix: str = "", under: str = "") -> None:
        """Cut the power just before the ``after``-th matching call from now; fetch the report with ``power_cut``."""
        self._rule(None, after, 1, ops, suffix, under)

    def is_cut(self) -> bool:
        """Return whether a rule of ``cut_when`` has cut the power."""
        return bool(self._ask("counts")["cut"])

    def fail(
        self, errno: int | str, *, after: int = 1, times: int | None = 1, ops: Iterable[str] | str,
        suffix: str = "", under: str = "",
    ) -> None:  # fmt: skip
        """Fail ``times`` matching calls (None: until healed) from the ``after``-th on, counted from now.

        ``ops``: names of ``disk_faults.OPERATIONS``; ``suffix``: the path ends so; ``under``: a folder's name in it.
        """
        number = getattr(errno_names, errno) if isinstance(errno, str) else errno
        self._rule(number, after, times, ops, suffix, under)

    def _rule(
        self, error: int | None, after: int, times: int | None, ops: Iterable[str] | str, suffix: str, under: str
    ) -> None:
        operations = [ops] if isinstance(ops, str) else list(ops)
        self._ask("fail", error=error, after=after, times=times, operations=operations, suffix=suffix, under=under)

    def limit(self, free: int) -> None:
        """Leave space for ``free`` more bytes; deleting and truncating files frees space. statvfs reports it."""
        self._ask("limit", free=free)

    def hang(self) -> None:
        """Stop answering: calls into the mount wait in the kernel until ``answer`` is called."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        """Answer again, beginning with the calls that wait."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def heal(self) -> None:
        """Drop all faults and the limit."""
        self._ask("heal")

    def counts(self) -> dict[str, int]:
        """Return calls so far by operation; ``failed``: injected errors; ``full``: writes refused by the limit."""
        found: dict[str, int] = self._ask("counts")["counts"]
        return found

    def _end(self) -> None:
        """Wait until the process has unmounted and is gone; make sure of both."""
        if self._process is None:
            return
        self.answer()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False, capture_output=True)

    def close(self) -> None:
        """Unmount cleanly (all data is kept), in any state."""
        self._end()
        self._remove_graveyard()
        self._sockets.cleanup()

    def _remove_graveyard(self) -> None:
        shutil.rmtree(self.backing.with_name(self.backing.name + ".graveyard"), ignore_errors=True)


if __name__ == "__main__":
    from tests.support.forgetful_process import main

    main()
