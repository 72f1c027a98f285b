"""Files of all sizes and thousands of small ones go in and come out equal, the server restarted in between."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.corpus import stream
from tests.support.server import Home, Server, wait_for

pytestmark = pytest.mark.clients

SMALL_FILES = (400, pytest.param(3000, marks=pytest.mark.torture))
"""rclone rests for 10 ms after each request to a WebDAV server, whichever it is: thousands of files take minutes."""
MIB = 1 << 20


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.run("init", "--backend", "directory", "--path", str(tmp_path / "store"))
    return made


def run(*command: str | Path, cwd: Path | None = None, text: str | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=280, cwd=cwd, input=text, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def remote(home: Home, server: Server) -> str:
    secret = run("rclone", "obscure", home.password).strip()
    return f":webdav,url='{server.url}',vendor=owncloud,user=tgdav,pass={secret}:"


def curl(home: Home, *arguments: str | Path) -> str:
    return run("curl", "-sS", "--fail", "-u", ":".join(home.auth), *arguments)


def make_small_files(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"{number % 10}" / f"{number % 7} folder" / f"file {number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number} ".encode() * (number % 300))


def make_file(path: Path, size: int, seed: int) -> Path:
    with path.open("wb") as file:
        file.writelines(stream(seed, size))
    return path


def round_trip(home: Home, folder: Path, sizes: list[int]) -> None:
    """curl puts each file, the server restarts, curl gets it back, whole and by a range."""
    files = [make_file(folder / f"{size} bytes.bin", size, number) for number, size in enumerate(sizes)]
    with Server(home) as server:
        for path in files:
            curl(home, "-T", path, f"{server.url}{path.name.replace(' ', '%20')}")
        server.terminate()
    with Server(home) as server:
        for path in files:
            url = f"{server.url}{path.name.replace(' ', '%20')}"
            back = folder / "back"
            curl(home, "-o", back, url)
            assert digest(back) == digest(path)
            if path.stat().st_size > 1:
                assert curl(home, "-r", "1-1", "--output", back, url) == ""
                assert back.read_bytes() == path.read_bytes()[1:2]
            curl(home, "-X", "MOVE", "-H", f"Destination: {url}.moved", url)
            curl(home, "-X", "COPY", "-H", f"Destination: {url}", f"{url}.moved")
            curl(home, "-X", "DELETE", f"{url}.moved")
        listed = run("rclone", "lsf", remote(home, server)).split("\n")
        assert sorted(filter(None, listed)) == sorted(path.name for path in files)


def test_files_of_all_sizes_through_curl(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    round_trip(home, folder, [0, 1, 5 * MIB, 64 * MIB + 3])


@pytest.mark.torture
def test_two_gibibytes_through_curl(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    round_trip(home, folder, [2048 * MIB])


@pytest.mark.parametrize("count", SMALL_FILES)
def test_small_files_through_rclone(home: Home, tmp_path: Path, count: int) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    make_small_files(source, count)
    quiet = ("--config", "/dev/null", "--retries", "1", "--transfers", "8")
    with Server(home) as server:
        run("rclone", "copy", source, f"{remote(home, server)}in", *quiet)
        server.terminate()
    with Server(home) as server:
        run("rclone", "move", f"{remote(home, server)}in/3", f"{remote(home, server)}in/moved", *quiet)
        run("rclone", "copy", f"{remote(home, server)}in", back, *quiet)
        server.terminate()
    expected = {name.replace("3/", "moved/", 1) if name.startswith("3/") else name: value
                for name, value in digests(source).items()}  # fmt: skip
    assert digests(back) == expected
    assert home.run("--json", "check", "--read-data").json()["ok"]


def test_cadaver(home: Home, tmp_path: Path) -> None:
    file = make_file(tmp_path / "picture.raw", 3 * MIB, 5)
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login tgdav password {home.password}\n")
    netrc.chmod(0o600)
    steps = ["mkcol album", "cd album", f"put {file}", "copy picture.raw second.raw", "move second.raw third.raw"]
    script = "\n".join([*steps, "get third.raw back", "quit", ""])
    with Server(home) as server:
        done = subprocess.run(
            ["cadaver", server.url], input=script, text=True, capture_output=True, timeout=60, cwd=tmp_path, check=False,
            env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
    assert "failed" not in done.stdout, done.stdout
    assert digest(tmp_path / "back") == digest(file)


def test_davfs2(home: Home, tmp_path: Path) -> None:
    """A davfs2 mount; where the kernel's readdir plays along the mount itself is judged, the stored files always."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("davfs2 mounts need root and /dev/fuse")
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    source = make_file(tmp_path / "file.bin", 5 * MIB + 1, 9)
    secrets = tmp_path / "secrets"
    config = tmp_path / "davfs2.conf"
    with Server(home) as server:
        secrets.write_text(f"{server.url} tgdav {home.password}\n")
        secrets.chmod(0o600)
        config.write_text(f"secrets {secrets}\ndelay_upload 0\nuse_locks 1\nask_auth 0\n")
        run("mount.davfs", "-o", f"conf={config}", server.url, mountpoint)
        try:
            (mountpoint / "folder").mkdir()
            shutil.copyfile(source, mountpoint / "folder" / "file.bin")
            os.rename(mountpoint / "folder" / "file.bin", mountpoint / "folder" / "moved.bin")
        finally:
            run("umount", mountpoint)
        wait_for(lambda: _is_there(home, server, "folder/moved.bin"), 30)
        curl(home, "-o", tmp_path / "back", f"{server.url}folder/moved.bin")
    assert digest(tmp_path / "back") == digest(source)


def _is_there(home: Home, server: Server, path: str) -> bool:
    with server.client() as client:
        return client.request("HEAD", f"/{path}").status == 200
