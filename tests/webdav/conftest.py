"""Servers over the file system in memory: one for most tests, emptied after each; more where a test needs its own."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.model_fs import ModelFileSystem
from tests.support.volumes import new_vault, open_volume
from tests.webdav.client import Client, ShiftedClock
from tgdav.entropy import SystemEntropy
from tgdav.fs.api import FileSystem
from tgdav.http.connection import Connection
from tgdav.webdav import Credentials, Probes, WebOptions, WebServer, dispatch

PASSWORD = "correct horse"
LOGIN = ("tgdav", PASSWORD)


class Served:
    """A running server, its file system and its clock."""

    def __init__(
        self,
        fs: FileSystem,
        *,
        login: bool = True,
        probes: Probes | None = None,
        passwords: Mapping[str, str] = MappingProxyType({LOGIN[0]: PASSWORD, "other": "secret"}),
        hashes: Mapping[str, str] = MappingProxyType({}),
        **options: object,
    ) -> None:
        self.fs = fs
        self.clock = ShiftedClock()
        entropy = SystemEntropy()
        credentials = Credentials(passwords, entropy, hashes) if login else None
        settings = WebOptions(**{"port": 0, "store_wait": 0.0, **options})
        self.server = WebServer(fs, settings, credentials, self.clock, entropy, probes)
        self.port = self.server.start()
        self.login = LOGIN if login else None
        self.clients: list[Client] = []

    def client(self, login: tuple[str, str] | None = LOGIN) -> Client:
        self.clients.append(Client(self.port, login if self.login is not None else None))
        return self.clients[-1]

    def hang_up(self) -> None:
        while self.clients:
            self.clients.pop().close()

    def empty(self) -> None:
        self.hang_up()
        for record in self.fs.load_locks():
            self.fs.delete_lock(record.token)
        self.server.context.locks.remove(self.server.context.locks.live())
        for entry in self.fs.list_directory(self.fs.root):
            self.fs.remove_tree(self.fs.root, entry.name)
        self.fs.set_properties(self.fs.root, dict.fromkeys(self.fs.properties([self.fs.root]).get(self.fs.root, {})))
        self.clock.shift = 0

    def waiting(self) -> list[Connection]:
        """Return the connections that the event loop has."""
        loop = self.server._http._connections
        with loop._lock:
            return [*loop._anonymous, *loop._authenticated]

    def stop(self) -> None:
        self.hang_up()
        self.server.stop()


@pytest.fixture(scope="session", params=["model", "volume"])
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over the model, and one over a real volume: what holds for one must hold for the other."""
    if request.param == "model":
        served = Served(ModelFileSystem())
        yield served
        served.stop()
        return
    folder = tmp_path_factory.mktemp("vault")
    new_vault(folder)
    volume = open_volume(folder)
    served = Served(volume.fs)
    yield served
    served.stop()
    volume.close()


@pytest.fixture
def served(shared_server: Served) -> Iterator[Served]:
    """A server with logins, empty at first."""
    yield shared_server
    shared_server.empty()


@pytest.fixture(scope="session")
def shared_open_server() -> Iterator[Served]:
    served = Served(ModelFileSystem(), login=False)
    yield served
    served.stop()


@pytest.fixture
def open_server(shared_open_server: Served) -> Iterator[Served]:
    """A server without logins, empty at first."""
    yield shared_open_server
    shared_open_server.empty()


@pytest.fixture
def dav(served: Served) -> Client:
    """A connection to ``served``, logged in."""
    return served.client()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start servers of a test's own."""
    running: list[Served] = []

    def start(fs: FileSystem | None = None, **options: object) -> Served:
        running.append(Served(fs or ModelFileSystem(), **options))
        return running[-1]

    yield start
    for served in running:
        served.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.now(UTC) - timedelta(hours=1)
    addresses = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, start + timedelta(2))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return files


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong logins are answered at once, in tests of what else becomes of them."""
    monkeypatch.setattr(dispatch, "WRONG_LOGIN_DELAY", 0.0)
