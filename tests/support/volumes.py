"""Real volumes in a folder of their own, quick to make: cheap Argon2, and a vault that is copied from a template."""

import atexit
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from tgdav.config import Config, StatePaths
from tgdav.crypto.passphrase import Passphrase
from tgdav.platform import Platform
from tgdav.volume.initialize import create_vault
from tgdav.volume.volume import Volume

PASSPHRASE = "a passphrase for tests"


def configuration(base: Path, **sections: dict[str, Any]) -> Config:
    """Return a configuration whose store is ``base/store`` and whose Argon2 is cheap."""
    values: dict[str, Any] = {
        "storage": {"backend": "directory", "directory": {"path": str(base / "store")}},
        "encryption": {"argon2_memory_kib": 1024, "argon2_iterations": 1, "argon2_parallelism": 1},
    }
    return Config.model_validate(values | sections)


def places(base: Path, home: str = "home") -> StatePaths:
    """Return the places of ``base/home``."""
    return StatePaths.from_environment({"TGDAV_HOME": str(base / home)})


@lru_cache(maxsize=1)
def _template() -> Path:
    base = Path(tempfile.mkdtemp(prefix="tgdav-template-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    create_vault(places(base), configuration(base), PASSPHRASE, platform=Platform.system())
    return base


def new_vault(base: Path) -> None:
    """Put a fresh vault into the empty folder ``base``. All are copies of one, so they share ids and keys."""
    copy_folder(_template(), base)


def copy_folder(source: Path, target: Path) -> None:
    """Copy with hard links and modes, by another process: this one must not open a database that it uses."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def open_volume(
    base: Path, *, platform: Platform | None = None, home: str = "home", **sections: dict[str, Any]
) -> Volume:
    """Open the volume in ``base``; background work is not started."""
    config = configuration(base, **sections)
    return Volume.open(places(base, home), config, Passphrase(PASSPHRASE), platform=platform or Platform.system())


class VolumeSubject:
    """A real file system that can crash: it then continues with a copy of its files at that moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        new_vault(self._base)
        self._open()

    @property
    def _base(self) -> Path:
        return self._folder / f"life-{self._lives}"

    def _open(self) -> None:
        self.volume = open_volume(self._base)
        self.fs = self.volume.fs

    def crash(self) -> None:
        """Continue with the files that kill -9 at this moment would leave."""
        before, old = self._base, self.volume
        self._lives += 1
        copy_folder(before, self._base)
        old.close()
        shutil.rmtree(before)
        self._open()

    def restart(self) -> None:
        """Close, and open again."""
        self.volume.close()
        self._open()

    def close(self) -> None:
        """Close for good."""
        self.volume.close()
