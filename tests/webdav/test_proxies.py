"""The proxy files of ``deploy/proxies`` with the real programs: everything that a proxy can break goes through."""

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.model_fs import ModelFileSystem
from tests.support.waiting import wait_for
from tests.webdav.conftest import LOGIN, Served
from tests.webdav.test_checklist import LOCKINFO

pytestmark = pytest.mark.clients

FILES = Path(__file__).parents[2] / "deploy" / "proxies"
MODULES = Path("/usr/lib/apache2/modules")
HOST, PREFIX = "drive.example", "/drive"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fullchain.pem and privkey.pem of the public host."""
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
    command += ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


class Proxy:
    """A proxy before a server, and curl as its client."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.port, self._certificate = port, certificate

    def curl(self, method: str, path: str, *options: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and body. ``path`` is below the prefix."""
        command = [
            "curl",
            "-sS",
            "--path-as-is",
            "-X",
            method,
            "-u",
            ":".join(LOGIN),
            "-m",
            "30",
            "-w",
            "\\n%{http_code}",
        ]
        command += ["--cacert", str(self._certificate / "fullchain.pem")]
        command += ["--resolve", f"{HOST}:{self.port}:127.0.0.1", f"https://{HOST}:{self.port}{PREFIX}{path}", *options]
        command += ["--data-binary", "@-"] if body is not None else []
        done = subprocess.run(command, input=body or b"", capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        answer, _, status = done.stdout.rpartition(b"\n")
        return int(status), answer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _nginx(text: str, port: int, folder: Path) -> list[str]:
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "conf").write_text(f"pid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{places}{text}}}\n")
    return ["nginx", "-p", str(folder), "-c", str(folder / "conf"), "-e", str(folder / "log"), "-g", "daemon off;"]


def _caddy(text: str, port: int, folder: Path) -> list[str]:
    tls = f"tls {folder}/fullchain.pem {folder}/privkey.pem"
    text = text.replace(f"{HOST} {{", f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n\t{tls}\n")
    (folder / "conf").write_text(f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{text}")
    return ["caddy", "run", "--config", str(folder / "conf"), "--adapter", "caddyfile"]


def _apache(text: str, port: int, folder: Path) -> list[str]:
    names = ("mpm_event", "authz_core", "ssl", "proxy", "proxy_http")
    loads = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in names)
    head = f"ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\nErrorLog {folder}/log\nListen 127.0.0.1:{port}\n"
    (folder / "conf").write_text(
        f"{loads}{head}Mutex file:{folder} default\n" + text.replace("*:443", f"127.0.0.1:{port}")
    )
    return ["apache2", "-f", str(folder / "conf"), "-DFOREGROUND"]


PROXIES: dict[str, tuple[str, Callable[[str, int, Path], list[str]]]] = {
    "nginx": ("nginx.conf", _nginx),
    "caddy": ("Caddyfile", _caddy),
    "apache2": ("apache.conf", _apache),
}


@pytest.fixture(params=sorted(PROXIES))
def proxy(
    request: pytest.FixtureRequest, serve: Callable[..., Served], certificate: Path, tmp_path: Path
) -> Iterator[Proxy]:
    """A proxy that runs with its file of ``deploy/proxies``; only ports and the certificate's place are the test's."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    served = serve(ModelFileSystem(), public_url=f"https://{HOST}{PREFIX}/")
    file, prepare = PROXIES[request.param]
    for pem in certificate.iterdir():
        shutil.copy(pem, tmp_path)
    text = (FILES / file).read_text().replace("127.0.0.1:8080", f"127.0.0.1:{served.port}")
    port = free_port()
    command = prepare(text.replace(f"/etc/ssl/{HOST}/", f"{tmp_path}/"), port, tmp_path)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_for(lambda: _listens(process, port, tmp_path), 20, what=f"{request.param} to listen")
        yield Proxy(port, certificate)
    finally:
        process.terminate()
        process.wait(20)


def _listens(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    assert process.poll() is None, (folder / "output").read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_through_a_proxy(proxy: Proxy) -> None:
    """COPY, MOVE, LOCK, If, odd names, ranges and bodies of any framing, by the URL that the client knows."""
    url = f"https://{HOST}:{proxy.port}{PREFIX}"
    body = random.randbytes(3 << 20)
    assert proxy.curl("PUT", "/a%20%25%3Fb", body=body)[0] == 201
    assert proxy.curl("PUT", "/a%20%25%3Fb", "-H", "Transfer-Encoding: chunked", body=body)[0] == 204
    assert proxy.curl("MOVE", "/a%20%25%3Fb", "-H", f"Destination: {url}/c%3Bd")[0] == 201
    assert proxy.curl("COPY", "/c%3Bd", "-H", f"Destination: https://{HOST}{PREFIX}/f")[0] == 201
    assert proxy.curl("GET", "/f") == (200, body)
    assert proxy.curl("GET", "/f", "-r", "100-199") == (206, body[100:200])
    status, listing = proxy.curl("PROPFIND", "/", "-H", "Depth: 1")
    assert status == 207
    assert b"<D:href>/drive/c;d</D:href>" in listing
    status, page = proxy.curl("GET", "/")
    assert (status, b'href="/drive/f"' in page) == (200, True)
    status, locked = proxy.curl("LOCK", "/f", "-H", "Depth: 0", body=LOCKINFO.format(scope="exclusive").encode())
    assert status == 200
    assert b"<D:lockroot><D:href>/drive/f</D:href></D:lockroot>" in locked
    token = locked.partition(b"<D:locktoken><D:href>")[2].partition(b"<")[0].decode()
    assert proxy.curl("PUT", "/f", body=b"x")[0] == 423
    assert proxy.curl("PUT", "/f", "-H", f"If: <{url}/f> (<{token}>)", body=b"x")[0] == 204
    assert proxy.curl("UNLOCK", "/f", "-H", f"Lock-Token: <{token}>")[0] == 204
    assert proxy.curl("MOVE", "/f", "-H", "Destination: https://other.example/drive/g")[0] == 502
    assert proxy.curl("DELETE", "/f")[0] == 204
    assert proxy.curl("GET", "/-/healthz")[0] == 200
