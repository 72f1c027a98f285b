"""The trash under a mount: what is put back or purged shows at once, and temporary files of programs leave no trace."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.test_history import call
from tests.support.mounts import MountedVault
from tgdav.errors import TgdavError


def entries(vault: MountedVault) -> list[dict[str, Any]]:
    found = call(vault, "trash-list")["entries"]
    assert isinstance(found, list)
    return found


def test_what_is_put_back_shows_at_once(mounted: MountedVault, directory: Path) -> None:
    (directory / "d").mkdir()
    (directory / "d" / "f").write_bytes(b"twelve bytes")
    call(mounted, "sync", wait=True)
    subprocess.run(["rm", "-r", str(directory / "d")], check=True)
    # The kernel remembers that the name is free.
    assert not (directory / "d").exists()
    path = f"/{directory.name}/d/f"
    assert call(mounted, "trash-restore", wanted=os.fsencode(path)) == {"path": path}
    assert (directory / "d" / "f").read_bytes() == b"twelve bytes"
    assert os.listdir(directory / "d") == ["f"]
    assert [each["path"] for each in entries(mounted)][:1] == [f"/{directory.name}/d (restored)"]


def test_an_open_file_is_read_after_the_trash_was_emptied(mounted: MountedVault, directory: Path) -> None:
    (directory / "f").write_bytes(b"x" * 300_000)
    call(mounted, "sync", wait=True)
    with open(directory / "f", "r+b") as file:
        (directory / "f").unlink()
        call(mounted, "trash-empty", older_than=None)
        assert file.read() == b"x" * 300_000
        file.write(b"more")
        file.flush()
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_size == 300_004
    with pytest.raises(TgdavError):
        call(mounted, "trash-restore", wanted=os.fsencode(f"/{directory.name}/f"))


def test_temporary_files_leave_no_trace(mounted: MountedVault, directory: Path) -> None:
    call(mounted, "sync", wait=True)
    before = len(entries(mounted))
    script = 'd=$(mktemp -d -p "$0"); for i in 1 2 3; do echo $i > "$d/$i"; done; cat "$d"/* > "$d/all"; rm -r "$d"'
    subprocess.run(["sh", "-c", script, str(directory)], check=True)
    assert os.listdir(directory) == []
    assert len(entries(mounted)) == before
    assert call(mounted, "sync", wait=True)["pending"] == {"bytes": 0, "operations": 0}
