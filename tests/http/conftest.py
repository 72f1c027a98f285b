"""Tests over sockets use the WebDAV server: what strangers send to HTTP must not reach any file."""

import pytest

from tests.webdav.conftest import (
    certificate,
    dav,
    no_delay,
    open_server,
    serve,
    served,
    shared_open_server,
    shared_server,
)

__all__ = [
    "certificate",
    "dav",
    "no_delay",
    "open_server",
    "serve",
    "served",
    "shared_open_server",
    "shared_server",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shared_server" in metafunc.fixturenames:
        metafunc.parametrize("shared_server", ["model", "volume"], indirect=True, scope="session")
