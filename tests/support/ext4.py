"""A real ext4 in a file, to compare with."""

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("mkfs.ext4", "losetup", "mount", "umount")


class Ext4:
    """An ext4 below ``base``, mounted at ``path``. Needs root and loop devices."""

    def __init__(self, base: Path) -> None:
        self._image, self.path = base / "ext4.img", base / "ext4"
        self.path.mkdir(parents=True)

    def __enter__(self) -> "Ext4":
        with open(self._image, "wb") as image:
            image.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-I", "256", str(self._image)], check=True)
        subprocess.run(["mount", "-o", "loop,dev,suid", str(self._image), str(self.path)], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.path)], check=True)


def impossible() -> str:
    """Return why there can be no ext4 here; empty if there can."""
    if os.geteuid() != 0:
        return "mounting an image needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{missing[0]} is missing"
    free = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    return "" if free.returncode == 0 else f"there is no loop device: {free.stderr.strip()}"
