"""Who may talk to a server without passwords: requests that name this very machine, and no page of another site. Pure."""

import ipaddress
from urllib.parse import urlsplit

from tgdav.errors import UsageError
from tgdav.web.errors import Refused

_LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))
_OWN_SITE = frozenset(("same-origin", "none"))


def check_origin(headers: dict[str, str], port: int, *, secure: bool) -> None:
    """Refuse what a web page of another site, or a rebound name, could have caused. Raises Refused 421 or 403."""
    if not is_local(headers.get("host", ""), port, secure=secure):
        raise Refused(421, "without passwords only localhost, 127.0.0.1 and [::1] are answered", close=True)
    if headers.get("sec-fetch-site", "none").lower() not in _OWN_SITE:
        raise Refused(403, "requests from other sites are refused")
    origin = headers.get("origin")
    if origin is not None and not _is_own_origin(origin, port, secure=secure):
        raise Refused(403, "requests from other sites are refused")


def is_local(authority: str, port: int, *, secure: bool) -> bool:
    """Return whether ``authority`` (of a Host header) is this machine at ``port``."""
    try:
        parts = urlsplit(f"//{authority}")
        asked = parts.port if parts.port is not None else (443 if secure else 80)
    except ValueError:
        return False
    return parts.hostname in _LOCAL and asked == port and "@" not in authority and parts.netloc == authority


def _is_own_origin(origin: str, port: int, *, secure: bool) -> bool:
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme == ("https" if secure else "http") and is_local(authority, port, secure=secure)


def check_loopback(host: str) -> None:
    """Refuse to serve without passwords on anything but this machine. Raises UsageError."""
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host.strip("[]")).is_loopback:
            return
    except ValueError:
        pass
    raise UsageError(
        "without passwords only a loopback address can be served", hint="use 127.0.0.1, or leave --no-auth out"
    )
