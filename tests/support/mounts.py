"""A mounted vault: the real ``tgdav-fuse`` as a process of its own, which can be stopped, killed and started again."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.server import Home
from tests.support.volumes import PASSPHRASE, new_vault
from tests.support.waiting import wait_for
from tgdav_fuse import mount_table

FUSE = (sys.executable, "-m", "tgdav_fuse")
CONFIG = """version: 2
storage: {{backend: directory, directory: {{path: {store}}}}}
encryption: {{argon2_memory_kib: 1024, argon2_iterations: 1, argon2_parallelism: 1}}
"""


def unusable() -> str:
    """Return why mounts cannot be made here, empty when they can."""
    if sys.platform != "linux":
        return "the tests mount on Linux only"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not usable"
    if os.geteuid() and shutil.which("fusermount3") is None:
        return "fusermount3 is missing"
    return ""


class MountedVault:
    """A vault below ``base``, mounted at ``base/mnt`` between ``start`` and ``stop``."""

    def __init__(self, base: Path, *options: str, home: Home | None = None) -> None:
        self.base, self.options = base, options
        self.path = base / "mnt"
        self.path.mkdir(parents=True, exist_ok=True)
        if home is None:
            new_vault(base)
            home = Home(base, config=CONFIG.format(store=base / "store"), passphrase=PASSPHRASE)
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, prefix: Sequence[str] = (), program: Sequence[str] = FUSE) -> "MountedVault":
        """Mount, and wait until it can be used; ``program`` replaces the command line of ``tgdav-fuse``."""
        words = [word for option in self.options for word in ("-o", option)]
        self.process = subprocess.Popen(
            [*prefix, *program, str(self.path), *words], env=self.home.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(b"mounted at"), self._errors()
        return self

    def _errors(self) -> str:
        assert self.process is not None
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def stop(self, timeout: float = 60.0) -> str:
        """Stop it cleanly; return its standard error."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=timeout)
        code, self.process = self.process.returncode, None
        assert code == 0, errors
        return errors.decode()

    def kill(self) -> None:
        """End it with SIGKILL, and leave the stale mount behind."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        self.process = None
        wait_for(lambda: mount_table.is_stale(self.path), what="the mount to be stale")

    def clear(self) -> None:
        """End the process and the mount, in any state."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
        if mount_table.is_mounted(self.path):
            mount_table.unmount(self.path, lazily=True)

    def __enter__(self) -> "MountedVault":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.clear()
