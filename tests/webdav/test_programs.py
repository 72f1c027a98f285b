"""Real client programs against the server: litmus, rclone, cadaver, curl, davfs2."""

import hashlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.webdav.conftest import LOGIN, PASSWORD, Served

pytestmark = pytest.mark.clients

_SUMMARY = re.compile(r"summary for `(\w+)': of (\d+) tests run: (\d+) passed, (\d+) failed")
SUITES = {"basic": 16, "copymove": 13, "props": 30, "locks": 41, "http": 4}


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("login", [True, False])
def test_litmus(served: Served, open_server: Served, tmp_path: Path, login: bool) -> None:
    """Every test of litmus passes, none is skipped, none warns; with logins and without."""
    server = served if login else open_server
    command = [need("litmus"), "-k", f"http://127.0.0.1:{server.port}/", *(LOGIN if login else ())]
    output = run(*command, cwd=tmp_path).replace("\r", "\n")
    found = {name: (int(ran), int(passed), int(failed)) for name, ran, passed, failed in _SUMMARY.findall(output)}
    assert found == {name: (count, count, 0) for name, count in SUITES.items()}
    for word in ("WARNING", "FAIL", "SKIPPED"):
        assert word not in output


def tree(folder: Path) -> dict[str, str]:
    """Return the hash of each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A folder with files of telling sizes and names."""
    folder = tmp_path / "sample"
    for number, size in enumerate((0, 1, 4096, 1 << 20, (5 << 20) + 17)):
        path = folder / f"level {number % 2}" / f"datei-\u00e4 {number}%.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(size))
    return folder


@pytest.mark.parametrize("vendor", ["other", "owncloud"])
def test_rclone(served: Served, sample: Path, tmp_path: Path, vendor: str) -> None:
    """rclone copies in, checks, moves, copies out; vendor owncloud keeps times and checksums."""
    rclone = need("rclone")
    secret = run(rclone, "obscure", PASSWORD).strip()
    remote = f":webdav,url='http://127.0.0.1:{served.port}',vendor={vendor},user=tgdav,pass={secret}:"
    quiet = ("--config", "/dev/null", "--retries", "1")
    run(rclone, "copy", sample, f"{remote}in", *quiet)
    run(rclone, "check", sample, f"{remote}in", *quiet, *(("--download",) if vendor == "other" else ()))
    run(rclone, "move", f"{remote}in", f"{remote}out", *quiet)
    run(rclone, "rcat", f"{remote}out/stream", *quiet, input="streamed")
    run(rclone, "copy", f"{remote}out", tmp_path / "back", *quiet)
    assert (tmp_path / "back" / "stream").read_text() == "streamed"
    (tmp_path / "back" / "stream").unlink()
    assert tree(tmp_path / "back") == tree(sample)
    if vendor == "owncloud":
        for path in sample.rglob("*.bin"):
            copy = tmp_path / "back" / path.relative_to(sample)
            assert int(copy.stat().st_mtime) == int(path.stat().st_mtime)


def test_cadaver(served: Served, sample: Path, tmp_path: Path) -> None:
    """cadaver puts, copies, locks, moves, deletes and gets."""
    (tmp_path / ".netrc").write_text(
        f"machine 127.0.0.1\nlogin {LOGIN[0]}\npassword {PASSWORD.replace(' ', chr(32))}\n"
    )
    source = next(path for path in sample.rglob("*.bin") if path.stat().st_size > 1 << 20)
    shutil.copy(source, tmp_path / "big.bin")
    script = (
        "mkcol d\nput big.bin d/a\ncopy d/a d/b\nlock d/a\nunlock d/a\nmove d/b c\ndelete d/a\nget c c.bin\nls\nquit\n"
    )
    (tmp_path / ".netrc").write_text(f'machine 127.0.0.1\nlogin {LOGIN[0]}\npassword "{PASSWORD}"\n')
    environment = {**os.environ, "HOME": str(tmp_path)}
    output = run(need("cadaver"), f"http://127.0.0.1:{served.port}/", input=script, cwd=tmp_path, env=environment)
    assert "failed" not in output
    assert (tmp_path / "c.bin").read_bytes() == source.read_bytes()


def test_curl(served: Served, sample: Path, tmp_path: Path) -> None:
    """curl: chunked from standard input, Digest, any login, ranges, resumed downloads."""
    curl = (need("curl"), "-sSf", "-u", ":".join(LOGIN))
    url = f"http://127.0.0.1:{served.port}/f"
    source = max(sample.rglob("*.bin"), key=lambda path: path.stat().st_size)
    for scheme in ("--digest", "--anyauth", "--basic"):
        with source.open("rb") as data:
            subprocess.run([*curl, scheme, "-T", "-", url], stdin=data, check=True, timeout=60)
        run(*curl, scheme, "-T", source, url)
        run(*curl, scheme, "-o", tmp_path / "back", url)
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
    run(*curl, "-r", "100-199", "-o", tmp_path / "part", url)
    assert (tmp_path / "part").read_bytes() == source.read_bytes()[100:200]
    (tmp_path / "part").write_bytes(source.read_bytes()[:1000])
    run(*curl, "-C", "-", "-o", tmp_path / "part", url)
    assert (tmp_path / "part").read_bytes() == source.read_bytes()


@pytest.fixture
def davfs(served: Served, tmp_path: Path) -> Iterator[Path]:
    """A davfs2 mount of the server."""
    mount = need("mount.davfs")
    if not os.access("/dev/fuse", os.W_OK) or os.geteuid() != 0:
        pytest.skip("davfs2 needs root and /dev/fuse")
    point = tmp_path / "mnt"
    point.mkdir()
    url = f"http://127.0.0.1:{served.port}/"
    secrets, config = tmp_path / "secrets", tmp_path / "davfs2.conf"
    secrets.write_text(f'{url} {LOGIN[0]} "{PASSWORD}"\n')
    secrets.chmod(0o600)
    config.write_text(f"secrets {secrets}\ndelay_upload 0\n")
    done = subprocess.run(
        [mount, url, point, "-o", f"conf={config}"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"davfs2 cannot mount here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], capture_output=True, timeout=60, check=False)


def test_davfs2(served: Served, davfs: Path) -> None:
    """davfs2 writes, replaces, renames and deletes; judged by what is stored, for kernels differ in listing."""
    (davfs / "new").write_bytes(b"first")
    wait_for(lambda: served.client()("GET", "/new").body == b"first")
    (davfs / "new").write_bytes(b"second")
    wait_for(lambda: served.client()("GET", "/new").body == b"second")
    (davfs / "d").mkdir()
    (davfs / "new").rename(davfs / "d" / "moved")
    wait_for(lambda: served.client()("GET", "/d/moved").body == b"second")
    (davfs / "d" / "moved").unlink()
    wait_for(lambda: served.client()("GET", "/d/moved").status == 404)
    assert not served.fs.load_locks()


@pytest.fixture
def secure(serve: Callable[..., Served], certificate: tuple[Path, Path]) -> tuple[Served, Path]:
    """A server with TLS, and its certificate."""
    return serve(certificate=str(certificate[0]), key=str(certificate[1])), certificate[0]


def test_tls(secure: tuple[Served, Path], sample: Path, tmp_path: Path) -> None:
    """The same over TLS, while clients that never shake hands, or speak plainly, hold up nobody."""
    served, certificate = secure
    silent = [served.client() for _ in range(30)]
    for client in silent[:15]:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
    for client in silent[15:]:
        client.send(b"\x16\x03\x01")
    curl = (need("curl"), "-sSf", "--cacert", certificate, "-u", ":".join(LOGIN), "-m", "20")
    source = max(sample.rglob("*.bin"), key=lambda path: path.stat().st_size)
    for host in ("localhost", "127.0.0.1"):
        url = f"https://{host}:{served.port}/f"
        run(*curl, "-T", source, url)
        run(*curl, "-o", tmp_path / "back", url)
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
        run(*curl, "-X", "MOVE", "-H", f"Destination: https://{host}:{served.port}/g", url)
        run(*curl, "-X", "MOVE", "-H", "Destination: /f", url.removesuffix("f") + "g")
