"""The Python API: a drive is opened and closed as docs/python.md says, and its examples run."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import tgdav
from tests.cli.conftest import CHEAP
from tests.support.server import Home
from tgdav.errors import AccessError, InvalidArgument, NotFound, UsageError, VaultInUse
from tgdav.fs.api import Owner

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ME = Owner(1000, 1000)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a vault whose passphrase is cheap to check."""
    home = Home(tmp_path, config=f"version: 2\n{CHEAP}")
    home.run("init")
    return home


def opened(home: Home, **arguments: str | None) -> tgdav.Drive:
    return tgdav.open(home.path, **({"passphrase": home.passphrase} | arguments))  # type: ignore[arg-type]


def put(drive: tgdav.Drive, name: bytes, content: bytes) -> None:
    with drive.fs.upload(drive.fs.root, name, owner=ME) as upload:
        upload.write(content)
        upload.commit()


def test_the_examples_of_the_page_run(home: Home) -> None:
    examples = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(examples) == 5
    program = "\n".join(examples).replace('"/srv/tgdav"', repr(str(home.path)))
    program = program.replace('"correct horse battery staple"', repr(home.passphrase))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=home.environment(), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "has this vault open" in run.stdout


def test_what_was_written_is_there_when_the_drive_is_opened_again(home: Home) -> None:
    with opened(home) as drive:
        put(drive, b"file", b"content")
        drive.sync(wait=True)
        assert drive.status()["pending"] == {"bytes": 0, "operations": 0}
    with opened(home) as drive:
        handle = drive.fs.open(drive.resolve("/file").inode)
        assert handle.read(0, 100) == b"content"
        handle.close()
        assert (drive.read_only, drive.namespace) == (None, "default")


def test_one_process_has_the_vault_open_until_it_closes_it(home: Home) -> None:
    with opened(home) as drive:
        with pytest.raises(VaultInUse):
            opened(home)
        assert home.run("check", check=False).code == 6
        drive.close()
        drive.close()
        assert home.run("check", check=False).code == 0


def test_an_error_in_the_block_closes_the_drive_too(home: Home) -> None:
    with pytest.raises(NotFound), opened(home) as drive:
        drive.resolve("/missing")
    opened(home).close()


def test_nothing_is_asked_for(home: Home, tmp_path: Path) -> None:
    bare = {"HOME": str(tmp_path)}
    with pytest.raises(AccessError, match=r"no passphrase was given; pass one to tgdav\.open"):
        tgdav.open(home.path, environment=bare)
    with pytest.raises(AccessError, match="wrong passphrase"):
        tgdav.open(home.path, passphrase="wrong", environment=bare)
    with pytest.raises(UsageError, match="there is no vault"):
        tgdav.open(tmp_path / "empty", passphrase="x", environment=bare)
    with pytest.raises(UsageError, match="no namespace 'other'"):
        opened(home, namespace="other")
    opened(home).close()


def test_the_passphrase_comes_from_the_environment_as_for_commands(home: Home) -> None:
    tgdav.open(environment=home.environment()).close()


def test_a_path_begins_with_a_slash(home: Home) -> None:
    with opened(home) as drive:
        assert drive.resolve("/").inode == drive.fs.root
        with pytest.raises(InvalidArgument):
            drive.resolve("file")


def test_other_users_may_read_nothing_whatever_the_umask(home: Home) -> None:
    before = os.umask(0o022)
    try:
        with opened(home) as drive:
            put(drive, b"large", os.urandom(3 << 20))
            drive.sync(wait=True)
            found = [*home.path.rglob("*")]
            open_to_others = [
                path for path in found if path.lstat().st_mode & 0o077 and not stat.S_ISSOCK(path.lstat().st_mode)
            ]
    finally:
        os.umask(before)
    assert len(found) > 10
    assert [str(path.relative_to(home.path)) for path in open_to_others] == ["config.yaml"]


def test_importing_the_package_imports_nothing_else() -> None:
    program = (
        "import sys, tgdav; print(sorted(m for m in sys.modules if m.startswith(('tgdav', 'pydantic', 'sqlalchemy'))))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "['tgdav', 'tgdav.version']"
