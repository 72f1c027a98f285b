"""The address of ``serve``: whether it is available, which process uses it, and warnings about exposing it."""

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tgdav.config.model import Webdav
from tgdav.errors import UsageError
from tgdav.webdav import WebOptions

SHORT_PASSWORD = 10
"""Passwords with fewer characters are warned about where other machines can try them."""

_PROC = Path("/proc")
_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def web_options(host: str, port: int, webdav: Webdav) -> WebOptions:
    """Return the options of the server. Raises UsageError for a certificate or key that cannot be used."""
    tls, proxies, public = webdav.tls, webdav.trusted_proxies or (), webdav.public_url or ""
    if tls is None:
        return WebOptions(host=host, port=port, trusted_proxies=proxies, public_url=public)
    for file in (tls.certificate, tls.key):
        if not file.is_file():
            raise UsageError(f"webdav.tls: {file} is not a file", hint="correct the configuration")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"the files of webdav.tls cannot be used: {reason}",
            hint="give a certificate and its key in PEM, the key without a passphrase",
        ) from None
    return WebOptions(
        host=host,
        port=port,
        certificate=str(tls.certificate),
        key=str(tls.key),
        public_url=public,
        trusted_proxies=proxies,
    )


def reserve(options: WebOptions) -> socket.socket:
    """Return a socket bound to the address, so that a taken address is reported before a vault is created.

    It does not listen: clients are refused until the server does. Close it right before the server binds. Raises UsageError.
    """
    try:
        return _bound(options)
    except (OSError, UnicodeError) as error:
        raise bind_error(options, error) from None


def _bound(options: WebOptions) -> socket.socket:
    found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for position, (family, kind, protocol, _, address) in enumerate(found, 1):
        sock = socket.socket(family, kind, protocol)
        try:
            if options.port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and ipaddress.ip_address(address[0]).is_unspecified:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
        except OSError:
            sock.close()
            if position == len(found):
                raise
        else:
            return sock
    raise OSError(errno.EADDRNOTAVAIL, "no such address")


def bind_error(options: WebOptions, error: OSError | UnicodeError) -> UsageError:
    """Return the error for an address that cannot be bound, with a remedy."""
    where = f"port {options.port} of {options.host}"
    match error:
        case OSError(errno=errno.EADDRINUSE):
            holder = holder_of(options.port) or "another program"
            return UsageError(
                f"{where} is used by {holder}", hint="choose another with --port; --port 0 chooses a free one"
            )
        case OSError(errno=errno.EACCES):
            return UsageError(f"{where} is not allowed to this user", hint="choose one above 1023 with --port")
        case OSError(errno=errno.EADDRNOTAVAIL) | socket.gaierror() | UnicodeError():
            return UsageError(
                f"this machine has no address {options.host!r}",
                hint="give one that it has with --host, such as 127.0.0.1",
            )
    reason = getattr(error, "strerror", None) or str(error)
    return UsageError(f"{where} cannot be served: {reason}", hint="choose another with --host and --port")


def holder_of(port: int) -> str:
    """Return the process that listens on a TCP port, as ``NAME (process N)``; empty if this user cannot see it."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in _PROC.glob("[0-9]*") if wanted else ():
        with suppress(OSError):
            if any(str(descriptor.readlink()) in wanted for descriptor in (process / "fd").iterdir()):
                return f"{_name(process)} (process {process.name})"
    return ""


def _inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _name(process: Path) -> str:
    """Return the program's name, without its arguments."""
    arguments = (process / "cmdline").read_bytes().split(b"\0")[:4]
    is_ours = any(os.path.basename(argument) == b"tgdav" for argument in arguments)
    return "tgdav" if is_ours else (process / "comm").read_text().strip()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def exposure_warning(options: WebOptions) -> str | None:
    """Return a warning if other machines can reach the server without TLS, else None."""
    if options.certificate or is_loopback(options.host):
        return None
    return (
        f"{options.host} can be reached from other machines, and without TLS, password and files cross the network"
        " unencrypted: set webdav.tls, or use a reverse proxy with TLS (docs/webdav.md)"
    )


def short_password_warning(users: Mapping[str, str], options: WebOptions) -> str | None:
    """Return a warning if other machines can try short passwords, else None."""
    short = sorted(user for user, password in users.items() if len(password) < SHORT_PASSWORD)
    if not short or is_loopback(options.host):
        return None
    return (
        f"the WebDAV password of {', '.join(short)} is short, and other machines can try to guess it: "
        f"set one of at least {SHORT_PASSWORD} characters with TGDAV_WEBDAV_PASSWORD or webdav.users"
    )


def url_of(options: WebOptions, port: int) -> str:
    """Return the URL of the server."""
    host = f"[{options.host.strip('[]')}]" if ":" in options.host else options.host
    return f"http{'s' if options.certificate else ''}://{host}:{port}/"
