"""Servers over the file system in memory: one for most tests, emptied after each; more where a test needs its own."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from types import MappingProxyType

import pytest
from cheroot.wsgi import Server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from wsgidav.wsgidav_app import WsgiDAVApp

from tests.support.model_fs import ModelFileSystem
from tests.support.volumes import new_vault, open_volume
from tests.webdav.client import Client, ShiftedClock
from tests.webdav.differences import OWN_SERVER_ONLY, mark_differences
from tgdav.entropy import SystemEntropy
from tgdav.fs.api import FileSystem
from tgdav.http.connection import Connection
from tgdav.webdav import Credentials, Probes, WebOptions, WebServer, dispatch
from tgdav.webdav.provider import Provider

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
        self.login = LOGIN if login else None
        self.server = self._serve(passwords, hashes, probes, options)
        self.port = self.server.start()
        self.clients: list[Client] = []

    def _serve(
        self,
        passwords: Mapping[str, str],
        hashes: Mapping[str, str],
        probes: Probes | None,
        options: Mapping[str, object],
    ) -> WebServer:
        entropy = SystemEntropy()
        credentials = Credentials(passwords, entropy, hashes) if self.login is not None else None
        settings = WebOptions(**{"port": 0, "store_wait": 0.0, **options})
        return WebServer(self.fs, settings, credentials, self.clock, entropy, probes)

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


class EmbeddedServer:
    """A stock WsgiDAVApp with our provider on cheroot, with the few things that tests ask of a ``WebServer``."""

    def __init__(self, fs: FileSystem, clock: ShiftedClock, passwords: Mapping[str, str]) -> None:
        self.provider = Provider(fs, WebOptions(store_wait=0.0), clock=clock)
        self.context = self.provider.context
        users = {name: {"password": password} for name, password in passwords.items()}
        app = WsgiDAVApp(
            {
                "provider_mapping": {"/": self.provider},
                "simple_dc": {"user_mapping": {"*": users or True}},
                "verbose": 0,
            }
        )
        self._server = Server(("127.0.0.1", 0), app, numthreads=32, request_queue_size=128)
        self._server.error_log = lambda *_, **__: None
        self._thread = Thread(target=self._server.serve)

    def start(self) -> int:
        self._server.prepare()
        self._thread.start()
        return self._server.bind_addr[1]

    def stop(self) -> None:
        self._server.stop()
        self._thread.join()


class EmbeddedServed(Served):
    """The same, over a stock WsgiDAVApp."""

    def _serve(self, passwords: Mapping[str, str], *_: object) -> EmbeddedServer:
        return EmbeddedServer(self.fs, self.clock, passwords if self.login is not None else {})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shared_server" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        subjects = ["model", "volume"] if module in OWN_SERVER_ONLY else ["model", "volume", "embedded"]
        metafunc.parametrize("shared_server", subjects, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(item, "callspec") and item.callspec.params.get("shared_server") == "embedded":
            mark_differences(item)


@pytest.fixture(scope="session")
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over the model, one over a real volume, and a stock WsgiDAVApp: what holds for one must hold for the others."""
    if request.param in ("model", "embedded"):
        served = Served(ModelFileSystem()) if request.param == "model" else EmbeddedServed(ModelFileSystem())
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
