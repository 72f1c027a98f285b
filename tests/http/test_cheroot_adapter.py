"""What is used of cheroot without being its documented interface is as it was when it was read."""

import ast
import hashlib
import inspect
from collections.abc import Callable

import pytest
from cheroot.server import HTTPServer
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.workers.threadpool import ThreadPool, WorkerThread

from tgdav.http import cheroot_adapter
from tgdav.http.cheroot_adapter import RELIED_ON

READ = {
    HTTPServer.serve: "558ddd61fbac",
    HTTPServer.stop: "cbc174b42ffa",
    HTTPServer.prepare_socket.__func__: "6d6af64060e1",
    HTTPServer._serve_unservicable: "ec7abe9f3506",
    ThreadPool.__init__: "62cb8a6f8309",
    ThreadPool.start: "12e73be636f2",
    ThreadPool.put: "0f0daf5b7df4",
    ThreadPool.stop: "a2d0b8e5662d",
    ThreadPool._spawn_worker: "97b8ab5c680a",
    ThreadPool._force_close: "616f7891ff24",
    WorkerThread._process_connections_until_interrupted: "1952116d53ea",
    BuiltinSSLAdapter.wrap: "408afb13bf3d",
}
"""The functions that were read, and the first digits of the SHA-256 of their source."""


@pytest.mark.parametrize("function", READ, ids=lambda function: function.__qualname__)
def test_what_was_read_has_not_changed(function: Callable[..., object]) -> None:
    """If this fails: read the function again, correct the adapter if need be, then the number here."""
    source = inspect.getsource(function)
    assert hashlib.sha256(source.encode()).hexdigest()[:12] == READ[function]


@pytest.mark.parametrize("name", RELIED_ON)
def test_every_private_name_exists(name: str) -> None:
    owner, attribute = name.split(".")
    kind = {"ThreadPool": ThreadPool, "HTTPServer": HTTPServer, "WorkerThread": WorkerThread}[owner]
    assert hasattr(kind, attribute) or f"self.{attribute} = " in inspect.getsource(kind)


def test_every_private_name_in_the_adapter_is_listed() -> None:
    tree = ast.parse(inspect.getsource(cheroot_adapter))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert used - own - {"__init__"} <= {name.partition(".")[2] for name in RELIED_ON}
