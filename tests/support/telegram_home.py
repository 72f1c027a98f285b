"""Machines whose store is a chat on the MTProto test server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mtproto.harness import CODE, PHONE, Server, ServerProcess
from tests.support.telegram import API_HASH, API_ID

CHEAP = "encryption: {argon2_memory_kib: 1024, argon2_iterations: 1, argon2_parallelism: 1}\n"


def telegram_config(
    server: Server | ServerProcess, *, peer: str = "me", more: str = "", api_hash: str | None = API_HASH
) -> str:
    """A configuration that leads to the server; ``more`` are further lines of the section ``telegram``."""
    where = server.test_server
    place = f"address: {where.address}, port: {where.port}, dc: {where.dc}, public_key_file: {where.public_key_file}"
    keys = f"  api_id: {API_ID}\n  api_hash: '{api_hash}'\n" if api_hash else ""
    return (
        f"version: 2\nstorage: {{backend: telegram}}\n{CHEAP}"
        f"telegram:\n{keys}  peer: '{peer}'\n  test_server: {{{place}}}\n{more}"
    )


def log_in(home: Any, phone: str = PHONE, answers: Sequence[str] = (CODE,), **options: Any) -> Any:
    """Run ``tgdav auth`` with these lines on standard input."""
    return home.run("auth", "--phone", f"+{phone}", input="".join(f"{line}\n" for line in answers), **options)


def blobs(server: Server | ServerProcess, phone: str = PHONE, **chat: Any) -> list[dict[str, Any]]:
    """The documents of a chat, oldest first."""
    return [message for message in server.messages(phone, **chat) if message["document"] is not None]


def assert_nothing_twice(server: Server | ServerProcess, phone: str = PHONE, **chat: Any) -> None:
    """No blob of the chat is there in two messages."""
    names = [message["name"] for message in blobs(server, phone, **chat)]
    assert len(names) == len(set(names))


def files_below(*folders: Path) -> list[Path]:
    """Every file in these folders."""
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
